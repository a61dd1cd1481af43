"""The viewer's server: the pages' files, the API, and what protects both."""

import contextlib
import logging
import socket
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monosem.errors import UserError
from monosem.viewer.api import Api, Endpoint
from monosem.viewer.comparison import Comparison
from monosem.viewer.live import LiveRun
from monosem.viewer.query import require_between
from monosem.viewer.reading import Library, NotHereError
from monosem.viewer.security import (
    LOCAL_HOSTS,
    BodyLimit,
    HostCheck,
    RateLimit,
    SafeResponses,
    SameOrigin,
    error_response,
)
from monosem.viewer.static_files import INDEX, static_files

if TYPE_CHECKING:
    import uvicorn

GZIP_BYTES = 4096
"""Smaller answers are sent as they are."""
LAST_SECONDS = 2
"""That answers under way have when the server ends."""

_logger = logging.getLogger(__name__)


def make_app(
    library: Library,
    live: LiveRun | None = None,
    comparison: Comparison | None = None,
    hosts: Sequence[str] = LOCAL_HOSTS,
) -> Starlette:
    """The viewer as an ASGI application.

    Args:
        live: for prompts and steering; without it these are answered by 404.
        hosts: the names that it answers to: ``name`` at the server's own port, or ``name:port``.
    """
    protections = [
        Middleware(SafeResponses),
        Middleware(HostCheck, hosts=hosts),
        Middleware(SameOrigin),
        Middleware(RateLimit),
        Middleware(BodyLimit),
        # A latent's page shrinks to a third in 0.4 ms (level 6: no smaller, three times as long). It helps in a tunnel.
        Middleware(GZipMiddleware, minimum_size=GZIP_BYTES, compresslevel=1),
    ]
    answers = {UserError: _refused, sqlite3.Error: _damaged, HTTPException: _no_address}
    routes = [Api(library, live, comparison).routes(), Route("/{name:path}", _static_endpoint())]
    return Starlette(routes=routes, middleware=protections, exception_handlers=answers)


def _static_endpoint() -> Endpoint:
    files = static_files()

    async def endpoint(request: Request) -> Response:
        file = files.get(request.path_params["name"] or INDEX)
        if file is None:
            raise HTTPException(404)
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return endpoint


async def _refused(_: Request, error: Exception) -> Response:
    return error_response(404 if isinstance(error, NotHereError) else 400, str(error))


async def _damaged(_: Request, error: Exception) -> Response:
    _logger.error("The index cannot be read", exc_info=error)
    return error_response(500, "The index cannot be read; make it again with: monosem view --again RUN")


async def _no_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return error_response(
            405, f"This address does not answer {request.method}; ask by {allowed}.", {"allow": allowed}
        )
    return error_response(404, "There is nothing at this address; the pages begin at /.")


def serve(
    app: Starlette, host: str = "127.0.0.1", port: int = 0, *, ready: Callable[[str], None] | None = None
) -> None:
    """Answer until Ctrl-C.

    Args:
        port: 0 for any that is free.
        ready: called with the address once connections are taken.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    listening = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    with listening, contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
        if ready is not None:
            ready(f"http://{name}:{listening.getsockname()[1]}/")
        make_server(app).run(sockets=[listening])


def make_server(app: Starlette) -> "uvicorn.Server":
    """What speaks HTTP: silent but for failures, trusting no proxy, without a word of what it is."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    require_between("port", port, 0, 65_535)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"Cannot listen at host={host}, port={port}: {error.strerror or error}; choose another port, or 0."
        ) from error
    # Only of a socket that names TCP does asyncio switch Nagle's algorithm off, which held each answer up by 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())
