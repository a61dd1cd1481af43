"""Tasks on a small library of made-up files, compared with what a slow reading of it says; and on the real one."""

import ast
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from monosem.errors import UserError
from monosem.evaluation.tasks.code_corpus import is_test, package_of, read_code_corpus, training_files
from monosem.evaluation.tasks.code_labels import LABELS, label_tokens
from monosem.evaluation.tasks.code_tasks import MOST_OF_A_CONTEXT, builtin_tasks, choose_side, rank_within
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS, Task, TaskPool
from monosem.subject import builtin
from monosem.subject.model import SubjectModel

LENGTH = 16
STATEMENTS = (
    "x{n} = [{n}, y{n}]  # note {n}",
    "import module{n}",
    "def f{n}(a, b={n}):\n    '''Say {n}.'''\n    return a + b",
    "class C{n}(Base{n}):\n    def test_{n}(self):\n        self.check('é{n}', key={n})",
    "for i{n} in range({n}):\n    if i{n} > 3:\n        print(f'{{i{n}}}')",
    "try:\n    go{n}()\nexcept KeyError{n} as error:\n    raise ValueError('no {n}') from error",
)


@pytest.fixture(scope="module")
def make_subject() -> Callable[..., SubjectModel]:
    tokenizer = AutoTokenizer.from_pretrained(builtin.MODEL_DIRECTORY)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, n_positions=64, vocab_size=len(tokenizer)))
    return lambda **settings: SubjectModel(model=model, tokenizer=tokenizer, name="tiny", **settings)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """About 80 held-out files; the first of package b is long, and some cannot be read or parsed."""
    monkeypatch.setattr(builtin, "library_root", lambda: tmp_path)
    source = random.Random(0)
    names = [f"{folder}m{n}.py" for n in range(150) for folder in ("", "a/", "b/c/", "test/test_a/", "test/")]
    names = [name for name in names if builtin.is_held_out(name)]
    long, with_lambda = next(name for name in names if name.startswith("b/")), names[-3:]
    number = 0
    for name in names:
        lines = []
        for _ in range(120 if name == long else 1 if name in with_lambda else source.randint(1, 12)):
            number += 1
            lines.append(source.choice(STATEMENTS).format(n=number))
        if name in with_lambda:
            lines.append(f"y{number} = lambda z: z * {number}  # <|endoftext|>")
        write(tmp_path / name, "\n".join(lines) + "\n")
    bad = [name for name in (f"bad{n}.py" for n in range(60)) if builtin.is_held_out(name)]
    write(tmp_path / bad[0], "print 'an old Python'\n" * 20)
    (tmp_path / bad[1]).write_bytes(b"# \xe9t\xe9\n" * 20)
    write(tmp_path / "not_held_out.py", "x = 1\n" * 50)
    assert not builtin.is_held_out("not_held_out.py")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


class Read:
    """The library read slowly: each context with its file, and each of its tokens with its labels."""

    def __init__(self, library: Path, tokenizer: Any, length: int) -> None:
        self.files: dict[tuple[int, ...], str] = {}
        self.labels: dict[tuple[int, ...], list[dict[str, bool]]] = {}
        self.sizes: Counter[str] = Counter()
        for path in sorted(library.rglob("*.py")):
            name = path.relative_to(library).as_posix()
            if not builtin.is_held_out(name):
                continue
            try:
                text = path.read_bytes().decode()
                ast.parse(text)
            except (UnicodeDecodeError, SyntaxError):
                continue
            encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
            labels = label_tokens(text, np.array(encoded["offset_mapping"]))
            assert labels is not None
            for start in range(0, len(encoded["input_ids"]), length):
                ids = tuple(encoded["input_ids"][start : start + length])
                if 2 * len(ids) >= length:
                    assert ids not in self.files
                    self.files[ids] = name
                    self.sizes[name] += 1
                    columns = labels[:, start : start + length].T.tolist()
                    self.labels[ids] = [dict(zip(LABELS, column, strict=True)) for column in columns]

    def context(self, pool: TaskPool, number: int, first: int = 0) -> tuple[int, ...]:
        tokens = pool.contexts.tokens[number, first:].tolist()
        return next(ids for ids in (tuple(tokens[:end]) for end in range(len(tokens), 0, -1)) if ids in self.files)


