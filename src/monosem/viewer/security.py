"""What stands between the network and the viewer, as plain ASGI: nothing passes that its own pages would not send.

A page of another site must neither read the viewer nor make it work. It can name the viewer's address (a rebound DNS
name, a form, an image), but not forge the headers that browsers add: Host, Origin, Sec-Fetch-Site.
"""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine for itself."""

API = "/api/"
BODY_BYTES = 1 << 18
"""Of a request's body."""
ERROR_CHARACTERS = 600
"""Of an error's sentence: it may repeat what was sent."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every response."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORT = 80

_logger = logging.getLogger(__name__)


def json_response(record: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record as compact JSON, never stored by the browser: the next viewer at this address has another index."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return Response(body, status, {"cache-control": "no-store"} | (headers or {}), "application/json")


def error_response(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """What went wrong, in a sentence."""
    whole = sentence if len(sentence) <= ERROR_CHARACTERS else sentence[: ERROR_CHARACTERS - 1] + "…"
    # A lone surrogate, from a JSON escape in the request, cannot be sent back.
    return json_response({"error": whole.encode("utf-8", "replace").decode()}, status, headers)


class SafeResponses:
    """Puts the headers on every response; answers an error that nobody foresaw without telling anything of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none here
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:  # there is nobody left to answer
            return
        except Exception:
            if started:
                raise
            _logger.exception("A request to the viewer failed")
            sentence = "The viewer failed at this request; what happened stands in the terminal that it was started in."
            await error_response(500, sentence)(scope, receive, send_with_headers)


class HostCheck:
    """Refuses requests that were meant for another host: a foreign name that was made to lead here."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """
        Args:
            hosts: ``name`` at the port that the server listens on, or ``name:port``, as where a tunnel begins.

        Raises:
            ValueError: one is neither.
        """
        self._app = app
        self._hosts = {_parse_host(host.lower()) for host in hosts}
        if None in self._hosts:
            raise ValueError(f"hosts={list(hosts)} should be names, or names with ports.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        named = " or ".join(sorted(name for name, _ in filter(None, self._hosts)))
        sentence = f"The viewer does not answer to the host that was asked for; it does to {named}, at its port."
        await error_response(403, sentence)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        sent = Headers(scope=scope).getlist("host")
        host = _parse_host(sent[0].lower()) if len(sent) == 1 else None
        if host is None:
            return False
        name, port = host
        own = scope["server"][1] if scope.get("server") else None
        return (name, port or _DEFAULT_PORT) in self._hosts or ((name, None) in self._hosts and own == (port or 80))


def _parse_host(host: str) -> tuple[str, int | None] | None:
    """Name and port of a Host header."""
    match = _HOST.fullmatch(host)
    return match and (match["name"], int(match["port"]) if match["port"] else None)


class SameOrigin:
    """Refuses what pages of other sites ask of the API; of what changes nothing, too, for it costs time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" and scope["path"].startswith(API) else None
        await (self._app if refusal is None else refusal)(scope, receive, send)


def _refusal(scope: Scope) -> Response | None:
    """The answer to a request of another site, or to a POST that is not the pages' own; None: let it pass."""
    headers = Headers(scope=scope)
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return error_response(403, "This was asked for by a page of another site; open the viewer's own pages.")
    if scope["method"] != "POST":
        return None
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return error_response(403, "This was sent by a page of another site; open the viewer's own pages.")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return error_response(400, "The request's content type is not application/json; send JSON.")
    return None


class BodyTooLarge(Exception):  # noqa: N818 (it is an answer more than an error)
    """More arrived than may."""


class BodyLimit:
    """Refuses bodies that are too large: by what they say of themselves, else while they stream in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = 0

        async def receive_bounded() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > BODY_BYTES:
                raise BodyTooLarge
            return message

        declared = Headers(scope=scope).get("content-length", "")
        try:
            if declared.isdecimal() and int(declared) > BODY_BYTES:
                raise BodyTooLarge
            await self._app(scope, receive_bounded, send)
        except BodyTooLarge:
            sentence = f"The request's body is larger than {BODY_BYTES:,} bytes; send less."
            await error_response(413, sentence)(scope, receive, send)


class Rate(NamedTuple):
    """How many requests are answered whose path begins so."""

    path: str
    per_second: float
    """In the long run."""
    burst: int
    """At once, after a pause."""


RATES = (
    Rate("/api/steer", 5, 20),
    Rate("/api/prompt", 20, 40),
    Rate("/api/search", 50, 200),
    Rate("/api/", 100, 400),
    Rate("/", 200, 1000),
)
"""The first that fits counts. A search is made with every key that is pressed, a prompt too; a page asks little."""


class Bucket:
    """Tokens that requests take and time brings back: as many as ``rate.burst`` at most."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._tokens, self._at = float(rate.burst), clock()

    def take(self) -> float:
        """Take a token; the seconds to wait for one where there is none, else 0."""
        now = self._clock()
        self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate.per_second


class RateLimit:
    """Refuses more requests than a person's browser makes, so that nothing can keep the machine busy."""

    def __init__(
        self, app: ASGIApp, rates: Sequence[Rate] = RATES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._buckets = [(rate.path, Bucket(rate, clock)) for rate in rates]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            bucket = next((each for path, each in self._buckets if scope["path"].startswith(path)), None)
            wait = 0.0 if bucket is None else bucket.take()
            if wait > 0:
                seconds = math.ceil(wait)
                sentence = f"These are more requests than are answered; ask again in {seconds} s."
                await error_response(429, sentence, {"retry-after": str(seconds)})(scope, receive, send)
                return
        await self._app(scope, receive, send)
