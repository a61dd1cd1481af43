"""Which constructs a piece of Python source lies in, by ``ast``.

A construct reaches from its first to its last character as ``ast`` gives them, so brackets around an expression are
outside, and comments behind a block's last statement too. What stands in an f-string's braces is not looked at.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from monosem.evaluation.tasks.code_kinds import NAMED_EXCEPTIONS, Labelled
from monosem.evaluation.tasks.code_source import Source, Span

REGIONS = {
    "in-docstring": "in a docstring",
    "in-class": "in a class",
    "in-function": "in a function or method",
    "in-method": "in a method",
    "in-nested-function": "in a function directly inside another",
    "in-async-function": "in an async function",
    "in-test-method": "in a method named test…",
    "in-signature": "in a function's parameter list",
    "in-default": "in a parameter's default value",
    "in-annotation": "in a type annotation",
    "in-class-bases": "in the brackets behind a class's name",
    "in-lambda": "in a lambda expression",
    "in-comprehension": "in a comprehension or generator expression",
    "in-call": "in the brackets of a call",
    "in-keyword-value": "in the value of a keyword argument",
    "in-subscript": "in the brackets of a subscript",
    "in-list": "in a list's brackets",
    "in-dict": "in a dictionary's braces",
    "in-tuple": "in a tuple",
    "in-comparison": "in a comparison",
    "in-and-or": "in an expression with and, or",
    "in-arithmetic": "in an expression with a binary operator",
    "in-conditional": "in an expression of the form a if b else c",
    "in-condition": "in the condition of if, elif or while",
    "in-assigned-value": "in the value of an assignment",
    "in-assignment-target": "left of an assignment's sign",
    "in-loop": "in the body of a loop",
    "in-loop-target": "in the target of a for statement",
    "in-else": "in what stands behind an else, or from an elif on",
    "in-with": "in the body of a with statement",
    "in-with-items": "in what a with statement opens, names included",
    "in-try": "in the body of a try statement",
    "in-except": "in an except clause and its block",
    "in-finally": "in a finally block",
    "in-import": "in an import statement",
    "in-raise": "in a raise statement",
    "in-return": "in a return statement",
    "in-assert": "in an assert statement",
    "in-await": "in an await expression",
    "in-yield": "in a yield expression",
    "attribute-name": "the name behind an attribute's dot",
    "called-name": "the name of a function that is called",
    "keyword-name": "the name of a keyword argument",
    "parameter-name": "the name of a parameter where it is declared",
    "builtin-name": "the name of a built-in function or type, as a variable",
}
"""Labels and what they mark."""

_WHOLE_NODES: dict[type[ast.AST], str] = {
    ast.ClassDef: "in-class",
    ast.Lambda: "in-lambda",
    ast.ListComp: "in-comprehension",
    ast.SetComp: "in-comprehension",
    ast.DictComp: "in-comprehension",
    ast.GeneratorExp: "in-comprehension",
    ast.List: "in-list",
    ast.Dict: "in-dict",
    ast.Tuple: "in-tuple",
    ast.Compare: "in-comparison",
    ast.BoolOp: "in-and-or",
    ast.BinOp: "in-arithmetic",
    ast.IfExp: "in-conditional",
    ast.ExceptHandler: "in-except",
    ast.Import: "in-import",
    ast.ImportFrom: "in-import",
    ast.Raise: "in-raise",
    ast.Return: "in-return",
    ast.Assert: "in-assert",
    ast.Await: "in-await",
    ast.Yield: "in-yield",
    ast.YieldFrom: "in-yield",
}
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_")) - NAMED_EXCEPTIONS
_NOT_ENTERED = frozenset({"JoinedStr", "TemplateStr"})
_WITHOUT_A_PLACE = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)


class _Place(NamedTuple):
    """A node, and what it stands in."""

    node: Any
    in_class: bool
    """Directly in its body."""
    in_function: bool
    """And in no class inside it."""


def region_spans(source: Source) -> Labelled:
    """Every label of ``REGIONS`` with each stretch of the source that has it."""
    for place in _walk(source.tree):
        kind = type(place.node)
        if label := _WHOLE_NODES.get(kind):
            yield label, source.span(place.node)
        if parts := _PARTS.get(kind):
            yield from parts(source, place)


def _walk(tree: ast.Module) -> Iterator[_Place]:
    stack = [_Place(tree, False, False)]
    while stack:
        place = stack.pop()
        yield place
        node = place.node
        if type(node).__name__ in _NOT_ENTERED:
            continue
        is_class = isinstance(node, ast.ClassDef)
        in_function = not is_class and (place.in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        children = (child for child in ast.iter_child_nodes(node) if not isinstance(child, _WITHOUT_A_PLACE))
        stack.extend(_Place(child, is_class, in_function) for child in children)


def _docstring(source: Source, place: _Place) -> Labelled:
    match place.node.body:
        case [ast.Expr(value=ast.Constant(value=str()) as string), *_]:
            yield "in-docstring", source.span(string)
        case _:
            pass


def _class(source: Source, place: _Place) -> Labelled:
    yield from _docstring(source, place)
    if (inside := _brackets_behind_name(source, place.node)) is not None:
        yield "in-class-bases", inside


def _function(source: Source, place: _Place) -> Labelled:
    node = place.node
    yield from _docstring(source, place)
    labels = {
        "in-function": True,
        "in-method": place.in_class,
        "in-nested-function": place.in_function,
        "in-async-function": isinstance(node, ast.AsyncFunctionDef),
        "in-test-method": place.in_class and node.name.startswith("test"),
    }
    for label in (label for label, holds in labels.items() if holds):
        yield label, source.span(node)
    inside = _brackets_behind_name(source, node)
    assert inside is not None, "a function has parameters, if none"
    yield "in-signature", inside
    if node.returns is not None:
        yield "in-annotation", source.span(node.returns)


def _brackets_behind_name(source: Source, node: Any) -> Span | None:
    """What the round brackets behind a definition's name hold; type parameters come before them."""
    number = source.token_at[source.span(node)[0]]
    while source.tokens[number].text not in ("def", "class"):
        number += 1
    opening = source.tokens[number + 2]
    if opening.text == "[":
        opening = source.tokens[source.token_at[source.partners[opening.start]] + 1]
    return (opening.end, source.partners[opening.start]) if opening.text == "(" else None


