"""Checks the shapes in signatures at run time, under test alone.

jaxtyping's own hook wraps every function, which takes nearly half of the time of the tests, and of plain types the type
checker has told already. Here those functions and dataclasses are wrapped that have a shape in their signature.
"""

import ast
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import CodeType, ModuleType
from typing import Any, get_args

import jaxtyping
from beartype import beartype


def install(package: str) -> None:
    """Check what is imported from now on of this package."""
    sys.meta_path.insert(0, _Finder(package))


def checked(function_or_class: Any) -> Any:
    """With its shapes checked whenever it is called; itself, if it has none."""
    annotations = getattr(function_or_class, "__annotations__", {})
    if not any(_has_shape(annotation) for annotation in annotations.values()):
        return function_or_class
    return jaxtyping.jaxtyped(typechecker=beartype)(function_or_class)


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(_has_shape(part) for part in parts)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def path_stats(self, path: Any) -> Any:
        """No compiled code is read or written: beside the source lies the code without checks."""
        raise OSError(f"{path} is compiled anew.")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        tree = _Decorated().visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)


class _Decorated(ast.NodeTransformer):
    """Functions within functions are left alone: they would be wrapped whenever the outer one is called."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(_decorator(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.decorator_list.insert(0, _decorator(node))
        return node


def _decorator(node: ast.stmt) -> ast.expr:
    return ast.copy_location(ast.parse("__import__('checked_shapes').checked", mode="eval").body, node)
