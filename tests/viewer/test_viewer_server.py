"""The whole viewer behind its addresses: what it answers, and what attacks come to."""

import gzip
import http.client
import inspect
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from asking import HOST, ask, post
from made_library import N_LATENTS, VOCABULARY, Made, make_library
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monosem.errors import UserError
from monosem.viewer import api, static_files
from monosem.viewer.comparison import Comparison, ComparisonQuery, Nearest, Side
from monosem.viewer.live import LiveRun, ReadToken, SteeredLatent, SteerRequest
from monosem.viewer.query import Query
from monosem.viewer.reading import Library
from monosem.viewer.security import BODY_BYTES, HEADERS
from monosem.viewer.server import LOCAL_HOSTS, listen, make_app, make_server, serve

INDEX = '<!doctype html><meta name="monosem-source" content="live"><script type="module" src="app.js"></script>'
SECRET = "nobody may read this"


class Next(NamedTuple):
    """A next token, as steering gives it."""

    token: int
    before: float
    after: float


class Steered(NamedTuple):
    """What steering gives."""

    next: list[Next]
    before: list[list[int]]
    after: list[list[int]]


class StubLive(LiveRun):
    """A run that reads every character as a token, and stops where it is told to wait."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def prompt(self, text: str) -> list[ReadToken]:
        self.asked.append(text)
        self.entered.set()
        assert self.may_go_on.wait(timeout=60)
        if text == "refuse":
            raise UserError("text is refused; write another.")
        return [ReadToken(ord(character) % len(VOCABULARY), [(ord(character) % N_LATENTS, 1.5)]) for character in text]

    def steer(self, request: SteerRequest) -> Any:
        self.asked.append(request)
        return Steered([Next(0, 0.25, 0.5), Next(999, 0.125, 0.0)], [[1, 2]], [[], [3]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_library(tmp_path_factory.mktemp("run") / "viewer.sqlite")


@pytest.fixture(scope="module")
def library(made: Made) -> Library:
    return Library(made.path)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of pages in the place of the package's, and a secret beside it."""
    directory = tmp_path / "static"
    (directory / "parts").mkdir(parents=True)
    (directory / "index.html").write_text(INDEX)
    (directory / "app.js").write_text("import './parts/more.js'")
    (directory / "parts" / "more.js").write_text("export {}")
    (directory / "style.css").write_text("a {}")
    (directory / "notes.txt").write_text(SECRET)
    (directory / "app.py").write_text(SECRET)
    (tmp_path / "secret.html").write_text(SECRET)
    (tmp_path / "static.html").write_text(SECRET)
    monkeypatch.setattr(static_files, "DIRECTORY", directory)
    return directory


@pytest.fixture
def live() -> StubLive:
    return StubLive()


@pytest.fixture
def app(library: Library, live: StubLive, pages: Path) -> Starlette:
    nearest = Nearest(torch.arange(3).repeat(N_LATENTS, 1), torch.linspace(1, -1, N_LATENTS)[:, None].repeat(1, 3))
    comparison = Comparison(Side(library, nearest), Side(library, nearest))
    return make_app(library, live, comparison)


def plain(record: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(record))


# What is answered


def test_the_api_gives_the_librarys_records(app: Starlette, library: Library) -> None:
    for target, record in {
        "/api/run": library.run(live=True, compare="made"),
        "/api/scatter": library.scatter(),
        "/api/latents/0": library.latent(0),
        "/api/latents/229": library.latent(229),
        "/api/search": library.search(Query()),
        "/api/search?fires=&like=": library.search(Query()),
        "/api/search?fires=%3Cscript%3E&limit=3": library.search(Query(fires="<script>", limit=3)),
        "/api/search?promotes=%20the&low=0.01&high=1&order=rare&offset=2": library.search(
            Query(promotes=" the", low=0.01, high=1.0, order="rare", offset=2)
        ),
        "/api/search?like=3": library.search(Query(like=3)),
        "/api/tokens?text=e": {"tokens": library.tokens("e")},
        "/api/tokens?text=%F0%9D%94%98": {"tokens": library.tokens("𝔘")},
        "/api/tokens?text=%00": {"tokens": library.tokens("\0")},
        "/api/tokens?text=a+b%2B": {"tokens": library.tokens("a b+")},
    }.items():
        answer = ask(app, target)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == plain(record), target


