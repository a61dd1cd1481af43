"""A server for the pages' tests: the static files, canned answers, and the Content-Security-Policy of the real one."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pages_answers import RefusedError, answer

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}

Answer = Callable[[str, Mapping[str, str], Mapping[str, Any] | None], dict[str, Any]]


class PagesServer:
    """Serves a directory, and ``api/`` by a function where one is given; in a thread of its own."""

    def __init__(self, root: Path, answer: Answer | None = answer) -> None:
        self.root, self.answer = root, answer
        self.requests: list[str] = []
        """The paths asked for, with their queries."""
        self.bodies: list[dict[str, Any]] = []
        """What was posted."""
        self.delays: dict[str, float] = {}
        """Seconds that a request waits whose path and query hold this text."""
        pages = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                pages.respond(self, None)

            def do_POST(self) -> None:
                pages.respond(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "PagesServer":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        """Send what a request asks for."""
        self.requests.append(handler.path)
        self.bodies += [body] if body is not None else []
        time.sleep(sum(seconds for text, seconds in self.delays.items() if text in unquote(handler.path)))
        parts = urlsplit(handler.path)
        if parts.path.startswith("/api/") and self.answer is not None:
            status, kind, content = self._answered(parts.path, dict(parse_qsl(parts.query)), body)
        else:
            status, kind, content = self._file(unquote(parts.path))
        try:
            handler.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Security-Policy": POLICY}
            for name, value in (headers | {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            pass  # the page has gone on and asks for something else

    def _answered(self, path: str, query: dict[str, str], body: dict[str, Any] | None) -> tuple[int, str, bytes]:
        assert self.answer is not None
        try:
            status, told = 200, self.answer(path, query, body)
        except RefusedError as wrong:
            status, told = wrong.status, {"error": str(wrong)}
        return status, TYPES[".json"], json.dumps(told, allow_nan=False).encode()

    def _file(self, path: str) -> tuple[int, str, bytes]:
        file = (self.root / path.lstrip("/")).resolve()
        file = file / "index.html" if file.is_dir() else file
        if not file.is_relative_to(self.root.resolve()) or not file.exists():
            return 404, "text/plain", b"not there"
        return 200, TYPES[file.suffix], file.read_bytes()
