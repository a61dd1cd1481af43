"""How an endpoint is asked, and what becomes of everything that it may answer or not."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from monosem.errors import UserError
from monosem.evaluation.words import client as client_module
from monosem.evaluation.words.client import Endpoint, StoppedError
from monosem.evaluation.words.config import WordsConfig
from monosem.evaluation.words.prompts import read_sentence
from monosem.evaluation.words.reply import Reply

KEY = "sk-very-secret-0123456789"
RIGHT = '{"explanation": "w5"}'


@pytest.fixture
def ask(endpoint: Any) -> Callable[..., Reply]:
    """Ask for a sentence once, with some settings changed."""

    def asking(prompt: str = "why?", **settings: Any) -> Reply:
        usual = {"url": endpoint.url, "model": "stub", "retries": 1, "timeout": 5.0}
        with Endpoint(WordsConfig(**(usual | settings)), 3 << 40) as to_ask:
            return to_ask.ask(prompt, read_sentence)

    return asking


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, endpoint: Any) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


def test_an_answer_comes_with_what_it_took(ask, endpoint) -> None:
    endpoint.answer = lambda prompt: RIGHT
    assert ask()[1:] == (RIGHT, None, 1, 100, 7)
    (request,) = endpoint.requests
    assert request == {
        "messages": [{"role": "user", "content": "why?"}],
        "model": "stub",
        "max_tokens": 2048,
        "seed": 0,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Certainly!", "it is not JSON"),
        ("x" * 100_000, "it has more than 65,536 characters"),
        (b"x" * 2_000_000, "it has more than 1,048,576 bytes"),
        (b"", "the response is no JSON object"),
        (b"[]", "the response is no JSON object"),
        (b"[" * 100_000, "the response is no JSON object"),
        (b"\xff\xfe\x00", "the response is no JSON object"),
        (b"{}", "the response holds no message"),
        (b'{"choices": []}', "the response holds no message"),
        (b'{"choices": {"0": 1}}', "the response holds no message"),
        (b'{"choices": [[]]}', "the response holds no message"),
        (b'{"choices": [{"message": {"content": null}}]}', "the message holds no text"),
        (b'{"choices": [{"message": {"content": "{"}, "finish_reason": "length"}]}', "it was cut off at answer_tokens"),
    ],
)
def test_what_was_not_asked_for_is_asked_for_again_and_then_told(ask, endpoint, answer: Any, reason: str) -> None:
    endpoint.answer = lambda prompt: answer
    reply = ask(retries=2)
    assert (reply.content, reply.reason, reply.requests) == (None, reason, 3)
    again = f"why?\n\nYour last answer was not what was asked for: {reason}."
    assert endpoint.prompts == ["why?", again, again]
    endpoint.answer = lambda prompt: RIGHT if prompt == again else answer
    assert ask().content == RIGHT


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": -1, "completion_tokens": "many"}, {"prompt_tokens": 1e99}]
)
def test_tokens_that_are_not_reported_are_none(ask, endpoint, usage: Any) -> None:
    body = {"choices": [{"message": {"content": RIGHT}}], "usage": usage}
    endpoint.answer = lambda prompt: json.dumps(body).encode()
    assert ask()[3:] == (1, 0, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_waited_for(ask, endpoint, status: int) -> None:
    endpoint.answer = lambda prompt: RIGHT if len(endpoint.requests) == 3 else status
    assert ask(retries=2)[1:4] == (RIGHT, None, 3)


@pytest.mark.parametrize(
    ("status", "words", "requests"),
    [
        (401, "refuses the key in the environment variable OPENAI_API_KEY (HTTP 401); set it, or key_variable", 1),
        (403, "refuses the key in the environment variable OPENAI_API_KEY (HTTP 403); set it, or key_variable", 1),
        (404, "does not know model=stub, or url is not its address (HTTP 404); mend one of them", 1),
        (429, "is too busy for us (HTTP 429); try again later, or lower concurrency", 2),
        (400, "refuses a request (HTTP 400: Error code: 400", 1),
        (500, "refuses a request (HTTP 500: Error code: 500", 2),
        (307, "refuses a request (HTTP 307: Error code: 307", 1),
    ],
)
def test_a_refusal_is_told_without_the_key(
    ask, endpoint, key: str, status: int, words: str, requests: int, capsys
) -> None:
    """The stand-in repeats the key in its refusals. A redirection is not followed."""
    endpoint.more_headers = {"Location": endpoint.url + "/chat/completions"} if status == 307 else {}
    endpoint.answer = lambda prompt: status
    with pytest.raises(UserError) as refused:
        ask()
    assert str(refused.value).startswith(f"The endpoint {endpoint.url} {words}")
    assert str(refused.value).endswith("What is answered already is kept: the same command goes on.")
    assert key not in str(refused.value)
    assert len(endpoint.requests) == requests
    assert endpoint.keys == [f"Bearer {key}"] * requests


def test_without_a_key_a_refusal_says_that_there_is_none(ask, endpoint) -> None:
    endpoint.answer = lambda prompt: 401
    with pytest.raises(UserError, match=r"wants a key, and there is none in the environment variable MINE \(HTTP 401"):
        ask(key_variable="MINE")


def test_no_key_but_that_of_the_variable_is_sent(ask, endpoint, key, monkeypatch) -> None:
    endpoint.answer = lambda prompt: RIGHT
    ask(key_variable="MINE")
    monkeypatch.setenv("MINE", " mine \n")
    ask(key_variable="MINE")
    assert endpoint.keys == ["Bearer none", "Bearer mine"]


def test_a_key_that_is_none_is_refused_and_not_shown(ask, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nx")
    with pytest.raises(UserError, match="The key in OPENAI_API_KEY holds characters that no key has") as refused:
        ask()
    assert KEY not in str(refused.value)


def test_where_nobody_listens_is_told(ask, endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=rf"endpoint {url} cannot be reached \(.*refused.*\); start it, or mend"):
            ask(url=url)


def test_an_answer_that_does_not_come_is_not_waited_for(ask, endpoint) -> None:
    endpoint.answer = lambda prompt: time.sleep(0.5) or RIGHT
    with pytest.raises(UserError, match=r"did not answer within timeout=0.1 s; raise it, or lower concurrency"):
        ask(timeout=0.1)


@pytest.mark.parametrize(
    ("drips", "seconds", "reason"),
    [
        (0, 0.0, "it broke off (RemoteProtocolError)"),
        (1, 4.0, "it broke off (ReadTimeout)"),
        (60, 4.0, "it was too slow to come"),
    ],
)
def test_an_answer_that_does_not_come_whole_is_asked_for_again(
    ask, endpoint, drips: int, seconds: float, reason: str
) -> None:
    """The first body ends too soon, stalls or drips."""

    def slowly(prompt: str) -> Iterator[bytes]:
        for _ in range(drips):
            yield b" "
            time.sleep(seconds / drips)

    endpoint.answer = lambda prompt: slowly(prompt) if prompt == "why?" else RIGHT
    assert ask(retries=1, timeout=0.8).content == RIGHT
    assert endpoint.prompts[-1] == f"why?\n\nYour last answer was not what was asked for: {reason}."


def test_what_was_answered_is_not_asked_again_and_replies_are_handed_over_once(endpoint) -> None:
    config = WordsConfig(url=endpoint.url, model="stub")
    endpoint.answer = lambda prompt: RIGHT
    kept: list[Reply] = []
    with Endpoint(config, 0, done=kept.append) as first:
        assert first.ask("a", read_sentence) == first.ask("a", read_sentence) == kept[0]
    with Endpoint(config, 0, [Reply.from_dict(kept[0]._asdict(), "")], kept.append) as second:
        assert second.ask("a", read_sentence) == kept[0]
        assert second.ask("b", read_sentence) == kept[1]
    assert endpoint.prompts == ["a", "b"]


def test_a_stopped_endpoint_asks_nothing_more(endpoint) -> None:
    with Endpoint(WordsConfig(url=endpoint.url, model="stub"), 0) as to_ask:
        to_ask.stop()
        with pytest.raises(StoppedError):
            to_ask.ask("a", read_sentence)
    assert endpoint.requests == []


def test_without_the_client_the_remedy_is_told(ask, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"need the package openai: pip install 'monosem\[words\]'"):
        ask()


def test_the_client_is_imported_where_it_is_used_and_no_earlier() -> None:
    assert not hasattr(client_module, "openai")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": None, "latents": 3}, "model=stub would not be used without url"),
        ({"url": None, "model": None, "latents": 3}, "latents=3 would not be used without url; give url, or leave it"),
        ({"model": None}, r"url=http://h/v1 is given without model"),
        ({"url": "ftp://h/v1"}, "url='ftp://h/v1' is no address of http or https"),
        ({"url": "localhost:8000"}, "url='localhost:8000' is no address of http or https"),
        ({"url": "http://"}, "url='http://' is no address"),
        ({"url": "http://h:99999/v1"}, "url is no address"),
        ({"url": "http://[h/v1"}, "url is no address"),
        ({"url": "http://h/\u202ev1"}, r"url='http://h/\\u202ev1' is no address"),
        ({"url": f"http://me:{KEY}@h/v1"}, "url carries a user name or password"),
        ({"url": f"http://h/v1?key={KEY}"}, "url carries a query or fragment"),
        ({"url": f"http://h/v1#{KEY}"}, "url carries a query or fragment"),
        ({"scored_contexts": 1}, "scored_contexts=1 is below 2"),
        ({"retries": -1}, "retries=-1 is below 0"),
        ({"timeout": 0.0}, "timeout=0.0 is no number of seconds above 0"),
        ({"timeout": float("nan")}, "timeout=nan is no number of seconds above 0"),
        ({"key_variable": ""}, "key_variable is empty"),
        ({"chosen": (3, 4, 3)}, "names a latent twice"),
        *(
            ({name: 0}, f"{name}=0 is below 1")
            for name in ("latents", "examples", "answer_tokens", "concurrency", "bootstrap_samples")
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        WordsConfig(**({"url": "http://h/v1", "model": "stub"} | settings))
    assert KEY not in str(refused.value)


def test_a_result_does_not_depend_on_how_the_endpoint_is_reached() -> None:
    usual = {"url": "http://h/v1", "model": "stub"}
    one, other = WordsConfig(**usual), WordsConfig(**usual, key_variable="MINE", concurrency=1, timeout=1.0)
    assert one.measured == other.measured
    assert one.measured != WordsConfig(**usual, examples=3).measured
