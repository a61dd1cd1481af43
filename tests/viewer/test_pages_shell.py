"""What all pages share: theme, keys, focus, announcements, errors as sentences, and what is missing said plainly."""

from typing import Any

import numpy as np
import pytest
from pages_answers import RefusedError, answer, run_record, scatter
from pages_browser import STATIC, Browser, Visit, visiting
from pages_server import PagesServer

from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.tables import format_estimate

pytestmark = pytest.mark.browser


NO_STORAGE = """Object.defineProperty(
  window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } }
)"""


def background(page: Any) -> str:
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_the_theme_follows_the_system_until_it_is_chosen_and_is_remembered(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/")
        light = background(page)
        page.emulate_media(color_scheme="dark")
        dark = background(page)
        assert light != dark
        page.get_by_role("button", name="Dark theme", pressed=True).wait_for()
        button = page.get_by_role("button", name="Dark theme")
        button.click()
        assert background(page) == light
        page.reload()
        visit.drawn()
        assert background(page) == light
        page.emulate_media(color_scheme="light")
        button.click()
        assert background(page) == dark
        button.click()
        # Agreeing with the system again, it follows it again.
        page.emulate_media(color_scheme="dark")
        assert background(page) == dark
        assert page.evaluate("localStorage.length") == 0


def test_without_storage_the_pages_work_and_forget(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        visit.page.add_init_script(NO_STORAGE)
        page = visit.go("#/latent/12")
        light = background(page)
        page.get_by_role("button", name="Dark theme").click()
        assert background(page) != light
        page.keyboard.press("?")
        page.get_by_label("Letters and signs act as keys").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.wait_for_timeout(100)
        assert visit.hash() == "#/latent/12"


def test_the_keys_are_told_in_an_overlay_and_can_be_switched_off(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12")
        page.keyboard.press("?")
        overlay = page.get_by_role("dialog", name="Keys")
        assert overlay.is_visible()
        assert "next latent" in overlay.inner_text()
        page.keyboard.press("j")
        page.keyboard.press("Escape")
        assert overlay.is_hidden()
        assert visit.hash() == "#/latent/12"
        page.get_by_role("button", name="Keys").click()
        page.get_by_label("Letters and signs act as keys").uncheck()
        page.get_by_role("button", name="Close").click()
        for key in ("j", "/", "?"):
            page.keyboard.press(key)
        page.wait_for_timeout(100)
        assert visit.hash() == "#/latent/12"
        assert overlay.is_hidden()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.title.startsWith('Latent 13')")


def test_letters_typed_into_a_field_are_letters(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12")
        page.locator("#jump-to").press_sequentially("jk/?")
        assert page.locator("#jump-to").input_value() == "jk/?"
        assert visit.hash() == "#/latent/12"


def test_a_new_page_is_announced_and_has_the_focus(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12")
        page.locator("ol[aria-label='Nearest by decoder'] a").first.click()
        page.wait_for_function("() => !document.title.startsWith('Latent 12')")
        assert page.locator("#said").inner_text() == page.title().removesuffix(" · monosem")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.querySelector('.bar').contains(document.activeElement)")


def test_the_first_stop_of_the_tab_key_skips_to_the_page(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert visit.hash() == "#/latent/12"


def test_the_scatter_names_opens_and_is_walked_by_keys(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/?x=encoder_cosine&y=density")
        visit.settled()
        assert page.get_by_label("Up").input_value() == "density"
        page.get_by_label("Across").select_option("top_token_share")
        assert visit.hash() == "#/?x=top_token_share&y=density"
        canvas = page.locator("canvas")
        canvas.focus()
        page.keyboard.press("ArrowRight")
        columns = scatter()
        least = min(range(len(columns["latent"])), key=lambda i: columns["top_token_share"][i])
        assert page.locator("#said").inner_text().startswith(f"Latent {columns['latent'][least]}, top-token share")
        assert page.locator("#reading b").inner_text() == f"Latent {columns['latent'][least]}"
        page.keyboard.press("Enter")
        page.wait_for_selector(".latent-number")
        assert visit.hash() == f"#/latent/{columns['latent'][least]}"
        page.go_back()
        canvas.wait_for()
        box = canvas.bounding_box()
        assert box is not None
        for step in range(40):  # somewhere along the middle there is a point
            page.mouse.move(box["x"] + 60 + step * 10, box["y"] + box["height"] / 2)
            if page.locator("#reading").is_visible():
                break
        named = page.locator("#reading b").inner_text().removeprefix("Latent ")
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector(".latent-number")
        assert visit.hash() == f"#/latent/{named}"


def test_the_overview_shows_every_metric_with_its_interval(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/")
        assert page.locator(".metrics tbody tr").count() == len(run_record()["metrics"])
        text = page.locator(".metrics").evaluate("each => each.textContent")
        for shown in ("0.153[0.141, 0.166]", "95.98%[95.58%, 96.47%]", "37.3%", "a_metric_of_tomorrow", "not defined"):
            assert shown in text
        assert "26 of 4,096 latents (0.63%) are dead" in page.locator("figcaption").inner_text()
        heights = page.locator(".figures .plot a rect.column").count()
        assert heights == sum(1 for count in run_record()["density"]["counts"] if count)


def test_intervals_are_written_as_everywhere_else_in_monosem(browser: Browser, site: PagesServer) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(200) * 10.0 ** random.integers(-6, 6, 200)
    widths = np.abs(values) * 10.0 ** random.uniform(-8, 1, 200)
    estimates = [Estimate(float(v), float(v - w), float(v + w)) for v, w in zip(values, widths, strict=True)]
    estimates += [Estimate(32.0, 32.0, 32.0), Estimate(0.0, 0.0, 0.0), Estimate(0.3735, None, None)]
    estimates += [Estimate(None, None, None), Estimate(0.0, None, None), Estimate(1e-9, 0.0, 1e-8)]
    write = """async (rows) => {
      const { estimate } = await import('/numbers.js');
      return rows.map(([value, low, high, isShare]) => {
        const told = estimate({ value, low, high }, isShare);
        return `${told.value} ${told.interval}`.trim();
      });
    }"""
    rows = [[*each, is_share] for each in estimates for is_share in (False, True)]
    with visiting(browser, site) as visit:
        written = visit.go("#/latent/7").evaluate(write, rows)
    expected = [format_estimate(each, is_share) for each in estimates for is_share in (False, True)]
    assert [text.replace("−", "-") for text in written] == expected


def bare(path: str, query: Any, body: Any) -> dict[str, Any]:
    """A run that nobody evaluated, whose latents are all dead, with no model and nothing to compare with."""
    told = answer(path, query, body)
    if path == "/api/run":
        changes: dict[str, Any] = {
            "metrics": [],
            "density": {"edges": [-4.0, -3.0, -2.0], "counts": [0, 0], "dead": 4096},
            "with": {"patterns": 0, "explanations": 0, "ablations": 0},
            "can": {"prompt": False, "steer": False, "compare": None},
        }
        return run_record(**changes)
    if path == "/api/scatter":
        return {name: [] if name != "of" else 0 for name in told}
    if path.startswith("/api/latents/"):
        empty: dict[str, Any] = {"promotes": [], "suppresses": [], "neighbours": {"decoder": [], "firing": []}}
        return answer("/api/latents/7", query, body) | empty | {"encoder_cosine": None, "nearest_cosine": None}
    return told


def test_what_is_missing_is_said_plainly(browser: Browser) -> None:
    said = {
        "#/": ["was not evaluated", "No latent fires", "4,096 of 4,096 latents (100%) are dead"],
        "#/latents": ["The run has no N2G patterns.", "The run has no explanations in words."],
        "#/latent/7": [
            "It never fires",
            "explained no latents",
            "There are none: its decoder",
            "None with a positive cosine.",
        ],
        "#/prompt": ["no model to run"],
        "#/steer": ["no model to run"],
        "#/compare": ["No other run was given"],
        "#/nowhere": ["There is no page “nowhere” here."],
        "#/latent/x": ["“x” is no latent’s number"],
    }
    with PagesServer(STATIC, bare) as server, visiting(browser, server) as visit:
        for address, sentences in said.items():
            page = visit.go(address)
            text = page.locator("main").evaluate("each => each.textContent")
            assert [each for each in sentences if each not in text] == [], address
            assert page.locator("#nav a").all_inner_texts() == ["Overview", "Latents"]


def between_spaces(path: str, query: Any, body: Any) -> dict[str, Any]:
    """A transcoder's run: its encoder and its decoder rows live in different spaces."""
    told = answer(path, query, body)
    return told | {"encoder_cosine": [None] * len(told["latent"])} if path == "/api/scatter" else told


def test_a_measure_that_latents_lack_is_not_offered(browser: Browser) -> None:
    with PagesServer(STATIC, between_spaces) as server, visiting(browser, server) as visit:
        page = visit.go("#/?x=encoder_cosine")
        assert page.get_by_label("Across").input_value() == "density"
        assert "Encoder cosine" not in page.get_by_label("Across").inner_text()
        assert page.locator(".look").count() == 5


def refusing(path: str, query: Any, body: Any) -> dict[str, Any]:
    if path in ("/api/prompt", "/api/steer"):
        raise RefusedError(429, "More than 20 requests a minute; wait 3 seconds.")
    return answer(path, query, body)


def test_errors_of_the_api_are_sentences(browser: Browser) -> None:
    with PagesServer(STATIC, refusing) as server:
        visit = Visit(browser, server.url)
        for address, place, sentence in (
            ("#/prompt?text=a", ".status .wrong", "More than 20 requests a minute; wait 3 seconds."),
            ("#/steer?text=a&latents=1:add:1", ".status .wrong", "More than 20 requests a minute; wait 3 seconds."),
            ("#/latent/99999", ".notice p", "latent=99999 is not one of 0 … 4095; give a number below 4096."),
        ):
            page = visit.go(address)
            page.wait_for_selector(place)
            assert page.locator(place).first.inner_text().startswith(sentence)
        assert [each for each in visit.wrong if "429" not in each and "404" not in each] == []
        visit.context.close()


def test_a_server_that_is_gone_is_said(browser: Browser) -> None:
    with PagesServer(STATIC) as server:
        visit = Visit(browser, server.url)
        page = visit.go("#/latent/12")
    page.wait_for_timeout(100)
    visit.context.set_offline(True)
    visit.go("#/latent/200")
    assert "does not answer" in page.locator(".notice").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()
    visit.context.close()


def test_a_view_that_is_left_is_not_drawn_late(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/100")
        site.delays["latents/150"] = 0.7
        try:
            page.evaluate("location.hash = '#/latent/150'")
            page.wait_for_timeout(100)
            visit.go("#/latent/160")
            page.wait_for_timeout(900)
            assert page.title() == "Latent 160 · monosem"
        finally:
            site.delays.clear()
