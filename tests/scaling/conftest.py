"""Sweeps on a tiny subject; and the CPU's kernels with numbers that count: their own source, interpreted."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from monosem.evaluation.basics import EvaluationConfig
from monosem.ops import cpu
from monosem.runlog import LogConfig
from monosem.sae.config import AutoencoderConfig
from monosem.scaling.config import Grid, SweepConfig
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.trainer import TrainingConfig


class Tally:
    """Operations by the function whose line asked for them, and by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.running: list[str] = []

    def add(self, kind: str) -> None:
        self.kinds[self.running[-1], kind] += 1

    def of(self, function: str) -> int:
        return sum(count for (name, _), count in self.kinds.items() if name == function)


class Number:
    """A float whose arithmetic is counted; comparisons, signs and copies are not."""

    __array_ufunc__ = None  # numpy's numbers leave arithmetic to this class

    def __init__(self, value: float, tally: Tally) -> None:
        self.value, self.tally = value, tally

    def _computed(self, kind: str, value: float) -> "Number":
        self.tally.add(kind)
        return Number(value, self.tally)

    def __add__(self, other: Any) -> "Number":
        return self._computed("add", self.value + float(other))

    def __sub__(self, other: Any) -> "Number":
        return self._computed("subtract", self.value - float(other))

    def __mul__(self, other: Any) -> "Number":
        return self._computed("multiply", self.value * float(other))

    def __truediv__(self, other: Any) -> "Number":
        return self._computed("divide", self.value / float(other))

    def __radd__(self, other: Any) -> "Number":
        return self._computed("add", float(other) + self.value)

    def __rsub__(self, other: Any) -> "Number":
        return self._computed("subtract", float(other) - self.value)

    def __rmul__(self, other: Any) -> "Number":
        return self._computed("multiply", float(other) * self.value)

    def __rtruediv__(self, other: Any) -> "Number":
        return self._computed("divide", float(other) / self.value)

    def root(self) -> "Number":
        return self._computed("root", self.value**0.5)

    def __neg__(self) -> "Number":
        return Number(-self.value, self.tally)

    def __float__(self) -> float:
        return float(self.value)

    def __eq__(self, other: object) -> bool:
        return self.value == float(other)  # type: ignore[arg-type]

    def __lt__(self, other: Any) -> bool:
        return self.value < float(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > float(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= float(other)

    def __hash__(self) -> int:
        return hash(self.value)


class Row(np.ndarray):  # type: ignore[type-arg]
    """An array of a kernel's own, whose entries all count."""

    tally: Tally

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, Number(value, self.tally) if isinstance(value, int | float) else value)


class CountingNumpy:
    """numpy, whose empty float32 arrays can hold numbers that count; constants count where there is a tally."""

    def __init__(self, tally: Tally | None) -> None:
        self.tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def float32(self, value: Any) -> Any:
        if isinstance(value, Number):
            return value
        return float(value) if self.tally is None else Number(float(value), self.tally)

    def empty(self, shape: Any, dtype: Any) -> Any:
        if dtype != self.float32:
            return np.empty(shape, dtype)
        array = np.empty(shape, object)
        if self.tally is not None:
            array = array.view(Row)
            array.tally = self.tally
        return array

    def full(self, shape: Any, value: Any, dtype: Any) -> Any:
        return np.full(shape, value, object if dtype == self.float32 else dtype)

    def sqrt(self, value: Any) -> Any:
        return value.root()


def kth_largest(values: Any, count: int, k: int, keys: Any) -> float:
    """Of ``cpu_choose``, which halves a range of bits."""
    return sorted(map(float, values[:count]))[-k]


def interpreted(kernel: Any, tally: Tally, counts_all: bool) -> Callable[..., Any]:
    """A kernel's own source, with those that it calls, as a Python function whose numbers may count."""
    function = kernel.py_func
    if function.__name__ == "kth_largest":
        return kth_largest
    names = {**function.__globals__, "np": CountingNumpy(tally if counts_all else None), "prange": range}
    for name in function.__code__.co_names:
        if hasattr(names.get(name), "py_func"):
            names[name] = interpreted(names[name], tally, counts_all)
    source = FunctionType(function.__code__, names)

    def run(*arguments: Any) -> Any:
        tally.running.append(function.__name__)
        result = source(*arguments)
        tally.running.pop()
        return result

    return run


def counted(kernel: Any, tally: Tally, only: tuple[str, ...]) -> Callable[..., None]:
    """The kernel on counting numbers: in all its float32 arrays, or in ``only`` those."""
    function, code = interpreted(kernel, tally, not only), kernel.py_func.__code__

    def run(*arguments: Any) -> None:
        names = code.co_varnames[: code.co_argcount]
        lifted = [
            np.vectorize(lambda value: Number(float(value), tally), otypes=[object])(argument)
            if getattr(argument, "dtype", None) == np.float32 and (name in only or not only)
            else argument
            for name, argument in zip(names, arguments, strict=True)
        ]
        function(*lifted)
        for argument, result in zip(arguments, lifted, strict=True):
            if result is not argument:
                argument[...] = np.vectorize(float, otypes=[np.float64])(result)

    return run


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """What the CPU's kernels count from here on, while they are interpreted.

    To choose is not counted, but the exact products of what is chosen are.
    """
    tally = Tally()
    kernels = {
        "subtract_rows": (),
        "move_latents": (),
        "square_sums": (),
        "choose": ("x", "W"),
        "keep_above": ("x", "W"),
    }
    for name, only in kernels.items():
        monkeypatch.setattr(cpu, name, counted(getattr(cpu, name), tally, only))
    return tally


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def make_sweep(whole_jobs: None, tiny_subject: Path, tiny_text: Path) -> Callable[..., SweepConfig]:
    """Makes a sweep of 20 steps a run over the grids given, as changed by keywords."""

    def make(out: Path, *grids: Grid, training: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
        base: dict[str, Any] = {
            "subject": SubjectConfig(subject=str(tiny_subject), device="cpu", context_length=16),
            "text": TextConfig(text=(str(tiny_text),)),
            "autoencoder": AutoencoderConfig(**({} if all(grid.n_latents for grid in grids) else {"n_latents": 48})),
            "training": TrainingConfig(
                **{"tokens": 640, "batch_size": 32, "checkpoint_every": 200, "learning_rate": 5e-3, **(training or {})}
            ),
            "evaluation": EvaluationConfig(eval_tokens=400, downstream_tokens=100, bootstrap_samples=10),
            "log": LogConfig(log_every=64, held_out_points=4, held_out_tokens=200),
        }
        return SweepConfig(out=out, grid=grids, **{**base, **changes})

    return make
