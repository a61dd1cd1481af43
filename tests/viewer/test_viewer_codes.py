"""Codes on disk: what the autoencoder's ``encode`` gives, whatever happens on the way."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_autoencoders import LENGTH

from any_autoencoder import KINDS
from monosem.errors import UserError
from monosem.runs.directory import read_run
from monosem.runs.inputs import open_even_blocks, open_text
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.storage import load_autoencoder
from monosem.subject.blocks import EvenBlocks
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel
from monosem.viewer import codes as codes_module
from monosem.viewer.codes import CodeFiles, StoredCodes, context_hashes, count_fired, is_sound, read_codes, write_codes

Make = Callable[..., Path]


@pytest.fixture
def opened(make_run: Make, console) -> Callable[..., tuple[Autoencoder, SubjectModel, EvenBlocks]]:
    """Opens a run of a kind to write the codes of about 900 tokens, whose end-of-text tokens are left out."""

    def open_(kind: str = "topk") -> tuple[Autoencoder, SubjectModel, EvenBlocks]:
        run = make_run(kind)
        config = read_run(run)
        subject = load_subject(config.subject)
        text = open_text(config.text, subject, config.text_limit, console)
        return load_autoencoder(run), subject, open_even_blocks(config.subject, subject, text.training, 900)

    return open_


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three batches of five blocks."""
    monkeypatch.setattr(codes_module, "BATCH_TOKENS", 5 * LENGTH)
    monkeypatch.setattr(codes_module, "BATCHES", 3)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", KINDS)
def test_the_codes_are_those_of_encode(kind: str, opened: Callable[..., tuple], tmp_path: Path) -> None:
    sae, subject, blocks = opened(kind)
    write_codes(tmp_path, sae, subject, blocks)
    found, whole = read_codes(tmp_path), blocks.all()
    assert not whole.kept.all()
    site = sae.provenance.site
    dense = sae.encode(site.read(subject.capture(whole.tokens, site.inputs))[whole.kept]).dense()
    rows = np.repeat(np.arange(len(found.places)), np.diff(found.offsets))
    again = torch.zeros_like(dense)
    again[rows, found.latents.astype(np.int64)] = torch.from_numpy(found.values.copy())
    torch.testing.assert_close(again, dense.clamp(min=0), rtol=1e-4, atol=1e-5)
    assert torch.equal(again > 0, dense > 0)
    assert len(found.values) == int((dense > 0).sum()) > 500
    assert found.places.tolist() == whole.kept.flatten().nonzero()[:, 0].tolist()
    assert found.tokens.tolist() == whole.tokens[whole.kept].tolist()
    assert np.array_equal(found.contexts, context_hashes(whole.tokens)[whole.kept.numpy()])
    assert count_fired(found, sae.n_latents).tolist() == (dense > 0).sum(dim=0).tolist()
    assert is_sound(found, sae.n_latents, 64, whole.tokens.numel())


def test_a_context_is_eleven_tokens_and_where_the_block_cuts_them() -> None:
    tokens = torch.randint(0, 2, (6, 40), generator=torch.Generator().manual_seed(0))
    tokens[3:] = 0  # a line of zeros: all contexts alike, but for the block's ends
    hashes = context_hashes(tokens)
    windows = {
        (i, j): tuple(None if not 0 <= k < 40 else int(tokens[i, k]) for k in range(j - 8, j + 3))
        for i in range(6)
        for j in range(40)
    }
    places = list(windows)
    for one in places:
        for other in places:
            assert (hashes[one] == hashes[other]) == (windows[one] == windows[other])
    assert len(set(hashes[3].tolist())) == 11  # eight cut in front, two behind, and all others


@pytest.mark.usefixtures("small_batches")
def test_a_cut_run_goes_on_and_leaves_the_same_bytes(
    opened: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, subject, blocks = opened()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    write_codes(whole, sae, subject, blocks)
    reported: list[int] = []
    for interruption in range(1, 4):
        with monkeypatch.context() as patch:
            interrupted_after(patch, interruption)
            with pytest.raises(KeyboardInterrupt):
                write_codes(cut, sae, subject, blocks)
        for name in StoredCodes._fields:  # as if it had been killed while it wrote the next chunk
            with (cut / name).open("ab") as file:
                file.write(b"rest")
    write_codes(cut, sae, subject, blocks, lambda done, total: reported.append(done))
    assert [path.read_bytes() for path in sorted(whole.iterdir())] == [
        path.read_bytes() for path in sorted(cut.iterdir())
    ]
    assert 0 < reported[0] < reported[-1] == blocks.rows  # it did go on


def interrupted_after(patch: pytest.MonkeyPatch, chunks: int) -> None:
    append, done = CodeFiles.append, 0

    def counting(self: CodeFiles, blocks: int, codes: StoredCodes) -> None:
        nonlocal done
        if done == 1:
            raise KeyboardInterrupt
        done += 1
        append(self, blocks, codes)

    patch.setattr(CodeFiles, "append", counting)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "codes.json").write_text("{"),
        lambda place: (place / "codes.json").write_text("[1, 2, 3]"),
        lambda place: (place / "codes.json").write_text(json.dumps({"blocks": -1, "rows": -1, "records": -1})),
        lambda place: (place / "codes.json").write_text(json.dumps({"blocks": "1", "rows": 1, "records": 1})),
        lambda place: (place / "codes.json").unlink(),
        lambda place: (place / "values").write_bytes((place / "values").read_bytes()[:-4]),
        lambda place: (place / "contexts").unlink(),
    ],
)
def test_damaged_files_are_written_anew(
    damage: Callable[[Path], object], opened: Callable[..., tuple], tmp_path: Path
) -> None:
    sae, subject, blocks = opened()
    write_codes(tmp_path, sae, subject, blocks)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    damage(tmp_path)
    reported: list[int] = []
    write_codes(tmp_path, sae, subject, blocks, lambda done, total: reported.append(done))
    assert reported[0] == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_codes_that_point_nowhere_are_found() -> None:
    from literal_index import random_codes

    sound = random_codes(0)
    assert is_sound(sound, 13, 7, 360)
    assert not is_sound(sound, 12, 7, 360)
    assert not is_sound(sound, 13, 6, 360)
    assert not is_sound(sound, 13, 7, int(sound.places.max()))
    for name, place, value in (
        ("offsets", 5, 10**6),
        ("offsets", 0, 1),
        ("offsets", -1, 3),
        ("values", 7, 0.0),
        ("values", 7, np.nan),
        ("values", 7, np.inf),
    ):
        damaged = getattr(sound, name).copy()
        damaged[place] = value
        assert not is_sound(sound._replace(**{name: damaged}), 13, 7, 360), (name, value)


def test_activations_that_are_not_finite_are_refused(opened: Callable[..., tuple], tmp_path: Path) -> None:
    sae, subject, blocks = opened()
    subject.model.transformer.h[1].mlp.c_proj.bias.data[3] = torch.inf
    with pytest.raises(UserError, match=re.escape("The activations at transformer.h.2 are not finite")):
        write_codes(tmp_path, sae, subject, blocks)


def test_a_full_disk_is_told(opened: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, subject, blocks = opened()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(codes_module.os, "fsync", refuse)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_codes(tmp_path, sae, subject, blocks)


def test_more_tokens_than_can_be_numbered_are_refused(
    opened: Callable[..., tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, subject, blocks = opened()
    monkeypatch.setattr(codes_module, "MOST_ROWS", 100)
    with pytest.raises(UserError, match="more than an index can hold, 100; lower --tokens"):
        write_codes(tmp_path, sae, subject, blocks)
