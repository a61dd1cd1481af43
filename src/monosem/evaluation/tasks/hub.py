"""Labelled texts from data sets of the hub, each described by a small TOML file.

Those in ``hub_tasks/`` come with the package: public English data sets of the kinds that the paper probes for
(Gao et al. 2024, section 4.1 and its appendix). Rows are streamed, and no more of them than are needed.
"""

import re
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.config import load_toml
from monosem.errors import UserError
from monosem.evaluation.tasks.files import label_of
from monosem.evaluation.tasks.texts import MOST_ROWS, LabelledTexts
from monosem.subject.documents import field_of

DESCRIPTIONS = Path(__file__).parent / "hub_tasks"

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """What to read of a data set of the hub, and what to ask about it."""

    description: str
    """What the label tells, in a line."""
    source: str
    """Who made the data, and under which terms, in a line."""
    hub_id: str
    """The data set's id."""
    subset: str | None = None
    """Its subset (configuration), where it has several."""
    split: str = "train"
    """The split to read; its rows are divided into those to fit on and those held out."""
    revision: str | None = None
    """Branch, tag or commit; its newest by default."""
    text: str
    """The text, with each field's name in braces: ``{sentence}``, or ``{question} {answer}``."""
    label: str
    """The field that holds the label."""
    threshold: float | None = None
    """Where the label is a number: the least that counts as ``1``, while less counts as ``0``."""
    values: dict[str, str]
    """What each label means. Of two meanings the last is asked about; rows with other labels are passed over."""

    def __post_init__(self) -> None:
        if not _HUB_ID.fullmatch(self.hub_id):
            raise UserError(f"hub_id='{self.hub_id}' is no id of the hub; write it as owner/name.")
        for field in ("description", "source", "split", "label"):
            if not getattr(self, field).strip() or "\n" in getattr(self, field):
                raise UserError(f"{field}={getattr(self, field)!r} must be one line of words; write some.")
        if not self.fields or not all(self.fields) or set(_FIELD.sub("", self.text)) & set("{}"):
            raise UserError(
                f"text='{self.text}' must name at least one field in braces, as in '{{sentence}}'; mend it."
            )
        if not all(map(_is_words, self.values.values())):
            raise UserError(f"values={self.values} must give each label a meaning in words; mend it.")
        if len(self.meanings) < 2:
            raise UserError(f"values={self.values} has fewer than two meanings; a question needs two answers.")
        if self.threshold is not None and set(self.values) != {"0", "1"}:
            raise UserError(f"values={self.values} must name '0' and '1' where there is a threshold; mend it.")

    @property
    def fields(self) -> list[str]:
        """The fields that the text is made of."""
        return _FIELD.findall(self.text)

    @property
    def meanings(self) -> tuple[str, ...]:
        """What labels can mean, each once, in the file's order."""
        return tuple(dict.fromkeys(self.values.values()))


def _is_words(value: object) -> bool:
    """A table of TOML may hold anything."""
    return isinstance(value, str) and bool(value.strip())


def hub_tasks() -> dict[str, HubTask]:
    """The descriptions that come with the package, by the tasks' names."""
    return {path.stem: load_hub_task(path) for path in sorted(DESCRIPTIONS.glob("*.toml"))}


def load_hub_task(path: Path) -> HubTask:
    """Read a description.

    Raises:
        UserError: there is no such file, it is no TOML, or a setting is missing, unknown or wrong.
    """
    try:
        return load_toml(HubTask, path)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_hub_task(name: str, task: HubTask, wanted: int) -> LabelledTexts:
    """A data set's texts, from its first row on until each meaning has so many, or ``MOST_ROWS`` are read.

    Raises:
        UserError: the hub or the data set cannot be reached, a row lacks a field or holds something of another type,
            or a meaning never occurs.
    """
    texts: list[str] = []
    labels: list[str] = []
    counts: Counter[str] = Counter()
    for number, row in enumerate(_rows(name, task), start=1):
        place = f"{task.hub_id}, row {number}"
        text, meaning = _text(task, row, place), task.values.get(_label(task, row, place))
        if meaning is not None:
            texts.append(text)
            labels.append(meaning)
            counts[meaning] += 1
        if number == MOST_ROWS or min(counts[each] for each in task.meanings) >= wanted:
            break
    if absent := [meaning for meaning in task.meanings if not counts[meaning]]:
        raise UserError(
            f"Task '{name}': no row of {task.hub_id} ({task.split}) means '{absent[0]}', of {sum(counts.values()):,} "
            "with a known label; check 'label' and 'values' of its description."
        )
    place = f"Task '{name}' ({task.hub_id})"
    return LabelledTexts(name, task.description, place, tuple(texts), tuple(labels), task.meanings)


def _text(task: HubTask, row: Any, place: str) -> str:
    for field in (*task.fields, task.label):
        if field not in row:
            raise UserError(
                f"{place} has no field '{field}'; it has: {', '.join(sorted(row))}. Name another in the description."
            )
    return _FIELD.sub(lambda match: field_of(row, match[1], place), task.text)


def _label(task: HubTask, row: Any, place: str) -> str:
    value = row[task.label]
    if task.threshold is None:
        return label_of(value, f"{place}: '{task.label}'")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise UserError(f"{place}: '{task.label}' holds {value!r}, where the threshold needs a number; leave it out.")
    return "1" if value >= task.threshold else "0"


def _rows(name: str, task: HubTask) -> Iterable[Any]:
    # Asking for the commit first fails at once without network; load_dataset would try for half a minute.
    with _reaching_hub(name, task):
        import datasets
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(task.hub_id, revision=task.revision, timeout=10).sha
        yield from datasets.load_dataset(task.hub_id, task.subset, split=task.split, revision=commit, streaming=True)


@contextmanager
def _reaching_hub(name: str, task: HubTask) -> Generator[None]:
    # Everything is caught: the HTTP library behind the hub's client lets its own errors through, and it is another
    # one, with other classes, in other versions of the client.
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(
            f"Task '{name}': the data set '{task.hub_id}' of the hub could not be read: {reason}. "
            "Check its description, connect to the network, or leave the task out of --tasks."
        ) from error
