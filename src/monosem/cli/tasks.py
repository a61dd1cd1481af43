"""``monosem tasks``: the questions that an evaluation's probes are asked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import standard_output
from monosem.evaluation.tasks.hub import HubTask, hub_tasks
from monosem.evaluation.tasks.sources import TaskConfig, find_tasks, read_tasks
from monosem.evaluation.tasks.task import TaskPool
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig

if TYPE_CHECKING:
    from rich.console import Console


NAME_WIDTH = 30


@dataclass(frozen=True, kw_only=True)
class Tasks(TaskConfig):
    """List tasks with their examples; those of the hub, which would have to be fetched, without.

    monosem tasks list
    """

    action: Annotated[tyro.conf.Positional[Literal["list"]], tyro.conf.arg(metavar="list")]
    """What to do."""
    subject: str = SubjectConfig.subject
    """Whose tokenizer cuts the texts: a hub id, a local directory, or 'builtin'."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    context_length: int = SubjectConfig.context_length
    """Tokens of a context."""
    seed: int = 0
    """Draws the examples and divides them."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, read, print."""
    command: Tasks = parse(Tasks, arguments, "tasks")
    sources = find_tasks(command)
    if sources.is_builtin or sources.files:
        config = SubjectConfig(
            subject=command.subject, revision=command.revision, context_length=command.context_length, device="cpu"
        )
        with console.status("Reading the tasks' texts"):
            subject = load_subject(config)
            here = dataclasses.replace(sources, hub={})
            pool = read_tasks(here, command, subject, context_length=command.context_length, seed=command.seed)
        _show_tasks(pool)
    if hub := hub_tasks() if command.tasks == TaskConfig.tasks else sources.hub:
        _show_hub_tasks(hub)


def _show_tasks(pool: TaskPool) -> None:
    """Each task's numbers in a line, and the question in the next."""
    from rich.text import Text

    out = standard_output()
    headings = ("Level", "Fit on", "Held out", "Yes", "Corpus")
    width = min(NAME_WIDTH, max(len(task.name) for task in pool.tasks))
    out.print(Text(_line("Task", headings, width), style="bold"))
    for task in pool.tasks:
        n_training = int(task.is_training.sum())
        share = "" if task.corpus_share is None else f"{task.corpus_share:.2%}"
        counts = (f"{n_training:,}", f"{len(task.labels) - n_training:,}", f"{task.labels.double().mean():.0%}", share)
        # A longer name has a line of its own.
        name = task.name if len(task.name) <= width else f"{task.name}\n{'':{width}}"
        out.print(Text(_line(name, (task.level, *counts), width)), highlight=False)
        out.print(Text(f"  {task.description}", style="dim"))
    length = pool.contexts.tokens.shape[1]
    out.print(Text(f"\n{len(pool.tasks)} tasks on {len(pool.contexts.tokens):,} contexts of {length} tokens\n"))


def _line(name: str, cells: tuple[str, ...], width: int) -> str:
    level, *numbers = cells
    return f"{name:{width}}  {level:8}" + "".join(f"{number:>10}" for number in numbers)


def _show_hub_tasks(tasks: Mapping[str, HubTask]) -> None:
    """Each task's name and question, and the data set."""
    from rich.table import Table
    from rich.text import Text

    out = standard_output()
    table = Table.grid(padding=(0, 2))
    for name, task in tasks.items():
        table.add_row(Text(name, style="bold"), Text.assemble(task.description, "\n", (task.hub_id, "dim")))
    out.print(Text("Data sets of the hub, fetched when --tasks names them\n", style="bold"))
    out.print(table)
