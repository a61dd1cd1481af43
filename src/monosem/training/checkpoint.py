"""Checkpoints: named state dicts as safetensors by ranges of rows, and one checksummed JSON. Knows no class.

``step-N/`` holds ``{state}-{first row}.safetensors`` for every state dict and range of rows, and ``checkpoint.json``
with the checksum of each file, the record the caller gave, and a checksum of itself. A tensor longer than a range is
cut into rows, so that a reader can take only the rows it owns. The directory appears whole or not at all.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from monosem.errors import UserError
from monosem.files import (
    checksum,
    file_checksum,
    require_free_space,
    write_atomically,
    write_directory_atomically,
    write_tensors,
)

FORMAT_VERSION = 1
RECORD = "checkpoint.json"
# 131,072 rows of 768 float32 are 0.4 GB a file.
ROWS_PER_FILE = 1 << 17

States = Mapping[str, Mapping[str, Tensor]]


class Checkpoint(NamedTuple):
    """A checkpoint as read: state dicts by name, and the caller's record."""

    states: dict[str, dict[str, Tensor]]
    record: dict[str, Any]


def save_checkpoint(
    directory: Path, step: int, states: States, record: Mapping[str, Any], *, rows_per_file: int = ROWS_PER_FILE
) -> Path:
    """Write ``directory/step-N`` whole.

    Raises:
        UserError: the disk has no room; earlier checkpoints are untouched.
    """
    size = sum(tensor.nbytes for state in states.values() for tensor in state.values())
    require_free_space(directory, int(1.05 * size) + (1 << 20), "A checkpoint")
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"step-{step}"
    with write_directory_atomically(target) as temporary:
        files: dict[str, str] = {}
        for state_name, state in states.items():
            longest = max((len(tensor) for tensor in state.values() if tensor.ndim), default=1)
            for first in range(0, longest, rows_per_file):
                name = f"{state_name}-{first}.safetensors"
                write_tensors(temporary / name, _rows(state, first, rows_per_file))
                files[name] = file_checksum(temporary / name)
        body = {"format_version": FORMAT_VERSION, "step": step, "files": files, "record": dict(record)}
        write_atomically(temporary / RECORD, _sealed(body))
    return target


def _rows(state: Mapping[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """The range of rows of every tensor that reaches so far; scalars go with the first range."""
    return {
        name: tensor[first : first + count].clone() if tensor.ndim else tensor
        for name, tensor in state.items()
        if first < (len(tensor) if tensor.ndim else 1)
    }


def _sealed(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, indent=1, sort_keys=True)
    return json.dumps({"checksum": checksum(text.encode()), "body": body}, indent=1, sort_keys=True).encode()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, every byte of it checked.

    Raises:
        UserError: it is damaged (the file is named), or a newer version wrote it.
    """
    body = _read_record(path)
    states: dict[str, dict[str, list[Tensor]]] = {}
    for state_name, name in _files_in_order(path, body["files"]):
        expected = body["files"][name]
        if not (path / name).exists() or file_checksum(path / name) != expected:
            raise _damaged(path / name, "it does not match its checksum" if (path / name).exists() else "it is missing")
        try:
            tensors = load_file(path / name)
        except (SafetensorError, OSError) as error:
            raise _damaged(path / name, str(error)) from error
        state = states.setdefault(state_name, {})
        for tensor_name, tensor in tensors.items():
            state.setdefault(tensor_name, []).append(tensor)
    joined = {name: {key: _join(parts) for key, parts in state.items()} for name, state in states.items()}
    return Checkpoint(joined, body["record"])


def _files_in_order(path: Path, names: Iterable[str]) -> list[tuple[str, str]]:
    """State and file name, by first row; a name that is not a plain file of ours is refused."""
    found: list[tuple[str, int, str]] = []
    for name in names:
        parts = re.fullmatch(r"([a-z_]+)-(\d+)\.safetensors", name)
        if parts is None:
            raise _damaged(path / RECORD, f"it names a file '{name}'")
        found.append((parts[1], int(parts[2]), name))
    return [(state, name) for state, _, name in sorted(found)]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    if not file.exists():
        raise _damaged(file, "it is missing")
    try:
        sealed = json.loads(file.read_bytes())
        body = cast("dict[str, Any]", sealed["body"])
        expected, version = sealed["checksum"], body["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, "it is not a checkpoint's record") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint format {version} and this monosem reads up to {FORMAT_VERSION}; "
            "upgrade monosem to go on from it."
        )
    if checksum(json.dumps(body, indent=1, sort_keys=True).encode()) != expected:
        raise _damaged(file, "it does not match its checksum")
    return body


def _damaged(file: Path, what: str) -> UserError:
    return UserError(
        f"{file} is damaged: {what}; remove the folder {file.parent.name} to go on from an earlier checkpoint."
    )


def checkpoints(directory: Path) -> list[Path]:
    """The whole checkpoints under ``directory``, oldest first."""
    found = {path: re.fullmatch(r"step-(\d+)", path.name) for path in directory.glob("step-*")}
    numbered = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(numbered, key=numbered.__getitem__)


def prune_checkpoints(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep``."""
    for path in checkpoints(directory)[:-keep]:
        shutil.rmtree(path)
