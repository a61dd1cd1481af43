"""Where large tensors on the CPU live, so that a step does not spend its time on pages of memory.

Freed memory usually goes back to the system, and the next step faults in every 4 KiB page again; and a row here, a row
there of a large matrix is a new page each, which the processor has to look up.
"""

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20


def keep_freed_memory() -> None:
    """Let the C library (glibc; others are left alone) reuse freed blocks of up to 32 MiB, for the whole process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 << 20)


def empty_on_huge_pages(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor, not initialised; on the CPU in pages of 2 MiB, where the system offers them and it fills some."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


class Reused:
    """Memory for a large tensor that every step makes anew."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor with what was last written there, or anything; it takes the place of the one before."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._memory) < size or self._memory.device != device:
            self._memory = torch.empty(0)  # freed first
            self._memory = empty_on_huge_pages((size,), torch.uint8, device)
        return self._memory[:size].view(dtype).view(tuple(shape))
