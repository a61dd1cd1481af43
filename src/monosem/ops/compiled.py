"""How numba compiles the CPU's kernels, and how they read bfloat16, which numba does not know."""

import inspect
from typing import Any

import numba
import numpy as np


def kernel(function: Any, *, parallel: bool = True) -> Any:
    """Compile at first use, kept on disk. Sums may be reordered; infinities and NaN keep their meaning."""
    fastmath = {"reassoc", "contract", "nsz", "arcp"}
    function = inspect.unwrap(function)  # a type checker's import hook may have wrapped it
    return numba.njit(function, parallel=parallel, fastmath=fastmath, cache=True, nogil=True, error_model="numpy")


def inner(function: Any) -> Any:
    """A part of kernels."""
    return kernel(function, parallel=False)


@inner
def widen(row: Any, out: Any) -> None:
    """A row of float32 or of bfloat16's bits, as float32."""
    if row.itemsize == 2:
        wide = out.view(np.int32)
        for c in range(len(row)):
            wide[c] = np.int32(row[c]) << 16
    else:
        for c in range(len(row)):
            out[c] = row[c]
