"""How numba compiles the CPU's kernels, and how they read bfloat16, which numba does not know."""

import inspect
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch


def use_wide_vectors() -> None:
    """Let compiled code use vectors of 512 bits on processors that do not slow down for them.

    The compiler keeps to 256 bits where AVX-512 was once slow; those with bfloat16 instructions are newer. Numba has
    one setting for the whole process, read when it first compiles; NUMBA_CPU_FEATURES, if set, stays.
    """
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512bf16") and numba.config.CPU_FEATURES is None:  # pyright: ignore (filled at import)
        numba.config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"  # pyright: ignore


def use_as_many_threads_as_torch() -> None:
    """Let the kernels follow torch.set_num_threads and OMP_NUM_THREADS.

    When numba starts its threads, which it does here at the latest, it sets OpenMP's number, and with it torch's.
    """
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore (numba fills its configuration at import)
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, most))
    torch.set_num_threads(threads)


use_wide_vectors()
use_as_many_threads_as_torch()


def kernel(function: Any, *, parallel: bool = True) -> Any:
    """Compile at first use, kept on disk. Sums may be reordered; infinities and NaN keep their meaning."""
    fastmath = {"reassoc", "contract", "nsz", "arcp"}
    function = inspect.unwrap(function)  # a type checker's import hook may have wrapped it
    return numba.njit(function, parallel=parallel, fastmath=fastmath, cache=True, nogil=True, error_model="numpy")


def inner(function: Any) -> Any:
    """A part of kernels."""
    return kernel(function, parallel=False)


@inner
def float_of(bits: Any, like: Any) -> Any:
    """An entry of an array like ``like``, of float32 or of bfloat16's bits, as float32."""
    if like.itemsize == 2:
        return np.int32(np.int32(bits) << 16).view(np.float32)
    return np.float32(bits)


@inner
def rounded_bits(bits: Any, like: Any) -> Any:
    """A float32's bits as they are, or those of the nearest bfloat16 (ties to even)."""
    if like.itemsize == 2:
        return np.int16(np.int32(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
    return np.int32(bits)


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
