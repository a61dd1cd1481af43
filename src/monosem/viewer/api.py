"""The addresses under ``api/``: what is asked for becomes a query, a prompt or a comparison, and the answer JSON."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from monosem.viewer.comparison import Comparison, ComparisonQuery
from monosem.viewer.live import LiveRun, SteerRequest
from monosem.viewer.query import Query
from monosem.viewer.reading import Library, NotHereError
from monosem.viewer.records import Record
from monosem.viewer.requests import parse_body, parse_query, whole_number
from monosem.viewer.security import error_response, json_response

BODY_SECONDS = 10.0
"""In which a request's body must arrive."""
QUERY_THREADS = 8
"""Queries at once; more would only wait for each other."""

Asked = TypeVar("Asked")
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """The query string of an address that takes none."""


@dataclass(frozen=True, kw_only=True)
class TokenQuery:
    """Which tokens are looked for."""

    text: str = ""
    """In the token."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to read."""

    text: str
    """As typed."""


class Api:
    """Answers from an index and, where they are there, a live run and a comparison.

    Every answer is made in a thread. A text waits for the one before without holding a thread: prompts keep no page
    waiting, however many there are.
    """

    def __init__(self, library: Library, live: LiveRun | None, comparison: Comparison | None) -> None:
        self._library, self._live, self._comparison = library, live, comparison
        self._querying, self._reading = anyio.CapacityLimiter(QUERY_THREADS), anyio.CapacityLimiter(1)

    def routes(self) -> Mount:
        """All addresses."""
        routes = [
            Route("/run", self._get(Nothing, self._run)),
            Route("/scatter", self._get(Nothing, lambda _: self._library.scatter())),
            Route("/latents/{latent}", self._latent),
            Route("/search", self._get(Query, self._library.search)),
            Route("/tokens", self._get(TokenQuery, lambda query: {"tokens": self._library.tokens(query.text)})),
            Route("/compare", self._get(ComparisonQuery, self._compare)),
            Route("/prompt", self._post(Prompt, prompt_record), methods=["POST"]),
            Route("/steer", self._post(SteerRequest, steer_record), methods=["POST"]),
        ]
        return Mount("/api", Router(routes, redirect_slashes=False))

    def _get(self, kind: type[Asked], answer: Callable[[Asked], Record]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            asked = parse_query(kind, request.scope["query_string"])
            return await _in_thread(self._querying, answer, asked)

        return endpoint

    def _post(self, kind: type[Asked], answer: Callable[[Library, LiveRun, Asked], Record]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            if self._live is None:
                raise NotHereError("The run itself is not at hand, only its index; start: monosem view RUN")
            body: bytes | None = None
            with anyio.move_on_after(BODY_SECONDS):
                body = await request.body()
            if body is None:
                return error_response(400, f"The request did not arrive within {BODY_SECONDS:g} s; send it again.")
            asked = parse_body(kind, body)
            async with self._reading:
                if await request.is_disconnected():  # whoever typed on waits for another answer
                    return Response(status_code=204)
                return await _in_thread(None, answer, self._library, self._live, asked)

        return endpoint

    async def _latent(self, request: Request) -> Response:
        parse_query(Nothing, request.scope["query_string"])
        text: str = request.path_params["latent"]
        try:
            latent = whole_number(text)
        except ValueError:
            raise NotHereError(f"latent={text!r} is no whole number; give a latent's.") from None
        return await _in_thread(self._querying, self._library.latent, latent)

    def _run(self, _: Nothing) -> Record:
        other = None if self._comparison is None else self._comparison.other.name
        return self._library.run(live=self._live is not None, compare=other)

    def _compare(self, query: ComparisonQuery) -> Record:
        if self._comparison is None:
            raise NotHereError("No other run is compared here; start: monosem view RUN --compare OTHER")
        return self._comparison.page(query)


async def _in_thread(limiter: anyio.CapacityLimiter | None, answer: Callable[..., Record], *asked: Any) -> Response:
    return await anyio.to_thread.run_sync(lambda: json_response(answer(*asked)), limiter=limiter)


def prompt_record(library: Library, live: LiveRun, asked: Prompt) -> Record:
    """A text's tokens with their active latents, and what these are."""
    tokens = live.prompt(asked.text)
    texts = library.texts(each.token for each in tokens)
    active = {latent for each in tokens for latent, _ in each.latents}
    return {
        "tokens": [
            {"id": each.token, "text": text, "latents": each.latents} for each, text in zip(tokens, texts, strict=True)
        ],
        "latents": {str(latent): summary for latent, summary in library.summaries(active).items()},
    }


def steer_record(library: Library, live: LiveRun, asked: SteerRequest) -> Record:
    """Next tokens and continuations with and without what is done to the latents."""
    found = live.steer(asked)
    return {
        "next": [
            {"token": token, "text": text, "before": before, "after": after}
            for (token, before, after), text in zip(
                found.next, library.texts(each.token for each in found.next), strict=True
            )
        ],
        "before": [library.texts(ids) for ids in found.before],
        "after": [library.texts(ids) for ids in found.after],
    }
