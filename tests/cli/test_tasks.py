"""``monosem tasks list``: what is shown, and what is refused."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from monosem.cli import tasks as tasks_module
from monosem.cli.main import run
from monosem.evaluation.tasks.hub import hub_tasks
from monosem.subject import builtin

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def listed(tiny_subject: Path, capsys: Captured) -> Callable[..., list[str]]:
    """Lists tasks with the tiny subject's tokenizer and gives the lines."""

    def call(*arguments: str) -> list[str]:
        assert run(["tasks", "list", "--subject", str(tiny_subject), "--context-length", "16", *arguments]) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80
        return [line.rstrip() for line in printed.splitlines()]

    return call


def write_csv(path: Path, count: int, share_of_yes: int = 4) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"w{n % 60} w{n // 60}", "yes" if n % share_of_yes == 0 else "no"] for n in range(count))
    return path


def test_files_are_listed_with_their_counts(listed: Callable[..., list[str]]) -> None:
    write_csv(Path("mine/[a].csv"), 1200)
    write_csv(Path("mine/a-name-that-is-too-long-for-its-column.csv"), 1200)
    lines = listed("--tasks", "mine", "--task-examples", "1e2")
    assert lines[0].split() == ["Task", "Level", "Fit", "on", "Held", "out", "Yes", "Corpus"]
    assert lines[1].split() == ["[a]", "document", "50", "50", "50%", "25.00%"]
    assert lines[2] == "  [a].csv: the label is: yes"
    assert lines[3] == "a-name-that-is-too-long-for-its-column"
    assert lines[4].split() == ["document", "50", "50", "50%", "25.00%"]
    assert lines[4].index("document") == lines[1].index("document")
    assert lines[-2] == "2 tasks on 200 contexts of 16 tokens"


def test_hub_tasks_are_listed_without_loading_anything(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tasks_module, "load_subject")
    assert run(["tasks", "list", "--tasks", "cola", "ag-news"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [
        "cola     whether a sentence is grammatical",
        "         nyu-mll/glue",
        "ag-news  the topic of a news item",
        "         fancyzhang/ag_news",
    ]


def test_by_default_builtin_tasks_and_all_of_the_hub_are_listed(
    listed: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in (f"m{number}.py" for number in range(900)) if builtin.is_held_out(name)]
    monkeypatch.setattr(builtin, "library_root", lambda: tmp_path / "library")
    (tmp_path / "library").mkdir()
    for name in names:
        (tmp_path / "library" / name).write_text("w1 = [w2, w3]  # w4 w5\n" * 9)
    lines = listed()
    tasks = {line.split()[0]: line.split()[1:] for line in lines if "%" in line}
    assert tasks["in-comment"][0] == "token"
    assert "in-lambda" not in tasks
    assert "  in a comment" in lines
    shown = "\n".join(lines)
    assert all(task.hub_id in shown for task in hub_tasks().values())
    assert all(f"\n{name} " in shown for name in hub_tasks())


def test_what_is_wrong_is_said(refused: Callable[..., str], tiny_subject: Path) -> None:
    subject = ("--subject", str(tiny_subject), "--context-length", "16")
    assert "tasks 'cala' is no file" in refused("tasks", "list", "--tasks", "cala")
    assert "did you mean 'cola'?" in refused("tasks", "list", "--tasks", "cala")
    assert "task_examples=10 is below 100" in refused("tasks", "list", "--task-examples", "10")
    small = write_csv(Path("small.csv"), 60)
    assert "small.csv has too few texts" in refused("tasks", "list", "--tasks", str(small), *subject)
    Path("bad.csv").write_text("words,label\n")
    assert "bad.csv has no column 'text'" in refused("tasks", "list", "--tasks", "bad.csv", *subject)
    assert "list" in refused("tasks", "lst")


def test_help_names_the_flags(capsys: Captured) -> None:
    assert run(["tasks", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "usage: monosem tasks [-h]" in printed
    assert all(flag in printed for flag in ("--tasks", "--task-examples", "--task-contexts", "--subject", "--seed"))
