"""The search: results while one types, conditions and order in the address, outdated requests given up."""

from urllib.parse import parse_qs, urlsplit

import pytest
from pages_answers import search
from pages_browser import Browser, Page, Visit, visiting
from pages_server import PagesServer

pytestmark = pytest.mark.browser


def found(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".results .latent-id").all_inner_texts()]


def expected(**query: str) -> list[int]:
    return [each["latent"] for each in search({"limit": "50", **query})["latents"]]


FOUND = """numbers => {
  const shown = [...document.querySelectorAll('.results .latent-id')].map(each => Number(each.textContent));
  return JSON.stringify(shown) === JSON.stringify(numbers);
}"""


def wait_for(page: Page, latents: list[int]) -> None:
    page.wait_for_function(FOUND, arg=latents)


@pytest.mark.parametrize(
    ("field", "text"),
    [("fires", "RETURN"), ("promotes", "def"), ("suppresses", " s"), ("pattern", "START"), ("explanation", "token (")],
)
def test_results_appear_while_typing(browser: Browser, site: PagesServer, field: str, text: str) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents")
        page.locator(f"#find-{field}").press_sequentially(text, delay=10)
        assert expected(**{field: text})
        wait_for(page, expected(**{field: text}))
        assert parse_qs(urlsplit(visit.hash().replace("#/latents", "")).query)[field] == [text]
        why = page.locator(".results .why").first.inner_text()
        assert text.lower().strip() in why.lower().replace("␣", " ")


def test_conditions_combine_and_the_address_says_them(browser: Browser, site: PagesServer) -> None:
    query = {"fires": "e", "promotes": "a", "low": "0.001", "high": "0.02", "order": "rare"}
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?fires=e&promotes=a&low=0.001&high=0.02&order=rare")
        assert found(page) == expected(**query)
        assert page.locator("#find-promotes").input_value() == "a"
        assert page.get_by_label("Order").input_value() == "rare"
        assert page.locator(".conditions output").inner_text() == "0.10% – 2.0%"
        page.get_by_label("Order").select_option("number")
        wait_for(page, expected(**(query | {"order": "number"})))


def test_latents_like_another_come_with_their_cosine(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?like=12")
        told = search({"like": "12", "limit": "50"})["latents"]
        assert found(page) == [each["latent"] for each in told]
        assert f"cosine {told[0]['why'][0]['value']:.2f}" in page.locator(".why").first.inner_text()


def test_typing_asks_once_it_pauses_and_gives_up_what_is_outdated(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents")
        site.requests.clear()
        page.locator("#find-fires").press_sequentially("retur", delay=5)
        wait_for(page, expected(fires="retur"))
        asked = [request for request in site.requests if "/api/search" in request]
        assert len(asked) < 5
        # A slow answer to what was typed before must not replace the answer to what stands there now.
        site.delays["fires=self"] = 0.8
        try:
            page.locator("#find-fires").fill("self")
            page.wait_for_timeout(250)
            page.locator("#find-fires").fill("def")
            wait_for(page, expected(fires="def"))
            page.wait_for_timeout(900)
            assert found(page) == expected(fires="def")
        finally:
            site.delays.clear()


def test_more_results_follow_and_take_the_focus(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?order=number")
        page.get_by_role("button", name="More").click()
        wait_for(page, list(range(100)))
        assert page.evaluate("document.activeElement.textContent").startswith("50 ")


def test_keys_go_from_the_field_through_the_results(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?fires=return")
        first, second, *_ = found(page)
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "find-fires"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.textContent").startswith(f"{second} ")
        page.keyboard.press("k")
        page.keyboard.press("Enter")
        page.wait_for_selector(".latent-number")
        assert visit.hash() == f"#/latent/{first}"


def test_the_density_range_is_set_by_key_and_cannot_turn_around(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents")
        low, high = page.get_by_label("Lowest density"), page.get_by_label("Highest density")
        high.focus()
        for _ in range(20):
            page.keyboard.press("ArrowLeft")
        assert high.get_attribute("aria-valuetext") == "1.0%"
        wait_for(page, expected(high="0.0100"))
        low.focus()
        page.keyboard.press("End")
        assert (low.input_value(), high.input_value()) == ("0", "0")


def test_nothing_found_and_errors_are_said(browser: Browser, site: PagesServer) -> None:
    visit = Visit(browser, site.url)
    page = visit.go("#/latents?fires=nosuchtokenanywhere")
    assert page.locator(".status").inner_text() == "No latent meets all of these conditions."
    assert page.locator("#said").text_content() in ("No latent meets all of these conditions.", "Latents")
    page.locator("#find-fires").fill("")
    page.locator("#find-like").fill("x")
    page.wait_for_selector(".status .wrong")
    assert page.locator(".status").inner_text() == "like=x is no latent's number; give one from 0 to 4095."
    assert [each for each in visit.wrong if "400" not in each] == []
    visit.context.close()


def test_the_field_in_the_header_finds_numbers_and_tokens(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/")
        page.keyboard.press("/")
        page.keyboard.type("77")
        page.keyboard.press("Enter")
        page.wait_for_selector(".latent-number")
        assert visit.hash() == "#/latent/77"
        page.keyboard.press("/")
        page.keyboard.type("return")
        page.keyboard.press("Enter")
        page.wait_for_selector(".results")
        assert found(page) == expected(fires="return")


def test_clear_empties_the_conditions(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latents?fires=return&low=0.001")
        page.get_by_role("link", name="Clear").click()
        wait_for(page, expected())
        assert page.locator("#find-fires").input_value() == ""
        assert page.locator(".conditions output").inner_text() == "any"
