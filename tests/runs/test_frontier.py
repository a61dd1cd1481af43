"""A grid trained from one stream: each run bit for bit as alone, whatever stands beside it and however often cut."""

import dataclasses
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.config import load_toml, to_toml
from monosem.errors import UserError
from monosem.evaluation.basics import EvaluationConfig
from monosem.evaluation.record import Evaluation
from monosem.runlog import LogConfig, read_json_lines
from monosem.runs import groups
from monosem.runs.config import CacheConfig, FrontierConfig, RunConfig
from monosem.runs.train import Interrupted
from monosem.sae.architectures import ARCHITECTURES
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.checkpoint import checkpoints
from monosem.training.trainer import TrainingConfig

Make = Callable[..., RunConfig]
MakeFrontier = Callable[..., FrontierConfig]
Compare = Callable[[Path, Path], None]
AtBatch = Callable[..., AbstractContextManager[None]]

NAMES = ["topk-64-4", "topk-64-8", "relu-64-4", "relu-64-8"]


@pytest.fixture
def make_frontier(make_config: Make) -> MakeFrontier:
    """Makes a frontier of topk and relu at two L0, 64 latents and 20 steps a run, as changed by keywords."""

    def make(out: Path, **changes: Any) -> FrontierConfig:
        grid: dict[str, Any] = {"architectures": ("topk", "relu"), "l0": (4, 8), "sizes": (64,), "together": 2}
        own = {name: changes.pop(name) for name in ("autoencoder", *grid) if name in changes}
        run = make_config(out, **{"tokens": 640, "checkpoint_every": 200, **changes})
        settings: dict[str, Any] = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
        settings |= {"autoencoder": AutoencoderConfig(), **grid, **own}
        return FrontierConfig(**settings)

    return make


@pytest.fixture
def assert_same(assert_same_training: Compare) -> Compare:
    """Compares two runs' training, and their evaluations."""

    def compare(one: Path, other: Path) -> None:
        assert_same_training(one, other)
        assert (one / "eval.json").read_text() == (other / "eval.json").read_text()
        assert (one / "document_sums.safetensors").read_bytes() == (other / "document_sums.safetensors").read_bytes()

    return compare


@pytest.fixture(scope="module")
def once() -> dict[str, Path]:
    """Places of what is trained once for all tests here."""
    return {}


@pytest.fixture
def whole(
    once: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, make_frontier: MakeFrontier, console: Console
) -> Path:
    """The frontier as ``make_frontier`` has it, never interrupted; for reading."""
    if "whole" not in once:
        once["whole"] = tmp_path_factory.mktemp("frontier") / "whole"
        monosem.frontier(make_frontier(once["whole"]), console=console)
    return once["whole"]


def train_alone(config: FrontierConfig, out: Path, console: Console) -> list[Path]:
    """Train each run of a grid by itself, in a directory of its name inside ``out``."""
    runs = [dataclasses.replace(run, out=out / run.out.name) for run in config.runs()]
    for run in runs:
        monosem.train(run, console=console)
    return [run.out for run in runs]


def comparison_of(out: Path) -> str:
    """comparison.json, without the place."""
    return (out / "comparison.json").read_text().replace(str(out), "OUT")


