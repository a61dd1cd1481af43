"""What an evaluation summed over each document: enough to draw the documents again, of several runs together."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosem.errors import UserError
from monosem.files import write_tensors


class DocumentSums(NamedTuple):
    """The sums behind an evaluation's metrics, a row a document."""

    activations: Mapping[str, Float64[Tensor, "documents ..."]]
    """See ``reconstruction.new_reconstruction_sums``."""
    next_tokens: Mapping[str, Float64[Tensor, " documents"]]
    """See ``downstream.new_downstream_sums``."""


def save_document_sums(sums: DocumentSums, path: Path) -> None:
    """Write the sums as safetensors, named as ``activations/x``."""
    write_tensors(
        path, {f"{part}/{name}": each for part, all_ in sums._asdict().items() for name, each in all_.items()}
    )


def load_document_sums(path: Path) -> DocumentSums:
    """Read what ``save_document_sums`` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; write it with `monosem eval`.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); write it again with `monosem eval`.") from error
    parts: list[dict[str, Tensor]] = []
    for part in DocumentSums._fields:
        found = {name.partition("/")[2]: each for name, each in tensors.items() if name.startswith(f"{part}/")}
        is_sound = all(each.dtype == torch.float64 and bool(each.isfinite().all()) for each in found.values())
        if "tokens" not in found or not is_sound or len({len(each) for each in found.values() if each.ndim}) != 1:
            raise UserError(f"{path} is damaged: its {part} are no sums; write it again with `monosem eval`.")
        parts.append(found)
    return DocumentSums(*parts)
