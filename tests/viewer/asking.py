"""Asks an ASGI application as a server would, byte for byte as a test says: no client tidies the request up first."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

PORT = 8000
HOST = f"127.0.0.1:{PORT}"
JSON = {"content-type": "application/json"}


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks_read: int
    """Of the request's body."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        return self.json["error"]


def ask(
    app: Any,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    host: str | None = HOST,
    chunks: Sequence[bytes] = (b"",),
    port: int = PORT,
) -> Answer:
    """One request; ``target`` is what stands in the request line."""
    path, _, query = target.partition("?")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    sent = ([] if host is None else [("host", host)]) + pairs
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", port),
    }
    return asyncio.run(_ask(app, scope, chunks))


def post(app: Any, target: str, body: Any, **options: Any) -> Answer:
    """A POST of JSON; of bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = JSON | {"content-length": str(len(data))} | dict(options.pop("headers", {}))
    return ask(app, target, method="POST", headers=headers, chunks=[data], **options)


async def _ask(app: Any, scope: dict[str, Any], chunks: Sequence[bytes]) -> Answer:
    left = list(chunks)
    status, headers, body = 0, {}, b""

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            assert status == 0, "two responses"
            status = message["status"]
            headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            assert len(headers) == len(message["headers"]), "a header twice"
        else:
            body += message["body"]

    await app(scope, receive, send)
    return Answer(status, headers, body, len(chunks) - len(left))
