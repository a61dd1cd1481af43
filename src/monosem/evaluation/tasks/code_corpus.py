"""The builtin corpus's held-out files as contexts of the subject's tokens, with every token's labels.

Each file is cut into contexts from its beginning; what is left at its end is one more where it fills at least half of
one. Files that the running interpreter cannot parse are left out.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64

from monosem.errors import UserError
from monosem.evaluation.tasks.code_labels import label_tokens
from monosem.evaluation.tasks.contexts import padding_id, text_length
from monosem.evaluation.tasks.task import Contexts
from monosem.randomness import derive_generator
from monosem.subject.builtin import library_documents
from monosem.subject.model import SubjectModel
from monosem.subject.tokens import plain_backend, special_token_ids


class CodeCorpus(NamedTuple):
    """All contexts of the held-out files."""

    tokens: Int64[np.ndarray, "contexts length"]
    kept: Bool[np.ndarray, "contexts length"]
    labels: Bool[np.ndarray, "labels contexts length"]
    """In the order of ``LABELS``; False where a position is not kept."""
    files: Int64[np.ndarray, " contexts"]
    """The number of the file that each context is from."""
    names: tuple[str, ...]
    """The files' paths in the library."""

    def select(self, chosen: Int64[np.ndarray, " chosen"]) -> "CodeCorpus":
        """Some of the contexts, in the given order."""
        return self._replace(
            tokens=self.tokens[chosen],
            kept=self.kept[chosen],
            labels=self.labels[:, chosen],
            files=self.files[chosen],
        )

    def contexts(self) -> Contexts:
        return Contexts(*map(torch.from_numpy, (self.tokens, self.kept, self.files)))


def read_code_corpus(subject: SubjectModel, context_length: int) -> CodeCorpus:
    """Tokenise, label and cut the library's held-out files.

    Raises:
        UserError: there is none, the tokenizer is not a fast one, or contexts are too short or too long.
    """
    length = text_length(subject, context_length)
    special = np.array(sorted(special_token_ids(subject.tokenizer)))
    rows: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    names: list[str] = []
    for name, ids, labels in _labelled_files(subject):
        starts = _starts(len(ids), length)
        if len(starts) == 0:
            continue
        kept = np.pad(~np.isin(ids, special), (0, length))
        places = starts[:, None] + np.arange(length)
        rows["tokens"].append(np.pad(ids, (0, length), constant_values=padding_id(subject))[places])
        rows["kept"].append(kept[places])
        rows["labels"].append((np.pad(labels, ((0, 0), (0, length))) & kept)[:, places])
        rows["files"].append(np.full(len(starts), len(names)))
        names.append(name)
    if not names:
        raise UserError(
            "The library of this interpreter has no held-out file of the builtin corpus that fills half a context; "
            "use an interpreter that ships its library's sources, or lower --context-length."
        )
    tokens, kept, files = (np.concatenate(rows[each]) for each in ("tokens", "kept", "files"))
    corpus = CodeCorpus(tokens, kept, np.concatenate(rows["labels"], axis=1), files, tuple(names))
    return corpus if subject.bos_id is None else _behind_bos(corpus, subject.bos_id)


def _labelled_files(subject: SubjectModel) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, token ids and labels of every file that parses."""
    backend = plain_backend(subject.tokenizer)
    for name, text in library_documents(only_held_out=True):
        encoding = backend.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        labels = label_tokens(text, offsets)
        if labels is not None:
            yield name, np.array(encoding.ids, dtype=np.int64), labels


def _starts(count: int, length: int) -> Int64[np.ndarray, " contexts"]:
    """Where the contexts of a file of so many tokens begin."""
    return np.arange(0, count - (length + 1) // 2 + 1, length)


def _behind_bos(corpus: CodeCorpus, bos_id: int) -> CodeCorpus:
    front = ((0, 0), (1, 0))
    return corpus._replace(
        tokens=np.pad(corpus.tokens, front, constant_values=bos_id),
        kept=np.pad(corpus.kept, front),
        labels=np.pad(corpus.labels, ((0, 0), *front)),
    )


def package_of(name: str) -> str:
    """The package that a library file is of, or tests: ``email/header.py`` and ``test/test_email/x.py`` are of email.

    A module that lies in no package is its own.
    """
    first, *others = name.removesuffix(".py").split("/")
    if first == "test" and others:
        return others[0].removeprefix("test_") if others[0].startswith("test_") else first
    return first


def is_test(name: str) -> bool:
    """Whether a library file belongs to a test suite."""
    folders_and_module = name.removesuffix(".py").split("/")
    return any(part in ("test", "tests", "idle_test") or part.startswith("test_") for part in folders_and_module)


def training_files(names: Sequence[str], sizes: Sequence[int], seed: int) -> Bool[np.ndarray, " files"]:
    """Which files to fit probes on; the others are held out.

    So that every package stands on both sides, its files go in pairs, the longest first, one to each side by lot; and
    so do, at last, those that are left over.
    """
    packages: defaultdict[str, list[int]] = defaultdict(list)
    longest_first = sorted(range(len(names)), key=lambda number: (-sizes[number], names[number]))
    for number in longest_first:
        packages[package_of(names[number])].append(number)
    left = {numbers[-1] for numbers in packages.values() if len(numbers) % 2}
    order = [number for _, numbers in sorted(packages.items()) for number in numbers if number not in left]
    order += [number for number in longest_first if number in left]
    lots = torch.rand((len(order) + 1) // 2, generator=derive_generator(seed, "tasks", "sides")) < 0.5
    is_training = np.zeros(len(names), dtype=np.bool_)
    for place, number in enumerate(order):
        is_training[number] = bool(lots[place // 2]) == (place % 2 == 0)
    return is_training
