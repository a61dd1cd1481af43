"""Hookpoints: named places in a module tree whose value can be read or replaced during a forward pass.

A hookpoint is a module path as in ``model.named_modules()``: ``transformer.h.4`` is the output of that module and
``transformer.h.4:in`` its input. Where a module returns or takes several things, the first one counts.
"""

import difflib
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from monosem.errors import UserError

INPUT = ":in"

Replacement = Callable[[Float[Tensor, "... width"]], Float[Tensor, "... width"]]


def hookable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path and module of everything that runs; bare containers such as a list of blocks never do."""
    containers = (nn.ModuleList, nn.ModuleDict)
    return {path: module for path, module in model.named_modules() if path and not isinstance(module, containers)}


def expand_hookpoints(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The hookpoints that patterns name, each once, in the model's order, an input before its output.

    A pattern is a hookpoint or a glob of them. As in file names, ``*`` stands for one part of the path and crosses no
    dot: ``transformer.h.*`` is every block, ``transformer.h.*.mlp:in`` every MLP's input.

    Raises:
        UserError: a pattern matches nothing; the message names near matches.
    """
    paths = list(hookable_modules(model))
    chosen: set[tuple[int, bool]] = set()
    for pattern in patterns:
        path_pattern, is_input = pattern.removesuffix(INPUT), pattern.endswith(INPUT)
        matches = [index for index, path in enumerate(paths) if _matches(path, path_pattern)]
        if not matches:
            raise UserError(_unknown(pattern, path_pattern, paths))
        chosen.update((index, not is_input) for index in matches)
    return [paths[index] + ("" if is_output else INPUT) for index, is_output in sorted(chosen)]


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _unknown(pattern: str, path_pattern: str, paths: list[str]) -> str:
    if any(mark in path_pattern for mark in "*?["):
        message = f"The glob {pattern!r} matches no hookpoint; '*' stands for one part of a module path, between dots."
    else:
        message = f"Unknown hookpoint {pattern!r}; give a module path, with ':in' after it for the module's input."
    # Those that end alike first: who writes `h.4.mlp` means `transformer.h.4.mlp`, though it looks more like `h.4`.
    near = [path for path in paths if path.endswith(f".{path_pattern}")]
    near += [path for path in difflib.get_close_matches(path_pattern, paths, n=5, cutoff=0.5) if path not in near]
    return message + (f" Near matches: {', '.join(near[:5])}." if near else f" Among those there are: {paths[0]}.")


