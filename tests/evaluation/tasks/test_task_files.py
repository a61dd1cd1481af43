"""Tasks from files of labelled texts: what is drawn, and what is refused."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard

from monosem.errors import UserError
from monosem.evaluation.tasks import files as module
from monosem.evaluation.tasks.files import labelled_texts, task_files
from monosem.evaluation.tasks.sources import TaskConfig, find_tasks, read_tasks
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS, TaskPool
from monosem.evaluation.tasks.texts import LabelledTexts, join_pools, slug, text_tasks
from monosem.subject.model import SubjectModel

LENGTH = 6
Row = tuple[Any, Any]


@pytest.fixture
def subject(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> SubjectModel:
    return SubjectModel(model=make_model(), tokenizer=make_tokenizer(), name="tiny")


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def rows(count: int, labels: tuple[Any, ...] = ("no", "yes")) -> list[Row]:
    """Different texts of three words, labelled in turn."""
    return [(words(n % 60, n // 60, 7), labels[n % len(labels)]) for n in range(count)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_csv(path: Path, found: list[Row], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *found])
    return path


def write_jsonl(path: Path, found: list[Row]) -> Path:
    return write(path, "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in found))


def write_parquet(path: Path, found: list[Row]) -> Path:
    texts, labels = zip(*found, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels, "other": [1] * len(texts)}), path)
    return path


def pool_of(subject: SubjectModel, *sets: LabelledTexts, examples: int = 400, seed: int = 0) -> TaskPool:
    return text_tasks(sets, subject, context_length=LENGTH, examples=examples, seed=seed)


def texts_of(found: list[Row], values: tuple[str, ...] = ("no", "yes"), name: str = "task") -> LabelledTexts:
    texts, labels = zip(*found, strict=True)
    return LabelledTexts(name, "the label is", "a.csv", texts, labels, values)


# Reading


@pytest.mark.parametrize(
    ("name", "writer"), [("a.b.csv", write_csv), ("a.b.JSONL", write_jsonl), ("a.b.parquet", write_parquet)]
)
def test_each_kind_of_file_is_read(tmp_path: Path, name: str, writer: Callable[..., Path]) -> None:
    found = [("eins, zwei", "ja"), ('drei\n"vier" é', "nein"), ("fünf", "ja")]
    read = labelled_texts(writer(tmp_path / name, found))
    assert read.name == "a.b"
    assert list(zip(read.texts, read.labels, strict=True)) == found
    assert read.values == ("ja", "nein")


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_files_are_read(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    for kind, writer in ((".csv", write_csv), (".jsonl", write_jsonl)):
        plain = writer(tmp_path / f"a{kind}", rows(5))
        packed = write(tmp_path / f"a{kind}{suffix}", compress(plain.read_bytes()))
        assert labelled_texts(packed)._replace(place="", description="") == labelled_texts(plain)._replace(
            place="", description=""
        )


@pytest.mark.parametrize(
    ("labels", "values"),
    [((0, 1), ("0", "1")), ((True, False), ("false", "true")), ((1.0, 0.0), ("0", "1")), ((" a", "b "), ("a", "b"))],
)
def test_labels_may_be_words_whole_numbers_and_truth_values(
    tmp_path: Path, labels: tuple[Any, ...], values: tuple[str, ...]
) -> None:
    for writer in (write_jsonl, write_parquet):
        suffix = writer.__name__.removeprefix("write_")
        assert labelled_texts(writer(tmp_path / f"a.{suffix}", rows(8, labels))).values == values


def test_of_many_labels_the_commonest_are_asked_for(tmp_path: Path) -> None:
    found = [(f"text {n} {m}", f"label {n:02}") for n in range(12) for m in range(30 - n)]
    read = labelled_texts(write_csv(tmp_path / "a.csv", found))
    assert read.values == tuple(f"label {n:02}" for n in range(8))
    assert len(read.texts) == len(found)


def test_no_more_rows_are_read_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    path = write_jsonl(tmp_path / "a.jsonl", rows(10))
    with path.open("a") as file:
        file.write("not read\n")
    assert len(labelled_texts(path).texts) == 10


def test_a_directory_gives_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl.gz", "c.PARQUET", "notes.txt", "d.toml"):
        write(tmp_path / name, "")
    assert [path.name for path in task_files(tmp_path)] == ["a.jsonl.gz", "b.csv", "c.PARQUET"]
    with pytest.raises(UserError, match=r"holds no file of labelled texts\. Known: \.csv, .*\.parquet\."):
        task_files(Path(__file__).parent)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"a\.txt is of no kind that holds labelled texts\. Known: \.csv"),
        ("a.csv", "", r"a\.csv needs texts with two different labels, and has none"),
        ("a.csv", "text,label\na,x\nb,x\n", r"a\.csv needs texts with two different labels, and has only 'x'"),
        ("a.csv", "text,class\na,x\n", r"a\.csv has no column 'label'; it has: text, class\. Name the columns"),
        ("a.csv", "text,text,label\na,b,x\n", r"a\.csv has more than one column 'text'"),
        ("a.csv", "text,label\na,b,x\n", r"a\.csv, line 2 has 3 cells, and the header line 2; put cells with commas"),
        ("a.csv", 'text,label\n"a"b,x\n', r"a\.csv, line 2 is no CSV: .*; mend or remove the line"),
        ("a.csv", 'text,label\n"a,x\nb,y\n', r"a\.csv, line \d is no CSV: unexpected end of data"),
        ("a.csv", b"text,label\n\xe9t\xe9,x\n", r"a\.csv is not UTF-8: byte 11 \(0xe9\)"),
        ("a.csv", "text,label\na,\n", r"a\.csv, line 2: 'label' holds '', where a word"),
        ("a.csv", "text,label\n" + "a" * (1 << 24) + "b,x\n", r"a\.csv, line 2 is no CSV: field larger than"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        ("a.jsonl", '["a", 1]', r"a\.jsonl, line 1 holds a list, where an object with text and label is needed"),
        ("a.jsonl", '{"text": "a"}', r"a\.jsonl, line 1 has no 'label'; it has: text\."),
        ("a.jsonl", '{"text": 1, "label": 1}', r"a\.jsonl, line 1: field 'text' holds a int, not a string"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}', r"line 1: field 'text' holds half a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', r"line 1: 'label' holds 0\.5, where a word, a whole number"),
        ("a.jsonl", '{"text": "a", "label": NaN}', r"line 1: 'label' holds nan"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: 'label' holds None"),
        ("a.jsonl", '{"text": "a", "label": [1]}', r"line 1: 'label' holds \[1\]"),
        ("a.jsonl.gz", "no gzip", r"a\.jsonl\.gz is damaged"),
        ("a.parquet", "PAR1 not really", r"a\.parquet could not be read as parquet"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labelled_texts(write(tmp_path / name, content))


def test_bad_parquet_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "class": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'label'; it has: text, class"):
        labelled_texts(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"b\.parquet, row 2: field 'text' holds a NoneType"):
        labelled_texts(write_parquet(tmp_path / "b.parquet", [("a", 1), (None, 2)]))


def test_a_column_that_is_no_label_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(f"text {n}", n) for n in range(500)])
    with pytest.raises(UserError, match=r"500 different labels in 500 rows, which is no question"):
        labelled_texts(path)


# Drawing


def test_examples_are_balanced_and_labelled_as_their_texts(subject: SubjectModel) -> None:
    found = rows(900, ("no", "no", "yes"))
    pool = pool_of(subject, texts_of(found))
    (task,) = pool.tasks
    label_of = {tuple(int(word[1:]) + 4 for word in text.split()): label for text, label in found}
    counts: Counter[tuple[bool, bool]] = Counter()
    for context, label, side in zip(task.contexts.tolist(), task.labels, task.is_training, strict=True):
        ids = tuple(pool.contexts.tokens[context][pool.contexts.kept[context]].tolist())
        assert label_of[ids] == ("yes" if label else "no")
        counts[bool(side), bool(label)] += 1
    assert set(counts.values()) == {100}
    assert len(counts) == 4
    assert task.corpus_share == pytest.approx(1 / 3)
    assert (task.name, task.description, task.level) == ("task", "the label is: yes", "document")
    assert (task.positions == -1).all()
    assert len(pool.contexts.tokens) == 400, "what no task uses is not read"


def test_a_rare_label_gives_fewer_examples_of_both_answers(subject: SubjectModel) -> None:
    found = rows(900, ("no",) * 5 + ("yes",))
    (task,) = pool_of(subject, texts_of(found)).tasks
    counts = Counter(zip(task.is_training.tolist(), task.labels.tolist(), strict=True))
    assert counts[True, True] == counts[True, False] < 100
    assert counts[False, True] == counts[False, False] < 100
    assert counts[True, True] + counts[False, True] == 150


def test_long_texts_are_cut_and_short_ones_padded(subject: SubjectModel) -> None:
    found = [(words(n % 60, n // 60, *[5] * (n % 9)), label) for n, (_, label) in enumerate(rows(600))]
    pool = pool_of(subject, texts_of(found))
    assert pool.contexts.tokens.shape[1] == LENGTH
    lengths = pool.contexts.kept.sum(dim=1)
    assert set(lengths.tolist()) == {2, 3, 4, 5, 6}
    for kept, length in zip(pool.contexts.kept, lengths, strict=True):
        assert kept.tolist() == [place < length for place in range(LENGTH)]


def test_a_bos_stands_in_front_and_does_not_count(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]
) -> None:
    subject = SubjectModel(model=make_model(), tokenizer=make_tokenizer(), name="tiny", bos_id=1)
    pool = pool_of(subject, texts_of([(f"{text} </s> w1 w1 w1", label) for text, label in rows(300)]))
    assert (pool.contexts.tokens[:, 0] == 1).all()
    assert pool.contexts.kept.tolist() == [[False, True, True, True, False, True]] * len(pool.contexts.kept)


def test_equal_texts_never_stand_on_both_sides_and_count_once(subject: SubjectModel) -> None:
    # Texts that differ only behind what the subject sees are the same for it.
    seen_alike = [(words(n % 60, n // 60, 1, 2, 3, 4), label) for n, (_, label) in enumerate(rows(300))]
    found = [(f"{text} w{copy}", label) for text, label in seen_alike for copy in range(3)]
    for seed in range(3):
        pool = pool_of(subject, texts_of(found + found), seed=seed)
        (task,) = pool.tasks
        seen = [tuple(pool.contexts.tokens[context].tolist()) for context in task.contexts]
        assert len(set(seen)) == len(seen) > 200


def test_texts_with_two_labels_are_left_out(subject: SubjectModel) -> None:
    found = rows(400)
    twisted = [(text, "yes" if label == "no" else "no") for text, label in found[:100]]
    pool = pool_of(subject, texts_of(found + twisted), examples=10**4)
    left_out = {tuple(int(word[1:]) + 4 for word in text.split()) for text, _ in twisted}
    shown = {tuple(tokens[:3]) for tokens in pool.contexts.tokens.tolist()}
    assert not left_out & shown
    # And so where the subject cannot tell them apart, though they differ.
    tail = words(0, 1, 2, 3)
    behind = [(f"{text} {tail} w5", label) for text, label in found]
    behind += [(f"{text} {tail} w6", label) for text, label in twisted]
    pool = pool_of(subject, texts_of(behind), examples=10**4)
    assert not left_out & {tuple(tokens[:3]) for tokens in pool.contexts.tokens.tolist()}


def test_every_value_of_several_is_a_task_and_negatives_are_of_all_others(subject: SubjectModel) -> None:
    values = ("a b", "c", "d")
    found = rows(1200, values)
    pool = pool_of(subject, texts_of(found, values), examples=200)
    assert [task.name for task in pool.tasks] == ["task-a-b", "task-c", "task-d"]
    label_of = {tuple(int(word[1:]) + 4 for word in text.split()): label for text, label in found}
    for value, task in zip(values, pool.tasks, strict=True):
        labels = [label_of[tuple(pool.contexts.tokens[context, :3].tolist())] for context in task.contexts]
        assert task.labels.tolist() == [label == value for label in labels]
        counts = Counter(labels)
        assert counts.pop(value) == 100
        assert min(counts.values()) > 25
        assert task.corpus_share == pytest.approx(1 / 3)


def test_values_too_rare_to_ask_for_are_left_out(subject: SubjectModel) -> None:
    found = rows(600, ("a", "b", "c"))
    found = [(text, "rare" if n % 40 == 0 else label) for n, (text, label) in enumerate(found)]
    pool = pool_of(subject, texts_of(found, ("a", "b", "c", "rare")))
    assert [task.name for task in pool.tasks] == ["task-a", "task-b", "task-c"]


def test_too_few_texts_are_refused(subject: SubjectModel) -> None:
    message = f"a.csv has too few texts to ask for 'yes': on both sides of the split at least {FEWEST_OF_A_CLASS}"
    with pytest.raises(UserError, match=message):
        pool_of(subject, texts_of(rows(80)))
    with pytest.raises(UserError, match=message):
        pool_of(subject, texts_of([("", "no"), (" \n", "yes")] * 300))
    with pytest.raises(UserError, match=message):
        pool_of(subject, texts_of([("w1", "no"), ("w2", "yes")] * 300))


def test_the_same_seed_draws_the_same_texts(subject: SubjectModel) -> None:
    first, again, other = (pool_of(subject, texts_of(rows(900)), examples=200, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.contexts.tokens, again.contexts.tokens)
    assert torch.equal(first.tasks[0].labels, again.tasks[0].labels)
    assert torch.equal(first.tasks[0].is_training, again.tasks[0].is_training)
    assert not torch.equal(first.contexts.tokens, other.contexts.tokens)


def test_joined_tasks_keep_their_contexts(subject: SubjectModel) -> None:
    sets = [texts_of(rows(300)), texts_of([(f"w9 {text}", label) for text, label in rows(300)], name="other")]
    alone = [pool_of(subject, each) for each in sets]
    together = pool_of(subject, *sets)
    assert [task.name for task in together.tasks] == ["task", "other"]
    for pool, joined in zip(alone, together.tasks, strict=True):
        (task,) = pool.tasks
        assert torch.equal(pool.contexts.tokens[task.contexts], together.contexts.tokens[joined.contexts])
        assert torch.equal(pool.contexts.kept[task.contexts], together.contexts.kept[joined.contexts])
    assert len(together.contexts.documents.unique()) == len(together.contexts.tokens)  # each text is its own
    with pytest.raises(UserError, match="Two tasks have the name 'task'; rename a file"):
        join_pools([alone[0], alone[0]])
    empty = alone[0].contexts.at(torch.arange(0))
    with pytest.raises(UserError, match="There is no task"):
        join_pools([TaskPool(empty, ())])


@pytest.mark.parametrize(
    ("label", "expected"), [("Sci & Tech", "sci-tech"), ("a_b", "a-b"), ("Übung 2", "übung-2"), ("?!", "blank")]
)
def test_a_label_becomes_part_of_a_name(label: str, expected: str) -> None:
    assert slug(label) == expected


# Sources


def test_files_directories_and_their_mixture_are_found(tmp_path: Path, subject: SubjectModel) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_csv(folder / "one.csv", rows(300))
    single = write_parquet(tmp_path / "two.parquet", rows(300))
    config = TaskConfig(tasks=(str(folder), str(single)), task_examples=200)
    sources = find_tasks(config)
    assert [path.name for path in sources.files] == ["one.csv", "two.parquet"]
    assert not sources.is_builtin
    assert not sources.hub
    pool = read_tasks(sources, config, subject, context_length=LENGTH, seed=0)
    assert [task.name for task in pool.tasks] == ["one", "two"]
    assert [len(task.labels) for task in pool.tasks] == [200, 200]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ()}, "tasks names no source"),
        ({"tasks": ("builtin", "builtin")}, "names a source twice"),
        ({"task_examples": 99}, "task_examples=99 is below 100"),
        ({"task_contexts": 1}, "task_contexts=1 is below 2"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskConfig(**settings)


def test_a_name_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"tasks 'ag_news' is no file, .*; did you mean 'ag-news'\?"):
        find_tasks(TaskConfig(tasks=("ag_news",)))
    with pytest.raises(UserError, match=r"tasks 'nowhere/x\.csv' is no file, .*; see 'monosem tasks list'"):
        find_tasks(TaskConfig(tasks=("nowhere/x.csv",)))