def answer(task: Task, read: Read, ids: tuple[int, ...], position: int) -> bool | None:
    """The literal answer to some tasks' questions."""
    name, kept = read.files[ids], [labels for token, labels in zip(ids, read.labels[ids], strict=True) if token]
    if task.level == "token":
        return read.labels[ids][position][task.name]
    if task.name == "contains-loop":
        return any(labels["in-loop"] for labels in kept)
    if task.name == "mostly-test-method":
        return sum(labels["in-test-method"] for labels in kept) >= len(kept) / 2
    if task.name == "test-file":
        return name.startswith("test/")
    if task.name == "package-a":
        return name.startswith(("a/", "test/test_a/"))
    return None


def pool_of(subject: SubjectModel, **settings: int) -> TaskPool:
    return builtin_tasks(subject, **{"context_length": LENGTH, "examples": 400, "contexts": 300, "seed": 1} | settings)


def test_every_label_is_that_of_a_slow_reading(library: Path, make_subject: Callable[..., SubjectModel]) -> None:
    subject = make_subject()
    pool, read = pool_of(subject), Read(library, subject.tokenizer, LENGTH)
    checked: Counter[str] = Counter()
    for task in pool.tasks:
        for context, position, label in zip(task.contexts.tolist(), task.positions.tolist(), task.labels, strict=True):
            ids = read.context(pool, context)
            assert (position == -1) == (task.level == "document")
            expected = answer(task, read, ids, position)
            assert expected is None or expected == bool(label), (task.name, ids, position)
            checked[task.name] += expected is not None
    assert len([name for name in checked if checked[name]]) > 40
    assert {"contains-loop", "mostly-test-method", "test-file", "package-a"} <= checked.keys()


def test_corpus_shares_are_those_of_a_slow_reading(library: Path, make_subject: Callable[..., SubjectModel]) -> None:
    subject = make_subject()
    read = Read(library, subject.tokenizer, LENGTH)
    for task in pool_of(subject).tasks:
        if task.level == "token":
            answers = [
                answer(task, read, ids, position) for ids in read.files for position, token in enumerate(ids) if token
            ]
        else:
            answers = [answer(task, read, ids, -1) for ids in read.files]
        if None not in answers:
            assert task.corpus_share == pytest.approx(sum(map(bool, answers)) / len(answers)), task.name


@pytest.mark.usefixtures("library")
def test_examples_are_balanced_distinct_and_kept(make_subject: Callable[..., SubjectModel]) -> None:
    pool = pool_of(make_subject(), examples=300)
    sizes = set()
    for task in pool.tasks:
        counts = Counter(zip(task.is_training.tolist(), task.labels.tolist(), strict=True))
        assert counts[True, True] == counts[True, False] and counts[False, True] == counts[False, False]
        assert all(FEWEST_OF_A_CLASS <= count <= 75 for count in counts.values())
        sizes.add(len(task.labels))
        places = list(zip(task.contexts.tolist(), task.positions.tolist(), strict=True))
        assert len(set(places)) == len(places)
        if task.level == "token":
            assert pool.contexts.kept[task.contexts, task.positions].all()
            of_context = Counter(zip(task.contexts.tolist(), task.labels.tolist(), strict=True))
            assert max(of_context.values()) <= MOST_OF_A_CONTEXT
    assert max(sizes) == 300
    assert min(sizes) < 300, "some labels are rare"


def test_no_file_is_on_both_sides_and_every_package_is(
    library: Path, make_subject: Callable[..., SubjectModel]
) -> None:
    subject = make_subject()
    pool, read = pool_of(subject), Read(library, subject.tokenizer, LENGTH)
    sides: defaultdict[str, set[bool]] = defaultdict(set)
    for task in pool.tasks:
        for context, side in zip(task.contexts.tolist(), task.is_training.tolist(), strict=True):
            sides[read.files[read.context(pool, context)]].add(side)
    files = [read.files[read.context(pool, number)] for number in range(len(pool.contexts.tokens))]
    assert len(set(zip(files, pool.contexts.documents.tolist(), strict=True))) == len(set(files))
    assert all(len(of_file) == 1 for of_file in sides.values())
    for folder in ("a/", "b/", "test/test_a/"):
        assert {True, False} == set.union(*(sides[name] for name in sides if name.startswith(folder)))