def find_block_list(model: nn.Module, n_layers: int) -> str:
    """Path of the list of the model's blocks: the ``ModuleList`` of that length nearest the root.

    Raises:
        UserError: there is none.
    """
    lists = [
        path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise UserError(
            f"{type(model).__name__} holds no list of its {n_layers} blocks, so a layer's number has no meaning there; "
            "name a module path with --hookpoint instead of --layer."
        )
    return min(lists, key=lambda path: path.count("."))


class _AllSeen(Exception):  # noqa: N818 - it says that a pass may stop, not that something went wrong
    """Ends a forward pass whose remaining part nobody needs."""


Keep = Callable[[str, Tensor], None]
"""Takes a hookpoint and its value."""


@contextmanager
def recorder(model: nn.Module, hookpoints: Iterable[str]) -> Generator[Callable[[Callable[[], object], Keep], None]]:
    """Within the block, ``record(forward, keep)`` hands each hookpoint's value to ``keep`` when it is there.

    ``forward`` is called, and stopped after the last hookpoint. ``keep`` must copy what it wants to have later: the
    rest of the pass may write into the tensor. Of a module that runs more than once in a pass, the first run counts.
    Several threads may each record a pass of theirs. Every hook is gone afterwards, whatever happened.

    Raises:
        UserError: a hookpoint is unknown; or, of ``record``, it never ran, or its value is no floating-point tensor of
            three dimensions.
    """
    wanted, modules = list(dict.fromkeys(hookpoints)), hookable_modules(model)
    its = threading.local()

    def see(hookpoint: str, value: object) -> None:
        if hookpoint in its.missing:
            its.keep(hookpoint, _activations(hookpoint, value))
            its.missing.remove(hookpoint)
            if not its.missing:
                raise _AllSeen

    def record(forward: Callable[[], object], keep: Keep) -> None:
        its.missing, its.keep = list(wanted), keep
        try:
            forward()
        except _AllSeen:
            return
        if its.missing:
            raise UserError(f"The forward pass never ran {', '.join(its.missing)}; choose another hookpoint.")

    with ExitStack() as hooks:
        for hookpoint in wanted:
            hooks.callback(_hook(modules, hookpoint, lambda value, name=hookpoint: see(name, value)).remove)
        yield record


def has_hooks(model: nn.Module) -> bool:
    """Whether something else than the model's own code runs in its passes."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())  # pyright: ignore[reportPrivateUsage]


@contextmanager
def replaced(
    model: nn.Module, hookpoint: str, function: Replacement, where: Bool[Tensor, "blocks length"] | None = None
) -> Generator[None]:
    """Within the block, every pass continues with ``function(value)`` in place of the hookpoint's value.

    ``function`` gets a copy, so it may write into it; its result is cast to the value's dtype. Positions outside
    ``where`` pass through bit for bit. The hook is gone afterwards, whatever happened.

    Raises:
        UserError: the hookpoint is unknown, its value is no floating-point tensor of three dimensions, or the shape of
            ``where`` or of ``function``'s result does not fit it.
    """

    def swap(value: object) -> Tensor:
        old = _activations(hookpoint, value)
        new = function(old.clone())
        if not isinstance(new, Tensor) or new.shape != old.shape:  # pyright: ignore[reportUnnecessaryIsInstance] - a user's function
            raise UserError(f"The replacement for {hookpoint} gave {_describe(new)}, not {list(old.shape)} as it got.")
        new = new.to(device=old.device, dtype=old.dtype)
        if where is None:
            return new
        if where.shape != old.shape[:-1]:
            raise UserError(
                f"where={list(where.shape)} does not fit the pass, whose tokens are {list(old.shape[:-1])}; "
                "give one truth value for each token."
            )
        return torch.where(where.to(old.device).unsqueeze(-1), new, old)

    handle = _hook(hookable_modules(model), hookpoint, swap)
    try:
        yield
    finally:
        handle.remove()


def _hook(modules: Mapping[str, nn.Module], hookpoint: str, see: Callable[[object], Tensor | None]) -> RemovableHandle:
    """Call ``see`` with the hookpoint's value in every pass; a tensor that it returns takes the value's place."""
    path = hookpoint.removesuffix(INPUT)
    if path not in modules:
        raise UserError(_unknown(hookpoint, path, list(modules)))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        place = _input_place(args, kwargs)
        new = see(place.container[place.key] if place else None)
        if new is None or place is None:
            return None
        if place.container is kwargs:
            return args, {**kwargs, place.key: new}
        return (new, *args[1:]), kwargs

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        new = see(_first(output))
        return None if new is None else _with_first(output, new)

    if hookpoint.endswith(INPUT):
        return modules[path].register_forward_pre_hook(before, with_kwargs=True)
    return modules[path].register_forward_hook(after)


class _Place(NamedTuple):
    container: Any
    key: Any


def _input_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Place | None:
    """Where a module's input stands: the first argument, or the keyword that ``transformers`` uses for it."""
    if args:
        return _Place(args, 0)
    for name in ("hidden_states", "input", "x", "inputs_embeds"):
        if kwargs.get(name) is not None:
            return _Place(kwargs, name)
    return None


def _first(output: Any) -> object:
    if isinstance(output, tuple | list):
        return cast(Sequence[object], output)[0] if output else None
    if isinstance(output, dict):  # the output records of `transformers` are dictionaries
        return next(iter(cast(dict[str, object], output).values()), None)
    return output


def _with_first(output: Any, new: Tensor) -> Any:
    if isinstance(output, tuple | list):
        return (new, *cast(Sequence[object], output)[1:])
    if isinstance(output, dict):
        record = cast(dict[str, object], output)
        record[next(iter(record))] = new
        return record
    return new


def _activations(hookpoint: str, value: object) -> Float[Tensor, "blocks length width"]:
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3:
        return value
    raise UserError(
        f"Hookpoint {hookpoint} holds {_describe(value)}, not floating-point activations [blocks, length, width]; "
        "choose a hookpoint whose value has one vector for each token."
    )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value is None else f"a {type(value).__name__}"
