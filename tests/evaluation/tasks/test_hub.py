"""Descriptions of data sets of the hub, and their rows as a stub of the hub gives them."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from monosem.errors import UserError
from monosem.evaluation.tasks import hub as module
from monosem.evaluation.tasks.files import MOST_LABELS
from monosem.evaluation.tasks.hub import HubTask, hub_tasks, load_hub_task, read_hub_task
from monosem.evaluation.tasks.sources import TaskConfig, find_tasks, read_tasks
from monosem.evaluation.tasks.task import FEWEST_OF_A_CLASS
from monosem.subject.model import SubjectModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS: dict[str, Any] = {
    "description": "what it is",
    "source": "someone",
    "hub_id": "owner/name",
    "text": "{question} {answer}",
    "label": "label",
    "values": {"0": "bad", "1": "good"},
}


class Hub:
    """Answers for the hub; ``rows`` are those of its only data set."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.read = 0

    def load_dataset(self, hub_id: str, name: str | None, **settings: Any) -> Iterator[Any]:
        self.calls.append({"id": hub_id, "name": name, **settings})
        for row in self.rows:
            self.read += 1
            yield row


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    return hub


def row(number: int, label: Any) -> dict[str, Any]:
    return {"question": f"w{number % 60} w{number // 60}", "answer": "w7", "label": label, "idx": number}


# Descriptions


def test_the_descriptions_that_come_with_the_package_are_sound() -> None:
    tasks = hub_tasks()
    assert len(tasks) >= 25
    for name, task in tasks.items():
        assert len(name) <= 20
        assert 2 <= len(task.meanings) <= MOST_LABELS
        assert len(task.description) <= 60, name
        assert task.hub_id.count("/") == 1
    assert tasks["qqp"].fields == ["question1", "question2"]
    assert tasks["snli"].meanings == ("no entailment", "entailment")
    kinds = Counter(task.hub_id for task in tasks.values())
    assert kinds["nyu-mll/glue"] >= 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub_id": "a b"}, "hub_id='a b' is no id of the hub; write it as owner/name"),
        ({"hub_id": "../x"}, "is no id of the hub"),
        ({"description": " "}, "description=' ' must be one line of words"),
        ({"source": "a\nb"}, "source='a.nb' must be one line of words"),
        ({"text": "sentence"}, "text='sentence' must name"),
        ({"text": "{}"}, "text='{}' must name"),
        ({"text": "{a} {b"}, "text='{a} {b' must name"),
        ({"values": {"0": "a"}}, "has fewer than two meanings"),
        ({"values": {"0": "a", "1": "a"}}, "has fewer than two meanings"),
        ({"values": {"0": "a", "1": ["b"]}}, "must give each label a meaning in words"),
        ({"values": {"0": "a", "1": " "}}, "must give each label a meaning in words"),
        ({"values": {"a": "x", "b": "y"}, "threshold": 0.5}, "must name '0' and '1' where there is a threshold"),
    ],
)
def test_a_wrong_description_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HubTask(**(SETTINGS | changes))


def test_descriptions_are_read_strictly_and_name_their_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    lines = [f'{key} = "{value}"' for key, value in SETTINGS.items() if isinstance(value, str)]
    values = ["[values]", '0 = "bad"', '1 = "good"']
    path.write_text("\n".join([*lines, *values]))
    assert load_hub_task(path) == HubTask(**SETTINGS)
    for wrong, message in (
        ([*lines, "spilt = 'test'", *values], r"mine\.toml: unknown key 'spilt'; did you mean 'split'"),
        ([*lines[1:], *values], r"mine\.toml: 'description' is missing"),
        ([*lines, "threshold = 'a'", *values], r"mine\.toml: threshold = 'a' should be"),
        ([*lines, "[values]", '0 = "bad"'], r"mine\.toml: values=.* has fewer than two meanings"),
        (["{"], r"mine\.toml cannot be read as TOML"),
    ):
        path.write_text("\n".join(wrong))
        with pytest.raises(UserError, match=message):
            load_hub_task(path)
    with pytest.raises(UserError, match=r"other\.toml does not exist"):
        load_hub_task(tmp_path / "other.toml")


# Rows


def test_rows_are_streamed_at_the_commit_until_there_are_enough(hub: Hub) -> None:
    hub.rows = [row(number, int(number >= 30)) for number in range(100)]
    task = HubTask(**SETTINGS, subset="small", split="test")
    found = read_hub_task("mine", task, 20)
    assert hub.calls == [{"id": "owner/name", "name": "small", "split": "test", "revision": COMMIT, "streaming": True}]
    assert hub.read == 50, "30 of the first, then 20 of the second"
    assert found.texts == tuple(f"{each['question']} w7" for each in hub.rows[:50])
    assert Counter(found.labels) == {"bad": 30, "good": 20}
    assert found.values == ("bad", "good")
    assert (found.name, found.description) == ("mine", "what it is")


