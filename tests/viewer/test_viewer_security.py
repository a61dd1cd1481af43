"""What passes the viewer's guards and what does not, each guard by itself."""

import itertools
import logging
import random
from typing import Any

import pytest
from asking import Answer, ask, post
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from monosem.viewer.security import (
    BODY_BYTES,
    CONTENT_SECURITY_POLICY,
    HEADERS,
    LOCAL_HOSTS,
    BodyLimit,
    Bucket,
    HostCheck,
    Rate,
    RateLimit,
    SafeResponses,
    SameOrigin,
    error_response,
    json_response,
)


async def everything(scope: Any, receive: Any, send: Any) -> None:
    """Answers any request, after reading all of it, with the size of its body."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


# The host


def to_host(host: str | None, hosts: Any = LOCAL_HOSTS, **options: Any) -> Answer:
    return ask(HostCheck(everything, hosts), host=host, **options)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "LocalHost:8000", "[::1]:8000", "localhost:08000"]
)
def test_the_machines_own_names_at_the_servers_port_are_answered(host: str) -> None:
    assert to_host(host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example:8000",
        "localhost.evil.example:8000",
        "evil.example@127.0.0.1:8000",
        "127.0.0.1:8000@evil.example",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:8001",
        "127.0.0.1:80000000000000000000",
        "127.0.0.2:8000",
        "127.1:8000",
        "2130706433:8000",
        "localhost.:8000",
        "localhost:8000, evil.example",
        "localhost:8000/",
        "localhost:8000 ",
        " localhost:8000",
        "localhost:8000\tx",
        "::1:8000",
        "[::1:8000",
        "[::ffff:127.0.0.1]:8000",
        "0.0.0.0:8000",
        "ｌocalhost:8000".encode().decode("latin-1"),
        "LOCALHOſT:8000".encode().decode("latin-1"),
    ],
)
def test_other_hosts_are_refused_whatever_they_resolve_to(host: str | None) -> None:
    answer = to_host(host)
    assert answer.status == 403
    assert answer.error.startswith("The viewer does not answer to the host that was asked for; it does to 127.0.0.1")
    assert "evil" not in answer.error


def test_two_hosts_are_refused_though_one_is_right() -> None:
    assert to_host("127.0.0.1:8000", headers=[("host", "127.0.0.1:8000")]).status == 403
    assert to_host("127.0.0.1:8000", headers=[("host", "evil.example")]).status == 403


def test_a_host_may_be_named_with_a_port_of_its_own() -> None:
    hosts = ("localhost:8888", "lab.example")
    assert to_host("localhost:8888", hosts).status == 200
    assert to_host("lab.example:8000", hosts).status == 200
    assert to_host("localhost:8000", hosts).status == 403
    assert to_host("lab.example:8888", hosts).status == 403


def test_at_port_80_a_host_needs_no_port() -> None:
    assert to_host("localhost", port=80).status == to_host("localhost:80", port=80).status == 200
    assert to_host("localhost", ("localhost:80",)).status == 200


def test_a_host_that_cannot_be_one_is_refused_when_the_server_is_made() -> None:
    with pytest.raises(ValueError, match="should be names"):
        HostCheck(everything, ["http://localhost"])


# The origin


def test_the_pages_own_requests_pass() -> None:
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    guard = SameOrigin(everything)
    assert post(guard, "/api/prompt", {}, headers=own).status == 200
    assert ask(guard, "/api/run", headers=own).status == 200
    assert post(guard, "/api/prompt", {}).status == 200  # not from a browser
    assert ask(guard, "/api/run", headers={"sec-fetch-site": "none"}).status == 200  # typed into the address bar


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "http://localhost:8000"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "?"},
    ],
)
def test_posts_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    answer = post(SameOrigin(everything), "/api/prompt", {}, headers=headers)
    assert answer.status == 403
    assert "a page of another site" in answer.error


def test_other_sites_cannot_even_ask_the_api() -> None:
    guard = SameOrigin(everything)
    assert ask(guard, "/api/scatter", headers={"sec-fetch-site": "cross-site"}).status == 403
    assert ask(guard, "/", headers={"sec-fetch-site": "cross-site"}).status == 200  # a link to the viewer


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
def test_what_a_foreign_form_could_send_is_refused(kind: str) -> None:
    answer = post(SameOrigin(everything), "/api/prompt", {}, headers={"content-type": kind})
    assert answer.status == 400
    assert answer.error == "The request's content type is not application/json; send JSON."


def test_json_with_a_charset_is_json() -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert post(SameOrigin(everything), "/api/prompt", {}, headers=headers).status == 200


# The body


def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    guard = BodyLimit(everything)
    assert ask(guard, method="POST", chunks=[b"a" * BODY_BYTES]).body == str(BODY_BYTES).encode()
    answer = ask(guard, method="POST", chunks=[b"a" * (BODY_BYTES + 1)])
    assert (answer.status, answer.error) == (413, "The request's body is larger than 262,144 bytes; send less.")


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    for length in (str(BODY_BYTES + 1), "9" * 19, "9" * 400):
        answer = ask(BodyLimit(everything), method="POST", headers={"content-length": length}, chunks=[b"a"])
        assert (answer.status, answer.chunks_read) == (413, 0)


@pytest.mark.parametrize("declared", [{}, {"content-length": "3"}, {"content-length": "-1"}, {"content-length": "x"}])
def test_a_body_that_streams_is_read_no_further_than_the_limit(declared: dict[str, str]) -> None:
    chunks = [b"a" * (BODY_BYTES // 4)] * 40
    answer = ask(BodyLimit(everything), method="POST", headers=declared, chunks=chunks)
    assert (answer.status, answer.chunks_read) == (413, 5)


# The rate


def test_no_stretch_of_time_sees_more_requests_than_its_rate_and_one_burst() -> None:
    generator, now = random.Random(0), 0.0
    rate = Rate("/", 3.0, 5)
    bucket = Bucket(rate, lambda: now)
    passed: list[float] = []
    refused = 0
    for _ in range(2000):
        now += generator.choice([0, 0, 0.01, 0.1, 0.5, 4])
        if bucket.take() == 0:
            passed.append(now)
        else:
            refused += 1
    assert refused > 100
    for first, last in itertools.combinations(range(0, len(passed), 7), 2):
        count, seconds = last - first + 1, passed[last] - passed[first]
        assert count <= rate.burst + rate.per_second * seconds + 1e-6


def test_whoever_waits_as_told_is_answered() -> None:
    now = 0.0
    bucket = Bucket(Rate("/", 0.4, 2), lambda: now)
    assert [bucket.take(), bucket.take()] == [0, 0]
    wait = bucket.take()
    assert wait == pytest.approx(2.5)
    now += wait - 0.01
    assert bucket.take() > 0
    now += 0.02
    assert bucket.take() == 0
    now += 1000.0
    assert [bucket.take() == 0 for _ in range(4)] == [True, True, False, False]


def test_each_kind_of_address_has_a_rate_of_its_own() -> None:
    guard = RateLimit(everything, [Rate("/api/prompt", 0.25, 1), Rate("/", 1, 2)], clock=lambda: 0.0)
    assert post(guard, "/api/prompt", {}).status == 200
    answer = post(guard, "/api/prompt", {})
    assert (answer.status, answer.headers["retry-after"]) == (429, "4")
    assert answer.error == "These are more requests than are answered; ask again in 4 s."
    assert [ask(guard, "/x").status for _ in range(3)] == [200, 200, 429]


# Every response


@pytest.mark.parametrize("status", [200, 304, 404, 429])
def test_every_response_carries_the_headers_and_keeps_its_own(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = PlainTextResponse("a", status, {"x-own": "1", "content-security-policy": "default-src *"})
        await response(scope, receive, send)

    answer = ask(SafeResponses(app))
    assert (answer.status, answer.headers["x-own"]) == (status, "1")
    assert HEADERS.items() <= answer.headers.items()


def test_the_policy_lets_the_page_run_its_own_files_and_nothing_else() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_an_unforeseen_error_is_told_to_the_terminal_and_not_to_the_browser(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/home/somebody/secret")

    with caplog.at_level(logging.ERROR):
        answer = ask(SafeResponses(app))
    assert answer.status == 500
    assert "terminal" in answer.error
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert HEADERS.items() <= answer.headers.items()
    assert "/home/somebody/secret" in caplog.text


def test_an_error_after_the_response_has_begun_cannot_be_answered_any_more() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("late")

    with pytest.raises(RuntimeError, match="late"):
        ask(SafeResponses(app))


def test_nobody_is_told_when_whoever_asked_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    assert ask(SafeResponses(app)).status == 0
    assert not caplog.records


def test_an_errors_sentence_is_bounded_and_may_hold_anything() -> None:
    body = bytes(error_response(400, "<script>\ud800" + "x" * 10_000).body).decode()
    assert body.startswith('{"error":"<script>?xxx')
    assert len(body) < 650


def test_a_record_that_json_cannot_hold_is_an_error_and_no_response() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_response({"a": float("nan")})
