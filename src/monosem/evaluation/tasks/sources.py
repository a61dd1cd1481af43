"""Where probe tasks come from: the builtin corpus, files, data sets of the hub."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from monosem.errors import UserError
from monosem.evaluation.tasks.code_tasks import builtin_tasks
from monosem.evaluation.tasks.files import labelled_texts, task_files
from monosem.evaluation.tasks.hub import HubTask, hub_tasks, load_hub_task, read_hub_task
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS, TaskPool
from monosem.evaluation.tasks.texts import join_pools, text_tasks
from monosem.subject.builtin import BUILTIN
from monosem.subject.model import SubjectModel


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Which questions are put to probes, and on how many examples."""

    tasks: tuple[str, ...] = (BUILTIN,)
    """``builtin``; files of labelled texts, directories of them; .toml files that describe data sets of the hub, and
    names of those that come with the package."""
    task_examples: int = 2000
    """The most examples of a task; half of them are held out."""
    task_contexts: int = 3125
    """Contexts that the builtin tasks share."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("tasks names no source; give 'builtin', files, directories or tasks of the hub.")
        if len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"tasks={' '.join(self.tasks)} names a source twice; name each once.")
        fewest = 4 * FEWEST_OF_A_CLASS
        if self.task_examples < fewest:
            raise UserError(
                f"task_examples={self.task_examples} is below {fewest}; a task needs at least {FEWEST_OF_A_CLASS} "
                "examples of each answer on each side."
            )
        if self.task_contexts < 2 and BUILTIN in self.tasks:
            raise UserError(f"task_contexts={self.task_contexts} is below 2; each side needs a context.")


@dataclass(frozen=True, kw_only=True)
class TaskSources:
    """What the names in ``TaskConfig.tasks`` stand for."""

    is_builtin: bool
    """Whether the builtin tasks are among them."""
    files: tuple[Path, ...]
    hub: dict[str, HubTask]
    """By the tasks' names."""


def find_tasks(config: TaskConfig) -> TaskSources:
    """Tell builtin, files and hub apart, without reading any text.

    Raises:
        UserError: a name stands for nothing, a directory holds no such file, a description is wrong.
    """
    files: list[Path] = []
    hub: dict[str, HubTask] = {}
    known = hub_tasks()
    for entry in config.tasks:
        path = Path(entry)
        if entry == BUILTIN:
            continue
        if path.is_dir():
            files += task_files(path)
        elif path.suffix.lower() == ".toml":
            hub[path.stem] = load_hub_task(path)
        elif path.is_file():
            files.append(path)
        elif entry in known:
            hub[entry] = known[entry]
        else:
            near = difflib.get_close_matches(entry, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see 'monosem tasks list' for the names."
            raise UserError(f"tasks '{entry}' is no file, no directory and no task of the hub; {hint}")
    return TaskSources(is_builtin=BUILTIN in config.tasks, files=tuple(files), hub=hub)


def read_tasks(
    sources: TaskSources, config: TaskConfig, subject: SubjectModel, *, context_length: int, seed: int
) -> TaskPool:
    """All tasks with their examples, in the order builtin, files, hub.

    Raises:
        UserError: whatever ``builtin_tasks``, ``labelled_texts``, ``read_hub_task`` and ``text_tasks`` refuse; or two
            tasks have one name.
    """
    texts = [labelled_texts(path) for path in sources.files]
    texts += [read_hub_task(name, task, config.task_examples) for name, task in sources.hub.items()]
    pools: list[TaskPool] = []
    drawn = {"context_length": context_length, "examples": config.task_examples, "seed": seed}
    if sources.is_builtin:
        pools.append(builtin_tasks(subject, contexts=config.task_contexts, **drawn))
    if texts:
        pools.append(text_tasks(texts, subject, **drawn))
    return join_pools(pools)
