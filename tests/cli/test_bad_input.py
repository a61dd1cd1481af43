"""Whatever a user can mend: exit code 2, one message that says what, where and how, nothing lost."""

import json
import re
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monosem.cli.main import run
from monosem.subject import builtin

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("--k 65", "k=65 exceeds n_latents=64; lower k or raise n_latents."),
        ("--k 0", "k=0 is below 1"),
        ("--n-latents 0", "n_latents=0 is below 1"),
        ("--layer 3", "layer=3 is out of range; .*tiny has layers 0 … 2"),
        ("--layer -1", "layer=-1 is below 0"),
        (
            "--hookpoint transformer.h.1.mpl",
            r"Unknown hookpoint 'transformer.h.1.mpl'.* Near matches: transformer.h.1.mlp",
        ),
        ("--hookpoint transformer.x.*", r"The glob 'transformer.x.\*' matches no hookpoint"),
        ("--layer 1 --hookpoint transformer.h.1", "layer=1 and hookpoint=transformer.h.1 exclude each other"),
        ("--tokens 16", r"tokens=16 is less than one batch \(batch_size=32\)"),
        ("--batch-size 2e3 --tokens 2e3", r"The training text has 5,\d+ tokens and needs at least 16,000"),
        ("--context-length 1024", "context_length=1024 exceeds the 64 tokens that .* sees"),
        (
            "--architecture topkk",
            "Known: batch_topk, gated, jumprelu, .*, relu, topk. Did you mean 'topk'?",
        ),
        (
            "--architecture relu --k 32",
            "A penalty makes architecture 'relu' sparse; give target_l0 or sparsity_coefficient",
        ),
        ("--target-l0 5", "target_l0=5.0 would not be used, for architecture 'topk' is made sparse by k"),
        ("--architecture gated --target-l0 5 --prefixes 0.5 1", "would not be used by architecture 'gated'"),
        ("--architecture relu --target-l0 65 --k 32", "target_l0=65 exceeds n_latents=64; lower target_l0"),
        ("--learning-rate fast", "learning.rate"),
        ("--clip-norm -1", "clip_norm=-1.0 is not positive"),
        ("--multi-topk --k 17", "multi_topk keeps 4k = 68 latents, more than n_latents=64"),
        ("--aux-coefficient 0 --k-aux 3", "k_aux=3 would not be used"),
        ("--eval-tokens 0", "eval_tokens=0 is below 1"),
        ("--eval-tokens 10", "10 tokens were asked for, which is less than one block of 16"),
        ("--log-every 0", "log_every=0 is below 1"),
        ("--held-out 0", "held_out=0.0 is not above 0"),
        ("--text nowhere.txt", "text 'nowhere.txt' is no file, no directory and no pattern"),
        ("--subject ./nowhere", "subject=./nowhere is neither a directory nor a hub id"),
        ("--init-from nowhere", "nowhere holds no autoencoder"),
        ("--activations nowhere", "nowhere holds no cached activations"),
        ("--activations nowhere --layer 1", "activations=.*name their own hookpoint"),
        ("--wandb-project mine", "needs the package wandb: pip install 'monosem\\[wandb\\]'"),
        ("--kk 3", "Unrecognized options: --kk.*--k INT"),
        ("--k 1.5", "'1.5' is not a whole number"),
        ("--tokens inf", "'inf' is not a whole number"),
        ("--tokens", "--tokens"),
        ("--dtype float8", "float8"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    changes: str, words: str, flags: list[str], refused: Refused, tmp_path: Path
) -> None:
    message = refused("train", *flags, *changes.split(), "--out", "run")
    assert re.search(words, message), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("latin.txt", "w1 caf\xe9".encode("latin-1"), "latin.txt is not UTF-8: byte 6"),
        ("broken.jsonl", b'{"text": "w1"}\n{"text": "w2"\n', "broken.jsonl, line 2 is not JSON"),
        ("field.jsonl", b'{"texts": "w1"}\n', "field.jsonl, line 1 has no field 'text'; it has: texts.*--text-field"),
        ("few.txt", b"w1 w2 w3", r"has \d tokens (in \d documents )?and needs at least (256|16)"),
        ("image.png", b"\x89PNG", "image.png is of no kind that can be read as text"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(
    name: str, data: bytes, words: str, flags: list[str], refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    message = refused("train", *flags, "--text", name, "--out", "run")
    assert re.search(words, message), message
    assert not (tmp_path / "run").exists()


def test_without_the_librarys_sources_the_builtin_text_names_a_way_out(
    tiny_subject: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sysconfig.get_path
    monkeypatch.setattr(
        sysconfig, "get_path", lambda name, *more: str(tmp_path) if name == "stdlib" else real(name, *more)
    )
    message = refused("train", "--subject", str(tiny_subject), "--context-length", "16", "--out", "run")
    assert "holds no .py file" in message
    assert "--text" in message


@pytest.mark.parametrize("flag", ["--subject", "--text"])
def test_a_hub_id_without_network_is_told_within_seconds(
    flag: str, flags: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = refused("train", *flags, flag, "someone/something", "--out", "run")
    assert "someone/something" in message
    assert "network" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("k = 4\n", r"config.toml: autoencoder: unknown key 'kk'; did you mean 'k'\?"),
        ("[autoencoder]\n", r"config.toml: unknown key 'autoencodr'; did you mean 'autoencoder'\?"),
        ("seed = 0\n", r"config.toml: training: seed = 'x' should be a whole number"),
        ("[log]\n", "config.toml cannot be read as TOML"),
    ],
)
def test_a_config_file_is_read_strictly(line: str, words: str, trained: Path, refused: Refused) -> None:
    wrong = {
        "k = 4\n": "kk = 4\n",
        "[autoencoder]\n": "[autoencodr]\n",
        "seed = 0\n": 'seed = "x"\n',
        "[log]\n": "[log\n",
    }
    file = trained / "config.toml"
    file.write_text(file.read_text().replace(line, wrong[line]))
    message = refused("train", "--config", "run/config.toml", "--out", "other")
    assert re.search(words, message), message
    assert "config.toml" in refused("eval", "run")


def test_a_config_file_that_is_not_there_is_named(refused: Refused) -> None:
    assert "nowhere.toml does not exist" in refused("train", "--config", "nowhere.toml")
    assert "--config needs a value" in refused("train", "--config")
    assert "--out" in refused("train")


def test_a_directory_that_holds_a_run_is_refused_with_both_ways_on(
    flags: list[str], trained: Path, refused: Refused
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    message = refused("train", *flags, "--out", "run")
    assert "run already holds a run; go on with it by --resume run, replace it by --overwrite" in message
    assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    Path("file").write_text("mine")
    assert "out=file is a file" in refused("train", *flags, "--out", "file", "--overwrite")


def test_overwriting_removes_only_the_runs_own_files(flags: list[str], trained: Path) -> None:
    (trained / "notes.md").write_text("mine")
    assert run(["train", *flags, "--out", "run", "--overwrite", "--seed", "1"]) == 0
    assert (trained / "notes.md").read_text() == "mine"
    assert "seed = 1" in (trained / "config.toml").read_text()


def test_a_resume_takes_no_other_flag(trained: Path, refused: Refused) -> None:
    message = refused("train", "--resume", "run", "--k", "8")
    assert "--resume takes no other flag (found --k 8): its settings stand in run/config.toml" in message
    assert "--resume needs a value" in refused("train", "--resume")
    assert "nowhere holds no run" in refused("train", "--resume=nowhere")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_a_checkpoint_with_a_flipped_byte_is_named(trained: Path, refused: Refused) -> None:
    flip(trained / "checkpoints/step-10/ema-0.safetensors")
    message = refused("train", "--resume", "run")
    assert "run/checkpoints/step-10/ema-0.safetensors is damaged" in message
    assert "remove the folder step-10" in message


def test_a_checkpoint_of_a_newer_format_asks_for_an_upgrade(trained: Path, refused: Refused) -> None:
    record = trained / "checkpoints/step-10/checkpoint.json"
    record.write_text(record.read_text().replace('"format_version": 1', '"format_version": 2'))
    message = refused("train", "--resume", "run")
    assert re.search(r"step-10 has checkpoint format 2 and this monosem reads up to 1; upgrade", message)


def test_an_autoencoder_that_is_damaged_or_newer_is_refused(trained: Path, refused: Refused) -> None:
    record = trained / "sae/sae.json"
    right = record.read_text()
    record.write_text(right.replace('"format_version": 1', '"format_version": 9'))
    for command in (["eval", "run"], ["inspect", "run", "w1"]):
        assert "has format 9 and this monosem reads up to 1; upgrade monosem" in refused(*command)
    record.write_text(right)
    flip(trained / "sae/sae.safetensors")
    for command in (["eval", "run"], ["inspect", "run", "w1"]):
        assert "run/sae/sae.safetensors is damaged: " in refused(*command)


def test_a_full_disk_is_told_and_the_checkpoint_before_still_loads(
    flags: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    checkpoints = tmp_path / "run/checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0 if checkpoints.exists() else 10**9))
        message = refused("train", *flags, "--out", "run", "--checkpoint-every", "100")
    assert re.search(r"A checkpoint needs 0.00 GB and .* has 0.00 GB free; free some space", message)
    assert [path.name for path in checkpoints.iterdir()] == ["step-4"]
    assert run(["train", "--resume", "run"]) == 0


def test_a_truncated_shard_is_named(source: list[str], flags: list[str], refused: Refused, tmp_path: Path) -> None:
    assert run(["cache", *source, "--tokens", "300", "--out", "cached"]) == 0
    shard = tmp_path / "cached/shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    message = refused("train", *flags, "--activations", "cached", "--out", "run")
    assert re.search(r"cached are damaged: shard-00000.safetensors has [\d,]+ bytes instead of [\d,]+", message)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("--tokens 0", "tokens=0 is below 1"),
        ("--store-dtype float16", "store_dtype='float16' is not one of bfloat16, float32"),
        ("--tokens 1e18", "needs .* GB and .* GB free"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(
    changes: str, words: str, source: list[str], refused: Refused, tmp_path: Path
) -> None:
    message = refused("cache", *source, *changes.split(), "--out", "cached")
    assert re.search(words, message), message
    assert not (tmp_path / "cached").exists()


def test_another_cache_in_its_place_is_refused(source: list[str], refused: Refused) -> None:
    assert run(["cache", *source, "--tokens", "300", "--out", "cached"]) == 0
    message = refused("cache", *source, "--tokens", "300", "--layer", "0", "--out", "cached")
    assert "hookpoint='transformer.h.2', and hookpoint='transformer.h.0' is asked for" in message
    assert "--overwrite" in message
    assert run(["cache", *source, "--tokens", "300", "--layer", "0", "--out", "cached", "--overwrite"]) == 0
    assert json.loads(Path("cached/index.json").read_text())["hookpoint"] == "transformer.h.0"


def test_evaluating_or_inspecting_what_is_no_run_is_refused(refused: Refused, tmp_path: Path) -> None:
    for command in (["eval", str(tmp_path)], ["inspect", str(tmp_path), "text"]):
        assert "holds no run (config.toml is missing)" in refused(*command)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--latent", "64"], "latent=64 is out of range; this autoencoder has 0 … 63"),
        (["run", "--latent", "-1"], "latent=-1 is out of range"),
        (["run", "w1", "--latent", "1"], "Give a text or a latent"),
        (["run"], "Give a text or a latent"),
        (["run", ""], "Give a text or a latent"),
        (["run", " "], "empty; give at least one word"),
        (["run", "w1", "--per-token", "0"], "per_token=0 is below 1"),
    ],
)
def test_an_inspection_that_cannot_be_is_refused(
    arguments: list[str], words: str, trained: Path, refused: Refused
) -> None:
    assert words in refused("inspect", *arguments)


def test_an_unknown_command_names_the_nearest(refused: Refused) -> None:
    assert "Unknown command 'trian'; did you mean 'train'?" in refused("trian")
    assert "known: quickstart, train, cache, eval, compare, frontier, sweep, fit, recommend, inspect" in refused("xyz")


def test_debug_shows_the_traceback_too(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *flags, "--layer", "9", "--out", "run", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("Error layer=9 is out of range")


def test_a_missing_builtin_model_is_told(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "MODEL_DIRECTORY", tmp_path / "nowhere")
    assert "nowhere lacks config.json" in refused("quickstart")


def test_parts_and_settings_of_the_full_suite_that_cannot_be_are_refused(trained: Path, refused: Refused) -> None:
    assert "only=probe is no part of the suite; its parts are: probes, n2g" in refused("eval", "run", "--only", "probe")
    assert "would not be used; add --suite full" in refused("eval", "run", "--n2g.latents", "3")
    assert "latents=0 is below 1" in refused("eval", "run", "--suite", "full", "--n2g.latents", "0")
    assert "is no file, no directory and no task" in refused("eval", "run", "--only", "probes", "--tasks", "nowhere")
    asked = ("eval", "run", "--suite", "full", "--only", "words")
    assert "only=words: words needs an endpoint; give words.url and words.model" in refused(*asked)
    assert "model=x would not be used without url; give url" in refused(*asked, "--words.model", "x")
    assert "is given without model" in refused(*asked, "--words.url", "http://localhost/v1")
    assert "is no address of http or https" in refused(*asked, "--words.url", "localhost", "--words.model", "x")


def test_an_endpoint_that_refuses_is_told_and_its_key_is_not(
    trained: Path, refused: Refused, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    endpoint.answer = lambda prompt: 400
    message = refused("eval", "run", "--only", "words", "--words.url", endpoint.url, "--words.model", "[x]")
    assert f"The endpoint {endpoint.url} refuses a request (HTTP 400: " in message
    assert "sk-very-secret" not in message
