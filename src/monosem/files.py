"""Files that are either whole or absent: written under a temporary name, synced, renamed; and checked by hash."""

import hashlib
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from monosem.errors import UserError


def checksum(data: bytes | memoryview) -> str:
    """BLAKE2b of ``data``, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def tensor_checksum(tensor: Tensor) -> str:
    """Checksum of a tensor's elements in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return checksum(flat.view(torch.uint8).numpy().data)


def file_checksum(path: Path) -> str:
    """Checksum of a file's bytes, read in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is, after any interruption, either the old one or the new one, whole.

    Raises:
        NotWrittenError: the disk is full; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, made with its directory where there is none; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


class NotWrittenError(UserError):
    """The disk refused a file or a directory: it is full, or the place cannot be written."""


def not_written(path: Path, error: OSError) -> NotWrittenError:
    """What to raise when the disk refuses."""
    return NotWrittenError(
        f"Could not write {path}: {error.strerror or error}; free some space or choose another place."
    )


@contextmanager
def write_directory_atomically(path: Path) -> Generator[Path]:
    """Yield a temporary directory that becomes ``path`` when the block ends well, and is removed when it does not.

    An existing directory at ``path`` is replaced.

    Raises:
        NotWrittenError: the disk is full; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_directory(temporary)
        _replace_directory(path, temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise not_written(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def _replace_directory(path: Path, new: Path) -> None:
    """Rename ``new`` to ``path``; where that fails, what was at ``path`` is there again."""
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a safetensors file atomically and return the checksum of each tensor in it."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(ready))
    return {name: tensor_checksum(tensor) for name, tensor in ready.items()}


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: it is missing or damaged; ends in the remedy.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}.") from error


def require_free_space(directory: Path, needed: int, what: str) -> None:
    """Refuse work that the disk has no room for.

    Raises:
        UserError: fewer than ``needed`` bytes are free where ``directory`` is, or will be, made.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; "
            "free some space, choose another place, or ask for less."
        )
