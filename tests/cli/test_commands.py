"""What the commands print and leave behind when all goes well."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monosem.cli import main as main_module
from monosem.cli.main import main, run
from monosem.cli.parsing import whole_number
from monosem.runs import cache as cache_module
from monosem.subject import builtin

Captured = pytest.CaptureFixture[str]


def test_train_prints_the_table_and_where_the_results_are(flags: list[str], capsys: Captured) -> None:
    assert run(["train", *flags, "--out", "runs/[first]"]) == 0
    printed, said = capsys.readouterr()
    assert "Normalised MSE" in printed
    assert printed.rstrip().splitlines()[-3:] == [
        "Autoencoder  runs/[first]/sae",
        "Figures      runs/[first]/figures",
        "Evaluation   runs/[first]/eval.json",
    ]
    assert "Training: 320/320 tokens" in said
    assert max(map(len, printed.splitlines())) <= 80
    assert Path("runs/[first]/eval.json").exists()


def test_train_tells_how_near_it_came_to_a_target(flags: list[str], capsys: Captured) -> None:
    sparsity = "--architecture relu --k 32 --target-l0 8"
    assert run(["train", *flags, *sparsity.split(), "--out", "steered"]) == 0
    reached = json.loads(Path("steered/eval.json").read_text())["metrics"]["l0"]["value"]
    words = f"Target L0    8; the averaged weights' is {reached:.1f} ({100 * (reached / 8 - 1):+.0f}%)"
    assert words in capsys.readouterr().out
    told = json.loads(Path("steered/sae/sae.json").read_text())["training"]
    last = json.loads(Path("steered/metrics.jsonl").read_text().splitlines()[-1])
    assert {name: told[name] for name in ("l0", "sparsity_coefficient")} == {
        name: last[name] for name in ("l0", "sparsity_coefficient")
    }


def test_the_written_config_runs_again_with_flags_beside_it(trained: Path, capsys: Captured) -> None:
    assert run(["train", "--config", "run/config.toml", "--out", "again"]) == 0
    for name in ("sae/sae.safetensors", "metrics.jsonl", "eval.json"):
        assert Path("again", name).read_bytes() == (trained / name).read_bytes()
    assert run(["train", "--config=run/config.toml", "--out", "wider", "--n-latents", "96"]) == 0
    assert json.loads(Path("wider/eval.json").read_text())["n_latents"] == 96
    assert "k = 4" in Path("wider/config.toml").read_text()


def test_a_finished_run_can_be_resumed(trained: Path, capsys: Captured) -> None:
    before = (trained / "sae/sae.safetensors").read_bytes()
    assert run(["train", "--resume", "run"]) == 0
    assert "Going on after 320 tokens" in capsys.readouterr().err
    assert (trained / "sae/sae.safetensors").read_bytes() == before


def test_numbers_may_be_written_short(source: list[str]) -> None:
    short = ["--n-latents", "6.4e1", "--k", "4", "--tokens", "3_20", "--batch-size", "32", "--eval-tokens", "4e2"]
    assert run(["train", *source, *short, "--bootstrap-samples", "10", "--out", "run"]) == 0
    text = Path("run/config.toml").read_text()
    assert all(line in text for line in ("n_latents = 64\n", "tokens = 320\n", "eval_tokens = 400\n"))


@pytest.mark.parametrize(
    ("word", "number"), [("4096", 4096), ("2e6", 2_000_000), ("2_000_000", 2_000_000), ("1.5e3", 1500), ("-3", -3)]
)
def test_a_whole_number_is_read(word: str, number: int) -> None:
    assert whole_number(word) == number


@pytest.mark.parametrize("word", ["1.5", "x", "", "inf", "nan", "1e999", "2e-1"])
def test_what_is_no_whole_number_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(word)


def test_eval_prints_the_table_again_and_takes_other_amounts(trained: Path, capsys: Captured) -> None:
    before = json.loads((trained / "eval.json").read_text())
    assert run(["eval", "run"]) == 0
    assert "Normalised MSE" in capsys.readouterr().out
    assert json.loads((trained / "eval.json").read_text()) == before
    assert run(["eval", "run", "--eval-tokens", "1e2", "--bootstrap-samples", "20"]) == 0
    after = json.loads((trained / "eval.json").read_text())
    assert after["settings"] == {**before["settings"], "eval_tokens": 100, "bootstrap_samples": 20}
    assert after["tokens"] < before["tokens"]


def test_inspect_shows_every_token_and_where_its_latents_fire(trained: Path, capsys: Captured) -> None:
    assert run(["inspect", "run", "w1 w2 w3", "--per-token", "2"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("w")]
    assert [row[0] for row in rows[:3]] == ["w1", "w2", "w3"]
    assert all(len(row) == 5 for row in rows[:3])
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Latent ") and "fires on" in line for line in lines)


def test_inspect_shows_one_latent(trained: Path, capsys: Captured) -> None:
    assert run(["inspect", "run", "--latent", "5"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[0].startswith("Latent 5  fires on ")
    assert all(".txt" in line for line in lines[1:])


def test_cache_then_train_is_the_live_run(source: list[str], flags: list[str], trained: Path, capsys: Captured) -> None:
    assert run(["cache", *source, "--tokens", "1e3", "--store-dtype", "float32", "--out", "cached"]) == 0
    printed, said = capsys.readouterr()
    assert printed == "Activations  cached\n"
    assert "Cache: 1,000 tokens × 16 numbers in float32 = 0.00 GB in cached" in said
    assert run(["train", *flags, "--activations", "cached", "--out", "from_cache"]) == 0
    assert Path("from_cache/metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_an_interrupted_cache_says_how_to_go_on(
    source: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.ShardWriter, "write", interrupt)
    assert run(["cache", *source, "--tokens", "300", "--out", "cached"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Interrupted Finished shards are kept; the same command goes on."
    )


def test_the_quickstart_ends_with_table_latents_and_next_commands(
    tiny_subject: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for number in range(200):
        words = " ".join(f"w{(7 * number + 3 * word) % 60}" for word in range(150))
        (library / f"m{number}.py").write_text(words)
    monkeypatch.setattr(builtin, "MODEL_DIRECTORY", tiny_subject)
    monkeypatch.setattr(builtin, "library_root", lambda: library)
    assert run(["quickstart", "--tokens", "4096"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].startswith("builtin · transformer.h.2")
    assert len([line for line in lines if line.startswith("Latent ")]) == 5
    assert lines[lines.index("Next") + 1] == '  monosem inspect runs/quickstart "for i in range(10):"'
    assert Path("runs/quickstart/sae/sae.json").exists()
    assert run(["quickstart"]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["quickstart", "train", "cache", "eval", "compare", "frontier", "inspect"])
def test_help_of_a_command_lists_its_flags(command: str, capsys: Captured) -> None:
    assert run([command, "--help"]) == 0
    printed, said = capsys.readouterr()
    words = {"eval": " RUN", "compare": " RUN [RUN ...]", "inspect": " RUN [TEXT]"}.get(command, "--out ")
    assert f"usage: monosem {command} [-h]" in printed
    assert words in printed
    assert said == ""


def test_help_and_version(capsys: Captured) -> None:
    for arguments in ([], ["-h"], ["--help"]):
        assert run(arguments) == 0
        printed, said = capsys.readouterr()
        assert all(command in printed for command in main_module.COMMANDS)
        assert said == ""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("monosem 0.")


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "argv", ["monosem", "nonsense"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2


def test_the_package_runs_as_a_module_and_help_needs_no_torch() -> None:
    statement = "import sys; from monosem.cli.main import run; run(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-m", "monosem", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("monosem 0.")


def test_a_keyboard_interrupt_has_its_exit_code(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: str) -> Callable[..., None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_command", interrupt)
    assert run(["train"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted"


def test_eval_measures_parts_of_the_full_suite(trained: Path, capsys: Captured) -> None:
    capsys.readouterr()
    assert run(["eval", "run", "--only", "geometry,progressive", "--progressive.tokens", "1e2"]) == 0
    printed = capsys.readouterr().out
    assert "With a near twin" in printed
    assert "Report       run/report.html" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert list(json.loads((trained / "eval.json").read_text())["parts"]) == ["progressive", "geometry"]


def test_eval_shows_a_few_explanations_in_words(trained: Path, endpoint: Any, capsys: Captured) -> None:
    words = f"--words.url {endpoint.url} --words.model stub --words.latents 3 --words.scored-contexts 4"
    assert run(["eval", "run", "--suite", "full", "--only", "words", *words.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((trained / "eval.json").read_text())["parts"]["words"]["latents"]
    assert len(found) == 3
    for latent in found:
        (row,) = [line.split() for line in lines if "It fires on" in line and line.split()[0] == str(latent["latent"])]
        assert " ".join(row[3:]) in latent["sentence"]
    assert max(map(len, lines)) <= 80
    assert "It fires on" in (trained / "report.html").read_text()
