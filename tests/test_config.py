"""Configurations on disk: written completely, read strictly."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from monosem import recipes
from monosem.config import from_dict, load_toml, to_dict, to_toml
from monosem.errors import UserError
from monosem.evaluation.basics import EvaluationConfig
from monosem.runlog import LogConfig
from monosem.runs.config import CacheConfig, RunConfig
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.trainer import TrainingConfig

EVERYTHING = RunConfig(
    out=Path('a "quoted"/ünï\\code'),
    activations=("s3://bucket/a", "b"),
    subject=SubjectConfig(subject="org/model", revision="main", device="cpu", dtype="float32", bos="never"),
    text=TextConfig(text=("*.jsonl", "more.txt"), text_field="body", held_out=0.25),
    autoencoder=AutoencoderConfig(n_latents=128, k=3, nonlinearity="identity", preprocess="none", encoder_bias=False),
    initialise=InitialiseConfig(tied_init=False, init_from="runs/first"),
    training=TrainingConfig(learning_rate=3e-4, clip_norm=1.0, ema_tokens=10**5, k_aux=2, dead_tokens=7, seed=3),
    evaluation=EvaluationConfig(eval_tokens=1, downstream_tokens=2, bootstrap_samples=3),
    log=LogConfig(log_every=5, tensorboard=True, wandb_project="mine"),
)
HOOKPOINTS = RunConfig(out=Path("x"), subject=SubjectConfig(hookpoint=("transformer.h.*", "transformer.h.1:in")))


@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        HOOKPOINTS,
        RunConfig(out=Path("runs/first")),
        RunConfig(out=Path("x"), subject=SubjectConfig(layer=0), training=TrainingConfig(seed=-1)),
        recipes.quickstart(Path("q")),
        recipes.paper_gpt2_small(Path("p"), ("text/",)),
    ],
)
def test_what_is_written_is_read_back_the_same(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_toml(RunConfig, tmp_path / "config.toml") == config


def test_a_cache_configuration_is_read_back_the_same(tmp_path: Path) -> None:
    config = CacheConfig(out="s3://bucket/cache", tokens=7, store_dtype="float32", seed=2)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_toml(CacheConfig, tmp_path / "config.toml") == config


def test_the_file_is_complete_but_for_what_is_none() -> None:
    written = tomllib.loads(to_toml(RunConfig(out=Path("x"))))
    for part in dataclasses.fields(RunConfig):
        if not dataclasses.is_dataclass(value := getattr(RunConfig(out=Path("x")), part.name)):
            continue
        absent = {each.name for each in dataclasses.fields(value) if getattr(value, each.name) is None}
        assert written[part.name].keys() == {each.name for each in dataclasses.fields(value)} - absent
    assert "layer" not in written["subject"]
    assert written["training"]["learning_rate"] == "auto"
    assert "nan" not in to_toml(EVERYTHING)


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """The default configuration's values, with a part's or the top level's changed."""
    values = to_dict(RunConfig(out=Path("x")))
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) and name in values else value
    return values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outt": "x"}, r"c.toml: unknown key 'outt'; did you mean 'out'\?"),
        ({"xyzzy": 1}, "c.toml: unknown key 'xyzzy'; known: activations, autoencoder, .*, training"),
        ({"training": {"batchsize": 1}}, r"c.toml: training: unknown key 'batchsize'; did you mean 'batch_size'\?"),
        ({"log": {"wandb_projekt": "x"}}, r"c.toml: log: unknown key 'wandb_projekt'; did you mean 'wandb_project'\?"),
        ({"out": 3}, "c.toml: out = 3 should be a path"),
        ({"activations": "cache"}, "c.toml: activations = 'cache' should be a list of text"),
        ({"activations": [1]}, "c.toml: activations = 1 should be text"),
        ({"text": {"text": [True]}}, "text = True should be text"),
        ({"training": {"tokens": 2e6}}, "training: tokens = 2000000.0 should be a whole number"),
        ({"training": {"tokens": "2e6"}}, "training: tokens = '2e6' should be a whole number"),
        ({"training": {"seed": True}}, "training: seed = True should be a whole number"),
        ({"autoencoder": {"multi_topk": 1}}, "autoencoder: multi_topk = 1 should be true or false"),
        ({"training": {"clip_norm": "one"}}, "training: clip_norm = 'one' should be a number or absent"),
        ({"training": {"learning_rate": "fast"}}, "learning_rate = 'fast' should be a number or one of 'auto'"),
        ({"training": {"clip_norm": 10**400}}, "0 should be a number or absent"),
        ({"training": {"learning_rate": True}}, "learning_rate = True should be a number or one of 'auto'"),
        ({"subject": {"device": "tpu"}}, "device = 'tpu' should be one of 'auto', 'cpu', 'cuda', 'mps'"),
        ({"subject": {"layer": "last"}}, "layer = 'last' should be a whole number or absent"),
        ({"subject": "builtin"}, "c.toml: subject = 'builtin' should be a table"),
        ({"autoencoder": {"k": 0}}, "k=0 is below 1"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate=nan is not positive"),
    ],
)
def test_what_does_not_belong_is_refused_by_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_dict(RunConfig, changed(change), "c.toml")


def test_whole_numbers_serve_as_numbers() -> None:
    config = from_dict(RunConfig, changed({"training": {"clip_norm": 1, "learning_rate": 1}}), "c.toml")
    assert (config.training.clip_norm, config.training.learning_rate) == (1.0, 1.0)
    assert isinstance(config.training.clip_norm, float)


def test_a_missing_setting_without_a_default_is_named() -> None:
    with pytest.raises(UserError, match=r"c.toml: 'out' is missing; add it"):
        from_dict(RunConfig, {}, "c.toml")
    assert from_dict(RunConfig, {"out": "x"}, "c.toml") == RunConfig(out=Path("x"))


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c.toml does not exist; name a config.toml"):
        load_toml(RunConfig, tmp_path / "c.toml")
    for data in (b"out = [", b"\xff\xfe"):
        (tmp_path / "c.toml").write_bytes(data)
        with pytest.raises(UserError, match=r"c.toml cannot be read as TOML"):
            load_toml(RunConfig, tmp_path / "c.toml")
    with pytest.raises(UserError, match="cannot be read as TOML"):
        load_toml(RunConfig, tmp_path)


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"] = "a"
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner | None = None
    maybe: float | None = 0.5
    table: dict[str, Any] = field(default_factory=dict[str, Any])
    path: Path | None = None


@pytest.mark.parametrize(
    "config",
    [
        Outer(),
        Outer(inner=Inner(kind="b", numbers=(1, 2)), maybe=None, table={"a": [1, {"b": 2}]}, path=Path("x/y")),
    ],
)
def test_none_nested_parts_and_tables_survive(config: Outer) -> None:
    assert from_dict(Outer, tomllib.loads(to_toml(config)), "here") == config


def test_a_wrong_value_in_an_optional_part_is_named() -> None:
    with pytest.raises(UserError, match=r"here: inner"):
        from_dict(Outer, {"inner": {"kind": "c"}}, "here")