def test_the_pool_is_bounded_and_no_file_fills_it(library: Path, make_subject: Callable[..., SubjectModel]) -> None:
    subject = make_subject()
    read = Read(library, subject.tokenizer, LENGTH)
    pool = pool_of(subject, contexts=201)
    assert pool.contexts.tokens.shape == (201, LENGTH)
    files = Counter(read.files[read.context(pool, number)] for number in range(201))
    assert max(read.sizes.values()) > 30
    assert max(files.values()) <= 201 // 20 < 201 * max(read.sizes.values()) / len(read.files)
    everything = pool_of(subject, contexts=10**6)
    assert len(everything.contexts.tokens) == len(read.files)


def test_rare_labels_find_their_contexts(library: Path, make_subject: Callable[..., SubjectModel]) -> None:
    subject = make_subject()
    read = Read(library, subject.tokenizer, LENGTH)
    pool = pool_of(subject, contexts=160, examples=4000)
    chosen = {read.context(pool, number) for number in range(160)}
    rare = {ids for ids in read.files if any(labels["in-lambda"] for labels in read.labels[ids])}
    assert 1 <= len(rare) < 10
    assert len(read.files) > 300
    assert rare <= chosen


@pytest.mark.usefixtures("library")
def test_special_tokens_are_read_and_never_asked_about(make_subject: Callable[..., SubjectModel]) -> None:
    subject = make_subject()
    corpus = read_code_corpus(subject, LENGTH)
    special = subject.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    is_text = ~(np.cumsum(corpus.tokens[:, ::-1] != special, axis=1)[:, ::-1] == 0)  # the rest is padding
    assert (corpus.tokens == special)[is_text].any()
    assert not corpus.kept[corpus.tokens == special].any()
    assert not corpus.labels[:, ~corpus.kept].any()


def test_contexts_begin_with_a_bos_where_the_subject_wants_one(
    library: Path, make_subject: Callable[..., SubjectModel]
) -> None:
    subject = make_subject(bos_id=7)
    pool, read = pool_of(subject), Read(library, subject.tokenizer, LENGTH - 1)
    assert pool.contexts.tokens.shape[1] == LENGTH
    assert (pool.contexts.tokens[:, 0] == 7).all()
    assert not pool.contexts.kept[:, 0].any()
    task = next(task for task in pool.tasks if task.name == "plain-name")
    for context, position, label in zip(task.contexts.tolist(), task.positions.tolist(), task.labels, strict=True):
        assert answer(task, read, read.context(pool, context, first=1), position - 1) == bool(label)


@pytest.mark.usefixtures("library")
def test_the_same_seed_draws_the_same(make_subject: Callable[..., SubjectModel]) -> None:
    def same(pool: TaskPool, other: TaskPool) -> bool:
        if not torch.equal(pool.contexts.tokens, other.contexts.tokens) or len(pool.tasks) != len(other.tasks):
            return False
        fields = ("contexts", "positions", "labels", "is_training")
        pairs = list(zip(pool.tasks, other.tasks, strict=True))
        return all(torch.equal(getattr(a, field), getattr(b, field)) for a, b in pairs for field in fields)

    subject = make_subject()
    assert same(pool_of(subject), pool_of(subject))
    assert not same(pool_of(subject), pool_of(subject, seed=2))


@pytest.mark.usefixtures("library")
def test_contexts_of_a_wrong_length_are_refused(make_subject: Callable[..., SubjectModel]) -> None:
    with pytest.raises(UserError, match="context_length=65 exceeds the 64 tokens that tiny sees; lower it"):
        pool_of(make_subject(), context_length=65)
    with pytest.raises(UserError, match="context_length=1 leaves no room for text; raise it"):
        pool_of(make_subject(bos_id=0), context_length=1)


