"""Checkpoints: whole or absent, by ranges of rows, every byte checked."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from monosem import files
from monosem.errors import UserError
from monosem.training.checkpoint import checkpoints, load_checkpoint, prune_checkpoints, save_checkpoint

RECORD = {"batches": 7, "variance": 0.75, "rows_per_epoch": None}


def random_states() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weights": {"W_enc": torch.randn(23, 5, generator=generator), "b_pre": torch.randn(5, generator=generator)},
        "counters": {"silent": torch.arange(23), "scalar": torch.tensor(3.5)},
        "empty": {},
    }


@pytest.mark.parametrize("rows_per_file", [1, 2, 7, 23, 1000])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, rows_per_file: int) -> None:
    states = random_states()
    path = save_checkpoint(tmp_path, 7, states, RECORD, rows_per_file=rows_per_file)
    loaded = load_checkpoint(path)
    assert loaded.record == RECORD
    for name in ("weights", "counters"):
        assert loaded.states[name].keys() == states[name].keys()
        for key, tensor in states[name].items():
            assert torch.equal(loaded.states[name][key], tensor)


def test_each_file_holds_a_range_of_rows(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, random_states(), RECORD, rows_per_file=10)
    names = {file.name for file in path.glob("weights-*")}
    assert names == {"weights-0.safetensors", "weights-10.safetensors", "weights-20.safetensors"}


def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, random_states(), RECORD, rows_per_file=10)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 2}:
            changed = bytearray(whole)
            changed[place] ^= 1
            file.write_bytes(changed)
            with pytest.raises(UserError, match=f"{file.name} is damaged.*remove the folder step-7"):
                load_checkpoint(path)
        file.write_bytes(whole)
    load_checkpoint(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, random_states(), RECORD)
    (path / "weights-0.safetensors").rename(path / "other")
    with pytest.raises(UserError, match=r"weights-0\.safetensors is damaged: it is missing"):
        load_checkpoint(path)
    (path / "checkpoint.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint\.json is damaged: it is missing"):
        load_checkpoint(path)


def test_a_record_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, random_states(), RECORD)
    body = json.loads((path / "checkpoint.json").read_text())["body"]
    body["files"]["../weights-0.safetensors"] = "0" * 32
    sealed = {"checksum": files.checksum(json.dumps(body, indent=1, sort_keys=True).encode()), "body": body}
    (path / "checkpoint.json").write_text(json.dumps(sealed))
    with pytest.raises(UserError, match="it names a file"):
        load_checkpoint(path)


def test_a_newer_format_says_to_upgrade(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, random_states(), RECORD)
    text = (path / "checkpoint.json").read_text().replace('"format_version": 1', '"format_version": 2')
    (path / "checkpoint.json").write_text(text)
    with pytest.raises(UserError, match="has checkpoint format 2 and this monosem reads up to 1; upgrade"):
        load_checkpoint(path)


def test_a_full_disk_leaves_earlier_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save_checkpoint(tmp_path, 1, random_states(), RECORD)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="A checkpoint needs"):
        save_checkpoint(tmp_path, 2, random_states(), RECORD)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, random_states(), RECORD)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    load_checkpoint(first)


def test_the_newest_are_kept_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        save_checkpoint(tmp_path, step, random_states(), RECORD)
    (tmp_path / "step-later").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-9", "step-20", "step-100"]
    prune_checkpoints(tmp_path, 2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-20", "step-100"]