def files(directory: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file, when it was written and what it holds."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def test_each_run_is_bit_for_bit_the_run_alone_however_many_are_trained_together(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    alone = train_alone(make_frontier(tmp_path), tmp_path / "alone", console)
    assert [run.name for run in alone] == NAMES
    records = [record for run in alone[:2] for record in read_json_lines(run / "metrics.jsonl")]
    assert any(record["dead_share"] > 0 < record["auxiliary_loss"] for record in records), "AuxK never mattered"
    for together in (1, 2, 4):
        out = tmp_path / str(together) if together != 2 else whole
        monosem.frontier(make_frontier(out, together=together), console=console)
        for run in alone:
            assert_same(run, out / run.name)
        assert comparison_of(out) == comparison_of(whole)


def test_every_architecture_beside_every_other_is_what_it_is_alone(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    config = make_frontier(
        tmp_path / "frontier",
        architectures=tuple(sorted(ARCHITECTURES)),
        l0=(5,),
        together=len(ARCHITECTURES),
        autoencoder=AutoencoderConfig(preprocess="none", initial_threshold=0.02),
        moments="bfloat16",
        tokens=256,
    )
    monosem.frontier(config, console=console)
    for run in train_alone(config, tmp_path / "alone", console):
        assert_same(run, tmp_path / "frontier" / run.name)


def test_several_sizes_and_the_eager_step_are_the_same_as_alone_too(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    config = make_frontier(tmp_path / "frontier", sizes=(64, 32), l0=(4,), together=3, step="eager", tokens=320)
    monosem.frontier(config, console=console)
    for run in train_alone(config, tmp_path / "alone", console):
        assert_same(run, tmp_path / "frontier" / run.name)
    assert sorted(path.name for path in (tmp_path / "frontier").iterdir() if path.is_dir()) == [
        "relu-32-4",
        "relu-64-4",
        "topk-32-4",
        "topk-64-4",
    ]


def test_a_frontier_from_cached_activations_is_the_live_one(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    live = make_frontier(tmp_path / "live", l0=(4,), tokens=320)
    cache = CacheConfig(
        out=str(tmp_path / "cache"), tokens=1024, store_dtype="float32", subject=live.subject, text=live.text
    )
    monosem.cache(cache, console=console)
    cached = dataclasses.replace(live, out=tmp_path / "cached", activations=(cache.out,))
    for config in (live, cached):
        monosem.frontier(config, console=console)
    assert comparison_of(tmp_path / "cached") == comparison_of(tmp_path / "live")
    for name in ("topk-64-4", "relu-64-4"):
        for file in ("metrics.jsonl", "sae/sae.safetensors", "eval.json"):
            assert (tmp_path / "cached" / name / file).read_bytes() == (tmp_path / "live" / name / file).read_bytes()


def test_what_a_frontier_writes_is_the_comparison_of_its_runs(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, shown: Callable[[], str]
) -> None:
    config = make_frontier(tmp_path / "frontier", tokens=320)
    found = monosem.frontier(config, console=console)
    names = ["comparison.json", "comparison.png", "comparison.svg", "frontier.toml", *NAMES]
    assert sorted(path.name for path in (tmp_path / "frontier").iterdir()) == sorted(names)
    assert [(Path(run.name).name, run.curve) for run in found.runs] == [
        (name, name.partition("-")[0]) for name in [*NAMES[2:], *NAMES[:2]]
    ]
    assert found.reference == "topk"
    for run, written in zip(config.runs(), NAMES, strict=True):
        assert load_toml(RunConfig, tmp_path / "frontier" / written / "config.toml") == run
    again = monosem.compare([config.out], tmp_path / "again", samples=config.evaluation.bootstrap_samples, seed=0)
    assert again.to_dict() == found.to_dict()
    assert monosem.compare([config.out], tmp_path / "again", samples=11).to_dict() != found.to_dict()
    said = shown()
    assert "Group 1 of 2: topk-64-4, topk-64-8\n" in said
    assert "Group 2 of 2: relu-64-4, relu-64-8\n" in said
    assert "Autoencoder: relu, n_latents 64, target L0 8" in said


@pytest.mark.parametrize("batch", [1, 13, 20])
def test_an_interrupted_frontier_goes_on_by_the_same_call_and_equals_the_uninterrupted(
    batch: int,
    tmp_path: Path,
    whole: Path,
    make_frontier: MakeFrontier,
    console: Console,
    at_batch: AtBatch,
    assert_same: Compare,
    shown: Callable[[], str],
) -> None:
    config = make_frontier(tmp_path / "cut")
    interrupted = pytest.raises(Interrupted, match=r"after a checkpoint; go on with: the same command$")
    with at_batch(batch, signal.SIGTERM, run="relu-64-8"), interrupted as stopped:
        monosem.frontier(config, console=console)
    assert stopped.value.signal_number == signal.SIGTERM
    assert not (config.out / "comparison.json").exists()
    finished = {name: files(config.out / name) for name in NAMES[:2]}
    assert all(config.out / name / "eval.json" in finished[name] for name in finished)
    for name in NAMES[2:]:
        assert checkpoints(config.out / name / "checkpoints")[-1].name == f"step-{batch}"
        assert not (config.out / name / "sae").exists()
    monosem.frontier(config, console=console)
    assert f"Going on after {32 * batch} tokens" in shown()
    assert {name: files(config.out / name) for name in NAMES[:2]} == finished
    for name in NAMES:
        assert_same(whole / name, config.out / name)
    assert comparison_of(config.out) == comparison_of(whole)


@pytest.mark.parametrize("batch", [5, 15])
def test_a_frontier_killed_before_or_after_a_checkpoint_goes_on(
    batch: int,
    tmp_path: Path,
    whole: Path,
    make_frontier: MakeFrontier,
    console: Console,
    killed_at: AtBatch,
    assert_same: Compare,
) -> None:
    config = make_frontier(tmp_path / "cut")
    with killed_at(batch, run="relu-64-8"):
        monosem.frontier(config, console=console)
    assert (config.out / "relu-64-8/checkpoints").exists() == (batch == 15)
    monosem.frontier(config, console=console)
    for name in NAMES:
        assert_same(whole / name, config.out / name)


@pytest.mark.parametrize("evaluated", [0, 1])
def test_a_frontier_killed_while_a_group_is_evaluated_trains_none_of_it_again(
    evaluated: int,
    tmp_path: Path,
    whole: Path,
    make_frontier: MakeFrontier,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: Compare,
) -> None:
    config = make_frontier(tmp_path / "cut")
    evaluate = groups.evaluate_inputs

    def killed_there(run: RunConfig, *rest: Any) -> Evaluation:
        if run.out.name == NAMES[evaluated]:
            raise RuntimeError("killed")
        return evaluate(run, *rest)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(groups, "evaluate_inputs", killed_there)
        monosem.frontier(config, console=console)
    before = {name: files(config.out / name) for name in NAMES[:2]}
    assert [config.out / name / "eval.json" in before[name] for name in NAMES[:2]] == [evaluated == 1, False]
    monosem.frontier(config, console=console)
    after = {name: files(config.out / name) for name in NAMES[:2]}
    for name in NAMES[:2]:
        assert all(after[name][path] == file for path, file in before[name].items())
    for name in NAMES:
        assert_same(whole / name, config.out / name)


def test_another_number_of_runs_together_goes_on_to_the_same_end(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, at_batch: AtBatch, assert_same: Compare
) -> None:
    out = tmp_path / "cut"
    with at_batch(16, signal.SIGINT, run="topk-64-8"), pytest.raises(Interrupted):
        monosem.frontier(make_frontier(out, together=1), console=console)
    with at_batch(9, signal.SIGINT, run="relu-64-8"), pytest.raises(Interrupted):
        monosem.frontier(make_frontier(out, together=3), console=console)
    monosem.frontier(make_frontier(out, together=4), console=console)
    for name in NAMES:
        assert_same(whole / name, out / name)
    assert comparison_of(out) == comparison_of(whole)


def test_a_run_resumed_by_itself_leaves_the_rest_of_its_group_to_go_on(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, at_batch: AtBatch, assert_same: Compare
) -> None:
    config = make_frontier(tmp_path / "cut", l0=(4,))
    with at_batch(13, signal.SIGINT), pytest.raises(Interrupted):
        monosem.frontier(config, console=console)
    monosem.resume(tmp_path / "cut/topk-64-4", console=console)
    finished = files(tmp_path / "cut/topk-64-4")
    monosem.frontier(config, console=console)
    assert files(tmp_path / "cut/topk-64-4") == finished
    for name in ("topk-64-4", "relu-64-4"):
        assert_same(whole / name, tmp_path / "cut" / name)


def test_a_finished_frontier_called_again_reads_and_trains_nothing(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, tiny_text: Path
) -> None:
    shutil.copytree(tiny_text, tmp_path / "text")
    config = make_frontier(tmp_path / "frontier", text=(str(tmp_path / "text"),), l0=(4,), tokens=320)
    found = monosem.frontier(config, console=console)
    shutil.rmtree(tmp_path / "text")
    runs = {name: files(config.out / name) for name in ("topk-64-4", "relu-64-4")}
    written = (config.out / "comparison.json").read_bytes()
    again = monosem.frontier(config, console=console)
    assert again.to_dict() == found.to_dict()
    assert {name: files(config.out / name) for name in ("topk-64-4", "relu-64-4")} == runs
    assert (config.out / "comparison.json").read_bytes() == written


def test_a_larger_grid_trains_what_is_new_alone(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    monosem.frontier(make_frontier(tmp_path / "grown", architectures=("topk",), l0=(8,)), console=console)
    before = files(tmp_path / "grown/topk-64-8")
    found = monosem.frontier(make_frontier(tmp_path / "grown"), console=console)
    assert files(tmp_path / "grown/topk-64-8") == before
    assert len(found.runs) == 4
    for name in NAMES:
        assert_same(whole / name, tmp_path / "grown" / name)


def test_runs_with_checkpoints_go_on_by_themselves_when_the_grid_has_grown(
    tmp_path: Path,
    whole: Path,
    make_frontier: MakeFrontier,
    console: Console,
    at_batch: AtBatch,
    assert_same: Compare,
    shown: Callable[[], str],
) -> None:
    with at_batch(13, signal.SIGINT, run="relu-64-8"), pytest.raises(Interrupted):
        monosem.frontier(make_frontier(tmp_path / "cut"), console=console)
    grown = make_frontier(tmp_path / "cut", architectures=("batch_topk", "topk", "relu"), together=4)
    monosem.frontier(grown, console=console)
    said = shown()
    assert "Group 1 of 2: relu-64-4, relu-64-8\n" in said
    assert "Going on after 416 tokens" in said
    assert "Group 2 of 2: batch_topk-64-4, batch_topk-64-8\n" in said
    for name in NAMES:
        assert_same(whole / name, tmp_path / "cut" / name)
    assert load_toml(FrontierConfig, tmp_path / "cut/frontier.toml") == grown


def test_a_moved_frontier_goes_on_where_it_is_now(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, at_batch: AtBatch, assert_same: Compare
) -> None:
    with at_batch(13, signal.SIGINT, run="relu-64-4"), pytest.raises(Interrupted):
        monosem.frontier(make_frontier(tmp_path / "cut"), console=console)
    (tmp_path / "cut").rename(tmp_path / "moved")
    monosem.frontier(make_frontier(tmp_path / "moved"), console=console)
    assert not (tmp_path / "cut").exists()
    for name in NAMES:
        assert_same(whole / name, tmp_path / "moved" / name)


def test_another_configuration_in_its_place_is_refused_and_replaced_when_asked(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console, assert_same: Compare
) -> None:
    out = tmp_path / "frontier"
    monosem.frontier(make_frontier(out, l0=(4,), tokens=256), console=console)
    (out / "topk-64-4/notes.md").write_text("mine")
    (out / "other").mkdir()
    before = files(out)
    other = make_frontier(out, l0=(4,), tokens=256, seed=1)
    words = rf"{out}/topk-64-4 holds a run of another configuration; choose another --out, or .* --overwrite"
    with pytest.raises(UserError, match=words):
        monosem.frontier(other, console=console)
    assert files(out) == before
    monosem.frontier(other, overwrite=True, console=console)
    monosem.frontier(make_frontier(tmp_path / "fresh", l0=(4,), tokens=256, seed=1), console=console)
    for name in ("topk-64-4", "relu-64-4"):
        assert_same(tmp_path / "fresh" / name, out / name)
    assert comparison_of(out) == comparison_of(tmp_path / "fresh")
    assert (out / "topk-64-4/notes.md").read_text() == "mine"
    assert (out / "other").is_dir()


def test_one_run_of_another_configuration_is_enough_to_refuse_and_nothing_is_touched(
    tmp_path: Path, make_config: Make, make_frontier: MakeFrontier, console: Console
) -> None:
    out = tmp_path / "frontier"
    monosem.train(make_config(out / "relu-64-8", tokens=320), console=console)
    before = files(out)
    with pytest.raises(UserError, match="relu-64-8 holds a run of another configuration"):
        monosem.frontier(make_frontier(out, tokens=320), console=console)
    assert files(out) == before
    assert [path.name for path in out.iterdir()] == ["relu-64-8"]


def test_an_overwriting_frontier_that_was_interrupted_goes_on_without_overwriting(
    tmp_path: Path, whole: Path, make_frontier: MakeFrontier, console: Console, at_batch: AtBatch, assert_same: Compare
) -> None:
    config = make_frontier(tmp_path / "cut", l0=(4,))
    monosem.frontier(make_frontier(tmp_path / "cut", l0=(4,), seed=5, tokens=320), console=console)
    interrupted = pytest.raises(Interrupted, match=r"go on with: the same command, without --overwrite$")
    with at_batch(9, signal.SIGINT), interrupted:
        monosem.frontier(config, overwrite=True, console=console)
    monosem.frontier(config, console=console)
    for name in ("topk-64-4", "relu-64-4"):
        assert_same(whole / name, config.out / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 9}, "layer=9 is out of range"),
        ({"hookpoint": ("transformer.h.*",)}, "A frontier has one hookpoint, not transformer.h.0, .*; give one"),
        ({"text": ("nowhere.txt",)}, "text 'nowhere.txt' is no file"),
        ({"wandb_project": "mine"}, "needs the package wandb"),
    ],
)
def test_a_frontier_that_cannot_begin_leaves_no_trace_and_begins_once_it_is_mended(
    changes: dict[str, Any], words: str, tmp_path: Path, make_frontier: MakeFrontier, console: Console
) -> None:
    out = tmp_path / "frontier"
    wanted = make_frontier(out, l0=(4,), tokens=320)
    wrong = make_frontier(out, l0=(4,), tokens=320, **changes)
    with pytest.raises(UserError, match=words):
        monosem.frontier(wrong, console=console)
    assert not out.exists()
    monosem.frontier(wanted, console=console)
    before = files(out)
    with pytest.raises(UserError, match=words):
        monosem.frontier(wrong, overwrite=True, console=console)
    assert files(out) == before


def test_a_file_in_the_place_of_the_frontier_is_refused(
    tmp_path: Path, make_frontier: MakeFrontier, console: Console
) -> None:
    (tmp_path / "frontier").write_text("mine")
    with pytest.raises(UserError, match=r"out=.*/frontier/topk-64-4 cannot be made"):
        monosem.frontier(make_frontier(tmp_path / "frontier", tokens=320), console=console)
    assert (tmp_path / "frontier").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architectures": ()}, r"architectures=\[\] is empty or names a value twice; give each once"),
        ({"architectures": ("relu", "topk", "relu")}, r"architectures=\['relu', 'topk', 'relu'\] is empty or names"),
        ({"l0": ()}, r"l0=\[\] is empty or names a value twice"),
        ({"l0": (8, 16, 8)}, r"l0=\[8, 16, 8\] is empty or names a value twice"),
        ({"sizes": ()}, r"sizes=\[\] is empty or names a value twice"),
        ({"sizes": (64, 64)}, r"sizes=\[64, 64\] is empty or names a value twice"),
        (
            {"architectures": ("topk", "jumprellu")},
            "Unknown architecture 'jumprellu'. Known: .* Did you mean 'jumprelu'",
        ),
        ({"architectures": ("xyz",)}, "Unknown architecture 'xyz'. Known: .*, topk.$"),
        ({"autoencoder": AutoencoderConfig(k=8)}, "k=8 would not be used: a frontier's are in l0; leave it out"),
        ({"autoencoder": AutoencoderConfig(n_latents=64)}, "n_latents=64 would not be used: a frontier's are in sizes"),
        (
            {"autoencoder": AutoencoderConfig(architecture="relu")},
            "architecture=relu would not be used: a frontier's are in architectures",
        ),
        (
            {"training": TrainingConfig(target_l0=8.0)},
            "target_l0=8.0 would not be used: a frontier's targets are in l0",
        ),
        (
            {"training": TrainingConfig(sparsity_coefficient=0.1)},
            "sparsity_coefficient=0.1 would not be used: a frontier's targets are in l0",
        ),
        (
            {"architectures": ("topk", "relu"), "autoencoder": AutoencoderConfig(bandwidth=0.1)},
            "bandwidth=0.1 would not be used by architecture 'topk', 'relu', only by jumprelu; leave it out",
        ),
        (
            {"architectures": ("gated", "relu"), "training": TrainingConfig(k_aux=3)},
            "k_aux=3 would not be used, for architecture 'gated' has no AuxK; leave it out",
        ),
        ({"together": 0}, "together=0 is below 1; train at least one at a time"),
        ({"l0": (8, 65), "sizes": (128, 64)}, "k=65 exceeds n_latents=64; lower k or raise n_latents"),
        ({"l0": (0,)}, "k=0 is below 1"),
        ({"l0": (0,), "architectures": ("relu",)}, "target_l0=0.0 is not positive"),
        ({"sizes": (0,), "architectures": ("relu",)}, "n_latents=0 is below 1"),
        ({"activations": ("cache",), "subject": SubjectConfig(layer=1)}, "name their own hookpoint"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        FrontierConfig(out=Path("x"), **settings)


def test_a_grid_has_a_run_for_every_architecture_size_and_l0() -> None:
    config = FrontierConfig(out=Path("grid"), architectures=("gated", "topk"), l0=(32, 8), sizes=(64, 128))
    runs = config.runs()
    assert [run.out for run in runs] == [
        Path("grid") / f"{name}-{size}-{l0}" for name in ("gated", "topk") for size in (64, 128) for l0 in (32, 8)
    ]
    for run in runs:
        name, size, l0 = run.out.name.split("-")
        assert (run.autoencoder.architecture, run.autoencoder.n_latents) == (name, int(size))
        assert run.training.target_l0 == (float(l0) if name == "gated" else None)
        assert run.autoencoder.k == (int(l0) if name == "topk" else AutoencoderConfig().k)
    assert len({run.out for run in FrontierConfig(out=Path("x")).runs()}) == 6 * 5


def test_settings_go_to_the_architectures_that_use_them_and_the_others_to_all() -> None:
    config = FrontierConfig(
        out=Path("x"),
        architectures=tuple(sorted(ARCHITECTURES)),
        l0=(8,),
        subject=SubjectConfig(layer=1),
        text=TextConfig(text=("a.txt",), held_out=0.2),
        autoencoder=AutoencoderConfig(
            bandwidth=0.25,
            initial_threshold=0.5,
            prolu_gradient="ste",
            prefixes=(0.5, 1.0),
            multi_topk=True,
            nonlinearity="identity",
            preprocess="none",
            encoder_bias=False,
        ),
        initialise=InitialiseConfig(tied_init=False),
        training=TrainingConfig(k_aux=3, aux_share=0.5, clip_norm=1.0, seed=4),
        evaluation=EvaluationConfig(eval_tokens=3),
        log=LogConfig(log_every=7),
    )
    runs = {run.autoencoder.architecture: run for run in config.runs()}
    own: dict[str, dict[str, Any]] = {
        "jumprelu": {"bandwidth": 0.25, "initial_threshold": 0.5},
        "prolu": {"prolu_gradient": "ste"},
        "matryoshka": {"prefixes": (0.5, 1.0)},
        "topk": {"multi_topk": True, "nonlinearity": "identity"},
    }
    assert runs.keys() == ARCHITECTURES.keys()
    for name, run in runs.items():
        has_penalty = ARCHITECTURES[name].has_penalty
        sparsity: dict[str, Any] = {} if has_penalty else {"k": 8}
        assert run.autoencoder == AutoencoderConfig(
            architecture=name, preprocess="none", encoder_bias=False, **sparsity, **own.get(name, {})
        )
        penalised = TrainingConfig(clip_norm=1.0, seed=4, target_l0=8.0)
        assert run.training == (penalised if has_penalty else config.training)
        for part in ("subject", "text", "initialise", "evaluation", "log", "activations"):
            assert getattr(run, part) == getattr(config, part), part


@pytest.mark.parametrize(
    "config",
    [
        FrontierConfig(out=Path("runs/frontier")),
        FrontierConfig(
            out=Path('a "quoted"/ünï\\code'),
            activations=("s3://bucket/a",),
            architectures=("jumprelu", "topk"),
            l0=(1, 300),
            sizes=(512, 300),
            together=1,
            text=TextConfig(text=("*.jsonl",), held_out=0.25),
            autoencoder=AutoencoderConfig(bandwidth=0.02, multi_topk=False, preprocess="none"),
            training=TrainingConfig(learning_rate=3e-4, k_aux=2, seed=3),
            log=LogConfig(wandb_project="mine"),
        ),
    ],
)
def test_a_frontiers_configuration_is_read_back_from_toml_the_same(config: FrontierConfig, tmp_path: Path) -> None:
    (tmp_path / "frontier.toml").write_text(to_toml(config), encoding="utf-8")
    read = load_toml(FrontierConfig, tmp_path / "frontier.toml")
    assert read == config
    assert read.runs() == config.runs()


def test_a_frontiers_file_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "frontier.toml"
    right = to_toml(FrontierConfig(out=Path("x")))
    for line, wrong, words in (
        ("l0 = [", "l00 = [", "unknown key 'l00'; did you mean 'l0'"),
        ("together = 5", "together = 5.5", "together = 5.5 should be a whole number"),
        ("together = 5", "together = 0", "together=0 is below 1"),
        ('out = "x"\n', "", "'out' is missing"),
    ):
        file.write_text(right.replace(line, wrong))
        assert line in right
        with pytest.raises(UserError, match=words):
            load_toml(FrontierConfig, file)
    file.write_text(to_toml(RunConfig(out=Path("x"), autoencoder=AutoencoderConfig(k=8))))
    with pytest.raises(UserError, match="k=8 would not be used: a frontier's are in l0"):
        load_toml(FrontierConfig, file)
