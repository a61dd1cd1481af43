"""Tasks on labelled texts, wherever they are from: one context a text, halves to fit on and to hold out."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.tasks.contexts import encode_texts
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS, Contexts, Task, TaskPool
from monosem.randomness import derive_generator
from monosem.subject.model import SubjectModel

MOST_ROWS = 200_000
"""Rows that are read of a file or a data set, from its beginning."""
LONGEST_TOKEN = 64
"""Characters a token: of a text no more is read than this many for each token of a context."""


class LabelledTexts(NamedTuple):
    """Texts with a label each."""

    name: str
    description: str
    """What the label tells, in a line."""
    place: str
    """Where the texts are from, for messages."""
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[str, ...]
    """The labels that count. Of two the last is asked about; of more, each in a task of its own."""


class _Examples(NamedTuple):
    contexts: Contexts
    labels: tuple[str, ...]
    is_training: Bool[Tensor, " contexts"]


def text_tasks(
    sets: Iterable[LabelledTexts], subject: SubjectModel, *, context_length: int, examples: int, seed: int
) -> TaskPool:
    """Tasks of at most so many examples, each side with as many of either answer.

    A text that occurs twice counts once, and not at all if its labels differ. Texts of which the subject sees the same
    tokens are one text. The side follows from a hash of the text.

    Raises:
        UserError: a set has too few texts of a label, the tokenizer is not a fast one, or contexts are too short or
            too long.
    """
    return join_pools([_pool(each, subject, context_length, examples // 4, seed) for each in sets])


def join_pools(pools: Sequence[TaskPool]) -> TaskPool:
    """All tasks, over all contexts, which are of one length.

    Raises:
        UserError: two tasks have one name, or there is none.
    """
    names = [task.name for pool in pools for task in pool.tasks]
    if not names:
        raise UserError("There is no task to evaluate; name some with --tasks.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Two tasks have the name '{twice[0]}'; rename a file.")
    tasks: list[Task] = []
    contexts: list[Contexts] = []
    before, documents_before = 0, 0
    for pool in pools:
        tasks += [replace(task, contexts=task.contexts + before) for task in pool.tasks]
        contexts.append(pool.contexts._replace(documents=pool.contexts.documents + documents_before))
        before += len(pool.contexts.tokens)
        documents_before += int(pool.contexts.documents.max()) + 1
    return TaskPool(Contexts(*map(torch.cat, zip(*contexts, strict=True))), tuple(tasks))


def _pool(texts: LabelledTexts, subject: SubjectModel, context_length: int, wanted: int, seed: int) -> TaskPool:
    asked = texts.values[-1:] if len(texts.values) == 2 else texts.values
    found = _distinct(texts, LONGEST_TOKEN * context_length)
    examples = _encode(_draw(found, asked, wanted, seed), subject, context_length, seed)
    tasks: list[Task] = []
    for value in asked:
        positive = torch.tensor([label == value for label in examples.labels], dtype=torch.bool)
        chosen = _balanced(positive, examples.is_training, wanted, derive_generator(seed, "tasks", texts.name, value))
        if chosen is None:
            continue
        tasks.append(
            Task(
                name=texts.name if len(asked) == 1 else f"{texts.name}-{slug(value)}",
                description=f"{texts.description}: {value}",
                level="document",
                contexts=chosen,
                positions=torch.full_like(chosen, -1),
                labels=positive[chosen],
                is_training=examples.is_training[chosen],
                corpus_share=sum(label == value for label in found.values()) / len(found),
            )
        )
    if not tasks:
        raise UserError(
            f"{texts.place} has too few texts to ask for '{asked[0]}': on both sides of the split at least "
            f"{FEWEST_OF_A_CLASS} different ones that have the label, and as many that have not, are needed; "
            "give more texts."
        )
    return _without_unused(TaskPool(examples.contexts, tuple(tasks)))


def _without_unused(pool: TaskPool) -> TaskPool:
    """The contexts that tasks use, and no others."""
    used = torch.cat([task.contexts for task in pool.tasks]).unique()
    tasks = (replace(task, contexts=torch.searchsorted(used, task.contexts)) for task in pool.tasks)
    return TaskPool(pool.contexts.at(used), tuple(tasks))


def slug(words: str) -> str:
    """Words as part of a task's name: small letters and digits, joined by hyphens."""
    return re.sub(r"[^\w]+|_", "-", words.lower()).strip("-") or "blank"


def _distinct(texts: LabelledTexts, characters: int) -> dict[str, str]:
    """The label of each text that is not blank, as far as so many characters; without those that have two."""
    found: dict[str, str] = {}
    ambiguous: set[str] = set()
    for text, label in zip(texts.texts, texts.labels, strict=True):
        beginning = text[:characters]
        if label in texts.values and beginning.strip() and found.setdefault(beginning, label) != label:
            ambiguous.add(beginning)
    return {text: label for text, label in found.items() if text not in ambiguous}


def _is_training(text: str, seed: int) -> bool:
    return hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=1).digest()[0] < 128


def _draw(found: dict[str, str], asked: Sequence[str], wanted: int, seed: int) -> dict[str, str]:
    """For each question texts with either answer of either side, so many if there are, in random order."""
    order = torch.randperm(len(found), generator=derive_generator(seed, "tasks", "texts")).tolist()
    texts = list(found)
    drawn: Counter[tuple[str, bool, bool]] = Counter()
    chosen: dict[str, str] = {}
    for text in (texts[number] for number in order):
        label, side = found[text], _is_training(text, seed)
        needs = [(value, label == value, side) for value in asked]
        if any(drawn[need] < wanted for need in needs):
            chosen[text] = label
            drawn.update(needs)
    return chosen


def _encode(texts: dict[str, str], subject: SubjectModel, context_length: int, seed: int) -> _Examples:
    """Texts as contexts, without those that the subject cannot tell apart or sees nothing of."""
    contexts = encode_texts(subject, list(texts), context_length)
    used = _differing(contexts, list(texts.values()))
    sides = torch.tensor([_is_training(text, seed) for text in texts], dtype=torch.bool)
    return _Examples(
        contexts.at(used),
        tuple(label for label, is_used in zip(texts.values(), used, strict=True) if is_used),
        sides[used],
    )


def _differing(contexts: Contexts, labels: Sequence[str]) -> Bool[Tensor, " contexts"]:
    """The first of all contexts with the same tokens; none of these where their labels differ, or nothing is kept."""
    first: dict[tuple[int, ...], int] = {}
    usable = contexts.kept.any(dim=1)
    for row, tokens in enumerate(contexts.tokens.tolist()):
        before = first.setdefault(tuple(tokens), row)
        usable[row] &= before == row
        usable[before] &= labels[before] == labels[row]
    return usable


def _balanced(
    positive: Bool[Tensor, " contexts"],
    is_training: Bool[Tensor, " contexts"],
    wanted: int,
    generator: torch.Generator,
) -> Int64[Tensor, " examples"] | None:
    """So many contexts of each answer on each side, or as many as of the rarer; None where these are too few."""
    chosen: list[Tensor] = []
    for side in (True, False):
        answers = [((positive == answer) & (is_training == side)).nonzero()[:, 0] for answer in (True, False)]
        count = min(wanted, *map(len, answers))
        if count < FEWEST_OF_A_CLASS:
            return None
        chosen += [answer[torch.randperm(len(answer), generator=generator)[:count]] for answer in answers]
    return torch.cat(chosen).sort().values
