"""The pages on the real server: every page opens without an error, and its numbers are those computed directly."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pages_browser import PHONE, WIDE, APIResponse, Browser, Route, visiting
from rich.console import Console

from monosem.runs.directory import read_run
from monosem.runs.inputs import open_even_blocks, open_text
from monosem.runs.steering import steered
from monosem.sae.interventions import Intervention
from monosem.subject.generation import Sampling
from monosem.viewer.comparison import compare_runs
from monosem.viewer.config import IndexConfig
from monosem.viewer.index import build_index
from monosem.viewer.live import LiveRun
from monosem.viewer.reading import Library
from monosem.viewer.server import listen, make_app, make_server

pytestmark = pytest.mark.browser

TEXT = "w5 w17 w40 w2"
TOKENS = 1200
PAGES = ("#/", "#/latents?fires=w", "#/latent/{latent}", f"#/prompt?text={TEXT}", f"#/steer?text={TEXT}", "#/compare")


class Viewed(NamedTuple):
    """A run that is served."""

    url: str
    library: Library
    live: LiveRun
    values: torch.Tensor
    """Every latent's activation at every indexed token, ``[tokens, n_latents]``, computed directly."""

    @property
    def strongest(self) -> int:
        return int(self.values.max(dim=0).values.argmax())


@pytest.fixture
def viewed(make_run: Callable[..., Path], console: Console) -> Iterator[Viewed]:
    run, other = make_run("topk", n_latents=60), make_run("relu", name="other")
    index, of_other = (Library(build_index(each, IndexConfig(tokens=TOKENS), console=console)) for each in (run, other))
    live = LiveRun(run, console)
    app = make_app(index, live, compare_runs(run, other, index, of_other))
    listening = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Viewed(f"http://127.0.0.1:{listening.getsockname()[1]}/", index, live, _all_values(run, live, console))
    server.should_exit = True
    thread.join()


def _all_values(run: Path, live: LiveRun, console: Console) -> torch.Tensor:
    config = read_run(run)
    text = open_text(config.text, live.subject, config.text_limit, console)
    blocks = open_even_blocks(config.subject, live.subject, text.training, TOKENS).all()
    (hookpoint,) = live.sae.provenance.hookpoints if live.sae.provenance else ()
    activations = live.subject.capture(blocks.tokens, [hookpoint])[hookpoint]
    return live.sae.encode(activations[blocks.kept]).dense()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_opens_without_an_error(browser: Browser, viewed: Viewed, size: tuple[int, int], dark: bool) -> None:
    with visiting(browser, viewed, size=size, dark=dark) as visit:
        for address in PAGES:
            page = visit.go(address.format(latent=viewed.strongest))
            visit.settled()
            assert page.locator("h1").count() == 1
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address


def test_a_latents_numbers_are_those_of_encode(browser: Browser, viewed: Viewed) -> None:
    latent = viewed.strongest
    values = viewed.values[:, latent]
    fired = int((values > 0).sum())
    record = viewed.library.latent(latent)
    assert record["fired"] == fired
    assert record["largest"] == pytest.approx(float(values.max()), rel=1e-5)
    assert record["mean"] == pytest.approx(float(values[values > 0].mean()), rel=1e-5)
    with visiting(browser, viewed) as visit:
        text = visit.go(f"#/latent/{latent}").locator("main").inner_text()
        assert f"{fired:,}" in text
        assert f"{float(values.max()):.3g}" in text


def test_a_prompts_activations_are_those_of_encode(browser: Browser, viewed: Viewed) -> None:
    ids = viewed.live.subject.tokenizer.encode(TEXT, add_special_tokens=False)
    (hookpoint,) = viewed.live.sae.provenance.hookpoints if viewed.live.sae.provenance else ()
    raw = viewed.live.subject.capture(torch.tensor([ids]), [hookpoint])[hookpoint]
    dense = viewed.live.sae.encode(raw).dense()
    strongest = dense[1].sort(descending=True)
    expected = strongest.indices[strongest.values > 0].tolist()
    with visiting(browser, viewed) as visit:
        page = visit.go(f"#/prompt?text={TEXT}&token=1")
        page.wait_for_selector(".pick")
        assert [int(text) for text in page.locator(".pick .latent-id").all_inner_texts()] == expected
        shown = [float(text) for text in page.locator(".pick .number").all_inner_texts()]
        assert shown == pytest.approx(strongest.values[: len(expected)].tolist(), rel=5e-3)


def test_steering_shows_what_steered_says(browser: Browser, viewed: Viewed) -> None:
    latent, live = viewed.strongest, viewed.live
    largest = viewed.library.latent(latent)["largest"]
    ids = live.subject.tokenizer.encode(TEXT, add_special_tokens=False)
    expected = steered(
        live.subject, live.sae, ids, {latent: Intervention("add", 4 * largest)}, Sampling(length=5, samples=2)
    )
    with visiting(browser, viewed) as visit:
        page = visit.go(f"#/steer?text={TEXT}&latents={latent}:add:4&length=5&samples=2")
        answers: list[APIResponse] = []
        page.route("**/api/steer", lambda route: _pass_on(route, answers))
        page.get_by_role("button", name="Steer", exact=True).click()
        page.get_by_role("heading", name="Continuations").wait_for()
        page.unroute_all(behavior="wait")
        told = answers[-1].json()
        assert [each["token"] for each in told["next"]] == [each.token for each in expected.next]
        assert [each["after"] for each in told["next"]] == pytest.approx(
            [each.after for each in expected.next], abs=1e-5
        )
        assert told["after"] == [viewed.library.texts(each) for each in expected.after]


def _pass_on(route: Route, answers: list[APIResponse]) -> None:
    """The server's answer, for the page and for the test: the browser may not keep its body."""
    answers.append(route.fetch())
    route.fulfill(response=answers[-1])
