"""Every page in both themes and at phone width: drawn, accessible, within its width, and without an error."""

import os
from pathlib import Path

import pytest
from pages_browser import PHONE, WIDE, Browser, visiting
from pages_server import PagesServer

pytestmark = pytest.mark.browser

VIEWS = {
    "overview": "#/",
    "search": "#/latents?fires=return",
    "latent": "#/latent/75",
    "latent-band": "#/latent/13?band=2",
    "latent-lines": "#/latent/75?lines=1&whole=1",
    "latent-dead": "#/latent/7",
    "latent-hostile": "#/latent/3",
    "prompt": "#/prompt?text=def heappush(heap, item):%0A    heap.append(item)%0A    return heap&latent=109",
    "prompt-token": "#/prompt?text=def heappush(heap, item):%0A    heap.append(item)%0A    return heap&token=1",
    "steer": "#/steer?text=def main(&latents=12:add:4,39:ablate,40:scale:2",
    "compare": "#/compare?side=run",
    "missing": "#/latent/99999",
}
MODES = {"light": (WIDE, False), "dark": (WIDE, True), "phone": (PHONE, False), "phone-dark": (PHONE, True)}
# Where screenshots go, if anywhere: MONOSEM_SCREENSHOTS=DIR.
SCREENSHOTS = os.environ.get("MONOSEM_SCREENSHOTS")
# Contrast of text on gradients (the dots of spaces) is measured in test_pages_contrast.py.
AXE = "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(each => ({id: each.id, "
AXE += "nodes: each.nodes.map(node => node.target.join(' ') + ': ' + node.failureSummary)})))"


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, which a package of the tests' requirements carries."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", MODES)
def test_every_view_is_drawn_without_errors_and_accessible(
    browser: Browser, site: PagesServer, axe: str, mode: str
) -> None:
    size, dark = MODES[mode]
    with visiting(browser, site, size=size, dark=dark) as visit:
        for name, address in VIEWS.items():
            page = visit.go(address)
            visit.settled()
            if SCREENSHOTS:
                Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
                page.screenshot(path=f"{SCREENSHOTS}/{name}-{mode}.png", full_page=True)
            page.evaluate(axe)
            assert page.evaluate(AXE) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], name
            assert page.locator("h1").count() == 1, name
            if name == "missing":
                # The one request that is answered with an error, which the console tells too.
                assert len(visit.wrong) == 1 and "404" in visit.wrong.pop()


def test_the_narrowest_width_holds_every_view(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site, size=(360, 740)) as visit:
        for name, address in VIEWS.items():
            if name != "missing":
                page = visit.go(address)
                visit.settled()
                assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_the_navigation_leads_through_all_pages_and_the_back_button_back(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/")
        titles = []
        for name in ("Latents", "Prompt", "Steer", "Compare", "Overview"):
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
            page.wait_for_function(
                "name => document.querySelector('#nav [aria-current]').textContent === name", arg=name
            )
            visit.drawn()
            titles.append(page.title())
        assert titles == [f"{title} · monosem" for title in ("Latents", "Prompt", "Steer", "Compare", "topk-4096-32")]
        for title in reversed(titles[:-1]):
            page.go_back()
            page.wait_for_function("title => document.title === title", arg=title)


def test_going_back_finds_the_place_that_was_scrolled_to(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?fires=return")
        page.evaluate("scrollTo(0, 300)")
        page.wait_for_function("() => scrollY === 300")
        page.locator(".results a").nth(9).click()
        page.wait_for_selector(".latent-number")
        assert page.evaluate("scrollY") == 0
        page.go_back()
        page.wait_for_selector(".results")
        page.wait_for_function("() => scrollY === 300")
        assert page.locator("#find-fires").input_value() == "return"
