"""An autoencoder on disk: a directory of ``sae.safetensors`` and ``sae.json``, never a pickle.

Every tensor's checksum stands in the JSON, for safetensors finds no flipped byte by itself.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.config import from_dict, to_dict
from monosem.errors import UserError
from monosem.files import read_tensors, tensor_checksum, write_atomically, write_directory_atomically, write_tensors
from monosem.sae.architectures import new_autoencoder, others_settings
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Provenance, Widths

FORMAT_VERSION = 1
WEIGHTS, RECORD = "sae.safetensors", "sae.json"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What stands in sae.json."""

    format_version: int
    monosem_version: str
    d_model: int
    """Width of what is read; of a crosscoder the sum over its hookpoints."""
    widths: tuple[int, ...] = ()
    """Of a crosscoder's hookpoints."""
    d_target: int | None = None
    """Width of what a transcoder gives."""
    autoencoder: AutoencoderConfig
    subject: Provenance | None
    training: dict[str, int | float]
    """Summary of the training: tokens, seed, loss, dead_share."""
    checksums: dict[str, str]
    """Checksum of each tensor in sae.safetensors."""

    def __post_init__(self) -> None:
        if self.d_model < 1:
            raise UserError(f"d_model={self.d_model} is below 1; the file is damaged.")
        if self.widths and (sum(self.widths) != self.d_model or min(self.widths) < 1):
            raise UserError(f"widths={list(self.widths)} are not those of d_model={self.d_model}; the file is damaged.")
        if self.d_target is not None and self.d_target < 1:
            raise UserError(f"d_target={self.d_target} is below 1; the file is damaged.")


def save_autoencoder(sae: Autoencoder, directory: Path) -> None:
    """Write the autoencoder whole, replacing what is at ``directory``."""
    from monosem import __version__

    directory.parent.mkdir(parents=True, exist_ok=True)
    with write_directory_atomically(directory) as temporary:
        checksums = write_tensors(temporary / WEIGHTS, dict(sae.named_parameters()))
        description = Description(
            format_version=FORMAT_VERSION,
            monosem_version=__version__,
            d_model=sae.d_model,
            widths=sae.widths.inputs if len(sae.widths.inputs) > 1 else (),
            d_target=sae.widths.target,
            autoencoder=sae.config,
            subject=sae.provenance,
            training=sae.training_summary,
            checksums=checksums,
        )
        record = to_dict(description)
        for setting in others_settings([sae.config.architecture]):  # whose defaults may change
            record["autoencoder"].pop(setting, None)
        write_atomically(temporary / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def load_autoencoder(path: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Autoencoder:
    """Read an autoencoder from its directory, or from a run directory that holds one in ``sae/``.

    Raises:
        UserError: nothing is there, it is damaged, or a newer version wrote it.
    """
    directory = Path(path)
    if not (directory / RECORD).exists() and (directory / "sae" / RECORD).exists():
        directory = directory / "sae"
    record = _read_record(directory)
    description = from_dict(Description, record, str(directory / RECORD))
    widths = Widths(description.widths or (description.d_model,), description.d_target)
    sae = new_autoencoder(description.autoencoder, widths)
    tensors = _read_tensors(
        directory, description.checksums, {name: tuple(p.shape) for name, p in sae.named_parameters()}
    )
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(tensors[name])
    sae.provenance = description.subject
    sae.training_summary = description.training
    return sae.to(device=device, dtype=dtype).eval()


def _read_record(directory: Path) -> dict[str, Any]:
    file = directory / RECORD
    if not file.exists():
        raise UserError(
            f"{directory} holds no autoencoder ({RECORD} is missing); name a run or an autoencoder directory."
        )
    try:
        record = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is damaged: it is not JSON ({error}); restore it from a copy.") from error
    version = record.get("format_version") if isinstance(record, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{file} is damaged: it has no format_version; restore it from a copy.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{file} has format {version} and this monosem reads up to {FORMAT_VERSION}; upgrade monosem to read it."
        )
    return record


def _read_tensors(directory: Path, checksums: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    file = directory / WEIGHTS
    tensors = read_tensors(file, "restore it from a copy")
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise UserError(f"{file} is damaged: {name} should be {shape} and is {found}; restore it from a copy.")
        if tensor_checksum(tensors[name]) != checksums.get(name):
            raise UserError(f"{file} is damaged: {name} does not match its checksum; restore it from a copy.")
    return tensors
