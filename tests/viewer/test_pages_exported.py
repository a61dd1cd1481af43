"""The pages over exported files: everything but prompt and steer, searched in the browser."""

import pytest
from pages_answers import search
from pages_browser import Browser, Page, visiting
from pages_export import SEARCHED_A_FILE
from pages_latents import RULES, record
from pages_server import PagesServer

pytestmark = pytest.mark.browser

QUERIES = (
    {"fires": "return"},
    {"promotes": "DEF", "order": "rare"},
    {"suppresses": "s", "order": "largest"},
    {"pattern": "start"},
    {"explanation": "token", "low": "0.001", "high": "0.02", "order": "number"},
    {"fires": "e", "promotes": "a", "order": "density"},
    {"fires": "<script>"},
    {},
)


def found(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".results .latent-id").all_inner_texts()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: "-".join(query) or "all")
def test_the_browser_finds_what_the_server_would(
    browser: Browser, exported_site: PagesServer, query: dict[str, str]
) -> None:
    told = search({**query, "limit": "50"})["latents"]
    with visiting(browser, exported_site) as visit:
        page = visit.go("#/latents?" + "&".join(f"{name}={value}" for name, value in query.items()))
        assert found(page) == [each["latent"] for each in told]
        assert page.locator(".why li").count() == sum(len(each["why"]) for each in told)


def test_latents_like_another_are_those_that_it_names(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        page = visit.go("#/latents?like=77")
        assert found(page) == [each["latent"] for each in record(77)["neighbours"]["decoder"][:5]]
        page.locator("#find-like").fill("4096")
        page.wait_for_selector(".status .wrong")
        sentence = f"like=4096 is no latent’s number; give one from 0 to {RULES - 1}."
        assert page.locator(".status").inner_text() == sentence


def test_a_search_goes_through_the_files_once_and_tells_of_its_progress(
    browser: Browser, exported_site: PagesServer
) -> None:
    exported_site.requests.clear()
    exported_site.delays["search/5"] = 0.6
    try:
        with visiting(browser, exported_site) as visit:
            visit.page.goto(exported_site.url + "#/")
            visit.drawn()
            page = visit.page
            page.evaluate("location.hash = '#/latents?fires=return'")
            visit.drawn()
            page.locator("#find-fires").fill("def")
            page.wait_for_function("() => document.querySelector('.results .why')?.textContent.includes('def')")
        files = [request for request in exported_site.requests if "search/" in request]
        assert sorted(set(files)) == sorted(files)
        assert len(files) == -(-RULES // SEARCHED_A_FILE)
    finally:
        exported_site.delays.clear()


def test_a_latent_comes_from_its_chunk(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        exported_site.requests.clear()
        page = visit.go("#/latent/205")
        assert page.locator(".readout b").nth(1).inner_text() == str(record(205)["fired"])
        page.keyboard.press("j")
        page.wait_for_function("() => document.title.startsWith('Latent 206')")
        assert [each for each in exported_site.requests if "/latents/" in each] == ["/data/latents/2.json"]


def test_an_exported_site_says_what_it_cannot_do(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        for address in ("#/prompt", "#/steer?text=x&latents=1:add:2"):
            page = visit.go(address)
            assert "no model to run" in page.locator(".notice").inner_text()
        assert page.locator("#nav a").all_inner_texts() == ["Overview", "Latents", "Compare"]
        visit.go("#/latent/24")
        assert page.get_by_role("link", name="Steer with it").count() == 0
        assert not any("/api/" in request for request in exported_site.requests)


def test_runs_are_compared_from_files(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        page = visit.go("#/compare?side=other&order=number")
        assert page.locator("tbody th .latent-id").first.inner_text() == "8192"
        assert page.locator(".status").inner_text() == f"50 of {RULES} latents"
        page.get_by_role("button", name="More").click()
        page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 100")


def test_a_latent_beyond_the_last_is_an_error_in_words(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        page = visit.go("#/latent/99999")
        assert "latent=99999 is not one of 0 … 319" in page.locator(".notice").inner_text()


def test_the_overview_of_an_exported_site_is_whole(browser: Browser, exported_site: PagesServer) -> None:
    with visiting(browser, exported_site) as visit:
        page = visit.go("#/")
        visit.settled()
        assert page.locator(".look").count() == 6
        assert "…" not in page.locator(".look-label").all_inner_texts()
        assert page.locator("canvas").is_visible()
