"""Headless Chromium for the pages' tests: Debian's, driven by playwright, which never fetches one of its own."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages_export import export
from pages_server import PagesServer

if TYPE_CHECKING:
    from playwright.sync_api import APIResponse, Browser, Page, Route
else:
    try:
        from playwright.sync_api import APIResponse, Browser, Page, Route
    except ImportError:  # as the fixture tells
        APIResponse = Browser = Page = Route = Any

CHROMIUM = Path(os.environ.get("MONOSEM_CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STATIC = Path(__file__).parents[2] / "src" / "monosem" / "viewer" / "static"
WIDE, PHONE = (1280, 900), (390, 844)
TIMEOUT = 20_000
"""Milliseconds; much more than anything takes, for a machine that does other things too."""


def skip_loudly(missing: str) -> None:
    """Skip, and warn, which is seen even where nobody asks for the reasons of skips."""
    told = f"THE PAGES WERE NOT TESTED IN A BROWSER: {missing}"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(told, stacklevel=2)
    pytest.skip(told)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """One Chromium for a file of tests."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_loudly("playwright is not installed; pip install 'monosem[test]'.")
        raise
    if not CHROMIUM.exists():
        skip_loudly(f"{CHROMIUM} is not there; apt-get install chromium, or name another with MONOSEM_CHROMIUM.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS), timeout=60_000)
        yield running
        running.close()


@pytest.fixture(scope="module")
def site() -> Iterator[PagesServer]:
    """The pages with every part there."""
    with PagesServer(STATIC) as server:
        yield server


@pytest.fixture(scope="module")
def exported_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesServer]:
    """The pages as static files: no ``api/`` answers."""
    directory = tmp_path_factory.mktemp("exported") / "site"
    shutil.copytree(STATIC, directory)
    export(directory)
    with PagesServer(directory, answer=None) as server:
        yield server


class Visit:
    """A page of the viewer in a window of its own, and everything that went wrong in it."""

    def __init__(self, browser: Browser, url: str, *, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        scheme: Any = "dark" if dark else "light"
        viewport: Any = {"width": size[0], "height": size[1]}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.page: Page = self.context.new_page()
        self.url = url
        self.wrong: list[str] = []
        """Errors of the console (violations of the policy are among them), of scripts, and dialogs."""
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._ask(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.wrong.append(f"{kind}: {text}")

    def _ask(self, url: str) -> None:
        if not url.startswith((self.url, "data:")):
            self.wrong.append(f"asks elsewhere: {url}")

    def go(self, address: str) -> Page:
        """Open ``#/…`` and wait until it is drawn."""
        if self.page.url == "about:blank":
            self.page.goto(self.url + address)
        else:
            self.page.evaluate("address => { location.hash = address }", address)
        self.drawn()
        return self.page

    def drawn(self) -> None:
        """Wait until the page of the present address is drawn."""
        self.page.wait_for_selector("main:not([aria-busy]) h1")

    def settled(self) -> None:
        """Wait until nothing more is asked for."""
        self.drawn()
        self.page.wait_for_load_state("networkidle")

    def hash(self) -> str:
        """The present address, from ``#``."""
        return self.page.evaluate("location.hash")


@contextlib.contextmanager
def visiting(browser: Browser, site: PagesServer, **options: Any) -> Iterator[Visit]:
    """A visit that ends well only if nothing went wrong in it."""
    visit = Visit(browser, site.url, **options)
    try:
        yield visit
        assert visit.wrong == []
    finally:
        visit.context.close()
