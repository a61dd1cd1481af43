"""The whole index: every table against plain loops, after any interruption, and made again only where it must be."""

import itertools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import literal_index as literal
import numpy as np
import pytest
import torch
from random_autoencoders import LENGTH
from rich.console import Console

from any_autoencoder import KINDS
from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.runs.directory import prepare_directory, read_run
from monosem.runs.inputs import open_even_blocks, open_text
from monosem.sae.storage import load_autoencoder
from monosem.subject.blocks import EvenBlocks
from monosem.subject.loading import load_subject
from monosem.viewer import build, codes, index, latents, unfinished
from monosem.viewer.codes import read_codes, write_codes
from monosem.viewer.index import IndexConfig, build_index, vocabulary_of
from monosem.viewer.schema import ACTIVATIONS, COUNTS, HISTOGRAM_BINS, QUANTILES, TOKENS, open_index

CONFIG = IndexConfig(tokens=900, examples_top=5, examples_band=2, tokens_per_latent=4, logit_effects=6, neighbours=3)
Make = Callable[..., Path]
TABLES = (
    "meta",
    "vocabulary",
    "documents",
    "blocks",
    "latents",
    "examples",
    "fires_on",
    "logit_effects",
    "neighbours",
    "patterns",
    "pattern_scores",
    "explanations",
    "ablations",
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of fifteen blocks, ranges of twelve latents."""
    monkeypatch.setattr(codes, "BATCH_TOKENS", 5 * LENGTH)
    monkeypatch.setattr(codes, "BATCHES", 3)
    monkeypatch.setattr(latents, "MOST_LATENTS", 12)


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = open_index(path)
    found = {table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in TABLES}
    connection.close()
    return found


def meta(path: Path) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in contents(path)["meta"]}


def opened(run: Path, console: Console, split: str = "training") -> tuple[Any, Any, EvenBlocks]:
    config = read_run(run)
    subject = load_subject(config.subject)
    text = open_text(config.text, subject, config.text_limit, console)
    return load_autoencoder(run), subject, open_even_blocks(config.subject, subject, getattr(text, split), 900)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_that_of_the_plain_loop(kind: str, make_run: Make, console: Console, tmp_path: Path) -> None:
    run = make_run(kind)
    found = contents(build_index(run, CONFIG, console=console))
    sae, subject, blocks = opened(run, console)
    write_codes(tmp_path, sae, subject, blocks)
    expected = literal.activations(read_codes(tmp_path), sae.n_latents)
    _check_latents(found["latents"], sae, expected, blocks.rows)
    assert found["examples"] == [
        (*row[:6], np.array(row[6], ACTIVATIONS).tobytes())
        for latent, mine in enumerate(expected)
        for row in literal.examples(mine, latent, CONFIG, LENGTH, 0)
    ]
    assert [row[:4] for row in found["fires_on"]] == [
        (latent, rank, token, count)
        for latent, mine in enumerate(expected)
        for rank, (token, count, _) in enumerate(literal.fires_on(mine, CONFIG.tokens_per_latent))
    ]
    for latent, rank, _, count, mean, share in found["fires_on"]:
        sum_ = literal.fires_on(expected[latent], 4)[rank][2]
        total = sum(each.value for each in expected[latent])
        assert (mean, share) == pytest.approx((sum_ / count, sum_ / total), rel=1e-12)
    firing = [row for row in found["neighbours"] if row[1] == "firing"]
    assert [row[:4:3] for row in firing] == [
        (latent, other)
        for latent in range(sae.n_latents)
        for other, _ in literal.firing_neighbours(expected, latent, CONFIG.neighbours)
    ]
    assert len(found["logit_effects"]) == (0 if kind in ("crosscoder", "skip") else 12 * sae.n_latents)


def _check_latents(
    rows: list[tuple[Any, ...]], sae: Any, expected: list[list[literal.Activation]], tokens: int
) -> None:
    assert [row[0] for row in rows] == list(range(sae.n_latents))
    assert sum(not mine for mine in expected) >= 2
    decoder = sae.W_dec.tolist()
    for latent, fired, density, mean, largest, quantiles, histogram, encoder, nearest, share in rows:
        values = [each.value for each in expected[latent]]
        assert (fired, density) == (len(values), len(values) / tokens)
        cosines = [literal.cosine(decoder[latent], row) for other, row in enumerate(decoder) if other != latent]
        assert nearest == pytest.approx(max(cosines), abs=1e-6)
        if sae.is_transcoder:
            assert encoder is None
        else:
            assert encoder == pytest.approx(literal.cosine(sae.W_enc[latent].tolist(), decoder[latent]), rel=1e-6)
        if not values:
            assert (mean, largest, quantiles, histogram, share) == (None,) * 5
            continue
        assert mean == pytest.approx(sum(values) / fired, rel=1e-12) and largest == max(values)
        assert np.frombuffer(quantiles, QUANTILES).tolist() == [literal.quantile(values, q) for q in literal.BANDS]
        assert np.frombuffer(histogram, COUNTS).tolist() == literal.histogram(values, HISTOGRAM_BINS)
        top = literal.fires_on(expected[latent], 1)[0][2]
        assert share == pytest.approx(top / sum(values), rel=1e-12)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("split", ["training", "held_out"])
def test_examples_show_what_the_subject_and_the_autoencoder_say_of_their_blocks(
    adds_bos: bool, split: Any, make_run: Make, save_subject: Callable[..., Path], console: Console
) -> None:
    run = make_run(subject=save_subject("gpt2", adds_bos=adds_bos))
    path = build_index(run, IndexConfig(tokens=900, split=split), console=console)
    sae, subject, blocks = opened(run, console, split)
    found, line = contents(path), blocks.split.tokens
    assert (subject.bos_id is not None) == adds_bos
    documents = dict(found["documents"])
    blocks_by_number = {number: row for number, *row in found["blocks"]}
    assert set(blocks_by_number) == {row[3] for row in found["examples"]}
    for document, start, data in blocks_by_number.values():
        tokens = np.frombuffer(data, TOKENS).tolist()
        assert tokens == ([subject.bos_id] if adds_bos else []) + line[start : start + LENGTH - adds_bos].tolist()
        assert documents[document] == blocks.split.document_names[int(blocks.split.document_of(np.array(start)))]
    for latent, _, _, block, position, value, data in found["examples"][::29]:
        tokens = torch.tensor([np.frombuffer(blocks_by_number[block][2], TOKENS).astype(np.int64).tolist()])
        raw = subject.capture(tokens, ["transformer.h.2"])["transformer.h.2"][0]
        mine = sae.encode(raw).dense()[:, latent]
        shown = np.frombuffer(data, ACTIVATIONS).tolist()
        special = (tokens[0] == 2) | ((torch.arange(LENGTH) == 0) & adds_bos)
        assert [place for place, _ in shown] == ((mine > 0) & ~special).nonzero()[:, 0].tolist()
        assert [each for _, each in shown] == pytest.approx(mine[[place for place, _ in shown]].tolist(), abs=1e-5)
        assert dict(shown)[position] == value
    met = {int(blocks.split.document_of(place)) for place in blocks.all().positions.flatten() if place >= 0}
    assert set(documents) == met
    assert meta(path)["index"] == {
        "tokens": blocks.rows,
        "blocks": len(blocks),
        "context_length": LENGTH,
        "text_start": int(adds_bos),
        "split": split,
        "documents": len(met),
    }


def test_the_card_tells_of_the_run(make_run: Make, console: Console) -> None:
    run = make_run("transcoder", name="a run")
    path = build_index(run, CONFIG, console=console)
    told, subject = meta(path), load_subject(read_run(run).subject)
    assert told["run"] == {
        "name": "a run",
        "architecture": "topk",
        "n_latents": 40,
        "d_model": 16,
        "k": 4,
        "preprocess": "unit_norm",
        "subject": "tiny",  # and not where that lies
        "revision": subject.revision,
        "hookpoints": ["transformer.h.1"],
        "target": "transformer.h.2",
        "training": {"tokens": 1930, "seed": 0, "loss": 0.25, "l0": 4.0},
    }
    density, fired = told["density"], [row[1] for row in contents(path)["latents"]]
    assert density["dead"] == fired.count(0) > 0
    edges = [10**edge for edge in density["edges"]]
    shares = [each / told["index"]["tokens"] for each in fired if each]
    counts = [
        sum(low * (1 - 1e-9) <= share < high * (1 - 1e-9) for share in shares)
        for low, high in itertools.pairwise(edges)
    ]
    assert density["counts"] == counts
    assert told["metrics"] == []
    texts = dict(contents(path)["vocabulary"])
    assert len(texts) == 64 and texts[2] == "</s>" and texts[5] == "w1"


def test_the_vocabulary_reaches_as_far_as_subject_or_tokenizer(make_run: Make) -> None:
    subject = load_subject(read_run(make_run()).subject)
    assert vocabulary_of(subject) == 64
    subject.tokenizer.get_vocab = lambda: {"a": 0, "far": 99}  # numbers may have gaps
    assert vocabulary_of(subject) == 100
    subject.tokenizer.get_vocab = lambda: {"a": 0}
    assert vocabulary_of(subject) == 64


def test_there_is_no_k_where_it_does_not_set_the_sparsity(make_run: Make, console: Console) -> None:
    assert meta(build_index(make_run("relu"), CONFIG, console=console))["run"]["k"] is None


# Interruptions


def raising(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *, after: bool) -> None:
    """Interrupt the so-many-th call of a function, before it does anything or after."""
    original, calls = getattr(owner, name), 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < call:
            return original(*arguments, **named)
        if after:
            original(*arguments, **named)
        raise KeyboardInterrupt

    patch.setattr(owner, name, interrupted)


PLACES = {
    "in the codes": (codes.CodeFiles, "append", 2, True),
    "before the first chunk": (codes.CodeFiles, "append", 1, False),
    "before the latents": (build, "decoder_searcher", 1, False),
    "in the first range's rows": (build, "write_latents", 1, True),
    "in the third range's rows": (build, "write_latents", 3, True),
    "before the third range": (build, "read_firings", 3, False),
    "in the texts": (build, "write_text", 1, True),
    "in the indices": (build, "create_indices", 1, True),
    "in the evaluations": (index, "insert", 2, True),
    "before the evaluations": (index, "read_evaluated", 1, False),
    "before the end": (unfinished.Unfinished, "finish", 1, False),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_interrupted_index_goes_on_and_ends_the_same(
    place: tuple[Any, str, int, bool], make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, call, after = place
    run = make_run()
    expected = contents(build_index(run, CONFIG, console=console))
    (run / "viewer.sqlite").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        raising(patch, owner, name, call, after=after)
        build_index(run, CONFIG, console=console)
    assert (run / "viewer.unfinished").is_dir() and not (run / "viewer.sqlite").exists()
    assert contents(build_index(run, CONFIG, console=console)) == expected
    assert not (run / "viewer.unfinished").exists()


def test_what_is_done_is_not_done_again(make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raising(patch, build, "write_latents", 3, after=False)
        build_index(run, CONFIG, console=console)
    described: list[int] = []
    write = build.write_latents
    monkeypatch.setattr(
        build, "write_latents", lambda c, each, n: (described.append(each.where.first), write(c, each, n))
    )
    monkeypatch.setattr(codes.CodeFiles, "append", lambda *_: pytest.fail("the codes are there"))
    build_index(run, CONFIG, console=console)
    assert described == [24, 36]


KILLED = f"""
import os, signal, sys
from pathlib import Path
from monosem.viewer import build, codes, latents
from monosem.viewer.index import IndexConfig, build_index, vocabulary_of
codes.BATCH_TOKENS, codes.BATCHES, latents.MOST_LATENTS = {5 * LENGTH}, 3, 12
write = build.write_latents
def kill(*arguments):
    write(*arguments)
    if arguments[1].where.first == 12:
        os.kill(os.getpid(), signal.SIGKILL)
build.write_latents = kill
build_index(Path(sys.argv[1]), {CONFIG!r})
"""


def test_a_process_that_is_killed_in_a_range_leaves_a_place_to_go_on_from(make_run: Make, console: Console) -> None:
    run = make_run()
    expected = contents(build_index(run, CONFIG, console=console))
    (run / "viewer.sqlite").unlink()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run)], capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert (run / "viewer.unfinished").exists()
    assert contents(build_index(run, CONFIG, console=console)) == expected


# What is kept, and what is made again


def refuse(*_: Any, **__: Any) -> None:
    pytest.fail("it is made again")


def test_a_finished_index_is_kept(
    make_run: Make, console: Console, shown: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    path = build_index(run, CONFIG, console=console)
    assert path == run / "viewer.sqlite"
    before, said = path.read_bytes(), shown()
    monkeypatch.setattr(index, "build", refuse)
    assert build_index(run, CONFIG, console=console) == path
    assert path.read_bytes() == before and shown() == said


def test_other_settings_make_it_again(make_run: Make, console: Console, shown: Callable[[], str]) -> None:
    run = make_run()
    build_index(run, CONFIG, console=console)
    path = build_index(run, IndexConfig(tokens=500), console=console)
    assert meta(path)["index"]["tokens"] <= 500
    assert "is of another autoencoder, subject, text or of other settings, and is made again" in shown()


def test_another_autoencoder_or_text_makes_it_again(
    make_run: Make, console: Console, shown: Callable[[], str], tmp_path: Path, tiny_text: Path
) -> None:
    run, other = make_run(), make_run("topk", "other", k=3)
    first = contents(build_index(run, CONFIG, console=console))
    for file in (other / "sae").iterdir():
        write_atomically(run / "sae" / file.name, file.read_bytes())
    second = contents(build_index(run, CONFIG, console=console))
    assert second["latents"] != first["latents"]
    toml = (run / "config.toml").read_text().replace(str(tiny_text), str(tmp_path / "text"))
    (tmp_path / "text").mkdir()
    for file in list(tiny_text.iterdir())[3:]:
        (tmp_path / "text" / file.name).write_bytes(file.read_bytes())
    (run / "config.toml").write_text(toml)
    assert contents(build_index(run, CONFIG, console=console))["documents"] != second["documents"]
    assert shown().count("and is made again") == 2


def test_again_makes_it_again(make_run: Make, console: Console, shown: Callable[[], str]) -> None:
    run = make_run()
    path = build_index(run, CONFIG, console=console)
    before = contents(path)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM examples")
    connection.commit()
    connection.close()
    assert contents(build_index(run, CONFIG, console=console))["examples"] == []  # its identity is the same
    assert contents(build_index(run, CONFIG, again=True, console=console)) == before
    assert "is made again, as asked" in shown()


@pytest.mark.parametrize("data", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_index_is_made_again(data: bytes, make_run: Make, console: Console, shown: Callable[[], str]) -> None:
    run = make_run()
    path = build_index(run, CONFIG, console=console)
    before = contents(path)
    path.write_bytes(data)
    assert contents(build_index(run, CONFIG, console=console)) == before
    assert "is damaged or of another version, and is made again" in shown()


def test_what_is_left_of_another_index_is_removed(
    make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raising(patch, build, "write_latents", 3, after=True)
        build_index(run, IndexConfig(tokens=500), console=console)
    (run / "viewer.unfinished/rubbish").touch()
    found = contents(build_index(run, CONFIG, console=console))
    (run / "viewer.sqlite").unlink()
    assert contents(build_index(run, CONFIG, console=console)) == found
    assert not (run / "viewer.unfinished").exists()


@pytest.mark.parametrize("name", ["index.sqlite", "latents", "offsets", "codes.json"])
def test_a_damaged_beginning_does_no_harm(
    name: str, make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    expected = contents(build_index(run, CONFIG, console=console))
    (run / "viewer.sqlite").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raising(patch, build, "decoder_searcher", 1, after=False)
        build_index(run, CONFIG, console=console)
    file = run / "viewer.unfinished" / name
    file.write_bytes(b"\xff" * file.stat().st_size)
    try:
        build_index(run, CONFIG, console=console)
    except UserError as error:
        assert "was damaged, and is removed; start again with the same command" in str(error)
    assert contents(build_index(run, CONFIG, console=console)) == expected


def test_two_processes_do_not_make_one_index(make_run: Make, console: Console) -> None:
    run = make_run()
    with unfinished.Unfinished(run, "some content") as first:
        with pytest.raises(UserError, match=r"Another process is making the index in .*; wait for it"):
            build_index(run, CONFIG, console=console)
        first.put("still", "there")
    build_index(run, CONFIG, console=console)


# What cannot be indexed


def test_an_autoencoder_of_unknown_origin_is_refused(make_run: Make, console: Console) -> None:
    run = make_run()
    record = json.loads((run / "sae/sae.json").read_text())
    del record["subject"]
    (run / "sae/sae.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="does not say which activations its autoencoder was trained on"):
        build_index(run, CONFIG, console=console)


def test_a_disk_without_room_is_told_before_the_work(
    make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosem.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"The index needs .* GB and .* has 0\.00 GB free"):
        build_index(make_run(), CONFIG, console=console)


def test_a_database_that_cannot_grow_is_told(make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_rows(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(build, "write_latents", refuse_rows)
    with pytest.raises(UserError, match="database or disk is full; free some space"):
        build_index(make_run(), CONFIG, console=console)


def test_a_changed_subject_is_told(
    make_run: Make, console: Console, shown: Callable[[], str], save_subject: Callable[..., Path]
) -> None:
    run = make_run()
    record = json.loads((run / "sae/sae.json").read_text())
    record["subject"]["revision"] = "another"
    (run / "sae/sae.json").write_text(json.dumps(record))
    build_index(run, CONFIG, console=console)
    assert "The subject has changed since training:" in shown() and "was at another and is at" in shown()


def test_progress_is_shown_and_missing_effects_are_told(
    make_run: Make, console: Console, shown: Callable[[], str]
) -> None:
    build_index(make_run("crosscoder"), CONFIG, console=console)
    assert "Indexing: codes: 88" in shown() and "Indexing: latents: " in shown()
    assert "There are no logit effects: the autoencoder gives activations of several hookpoints" in shown()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens=0 is below 1"),
        ({"examples_band": -1}, "examples_band=-1 is below 1"),
        ({"neighbours": 0}, "neighbours=0 is below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IndexConfig(**settings)


def test_overwriting_a_run_removes_its_index(make_run: Make, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    build_index(run, CONFIG, console=console)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raising(patch, build, "write_latents", 1, after=True)
        build_index(run, CONFIG, again=True, console=console)
    prepare_directory(run, overwrite=True)
    assert list(run.iterdir()) == []
