"""Files are whole or absent, whatever interrupts their writing; and checksums are those of BLAKE2b."""

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from monosem import files
from monosem.errors import UserError

EMPTY = "cae66941d9efbd404e4d88758ea67670"  # of `b2sum -l 128 /dev/null`


def test_checksums_are_blake2b_of_16_bytes(tmp_path: Path) -> None:
    assert files.checksum(b"") == EMPTY
    assert files.checksum(b"abc") == "cf4ab791c62b8d2b2109c90275287816"
    (tmp_path / "f").write_bytes(b"abc")
    assert files.file_checksum(tmp_path / "f") == files.checksum(b"abc")
    big = bytes(range(256)) * 20_000
    (tmp_path / "f").write_bytes(big)
    assert files.file_checksum(tmp_path / "f") == hashlib.blake2b(big, digest_size=16).hexdigest()


def test_a_tensors_checksum_is_of_its_elements_in_row_major_order() -> None:
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert files.tensor_checksum(tensor) == files.checksum(tensor.numpy().tobytes())
    assert files.tensor_checksum(tensor.T) == files.checksum(tensor.numpy().T.tobytes())
    assert files.tensor_checksum(tensor.bfloat16()) != files.tensor_checksum(tensor)
    assert files.tensor_checksum(torch.tensor(2.0, requires_grad=True)) == files.checksum(b"\x00\x00\x00\x40")
    assert files.tensor_checksum(torch.zeros(0, 4)) == EMPTY


def only_file(directory: Path) -> str:
    (path,) = directory.iterdir()
    return path.name


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for data in (b"old", b"new and longer", b""):
        files.write_atomically(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == data
        assert only_file(tmp_path) == "f"


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_atomically(tmp_path / "f", b"old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if name == "fsync" else (Path, "replace")), fail)
    expected, words = KeyboardInterrupt, None
    if isinstance(error, OSError):
        expected, words = UserError, r"Could not write .*f: No space left on device; free"
    with pytest.raises(expected, match=words):
        files.write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert only_file(tmp_path) == "f"


def test_a_place_that_is_not_there_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        files.write_atomically(tmp_path / "nowhere/f", b"data")


def test_a_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a/d"
    for content in ("one", "two"):
        with files.write_directory_atomically(target) as temporary:
            assert temporary.parent == target.parent
            (temporary / content).write_text(content)
            assert not (target / content).exists()
        assert only_file(target) == content
        assert only_file(tmp_path / "a") == "d"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
def test_a_directory_that_fails_leaves_the_old_one(error: BaseException, tmp_path: Path) -> None:
    with files.write_directory_atomically(tmp_path / "d") as temporary:
        (temporary / "old").touch()
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), files.write_directory_atomically(tmp_path / "d") as temporary:
        (temporary / "new").touch()
        raise error
    assert only_file(tmp_path / "d") == "old"
    assert only_file(tmp_path) == "d"


def test_a_directory_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files.write_directory_atomically(tmp_path / "d") as temporary:
        (temporary / "old").touch()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="Permission denied"), files.write_directory_atomically(tmp_path / "d"):
        pass
    assert only_file(tmp_path / "d") == "old"
    assert only_file(tmp_path) == "d"


def test_what_an_earlier_failure_left_is_not_taken_over(tmp_path: Path) -> None:
    leftover = tmp_path / f".d.{os.getpid()}.tmp"
    leftover.mkdir()
    (leftover / "stale").touch()
    with files.write_directory_atomically(tmp_path / "d") as temporary:
        (temporary / "new").touch()
    assert only_file(tmp_path / "d") == "new"


def test_written_tensors_come_back_with_their_checksums(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5).T, "b": torch.arange(4), "c": torch.randn(2, requires_grad=True)}
    checksums = files.write_tensors(tmp_path / "t.safetensors", tensors)
    back = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert checksums == {name: files.tensor_checksum(tensor) for name, tensor in back.items()}


def test_too_little_space_is_refused_before_the_place_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage._replace(free=3 * 10**9))
    files.require_free_space(tmp_path / "not/yet", 3 * 10**9, "It")
    with pytest.raises(UserError, match=r"It needs 3.50 GB and .* has 3.00 GB free; free some space"):
        files.require_free_space(tmp_path / "not/yet", 35 * 10**8, "It")
    assert asked == [tmp_path, tmp_path]