def test_labels_without_a_meaning_are_passed_over_and_meanings_may_be_shared(hub: Hub) -> None:
    hub.rows = [row(number, number % 4 - 1) for number in range(40)]
    found = read_hub_task("mine", HubTask(**(SETTINGS | {"values": {"1": "no", "2": "no", "0": "yes"}})), 10)
    assert found.values == ("no", "yes")
    assert Counter(found.labels) == {"no": 18, "yes": 10}


def test_truth_values_words_and_thresholds_are_labels(hub: Hub) -> None:
    hub.rows = [row(number, number % 2 == 0) for number in range(6)]
    values = {"false": "no", "true": "yes"}
    assert read_hub_task("mine", HubTask(**(SETTINGS | {"values": values})), 2).labels[:2] == ("yes", "no")
    hub.rows = [row(number, number / 10) for number in range(10)]
    found = read_hub_task("mine", HubTask(**SETTINGS, threshold=0.5), 5)
    assert found.labels == ("bad",) * 5 + ("good",) * 5
    hub.rows = [row(0, 0.4), row(1, float("nan"))]
    with pytest.raises(UserError, match="row 2: 'label' holds nan, where the threshold needs a number"):
        read_hub_task("mine", HubTask(**SETTINGS, threshold=0.5), 5)


def test_reading_ends_at_the_limit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 25)
    hub.rows = [row(number, int(number % 20 == 0)) for number in range(100)]
    assert len(read_hub_task("mine", HubTask(**SETTINGS), 20).texts) == hub.read == 25


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"question": "w1", "label": 0}, "owner/name, row 2 has no field 'answer'; it has: label, question"),
        ({"question": "w1", "answer": "w2"}, "owner/name, row 2 has no field 'label'; it has: answer, question"),
        ({"question": "w1", "answer": ["w2"], "label": 0}, "row 2: field 'answer' holds a list, not a string"),
        ({"question": "w1", "answer": "w2", "label": None}, "row 2: 'label' holds None, where a word"),
    ],
)
def test_a_bad_row_is_named(hub: Hub, bad: dict[str, Any], message: str) -> None:
    hub.rows = [row(0, 0), bad, row(1, 1)]
    with pytest.raises(UserError, match=message):
        read_hub_task("mine", HubTask(**SETTINGS), 5)


def test_a_meaning_that_never_occurs_is_named(hub: Hub) -> None:
    hub.rows = [row(number, 0) for number in range(9)] + [row(9, "other")]
    message = r"Task 'mine': no row of owner/name \(train\) means 'good', of 9 with a known label"
    with pytest.raises(UserError, match=message):
        read_hub_task("mine", HubTask(**SETTINGS), 5)


def test_a_hub_out_of_reach_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # A port where nobody listens: the error is the one that really arises.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"Task 'mine': the data set 'owner/name' of the hub could not be read: .*connect"
    ):
        read_hub_task("mine", HubTask(**SETTINGS), 5)


def test_an_error_while_streaming_is_a_clear_error(hub: Hub) -> None:
    def fail() -> Iterator[Any]:
        yield row(0, 0)
        raise OSError("connection lost\nand more")

    hub.rows = fail()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"of the hub could not be read: connection lost\. Check its description"):
        read_hub_task("mine", HubTask(**SETTINGS), 5)


# Sources


def test_names_and_files_of_descriptions_give_tasks(
    hub: Hub, tmp_path: Path, make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((module.DESCRIPTIONS / "wiki-qa.toml").read_text())
    config = TaskConfig(tasks=("wiki-qa", str(path)), task_examples=4 * FEWEST_OF_A_CLASS)
    sources = find_tasks(config)
    assert hub.calls == [], "nothing is read yet"
    assert list(sources.hub) == ["wiki-qa", "mine"]
    hub.rows = [row(number, number % 2) for number in range(2000)]
    subject = SubjectModel(model=make_model(), tokenizer=make_tokenizer(), name="tiny")
    pool = read_tasks(sources, config, subject, context_length=8, seed=0)
    assert [task.name for task in pool.tasks] == ["wiki-qa", "mine"]
    assert [len(task.labels) for task in pool.tasks] == [100, 100]
    assert hub.read == 2 * 200
