"""Where large tensors live: they are tensors like any other."""

import pytest
import torch

from monosem.ops.memory import HUGE_PAGE, Reused, empty_on_huge_pages, keep_freed_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(0, 3), (7,), (5, 3), (1200, 1024), (2049, 1025)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_tensor_on_huge_pages_holds_what_is_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = empty_on_huge_pages(shape, dtype, CPU)
    assert (tensor.shape, tensor.dtype, tensor.device.type) == (shape, dtype, "cpu")
    assert tensor.is_contiguous()
    numbers = torch.arange(tensor.numel()).remainder(251).to(dtype).view(shape)
    tensor.copy_(numbers)
    keep_freed_memory()
    others = [empty_on_huge_pages(shape, dtype, CPU).fill_(1) for _ in range(3)]
    assert torch.equal(tensor, numbers)
    assert all(bool((other == 1).all()) for other in others)


def test_reused_memory_grows_and_is_the_same_when_it_suffices() -> None:
    reused = Reused()
    first = reused.take((3, 4), torch.float32, CPU).fill_(2)
    assert reused.take((2, 6), torch.float32, CPU).data_ptr() == first.data_ptr()
    assert reused.take((0, 6), torch.bfloat16, CPU).shape == (0, 6)
    large = reused.take((HUGE_PAGE, 3), torch.bfloat16, CPU)
    assert large.shape == (HUGE_PAGE, 3)
    large.fill_(3)
    assert reused.take((5,), torch.bfloat16, CPU).tolist() == [3] * 5
    assert first.tolist() == [[2] * 4] * 3  # who still holds the former memory keeps it
