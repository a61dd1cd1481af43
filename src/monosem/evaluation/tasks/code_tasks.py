"""Tasks on the builtin corpus: questions whose answers follow from the grammar of Python and the files' places.

All draw their examples from one pool of contexts of held-out library files, so that the subject reads these once. The
pool is chosen so that rare labels occur often enough in it, and so is no fair sample of the corpus: how frequent a
label is there, ``Task.corpus_share`` says.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64

from monosem.evaluation.tasks.code_corpus import CodeCorpus, is_test, package_of, read_code_corpus, training_files
from monosem.evaluation.tasks.code_labels import LABELS
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS, Task, TaskPool
from monosem.randomness import derive_generator
from monosem.subject.model import SubjectModel

MOST_OF_A_CONTEXT = 8
"""Examples of one answer that a context gives to a task on tokens, so that they come from many contexts."""
_LARGEST_SHARE_OF_A_FILE = 1 / 20
_ROUNDS = 8
_FEWEST_FILES_OF_A_PACKAGE = 4

_CONTAINS = {
    "defined-class": "a class statement",
    "defined-function": "a def statement",
    "in-import": "an import statement",
    "in-decorator": "a decorator",
    "in-comment": "a comment",
    "in-docstring": "a docstring",
    "in-raise": "a raise statement",
    "in-return": "a return statement",
    "in-with": "the body of a with statement",
    "in-except": "an except clause",
    "in-loop": "a loop's body",
    "in-comprehension": "a comprehension",
    "in-conditional": "an expression of the form a if b else c",
    "in-f-string": "an f-string",
    "in-bytes": "a bytes literal",
    "number": "a number",
    "constant": "True, False or None",
    "self": "the name self",
    "private-name": "a name that begins with one underscore",
    "exception-name": "a built-in exception's name",
}
_MOSTLY = {
    "in-docstring": "docstring",
    "in-comment": "comments",
    "in-string": "strings",
    "in-call": "arguments of calls",
    "in-test-method": "test methods",
}


class _Question(NamedTuple):
    name: str
    description: str
    level: Literal["token", "document"]
    holds: Bool[np.ndarray, "contexts length"] | Bool[np.ndarray, " contexts"]
    """False where a position is not kept."""

    def offers(self, kept: Bool[np.ndarray, "contexts length"], answer: bool) -> Int64[np.ndarray, " contexts"]:
        """How many examples of this answer each context holds."""
        if self.level == "document":
            return (self.holds == answer).astype(np.int64)
        yes = self.holds.sum(axis=1)
        return yes if answer else kept.sum(axis=1) - yes

    def answers(self, kept: Bool[np.ndarray, "contexts length"], answer: bool) -> Bool[np.ndarray, "contexts width"]:
        """Where an example of this answer could be; of width 1 for a question about whole contexts."""
        if self.level == "token":
            return (self.holds == answer) & kept
        return (self.holds == answer)[:, None]


def builtin_tasks(
    subject: SubjectModel, *, context_length: int, examples: int = 2000, contexts: int = 3125, seed: int
) -> TaskPool:
    """Tasks on Python's standard library, as many as its held-out files allow.

    Half of a task's examples have either answer and half are held out, which a rare label or a frequent one reduces
    alike: each side takes as many of both answers as there are of the rarer one. A task is left out where these are
    fewer than ``FEWEST_OF_A_CLASS``.

    Args:
        context_length: tokens a context, with the BOS in front if the subject wants one.
        examples: the most that a task gets.
        contexts: the most that the subject reads.

    Raises:
        UserError: there is no such text, the tokenizer is not a fast one, or contexts are too short or too long.
    """
    corpus = read_code_corpus(subject, context_length)
    sizes = np.bincount(corpus.files, minlength=len(corpus.names))
    is_training = training_files(corpus.names, sizes.tolist(), seed)[corpus.files]
    questions = _questions(corpus)
    chosen = _choose_contexts(questions, corpus, is_training, examples // 4, contexts, seed)
    pool, is_training = corpus.select(chosen), is_training[chosen]
    tasks = [
        _draw(question, _share(of_all, corpus.kept), pool.kept, is_training, examples // 4, seed)
        for question, of_all in zip(_questions(pool), questions, strict=True)
    ]
    return TaskPool(pool.contexts(), tuple(task for task in tasks if task is not None))


def _questions(corpus: CodeCorpus) -> list[_Question]:
    labels = dict(zip(LABELS, corpus.labels, strict=True))
    questions = [_Question(name, LABELS[name], "token", holds) for name, holds in labels.items()]
    questions += [
        _Question(f"contains-{name.removeprefix('in-')}", f"the context contains {what}", "document", holds.any(axis=1))
        for name, what in _CONTAINS.items()
        for holds in (labels[name],)
    ]
    questions += [
        _Question(
            f"mostly-{name.removeprefix('in-')}", f"at least half of the context is {what}", "document", 2 * n >= of
        )
        for name, what in _MOSTLY.items()
        for n, of in ((labels[name].sum(axis=1), corpus.kept.sum(axis=1)),)
    ]
    tests = np.array([is_test(name) for name in corpus.names])
    questions.append(_Question("test-file", "the file is of a test suite", "document", tests[corpus.files]))
    packages = np.array([package_of(name) for name in corpus.names])
    for package, files in zip(*np.unique(packages, return_counts=True), strict=True):
        if files >= _FEWEST_FILES_OF_A_PACKAGE:
            what = f"the file is of the package {package}, or tests it"
            questions.append(_Question(f"package-{package}", what, "document", (packages == package)[corpus.files]))
    return questions


def _share(question: _Question, kept: Bool[np.ndarray, "contexts length"]) -> float:
    """The share of yes among kept positions, or among contexts."""
    return float(question.holds.sum() / (kept.sum() if question.level == "token" else len(kept)))


# The pool


def _choose_contexts(
    questions: list[_Question],
    corpus: CodeCorpus,
    is_training: Bool[np.ndarray, " contexts"],
    wanted: int,
    most: int,
    seed: int,
) -> Int64[np.ndarray, " chosen"]:
    """Contexts for the pool, in the corpus's order, half of each side; see ``choose_side``.

    No file gives more than a twentieth of all; of a longer one its contexts are drawn by lot.
    """
    order = torch.randperm(len(corpus.files), generator=derive_generator(seed, "tasks", "contexts")).numpy()
    rank = rank_within(corpus.files[order])
    order = order[rank < max(1, int(most * _LARGEST_SHARE_OF_A_FILE))]
    offers = [question.offers(corpus.kept, answer) for question in questions for answer in (True, False)]
    offered = np.minimum(np.stack(offers), MOST_OF_A_CONTEXT)
    chosen = [
        of_side[choose_side(offered[:, of_side], wanted, count)]
        for side, count in ((True, most // 2), (False, most - most // 2))
        for of_side in (order[is_training[order] == side],)
    ]
    return np.sort(np.concatenate(chosen))


def choose_side(offered: Int64[np.ndarray, "needs contexts"], wanted: int, most: int) -> Bool[np.ndarray, " contexts"]:
    """Which contexts to take, at most so many, in view of how many examples each offers for each need.

    In rounds: after the n-th of eight every need, the rarest first, has n eighths of the examples wanted, or all there
    are; of the contexts that offer it some, the first are taken. At the end the first of all, up to the limit.
    """
    chosen = np.zeros(offered.shape[1], dtype=np.bool_)
    rarest_first = np.argsort(offered.sum(axis=1), kind="stable")
    for round_ in range(1, _ROUNDS + 1):
        for offers in offered[rarest_first]:
            missing = wanted * round_ / _ROUNDS - offers[chosen].sum()
            if missing <= 0:
                continue
            candidates = np.flatnonzero(~chosen & (offers > 0))
            before = np.cumsum(offers[candidates]) - offers[candidates]
            chosen[candidates[before < missing][: most - int(chosen.sum())]] = True
    chosen[np.flatnonzero(~chosen)[: most - int(chosen.sum())]] = True
    return chosen


def rank_within(groups: Int64[np.ndarray, " members"]) -> Int64[np.ndarray, " members"]:
    """How many members of the same group come before each."""
    order = np.argsort(groups, kind="stable")
    place = np.arange(len(groups))
    starts = np.maximum.accumulate(np.where(np.diff(groups[order], prepend=-1) != 0, place, 0))
    ranks = np.empty_like(place)
    ranks[order] = place - starts
    return ranks


# The examples


def _draw(
    question: _Question,
    share: float,
    kept: Bool[np.ndarray, "contexts length"],
    is_training: Bool[np.ndarray, " contexts"],
    wanted: int,
    seed: int,
) -> Task | None:
    """A task with so many examples of each answer on each side, or as many as there are; None where that is too few."""
    drawn: list[Int64[np.ndarray, "examples 2"]] = []
    for side in (True, False):
        found = [
            _candidates(question.answers(kept, answer) & (is_training == side)[:, None], question.name, seed)
            for answer in (True, False)
        ]
        count = min(wanted, *map(len, found))
        if count < FEWEST_OF_A_CLASS:
            return None
        drawn += [each[:count] for each in found]
    examples = np.concatenate(drawn)
    labels = np.concatenate([np.full(len(each), answer) for each, answer in zip(drawn, (True, False) * 2, strict=True)])
    order = np.lexsort((examples[:, 1], examples[:, 0]))
    contexts, positions = torch.from_numpy(examples[order]).unbind(dim=1)
    return Task(
        name=question.name,
        description=question.description,
        level=question.level,
        contexts=contexts,
        positions=positions if question.level == "token" else torch.full_like(positions, -1),
        labels=torch.from_numpy(labels[order]),
        is_training=torch.from_numpy(is_training)[contexts],
        corpus_share=share,
    )


def _candidates(
    possible: Bool[np.ndarray, "contexts width"], name: str, seed: int
) -> Int64[np.ndarray, "candidates 2"]:
    """Context and position of possible examples in random order, the most that a context may give."""
    places = np.argwhere(possible)
    generator = derive_generator(seed, "tasks", name)
    places = places[torch.randperm(len(places), generator=generator).numpy()]
    return places[rank_within(places[:, 0]) < MOST_OF_A_CONTEXT]
