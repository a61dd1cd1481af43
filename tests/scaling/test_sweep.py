"""A sweep on a tiny subject: its rows say what its runs found, and no interruption or neighbour changes that."""

import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.config import to_toml
from monosem.errors import UserError
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.hookpoint_run import HookpointRun
from monosem.scaling import results
from monosem.scaling.config import Grid, SweepConfig
from monosem.scaling.processes import sweep_in_processes
from monosem.scaling.results import gather_rows, read_table, write_row
from monosem.scaling.shares import Share
from monosem.scaling.sweep import Whole, sweep

Make = Callable[..., SweepConfig]
GRID = Grid(n_latents=(24, 48), k=(2, 4))
# What says when and nothing else.
CLOCKED = ("finished",)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in rows]


def test_a_row_says_what_the_run_alone_finds(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    config = make_sweep(tmp_path / "sweep", GRID)
    rows = {row["name"]: row for row in sweep(config, console=console)}
    run: RunConfig = config.runs()[2]
    row = rows[run.out.name]
    alone = make_sweep(tmp_path / "alone", Grid(n_latents=(48,), k=(2,))).runs()[0]
    (trained,) = monosem.train(alone, console=console)
    metrics = trained.evaluation.metrics
    assert row["normalized_mse"] == metrics["normalized_mse"].value
    assert row["cross_entropy_increase_low"] == metrics["cross_entropy_increase"].low
    told = {"architecture": "topk", "n_latents": 48, "k": 2.0, "tokens": 640, "learning_rate": 5e-3, "seed": 0}
    assert {name: row[name] for name in told} == told
    assert row["flops_per_token"] == 12 * 48 * row["d_model"] and row["hookpoint"] == "transformer.h.2"
    records = read_json_lines(trained.directory / "metrics.jsonl")
    curve = [(each["tokens"], each["held_out_normalized_mse"]) for each in records if "held_out_normalized_mse" in each]
    assert list(zip(row["curve_tokens"], row["curve_normalized_mse"], strict=True)) == curve and len(curve) >= 3


def test_runs_of_other_budgets_share_a_stream_and_end_as_they_would_alone(
    tmp_path: Path, make_sweep: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = (Grid(n_latents=(24,), k=(2,), tokens=(320, 640)), Grid(n_latents=(48,), k=(4,), tokens=(640, 960)))
    together = sweep(make_sweep(tmp_path / "together", *grids, training={"tokens": 2_000_000}), console=console)
    assert isinstance(console.file, io.StringIO) and console.file.getvalue().count("Group 1 of 1") == 1
    alone = sweep(make_sweep(tmp_path / "alone", *grids, training={"tokens": 2_000_000}, together=1), console=console)
    assert timeless(alone) == timeless(together) and {row["tokens"] for row in alone} == {320, 640, 960}
    step = HookpointRun.step
    for batch in (11, 25):  # just after a run has ended, and when one alone is left

        def killed(self: HookpointRun, *arguments: Any, at: int = batch) -> bool:
            if self.trainer.progress.batches + 1 == at:
                raise RuntimeError("killed")
            return step(self, *arguments)

        config = make_sweep(tmp_path / f"cut-{batch}", *grids, training={"tokens": 2_000_000})
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(HookpointRun, "step", killed)
            sweep(config, console=console)
        assert timeless(sweep(config, console=console)) == timeless(together)


def test_the_table_is_the_rows(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    config = make_sweep(tmp_path / "sweep", GRID)
    rows = sweep(config, console=console)
    assert len(rows) == 4 and read_table(config.out) == rows == read_table(config.out / "results.parquet")
    assert not list(config.out.glob("runs/*/checkpoints"))


def test_what_is_finished_is_not_done_again_even_without_its_directory(
    tmp_path: Path, make_sweep: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep(make_sweep(tmp_path / "sweep", Grid(n_latents=(24,), k=(2, 4))), console=console)
    shutil.rmtree(tmp_path / "sweep" / "runs")
    stepped: set[str] = set()
    step = HookpointRun.step

    def noting(self: HookpointRun, *arguments: Any) -> bool:
        stepped.add(self.config.out.name)
        return step(self, *arguments)

    monkeypatch.setattr(HookpointRun, "step", noting)
    config = make_sweep(tmp_path / "sweep", Grid(n_latents=(24, 48), k=(2, 4)))
    rows = sweep(config, console=console)
    assert stepped == {run.out.name for run in config.runs() if run.autoencoder.n_latents == 48}
    assert [row for row in rows if row["n_latents"] == 24] == first


@pytest.mark.parametrize("batch", [13, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on_to_the_same_rows(
    tmp_path: Path, make_sweep: Make, console: Console, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(make_sweep(tmp_path / "whole", GRID, together=2), console=console)
    step = HookpointRun.step

    def killed(self: HookpointRun, *arguments: Any) -> bool:
        if self.trainer.progress.batches + 1 == batch and self.config.autoencoder.n_latents == 48:
            raise RuntimeError("killed")
        return step(self, *arguments)

    config = make_sweep(tmp_path / "cut", GRID, together=2)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(HookpointRun, "step", killed)
        sweep(config, console=console)
    assert len(read_table(config.out)) == 2
    assert timeless(sweep(config, console=console)) == timeless(whole)


def test_parts_make_the_whole_table_whoever_is_last(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    grids = (GRID, Grid(n_latents=(24,), k=(2,), seed=(1,)))
    whole = sweep(make_sweep(tmp_path / "whole", *grids), console=console)
    config = make_sweep(tmp_path / "parts", *grids)
    for part in (2, 1, 3):
        rows = sweep(config, Share(part, 3), console=console)
    assert timeless(rows) == timeless(whole) == timeless(read_table(config.out))


def test_other_settings_are_refused(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    sweep(make_sweep(tmp_path / "sweep", Grid(k=(2,))), console=console)
    other = make_sweep(tmp_path / "sweep", Grid(k=(2,)), training={"clip_norm": 1.0})
    with pytest.raises(UserError, match=r"finished with training\.clip_norm = None, and it is 1\.0 now"):
        sweep(other, console=console)
    assert sweep(make_sweep(tmp_path / "sweep", Grid(k=(2,)), training={"keep_checkpoints": 1}), console=console)


def test_a_setting_newer_than_a_row_must_be_at_its_default(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    config = make_sweep(tmp_path / "sweep", Grid(k=(2,)))
    (row,) = sweep(config, console=console)
    settings = json.loads(row["settings"])
    for name, refused in (("training.moments", False), ("training.batch_size", True)):
        older = {key: value for key, value in settings.items() if key != name}
        write_row({**row, "settings": json.dumps(older)}, config.runs()[0].out)
        if refused:
            with pytest.raises(UserError, match="batch_size = 2048, and it is 32 now"):
                sweep(config, console=console)
        else:
            assert len(sweep(config, console=console)) == 1


def test_however_many_write_at_the_same_time_no_row_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight writers finish 80 runs; each gathers after each of its own, with a slow disk in between."""
    write_table = results._write_table

    def slowly(rows: Any, path: Path) -> None:
        threading.Event().wait(0.002)
        write_table(rows, path.with_name(f"{threading.get_ident()}.parquet"))
        path.with_name(f"{threading.get_ident()}.parquet").replace(path)

    monkeypatch.setattr(results, "_write_table", slowly)
    places = [tmp_path / "runs" / f"run-{number:02d}" for number in range(80)]

    def finish(mine: list[Path]) -> None:
        for place in mine:
            place.mkdir(parents=True)
            write_row({"name": place.name, "settings": "{}", "n_latents": 1, "normalized_mse": 0.5}, place)
            gather_rows(tmp_path)

    threads = [threading.Thread(target=finish, args=(places[writer::8],)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["name"] for row in read_table(tmp_path)] == [place.name for place in places]


@pytest.mark.parametrize("content", [b"", b"PAR1 and nonsense", None])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "results.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"results\.parquet"):
        read_table(tmp_path)


def test_the_whole_says_how_far_it_is(make_sweep: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = make_sweep(Path("out"), Grid(n_latents=(24, 48), k=(2,))).runs()
    now = [100.0]
    monkeypatch.setattr("monosem.scaling.sweep.time.monotonic", lambda: now[0])
    whole = Whole(runs)
    assert whole.of(runs[:1])(0) == "sweep 0%"
    now[0] += 60
    assert whole.of(runs[:1])(320) == "sweep 25%, 3:01 left"
    whole.add(runs[:1])
    assert whole.words(0) == "sweep 50%, 1:00 left"


def test_processes_share_the_work(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    config = make_sweep(tmp_path / "processes", GRID, together=2)
    (tmp_path / "sweep.toml").write_text(to_toml(config))
    rows = sweep_in_processes(tmp_path / "sweep.toml", config, Share(), 2, console=console)
    whole = sweep(make_sweep(tmp_path / "whole", GRID), console=console)
    assert timeless(rows) == timeless(whole)
    logs = sorted((config.out / "logs").iterdir())
    assert [log.name for log in logs] == ["part-1-of-1-1-of-2.log", "part-1-of-1-2-of-2.log"]
    assert all("Group 1 of " in log.read_text() for log in logs)


def test_a_process_that_fails_is_told_with_its_last_words(tmp_path: Path, make_sweep: Make, console: Console) -> None:
    config = make_sweep(tmp_path / "processes", GRID, together=2)
    broken = to_toml(config).replace("context_length = 16", "context_length = 4096")
    (tmp_path / "sweep.toml").write_text(broken)
    with pytest.raises(UserError, match=r"(?s)part 1/1:[12]/2 failed; .*exceeds the 64 tokens"):
        sweep_in_processes(tmp_path / "sweep.toml", config, Share(), 2, console=console)