def test_a_library_without_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_subject: Callable[..., SubjectModel]
) -> None:
    monkeypatch.setattr(builtin, "library_root", lambda: tmp_path)
    write(tmp_path / "not_held_out.py", "x = 1\n")
    with pytest.raises(UserError, match=r"no held-out file .* that fills half a context"):
        pool_of(make_subject())


# The parts


@pytest.mark.parametrize(
    ("name", "package", "test"),
    [
        ("ast.py", "ast", False),
        ("email/mime/text.py", "email", False),
        ("test/test_email/data/x.py", "email", True),
        ("test/test_ast.py", "ast", True),
        ("test/support/__init__.py", "test", True),
        ("idlelib/idle_test/test_x.py", "idlelib", True),
        ("unittest/test/x.py", "unittest", True),
        ("distutils/tests/x.py", "distutils", True),
        ("latest/contest.py", "latest", False),
    ],
)
def test_a_file_belongs_to_a_package_and_perhaps_to_a_test_suite(name: str, package: str, test: bool) -> None:
    assert package_of(name) == package
    assert is_test(name) == test


def test_the_two_sides_are_of_about_the_same_size() -> None:
    source = random.Random(3)
    names = [f"{folder}m{n}.py" for n in range(40) for folder in ("", "a/", "b/", "test/test_b/")]
    sizes = [int(10 ** source.uniform(0, 3)) for _ in names]
    splits = [training_files(names, sizes, seed) for seed in range(20)]
    for split in splits:
        assert sum(split) == len(names) / 2
        for package in ("a", "b"):
            of_package = [side for side, name in zip(split, names, strict=True) if package_of(name) == package]
            assert abs(2 * sum(of_package) - len(of_package)) <= 1
        assert 0.3 < sum(size for size, side in zip(sizes, split, strict=True) if side) / sum(sizes) < 0.7
    assert np.mean(splits, axis=0).min() > 0
    assert np.mean(splits, axis=0).max() < 1


def test_ranks_within_groups_are_counted_from_the_front() -> None:
    source = random.Random(1)
    groups = [source.randrange(5) for _ in range(97)]
    expected = [groups[:place].count(group) for place, group in enumerate(groups)]
    assert rank_within(np.array(groups)).tolist() == expected
    assert rank_within(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(("wanted", "most"), [(4, 30), (16, 30), (50, 30), (16, 200), (3, 1)])
def test_contexts_are_chosen_in_rounds_the_rarest_need_first(wanted: int, most: int) -> None:
    source = random.Random(2)
    offered = np.array([[max(0, source.randrange(-rarity, 5)) for _ in range(83)] for rarity in (60, 3, 20, 1, 9)])
    chosen: list[int] = []
    for eighths in range(1, 9):
        for need in sorted(range(5), key=lambda need: offered[need].sum()):
            for context in range(83):
                has = sum(offered[need][each] for each in chosen)
                if has < wanted * eighths / 8 and offered[need][context] and context not in chosen:
                    chosen += [context] if len(chosen) < most else []
    chosen += [context for context in range(83) if context not in chosen][: most - len(chosen)]
    assert np.flatnonzero(choose_side(offered, wanted, most)).tolist() == sorted(chosen)


# The library of this interpreter


@pytest.fixture(scope="module")
def real(make_subject: Callable[..., SubjectModel]) -> TaskPool:
    return builtin_tasks(make_subject(), context_length=64, seed=0)


@pytest.mark.slow
def test_the_standard_library_gives_more_tasks_than_the_paper_has(real: TaskPool) -> None:
    assert 190_000 <= real.contexts.tokens.numel() <= 200_000
    names = [task.name for task in real.tasks]
    assert len(set(names)) == len(names) >= 61
    assert sum(len(task.labels) == 2000 for task in real.tasks) >= 61
    assert {task.level for task in real.tasks} == {"token", "document"}
    assert len([name for name in names if name.startswith("package-")]) >= 5


@pytest.mark.slow
def test_descriptions_and_names_fit_a_line(real: TaskPool) -> None:
    for task in real.tasks:
        assert len(task.name) <= 30
        assert len(task.description) <= 76
        assert "\n" not in task.description
