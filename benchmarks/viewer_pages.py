"""Time the viewer's answers, and a latent's page in Chromium.

    python -m benchmarks.viewer_pages --run build/evaluation/topk/topk-16384-32

The server is a process of its own. Milliseconds of a request are from before it is sent to the whole answer, over one
kept connection: the client's part and the loopback are in them. Medians and 95% quantiles. The page's load event, and
when its contexts are drawn, count from the start of the navigation, in a browser that has none of its files yet.
"""

import http.client
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import tyro

from benchmarks.record import show_row
from benchmarks.served import chromium, served
from monosem.viewer.schema import INDEX, open_index

RESULTS = Path("benchmarks/results/viewer_pages.jsonl")
WORDS = ("re", "return", "self", "im", "import", "de", "def", "e", " the", "np", "None", "(", "\n", "test", "x")
"""What somebody might search for; every beginning of each is asked for, as it is while typing."""
PROMPT = '''class Stack:
    """Last in, first out."""

    def __init__(self, items=()):
        self._items = list(items)

    def push(self, item):
        self._items.append(item)

    def pop(self):
        if not self._items:
            raise IndexError("pop from an empty stack")
        return self._items.pop()
'''
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Options:
    """What to time."""

    run: Path
    """A run directory."""
    requests: int = 200
    """Latents asked for, and page loads an eighth of it."""
    record: bool = True
    """Append the row to benchmarks/results/viewer_pages.jsonl."""


class Client:
    """One kept connection; as many requests a second as the server answers."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc)

    def ask(self, path: str, body: Any = None) -> tuple[float, bytes]:
        """Milliseconds of a request, and the answer."""
        data, headers = (None, {}) if body is None else (json.dumps(body), {"content-type": "application/json"})
        while True:
            began = time.perf_counter()
            self._connection.request("GET" if body is None else "POST", path, data, headers)
            answer = self._connection.getresponse()
            content = answer.read()
            taken = 1e3 * (time.perf_counter() - began)
            if answer.status != 429:
                assert answer.status == 200, content
                return taken, content
            time.sleep(float(answer.headers["retry-after"]))

    def time(self, path: str, body: Any = None) -> float:
        """Milliseconds of a request."""
        return self.ask(path, body)[0]


def measure(options: Options) -> dict[str, Any]:
    """All times, as medians and 95% quantiles in milliseconds."""
    with served(options.run) as address:
        connection = open_index(options.run / INDEX)
        alive = [row["latent"] for row in connection.execute("SELECT latent FROM latents WHERE fired > 0")]
        (n_latents,) = connection.execute("SELECT count(*) FROM latents").fetchone()
        connection.close()
        chosen = random.Random(0).choices(alive, k=options.requests)
        client = Client(address)
        prompt = _prompt(client)
        searches = [word[: end + 1] for word in WORDS for end in range(len(word))]
        times = {
            "latent": [client.time(f"/api/latents/{latent}") for latent in chosen],
            "search_fires": [client.time(f"/api/search?fires={quote(text)}") for text in searches],
            "search_promotes": [client.time(f"/api/search?promotes={quote(text)}") for text in searches],
            "search_like": [client.time(f"/api/search?like={latent}") for latent in chosen[:30]],
            "prompt": [client.time("/api/prompt", {"text": prompt}) for _ in range(40)],
            **_pages(address, chosen[: options.requests // 8]),
        }
    return {
        "n_latents": n_latents,
        **{name: value for name, value in asdict(options).items() if name == "requests"},
        **{f"{name}_ms": round(statistics.median(each), 1) for name, each in times.items()},
        **{f"{name}_ms_95": round(statistics.quantiles(each, n=20)[-1], 1) for name, each in times.items()},
    }


def _prompt(client: Client) -> str:
    """As much of PROMPT as is 64 tokens, read once: a first pass also compiles and loads."""
    tokens = json.loads(client.ask("/api/prompt", {"text": PROMPT})[1])["tokens"]
    assert len(tokens) >= PROMPT_TOKENS, len(tokens)
    return "".join(token["text"] for token in tokens[:PROMPT_TOKENS])


def _pages(address: str, latents: list[int]) -> dict[str, list[float]]:
    load: list[float] = []
    drawn: list[float] = []
    with chromium() as browser:
        for latent in latents:
            context = browser.new_context()
            page = context.new_page()
            began = time.perf_counter()
            page.goto(f"{address}#/latent/{latent}")
            page.wait_for_selector("main:not([aria-busy]) .example")
            drawn.append(1e3 * (time.perf_counter() - began))
            load.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            context.close()
            time.sleep(0.5)  # a page asks for its files; so many at once are more than a person asks for
    return {"page_load": load, "page_drawn": drawn}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    row = measure(options)
    show_row(row, RESULTS if options.record else None)


if __name__ == "__main__":
    main()
