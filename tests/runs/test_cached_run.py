"""Activations cached first and trained from there: the same as a live run; and what does not fit is refused."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import monosem
from monosem.data.index import open_shards
from monosem.data.shards import ShardReader
from monosem.errors import UserError
from monosem.runs import cache as cache_module
from monosem.runs.config import CacheConfig, RunConfig
from monosem.runs.inputs import LiveActivations

Make = Callable[..., RunConfig]


@pytest.fixture
def make_cache(make_config: Make) -> Callable[..., CacheConfig]:
    """Makes the configuration of a cache for the run that ``make_config`` makes."""

    def make(out: Path, tokens: int = 2048, store_dtype: str = "float32", **changes: Any) -> CacheConfig:
        run = make_config(out, **changes)
        return CacheConfig(
            out=str(out), tokens=tokens, store_dtype=store_dtype, subject=run.subject, text=run.text, seed=0
        )

    return make


def cached_run(config: RunConfig, *caches: Path) -> RunConfig:
    """The run, fed from caches."""
    subject = dataclasses.replace(config.subject, layer=None, hookpoint=())
    return dataclasses.replace(config, activations=tuple(map(str, caches)), subject=subject)


def test_training_from_a_float32_cache_is_the_live_run_bit_for_bit(
    tmp_path: Path, make_config: Make, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    assert monosem.cache(make_cache(tmp_path / "cache"), console=console) == [str(tmp_path / "cache")]
    monosem.train(make_config(tmp_path / "live"), console=console)
    monosem.train(cached_run(make_config(tmp_path / "cached"), tmp_path / "cache"), console=console)
    for name in ("metrics.jsonl", "sae/sae.safetensors", "sae/sae.json", "eval.json"):
        assert (tmp_path / "live" / name).read_bytes() == (tmp_path / "cached" / name).read_bytes(), name


def test_a_bfloat16_cache_gives_the_same_statistics(
    tmp_path: Path, make_config: Make, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    monosem.cache(make_cache(tmp_path / "cache", store_dtype="bfloat16"), console=console)
    (live,) = monosem.train(make_config(tmp_path / "live"), console=console)
    (cached,) = monosem.train(cached_run(make_config(tmp_path / "cached"), tmp_path / "cache"), console=console)
    for name in ("normalized_mse", "l0"):
        assert cached.evaluation.metrics[name].value == pytest.approx(live.evaluation.metrics[name].value, rel=0.03)


def test_several_hookpoints_are_cached_in_one_pass_and_trained_together(
    tmp_path: Path, make_config: Make, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    hookpoint = ("transformer.h.0", "transformer.h.2:in")
    directories = monosem.cache(make_cache(tmp_path / "cache", hookpoint=hookpoint), console=console)
    assert [Path(directory).name for directory in directories] == ["transformer.h.0", "transformer.h.2-in"]
    monosem.train(make_config(tmp_path / "live", hookpoint=hookpoint), console=console)
    config = cached_run(make_config(tmp_path / "cached"), *map(Path, reversed(directories)))
    monosem.train(config, console=console)
    for name in ("transformer.h.0", "transformer.h.2-in"):
        weights = [(tmp_path / run / name / "sae/sae.safetensors").read_bytes() for run in ("live", "cached")]
        assert weights[0] == weights[1]
    inside = tmp_path / "cached/transformer.h.0"
    assert monosem.resume(inside, console=console)[0].directory == inside


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context_length": 12}, "context_length = 16 and this run has 12"),
        ({"keep_special": True}, "keep_special = False and this run has True"),
        ({"bos": "always"}, "bos_id = None and this run has 1"),
        ({"text": ("elsewhere",)}, "text = '.*' and this run has '.*'"),
        ({"subject": "elsewhere"}, "subject = '.*tiny' and this run has '.*elsewhere'"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_name(
    changes: dict[str, Any],
    words: str,
    tmp_path: Path,
    tiny_subject: Path,
    make_config: Make,
    make_cache: Callable[..., CacheConfig],
    console: Console,
) -> None:
    monosem.cache(make_cache(tmp_path / "cache"), console=console)
    shutil.copytree(tiny_subject, tmp_path / "elsewhere/subject/elsewhere")
    (tmp_path / "elsewhere/text").mkdir()
    lines = ['{"text": "' + f"w{number % 60} " * 99 + '"}\n' for number in range(40)]
    (tmp_path / "elsewhere/text/all.jsonl").write_text("".join(lines))
    places = {"subject": str(tmp_path / "elsewhere/subject/elsewhere"), "text": (str(tmp_path / "elsewhere/text"),)}
    changes = {name: places.get(name, value) for name, value in changes.items()}
    with pytest.raises(UserError, match=f"were made with {words}"):
        monosem.train(cached_run(make_config(tmp_path / "run", **changes), tmp_path / "cache"), console=console)


def test_an_interrupted_cache_goes_on_without_repeating_finished_shards(
    tmp_path: Path,
    make_config: Make,
    make_cache: Callable[..., CacheConfig],
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "default_rows_per_shard", lambda *_: 300)
    monkeypatch.setattr(cache_module, "PIECE_ROWS", 128)
    monosem.cache(make_cache(tmp_path / "whole"), console=console)
    rows, asked = LiveActivations.rows, list[int]()

    def interrupted_rows(source: LiveActivations, start: int, stop: int) -> Any:
        asked.append(start)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return rows(source, start, stop)

    monkeypatch.setattr(LiveActivations, "rows", interrupted_rows)
    with pytest.raises(KeyboardInterrupt):
        monosem.cache(make_cache(tmp_path / "cut"), console=console)
    stored = open_shards(tmp_path / "cut")
    assert (stored.rows_stored, stored.is_complete) == (600, False)
    with pytest.raises(UserError, match="holds 600 of 2,048 rows; run the same `monosem cache` again"):
        monosem.train(cached_run(make_config(tmp_path / "run"), tmp_path / "cut"), console=console)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("shard-*")}
    monosem.cache(make_cache(tmp_path / "cut"), console=console)
    assert asked[8] == 600
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert open_shards(tmp_path / "cut").shards == open_shards(tmp_path / "whole").shards
    monosem.cache(make_cache(tmp_path / "cut"), console=console)
    assert len(asked) == 8 + 12


def test_the_cached_rows_are_the_subjects_own(
    tmp_path: Path, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    config = make_cache(tmp_path / "cache", tokens=100)
    monosem.cache(config, console=console)
    activations, positions = ShardReader(tmp_path / "cache").rows(0, 0, 100)
    subject = monosem.load_subject(config.subject)
    text = cache_module.open_text(config.text, subject, None, console)
    tokens = torch.from_numpy(text.training.tokens[positions.numpy()].astype("int64"))
    assert (tokens > 3).all(), "special tokens are left out"
    block = subject.capture(tokens[None, :16], ["transformer.h.2"])["transformer.h.2"][0]
    torch.testing.assert_close(activations[:16], block)


def test_the_size_is_told_and_a_disk_too_small_is_refused(
    tmp_path: Path,
    make_cache: Callable[..., CacheConfig],
    console: Console,
    shown: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_cache(tmp_path / "cache", tokens=1_000_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(UserError, match=r"needs 0.07 GB and .* has 0.00 GB free"):
        monosem.cache(config, console=console)
    told = f"Cache: 1,000,000 tokens × 16 numbers in float32 = 0.07 GB in {tmp_path / 'cache'}"
    assert told in shown()
    assert not (tmp_path / "cache").exists()


def test_a_truncated_shard_is_named(
    tmp_path: Path, make_config: Make, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    monosem.cache(make_cache(tmp_path / "cache"), console=console)
    shard = tmp_path / "cache/shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"are damaged: shard-00000.safetensors has [\d,]+ bytes instead of"):
        monosem.train(cached_run(make_config(tmp_path / "run"), tmp_path / "cache"), console=console)


def test_a_cache_smaller_than_the_shuffle_buffer_is_refused(
    tmp_path: Path, make_config: Make, make_cache: Callable[..., CacheConfig], console: Console
) -> None:
    monosem.cache(make_cache(tmp_path / "cache", tokens=200), console=console)
    with pytest.raises(UserError, match=re.escape("The cache has 200 tokens and needs at least 256")):
        monosem.train(cached_run(make_config(tmp_path / "run"), tmp_path / "cache"), console=console)


def test_a_cache_that_grew_cannot_feed_an_interrupted_run(
    tmp_path: Path,
    make_config: Make,
    make_cache: Callable[..., CacheConfig],
    console: Console,
) -> None:
    monosem.cache(make_cache(tmp_path / "cache"), console=console)
    monosem.train(cached_run(make_config(tmp_path / "run", tokens=320), tmp_path / "cache"), console=console)
    monosem.cache(make_cache(tmp_path / "cache", tokens=3000), console=console)
    with pytest.raises(UserError, match=r"2,048 cached activations when step-10 was written, 3,000 now"):
        monosem.resume(tmp_path / "run", console=console)