def test_answers_are_compact_and_text_is_as_it_is(app: Starlette) -> None:
    body = ask(app, "/api/search?fires=%3Cscript%3E").body.decode()
    assert '"text":"<script>alert(1)</script>"' in body
    assert ", " not in body.replace("Fires on <b>imports</b> of ", "")
    answer = ask(app, f"/api/tokens?text={'%E2%80%AE'}")
    assert answer.json["tokens"] == [{"token": 2, "text": "\u202egnp.exe"}]


def test_large_answers_are_compressed_for_who_can_read_that(app: Starlette) -> None:
    plainly = ask(app, "/api/scatter")
    packed = ask(app, "/api/scatter", headers={"accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plainly.body) / 2
    assert gzip.decompress(packed.body) == plainly.body
    assert "content-encoding" not in plainly.headers
    assert "content-encoding" not in ask(app, "/api/run", headers={"accept-encoding": "gzip"}).headers


def test_what_a_browser_would_run_or_store_is_ruled_out(app: Starlette) -> None:
    answer = ask(app, "/api/search?fires=%3Cscript%3E")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_without_a_run_there_are_no_prompts(library: Library, pages: Path) -> None:
    app = make_app(library)
    assert ask(app, "/api/run").json["can"] == {"prompt": False, "steer": False, "compare": None}
    answer = post(app, "/api/prompt", {"text": "a"})
    assert (answer.status, answer.error[:27]) == (404, "The run itself is not at ha")
    assert ask(app, "/api/compare").status == 404


def test_a_prompt_gives_each_token_and_what_its_latents_are(app: Starlette, library: Library) -> None:
    answer = post(app, "/api/prompt", {"text": "a💥a"})
    assert answer.status == 200
    tokens = [ord(character) for character in "a💥a"]
    assert answer.json["tokens"] == [
        {
            "id": token % len(VOCABULARY),
            "text": VOCABULARY[token % len(VOCABULARY)],
            "latents": [[token % N_LATENTS, 1.5]],
        }
        for token in tokens
    ]
    for latent in {token % N_LATENTS for token in tokens}:
        record = library.latent(latent)
        assert answer.json["latents"][str(latent)] == {name: record[name] for name in ("label", "density", "largest")}


def test_steering_gives_next_tokens_and_continuations_as_text(app: Starlette, live: StubLive) -> None:
    latents = [{"latent": 4, "how": "scale", "strength": 2}, {"latent": 5, "how": "ablate"}]
    answer = post(app, "/api/steer", {"text": "a", "latents": latents, "keep_error": False, "samples": 2})
    assert answer.json == {
        "next": [
            {"token": 0, "text": "<script>alert(1)</script>", "before": 0.25, "after": 0.5},
            {"token": 999, "text": "⟨999⟩", "before": 0.125, "after": 0.0},
        ],
        "before": [[VOCABULARY[1], VOCABULARY[2]]],
        "after": [[], [VOCABULARY[3]]],
    }
    assert live.asked == [
        SteerRequest(
            text="a",
            latents=(SteeredLatent(latent=4, how="scale", strength=2.0), SteeredLatent(latent=5, how="ablate")),
            keep_error=False,
            samples=2,
        )
    ]


def test_a_comparison_is_given_page_by_page(app: Starlette, library: Library) -> None:
    page = ask(app, "/api/compare?side=other&order=different&limit=2").json
    assert [each["latent"] for each in page["latents"]] == [229, 228]
    assert page["latents"][0]["nearest"][2] == {
        "latent": 2,
        "similarity": -1.0,
        "label": library.latent(2)["label"],
    }
    assert (page["of"], page["more"]) == (N_LATENTS, True)
    assert ComparisonQuery().limit == len(ask(app, "/api/compare").json["latents"])


def test_a_prompt_that_takes_long_holds_up_no_page(app: Starlette, live: StubLive) -> None:
    live.may_go_on.clear()
    with TestClient(app, base_url=f"http://{HOST}") as client, ThreadPoolExecutor(30) as pool:
        prompts = [pool.submit(client.post, "/api/prompt", json={"text": "a"}) for _ in range(20)]
        assert live.entered.wait(timeout=60)
        assert client.get("/api/latents/3").status_code == 200
        assert client.get("/").status_code == 200
        assert not any(prompt.done() for prompt in prompts)
        live.may_go_on.set()
        assert [prompt.result(timeout=60).status_code for prompt in prompts] == [200] * 20


# The pages


@pytest.mark.parametrize(
    ("target", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/index.html", "index.html", "text/html; charset=utf-8"),
        ("/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/parts/more.js", "parts/more.js", "text/javascript; charset=utf-8"),
        ("/parts%2Fmore.js", "parts/more.js", "text/javascript; charset=utf-8"),
        ("/style.css?v=1", "style.css", "text/css; charset=utf-8"),
    ],
)
def test_the_pages_files_are_served_as_what_they_are(
    app: Starlette, pages: Path, target: str, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimetypes.guess_type", lambda *_: ("text/plain", None))  # a table that went wrong
    answer = ask(app, target)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == (pages / name).read_bytes()
    assert answer.headers["cache-control"] == "no-cache"
    again = ask(app, target, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert ask(app, target, headers={"if-none-match": '"another"'}).status == 200


def test_every_file_of_the_package_has_a_type() -> None:
    present = {path.suffix for path in static_files.DIRECTORY.rglob("*") if path.is_file()}
    assert present <= static_files.TYPES.keys()


TRAVERSALS = [
    "/../secret.html",
    "/..%2fsecret.html",
    "/..%2Fsecret.html",
    "/%2e%2e/secret.html",
    "/%2e%2e%2fsecret.html",
    "/%252e%252e%252fsecret.html",
    "/..%252fsecret.html",
    "/..%5csecret.html",
    "/..\\secret.html",
    "/parts/../../secret.html",
    "/parts/..%2f..%2fsecret.html",
    "/./../secret.html",
    "/....//secret.html",
    "/..%c0%afsecret.html",
    "/%c0%ae%c0%ae/secret.html",
    "/..;/secret.html",
    "/../static.html",
    "/%00",
    "/index.html%00.js",
    "/secret.html%00index.html",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/etc/passwd",
    "/file:///etc/passwd",
    "http://127.0.0.1:8000/secret.html",
    "/notes.txt",
    "/app.py",
    "/parts",
    "/parts/",
    "/static/index.html",
    "/INDEX.HTML",
    "/index.html/",
    "/./index.html",
    "/" + "a" * 20_000,
    "/" + "../" * 500 + "etc/passwd",
]


@pytest.mark.parametrize("target", TRAVERSALS)
def test_nothing_but_the_pages_files_can_be_read(app: Starlette, target: str) -> None:
    answer = ask(app, target)
    assert (answer.status, answer.error) == (404, "There is nothing at this address; the pages begin at /.")
    assert SECRET.encode() not in answer.body


def test_the_secrets_names_also_lead_nowhere_as_absolute_paths(app: Starlette, pages: Path, made: Made) -> None:
    for path in (pages.parent / "secret.html", pages / "index.html", made.path):
        assert ask(app, str(path)).status == ask(app, f"/{path}").status == 404


# What is refused


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("/api/latents/230", 404, "latent=230 is not in this dictionary; its latents are 0 … 229."),
        ("/api/latents/-1", 404, "latent=-1 is not in this dictionary"),
        ("/api/latents/99999999999999999999999", 404, "is no whole number; give a latent's."),
        ("/api/latents/1.0", 404, "latent='1.0' is no whole number"),
        ("/api/latents/1e3", 404, "is no whole number"),
        ("/api/latents/nan", 404, "is no whole number"),
        ("/api/latents/%00", 404, "is no whole number"),
        ("/api/latents/%D9%A3", 404, "is no whole number"),
        ("/api/latents/1_0", 404, "is no whole number"),
        ("/api/latents/1%20OR%201=1", 404, "is no whole number"),
        ("/api/latents/1;DROP%20TABLE%20latents", 404, "is no whole number"),
        ("/api/latents/", 404, "There is nothing at this address"),
        ("/api/latents", 404, "There is nothing at this address"),
        ("/api/latents/1/2", 404, "There is nothing at this address"),
        ("/api/latents/..%2f..%2fviewer.sqlite", 404, "There is nothing at this address"),
        ("/api/latents/1?x=1", 400, "the address: unknown key 'x'"),
        ("/api/nothing", 404, "There is nothing at this address"),
        ("/api/search?fire=a", 400, "the address: unknown key 'fire'; did you mean 'fires'?"),
        ("/api/search?fires=a&fires=b", 400, "fires is named twice; give it once."),
        ("/api/search?limit=1000", 400, "limit=1000 is not from 1 to 100"),
        ("/api/search?limit=1.5", 400, "limit='1.5' should be a whole number."),
        ("/api/search?limit=1e400", 400, "limit='1e400' should be a whole number."),
        (f"/api/search?offset={'9' * 400}", 400, "should be a whole number."),
        ("/api/search?offset=-1", 400, "offset=-1 is not from 0"),
        ("/api/search?low=nan", 400, "low='nan' should be a number."),
        ("/api/search?low=Infinity", 400, "low='Infinity' should be a number."),
        ("/api/search?high=1e400", 400, "high='1e400' should be a number."),
        ("/api/search?high=2", 400, "high=2.0 is no density"),
        ("/api/search?low=0.5&high=0.1", 400, "low=0.5 exceeds high=0.1"),
        ("/api/search?order=latent;DROP TABLE latents", 400, "the address: order = 'latent;DROP TABLE latents' sho"),
        ("/api/search?order=__class__", 400, "should be one of 'match', 'density', 'rare', 'largest', 'number'."),
        ("/api/search?like=x", 400, "like='x' should be a whole number."),
        ("/api/search?like=230", 400, "like=230 is not in this dictionary"),
        (f"/api/search?fires={'a' * 201}", 400, "fires has 201 characters and may have 200"),
        ("/api/search?pattern=%00", 400, "pattern holds a NUL character"),
        ("/api/search?fires=%ff", 400, "The address holds bytes that are not UTF-8"),
        ("/api/search?fires=%ED%A0%80", 400, "The address holds bytes that are not UTF-8"),
        ("/api/search?" + "&".join(f"a{i}=1" for i in range(30)), 400, "The address has more than 20 fields"),
        ("/api/tokens?text=" + "a" * 5000, 400, "text has 5,000 characters"),
        ("/api/compare?side=third", 400, "the address: side = 'third' should be one of 'run', 'other'."),
        ("/api/compare?limit=0", 400, "limit=0 is not from 1 to 100"),
        ("/api/run?x=%3Cscript%3E", 400, "the address: unknown key 'x'"),
    ],
)
def test_bad_questions_are_answered_by_a_sentence(
    app: Starlette, made: Made, target: str, status: int, sentence: str
) -> None:
    answer = ask(app, target)
    assert answer.status == status
    assert sentence in answer.error
    assert str(made.path.parent) not in answer.error
    assert HEADERS.items() <= answer.headers.items()


STEER = {"text": "a", "latents": [{"latent": 1, "how": "add", "strength": 1}]}


@pytest.mark.parametrize(
    ("target", "body", "sentence"),
    [
        ("/api/prompt", b"", "The request is not JSON"),
        ("/api/prompt", b"{", "The request is not JSON"),
        ("/api/prompt", b'{"text": "a"} x', "The request is not JSON"),
        ("/api/prompt", b"{'text': 'a'}", "The request is not JSON"),
        ("/api/prompt", b'{"text": "\xff"}', "The request is not UTF-8 at byte 10; send JSON in UTF-8."),
        ("/api/prompt", '{"text": "a"}'.encode("utf-16"), "The request is not UTF-8 at byte 0"),
        ("/api/prompt", b'\xef\xbb\xbf{"text": "a"}', "The request is not JSON"),
        ("/api/prompt", b"[" * 100_000, "The request is not JSON, or is nested too deeply"),
        ("/api/prompt", b'{"text":' * 20_000, "The request is not JSON, or is nested too deeply"),
        ("/api/prompt", b"[]", "The request is no JSON object"),
        ("/api/prompt", b"null", "The request is no JSON object"),
        ("/api/prompt", b'"a"', "The request is no JSON object"),
        ("/api/prompt", b"{}", "the request: 'text' is missing; add it."),
        ("/api/prompt", b'{"text": "a", "text": "b"}', "The request names a field twice"),
        ("/api/prompt", {"text": 1}, "the request: text = 1 should be text."),
        ("/api/prompt", {"text": None}, "the request: text = None should be text."),
        ("/api/prompt", {"text": ["a"]}, "the request: text = ['a'] should be text."),
        ("/api/prompt", {"text": "a", "__class__": 1}, "the request: unknown key '__class__'"),
        ("/api/prompt", {"text": "refuse"}, "text is refused; write another."),
        ("/api/steer", {"text": "a"}, "the request: 'latents' is missing; add it."),
        ("/api/steer", STEER | {"latents": []}, "latents names 0; give from 1 to 20."),
        ("/api/steer", STEER | {"latents": {}}, "should be a list of a table."),
        ("/api/steer", STEER | {"latents": [1]}, "should be a table."),
        ("/api/steer", STEER | {"latents": [{"latent": 1}]}, "'how' is missing"),
        ("/api/steer", STEER | {"latents": [{"latent": True, "how": "add"}]}, "latent = True should be a whole number"),
        ("/api/steer", STEER | {"latents": [{"latent": 1.5, "how": "add"}]}, "latent = 1.5 should be a whole number."),
        ("/api/steer", STEER | {"latents": [{"latent": 1, "how": "exec"}]}, "should be one of 'add', 'clamp', 'ab"),
        ("/api/steer", STEER | {"latents": [{"latent": 1, "how": []}]}, "should be one of 'add', 'clamp', 'ablate'"),
        ("/api/steer", STEER | {"latents": [{"latent": 10**30, "how": "add"}]}, "is not from 0 to 2,147,483,648"),
        (
            "/api/steer",
            STEER | {"latents": [{"latent": 1, "how": "add", "strength": 10**400}]},
            "should be a number.",
        ),
        ("/api/steer", STEER | {"latents": [{"latent": 1, "how": "add", "strength": "1"}]}, "should be a number."),
        (
            "/api/steer",
            b'{"text": "a", "latents": [{"latent": 1, "how": "add", "strength": NaN}]}',
            "The request holds NaN, which is no number; send finite ones.",
        ),
        (
            "/api/steer",
            b'{"text": "a", "latents": [{"latent": 1, "how": "add", "strength": -Infinity}]}',
            "The request holds -Infinity",
        ),
        (
            "/api/steer",
            b'{"text": "a", "latents": [{"latent": 1, "how": "add", "strength": 1e999}]}',
            "The request holds a number that is too large",
        ),
        ("/api/steer", b'{"text": "a", "latents": [], "seed": ' + b"9" * 5000 + b"}", "The request is not JSON"),
        ("/api/steer", STEER | {"length": 10**6}, "length=1000000 is not from 0 to 100"),
        ("/api/steer", STEER | {"samples": 0}, "samples=0 is not from 1 to 5"),
        ("/api/steer", STEER | {"temperature": -1}, "temperature=-1.0 is not from 0 to 10"),
        ("/api/steer", STEER | {"keep_error": 1}, "keep_error = 1 should be true or false."),
        ("/api/steer", STEER | {"latents": [STEER["latents"][0]] * 2}, "latents names 1 twice; give each once."),
    ],
)
def test_bad_requests_are_answered_by_a_sentence(app: Starlette, target: str, body: Any, sentence: str) -> None:
    answer = post(app, target, body)
    assert answer.status == 400
    assert sentence in answer.error
    assert len(answer.error) <= 600
    assert HEADERS.items() <= answer.headers.items()


def test_too_long_a_prompt_never_reaches_the_model(app: Starlette, live: StubLive) -> None:
    answer = post(app, "/api/prompt", {"text": "a" * BODY_BYTES})
    assert answer.status == 413
    chunked = ask(
        app,
        "/api/prompt",
        method="POST",
        headers={"content-type": "application/json"},
        chunks=[b'{"text": "'] + [b"a" * 65_536] * 100,
    )
    assert (chunked.status, chunked.chunks_read) == (413, 5)
    assert live.asked == []


def test_a_body_that_never_comes_is_not_waited_for(
    app: Starlette, live: StubLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_SECONDS", 0.05)
    answer = ask(app, "/api/prompt", method="POST", headers={"content-type": "application/json"}, chunks=[])
    assert (answer.status, answer.error) == (400, "The request did not arrive within 0.05 s; send it again.")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_not_answered(app: Starlette, method: str) -> None:
    for target in ("/", "/app.js", "/api/run", "/api/latents/1", "/api/prompt"):
        answer = ask(app, target, method=method)
        assert answer.status == 405
        assert "access-control-allow-origin" not in answer.headers
        assert f"This address does not answer {method}" in answer.error


def test_reading_and_writing_are_not_mixed_up(app: Starlette) -> None:
    assert ask(app, "/api/prompt").status == 405
    assert post(app, "/api/run", {}).status == 405


def test_every_guard_stands_before_the_whole_viewer(app: Starlette) -> None:
    for target in ("/", "/app.js", "/api/run", "/nothing"):
        for host in (None, "evil.example", "evil.example:8000", "localhost:1"):
            answer = ask(app, target, host=host)
            assert answer.status == 403
            assert HEADERS.items() <= answer.headers.items()
    foreign = {"origin": "http://evil.example"}
    assert post(app, "/api/prompt", {"text": "a"}, headers=foreign).status == 403
    assert ask(app, "/api/run", headers={"sec-fetch-site": "cross-site"}).status == 403
    assert post(app, "/api/prompt", {"text": "a"}, headers={"content-type": "text/plain"}).status == 400


def test_steering_is_rationed(app: Starlette) -> None:
    statuses = [post(app, "/api/steer", STEER).status for _ in range(30)]
    assert statuses[:20] == [200] * 20
    assert 429 in statuses


def test_a_damaged_index_is_told_without_its_path(made: Made, pages: Path, tmp_path: Path) -> None:
    place = tmp_path / "viewer.sqlite"
    place.write_bytes(made.path.read_bytes())
    library = Library(place)
    connection = sqlite3.connect(place)
    connection.execute("DROP TABLE fires_on")
    connection.commit()
    connection.close()
    answer = ask(make_app(library), "/api/latents/1")
    assert (answer.status, answer.error) == (
        500,
        "The index cannot be read; make it again with: monosem view --again RUN",
    )


def test_there_are_no_websockets(app: Starlette) -> None:
    from starlette.websockets import WebSocketDisconnect

    with TestClient(app, base_url=f"http://{HOST}") as client:
        for target in ("/", "/api/prompt"):
            with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(target):
                pass
            assert caught.value.code == 1008


# A real server


@pytest.fixture
def port(app: Starlette) -> Generator[int]:
    """Of a server on this machine."""
    listening = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


def get(port: int, target: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", target, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | (headers or {})).items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return found


def test_two_hundred_at_once_are_all_answered(port: int, library: Library) -> None:
    targets = ["/", "/app.js", "/api/run", "/api/scatter", "/api/search?fires=e", "/api/tokens?text=w"]
    targets += [f"/api/latents/{number}" for number in range(14)]
    together = threading.Barrier(200)

    def one(number: int) -> tuple[str, int, dict[str, str], bytes]:
        target = targets[number % len(targets)]
        together.wait(timeout=60)
        return target, *get(port, target)

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    for target, status, headers, body in answers:
        assert status == 200, target
        assert HEADERS.items() <= headers.items()
        assert "server" not in headers
        if target.startswith("/api/latents/"):
            assert json.loads(body) == plain(library.latent(int(target.rpartition("/")[2])))


def test_answers_are_not_held_back_to_be_sent_in_one_piece(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    seconds: list[float] = []
    for _ in range(30):
        start = time.perf_counter()
        connection.request("GET", "/api/tokens?text=e")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - start)
    connection.close()
    assert min(seconds) < 0.035  # by Nagle's algorithm and delayed acknowledgements each would take 40 ms


def test_more_than_a_person_asks_is_put_off_and_the_server_lives_on(port: int) -> None:
    def one(_: int) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/api/steer", json.dumps(STEER), {"Content-Type": "application/json"})
        response = connection.getresponse()
        found = response.status, {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        return found

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 20
    assert all(headers["retry-after"] == "1" for status, headers in answers if status == 429)
    assert all(HEADERS.items() <= headers.items() for _, headers in answers)
    assert get(port, "/api/run")[0] == 200


@pytest.mark.parametrize("target", [each for each in TRAVERSALS if each.isascii() and len(each) < 10_000])
def test_a_real_server_reads_nothing_else_either(port: int, target: str) -> None:
    status, headers, body = get(port, target)
    assert status == 404
    assert SECRET.encode() not in body
    assert HEADERS.items() <= headers.items()


def test_a_rebound_name_is_refused_by_a_real_server(port: int) -> None:
    assert get(port, "/api/run")[0] == get(port, "/", {"Host": f"localhost:{port}"})[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"localhost:{port + 1}"):
        status, headers, body = get(port, "/api/run", {"Host": host})
        assert status == 403
        assert HEADERS.items() <= headers.items()
        assert b"n_latents" not in body
    forwarded = {"Host": "evil.example", "X-Forwarded-Host": f"127.0.0.1:{port}", "Forwarded": f"host=localhost:{port}"}
    assert get(port, "/api/run", forwarded)[0] == 403


def test_bodies_that_are_too_large_are_refused_by_a_real_server(port: int, live: StubLive) -> None:
    def send(body: Any, headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        all_headers = {"Content-Type": "application/json"} | headers
        connection.request("POST", "/api/prompt", body, all_headers, encode_chunked="Transfer-Encoding" in headers)
        status = connection.getresponse().status
        connection.close()
        return status

    assert send(b'{"text": "a"}', {}) == 200
    assert send(iter([b'{"text"', b': "b"}']), {"Transfer-Encoding": "chunked"}) == 200
    assert send(b"a" * (BODY_BYTES + 1), {}) == 413
    assert send((b"a" * 10_000 for _ in range(30)), {"Transfer-Encoding": "chunked"}) == 413
    assert live.asked == ["a", "b"]


def test_a_prompt_that_nobody_waits_for_any_more_is_not_read(port: int, live: StubLive) -> None:
    live.may_go_on.clear()
    connections: list[http.client.HTTPConnection] = []
    for text in "abc":
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/api/prompt", json.dumps({"text": text}), {"Content-Type": "application/json"})
        connections.append(connection)
        assert live.entered.wait(timeout=60)
        time.sleep(0.2)  # so that they come in this order
    connections[1].close()
    time.sleep(0.2)
    live.may_go_on.set()
    assert [connections[i].getresponse().status for i in (0, 2)] == [200, 200]
    assert live.asked == ["a", "c"]
    connections[0].close()
    connections[2].close()


def test_a_port_that_is_taken_is_told(port: int, app: Starlette) -> None:
    with pytest.raises(
        UserError, match=rf"Cannot listen at host=127\.0\.0\.1, port={port}: .*choose another port, or 0"
    ):
        serve(app, port=port)
    with pytest.raises(UserError, match="port=70000 is not from 0 to 65,535"):
        serve(app, port=70_000)
    with pytest.raises(UserError, match=r"Cannot listen at host=192\.0\.2\.1, port=0"):
        serve(app, host="192.0.2.1")


SERVE = """
import sys
from pathlib import Path
from monosem.viewer.reading import Library
from monosem.viewer.server import make_app, serve
serve(make_app(Library(Path(sys.argv[1]))), ready=lambda address: print(address, flush=True))
print("ended")
"""


def test_ctrl_c_ends_the_server_without_a_word(made: Made) -> None:
    command = [sys.executable, "-W", "error", "-c", SERVE, str(made.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        port = int(address.rstrip("/").rpartition(":")[2])
        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        idle.request("GET", "/api/run")
        assert idle.getresponse().read().startswith(b"{")
        process.send_signal(signal.SIGINT)  # with a connection still open
        printed, complaints = process.communicate(timeout=60)
        idle.close()
    assert (process.returncode, printed, complaints) == (0, "ended\n", "")


def test_only_this_machine_can_reach_it_unless_told_otherwise() -> None:
    assert LOCAL_HOSTS == ("127.0.0.1", "localhost", "[::1]")
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