def _parameters(source: Source, place: _Place) -> Labelled:
    node = place.node
    parameters = [*node.posonlyargs, *node.args, node.vararg, *node.kwonlyargs, node.kwarg]
    for parameter in (each for each in parameters if each is not None):
        yield "parameter-name", _first_token(source, parameter)
        if parameter.annotation is not None:
            yield "in-annotation", source.span(parameter.annotation)
    for default in (*node.defaults, *node.kw_defaults):
        if default is not None:
            yield "in-default", source.span(default)


def _first_token(source: Source, node: Any) -> Span:
    token = source.tokens[source.token_at[source.span(node)[0]]]
    return token.start, token.end


def _last_token(source: Source, node: Any) -> Span:
    token = source.tokens[source.token_ending_at[source.span(node)[1]]]
    return token.start, token.end


def _attribute(source: Source, place: _Place) -> Labelled:
    yield "attribute-name", _last_token(source, place.node)


def _keyword(source: Source, place: _Place) -> Labelled:
    if place.node.arg is not None:
        yield "keyword-name", _first_token(source, place.node)
        yield "in-keyword-value", source.span(place.node.value)


def _call(source: Source, place: _Place) -> Labelled:
    function = place.node.func
    closing = source.span(place.node)[1] - 1
    yield "in-call", (source.partners[closing] + 1, closing)
    if isinstance(function, (ast.Name, ast.Attribute)):
        yield "called-name", _last_token(source, function)


def _subscript(source: Source, place: _Place) -> Labelled:
    closing = source.span(place.node)[1] - 1
    yield "in-subscript", (source.partners[closing] + 1, closing)


def _name(source: Source, place: _Place) -> Labelled:
    if place.node.id in _BUILTINS:
        yield "builtin-name", source.span(place.node)


def _assignment(source: Source, place: _Place) -> Labelled:
    node = place.node
    for target in getattr(node, "targets", None) or [node.target]:
        yield "in-assignment-target", source.span(target)
    if node.value is not None:
        yield "in-assigned-value", source.span(node.value)
    if isinstance(node, ast.AnnAssign):
        yield "in-annotation", source.span(node.annotation)


def _compound(source: Source, place: _Place) -> Labelled:
    """The parts of a statement with a body."""
    node = place.node
    for label, field in _FIELDS[type(node)].items():
        value: Any = getattr(node, field)
        if value:
            yield label, source.span_of_all(value if isinstance(value, list) else [value])


def _with(source: Source, place: _Place) -> Labelled:
    first, last = place.node.items[0], place.node.items[-1]
    yield "in-with-items", source.span_of_all([first.context_expr, last.optional_vars or last.context_expr])
    yield "in-with", source.span_of_all(place.node.body)


_LOOP = {"in-loop": "body", "in-else": "orelse"}
_TRY = {"in-try": "body", "in-else": "orelse", "in-finally": "finalbody"}
_FIELDS: dict[type[ast.AST], dict[str, str]] = {
    ast.If: {"in-condition": "test", "in-else": "orelse"},
    ast.While: {"in-condition": "test", **_LOOP},
    ast.For: {"in-loop-target": "target", **_LOOP},
    ast.AsyncFor: {"in-loop-target": "target", **_LOOP},
    ast.Try: _TRY,
    ast.TryStar: _TRY,
}
_PARTS: dict[type[ast.AST], Callable[[Source, _Place], Labelled]] = {
    ast.Module: _docstring,
    ast.ClassDef: _class,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.arguments: _parameters,
    ast.keyword: _keyword,
    ast.Attribute: _attribute,
    ast.Call: _call,
    ast.Subscript: _subscript,
    ast.Name: _name,
    ast.With: _with,
    ast.AsyncWith: _with,
    **dict.fromkeys((ast.Assign, ast.AnnAssign, ast.AugAssign), _assignment),
    **dict.fromkeys(_FIELDS, _compound),
}
