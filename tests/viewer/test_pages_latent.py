"""A latent's page: exact activations, verdicts of patterns, tabs, neighbours, keys."""

import pytest
from pages_browser import Browser, Page, visiting
from pages_latents import DEAD, PER_BAND, neighbours, record, rule_token
from pages_server import PagesServer

pytestmark = pytest.mark.browser

PATTERNED = 75
"""A latent with patterns whose contexts have hits, misses and false alarms."""


VERDICTS = """tokens => tokens.map(
  each => ['hit', 'miss', 'false-alarm'].find(kind => each.classList.contains(kind)) ?? null
)"""
PATTERNS = """async () => {
  const { predictions } = await import('/patterns.js');
  const any = (tokens, at_start) => ({ tokens, at_start, text: tokens.join(' '), activation: 1 });
  const places = (patterns, ids, first) =>
    [...predictions(patterns, ids, first)].map(([at, { text }]) => [at, text]);
  return [
    places([any([null, 5], true)], [0, 9, 5, 9, 5], 1),
    places([any([null, 5], true)], [9, 5, 9, 5], 0),
    places([any([9, null, 5], false), any([5], false)], [0, 9, 5, 5], 1),
    places([any([null, 5], false)], [0, 5, 5], 1),
  ];
}"""


def reading(page: Page) -> str:
    assert page.locator("#reading").is_visible()
    return " ".join(page.locator("#reading").inner_text().split())


def exact(value: float) -> str:
    """Seven significant digits, as JavaScript writes a number."""
    return f"{float(f'{value:.7g}')!r}"


def test_the_exact_activation_is_read_on_hover_and_on_focus(browser: Browser, site: PagesServer) -> None:
    example = record(13)["examples"][0]
    share = f"{100 * example['value'] / record(13)['largest']:.0f}%"
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/13")
        peak = page.locator(".example").first.locator("mark.peak")
        peak.hover()
        assert exact(example["value"]) in reading(page)
        assert share in reading(page)
        page.mouse.move(0, 0)
        page.wait_for_selector("#reading", state="hidden")
        peak.focus()
        assert exact(example["value"]) in reading(page)
        page.keyboard.press("Escape")
        assert page.locator("#reading").is_hidden()


def test_arrows_go_through_the_active_tokens_of_a_context(browser: Browser, site: PagesServer) -> None:
    latent = next(i for i in range(400) if i not in DEAD and len(record(i)["examples"][0]["activations"]) > 3)
    example = record(latent)["examples"][0]
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{latent}?whole=1&marks=none")
        context = page.locator(".context").first
        assert context.locator("[tabindex='0']").count() == 1
        context.locator("mark").first.focus()
        read = [reading(page)]
        for _ in example["activations"][1:]:
            page.keyboard.press("ArrowRight")
            read.append(reading(page))
        assert all(exact(value) in text for (_, value), text in zip(example["activations"], read, strict=True))
        page.keyboard.press("Home")
        assert reading(page) == read[0]
        assert visit.hash().startswith(f"#/latent/{latent}")


def slow_verdicts(example: dict, patterns: list[dict]) -> dict[int, str]:
    """Hits, misses and false alarms by the definition, position by position; the text begins after the BOS."""
    active = {position for position, _ in example["activations"]}
    verdicts = {}
    for end in range(1, len(example["ids"])):
        predicted = False
        for pattern in patterns:
            begin = end - len(pattern["tokens"]) + 1
            fits = begin == 1 if pattern["at_start"] else begin >= 1
            here = example["ids"][max(0, begin) : end + 1]
            predicted |= fits and all(t is None or t == h for t, h in zip(pattern["tokens"], here, strict=False))
        if predicted or end in active:
            verdicts[end] = "hit" if predicted and end in active else "miss" if end in active else "false-alarm"
    return verdicts


def test_patterns_mark_hits_misses_and_false_alarms(browser: Browser, site: PagesServer) -> None:
    told = record(PATTERNED)
    patterns = told["patterns"]["random"]["patterns"]
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{PATTERNED}?whole=1")
        seen = set()
        for band in (-1, *range(5)):
            if band >= 0:
                page.locator(f"#tab-{band}").click()
            for place, example in enumerate(each for each in told["examples"] if each["band"] == band):
                shown = page.locator(".example").nth(place).locator(".t").evaluate_all(VERDICTS)
                expected = slow_verdicts(example, patterns)
                assert shown == [expected.get(position) for position in range(len(example["ids"]))]
                seen |= set(expected.values())
        assert seen == {"hit", "miss", "false-alarm"}


def test_a_start_mark_holds_at_the_blocks_first_token_of_text_alone(browser: Browser, site: PagesServer) -> None:
    """By the pages' own module, on a block with a BOS and on one without."""
    with visiting(browser, site) as visit:
        found = visit.go("#/latent/7").evaluate(PATTERNS)
    assert found == [[[2, " 5"]], [[1, " 5"]], [[2, "5"], [3, "9  5"]], [[2, " 5"]]]


def test_tabs_show_each_band_and_stand_in_the_address(browser: Browser, site: PagesServer) -> None:
    told = record(13)
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/13")
        for band in (4, 3, 2, 1, 0):
            page.locator(f"#tab-{band}").click()
            assert visit.hash() == f"#/latent/13?band={band}"
            values = page.locator(".strength .number").evaluate_all("all => all.map(each => each.title)")
            assert values == [exact(each["value"]) for each in told["examples"] if each["band"] == band]
            assert len(values) == PER_BAND
        page.locator("#tab-0").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#tab-1").get_attribute("aria-selected") == "true"
        assert visit.hash() == "#/latent/13?band=1"
        page.reload()
        visit.drawn()
        assert page.locator("#tab-1").get_attribute("aria-selected") == "true"


def test_the_pages_numbers_are_the_records(browser: Browser, site: PagesServer) -> None:
    told = record(12)
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12")
        cells = page.locator(".readout dd b").all_inner_texts()
        assert cells[0] == f"{100 * told['density']:.1f}%"
        assert cells[1] == str(told["fired"])
        assert cells[4] == f"{told['encoder_cosine']:.2f}"
        shares = page.locator("ol.bars[aria-label='Tokens it fires on'] .number").all_inner_texts()
        assert len(shares) == len(told["fires_on"])
        assert shares[0] == f"{100 * told['fires_on'][0]['share']:.0f}%"
        effects = page.locator("ol.bars[aria-label='Tokens it suppresses'] .number").all_inner_texts()
        assert effects[0] == f"{told['suppresses'][0]['effect']:.1f}".replace("-", "−")
        near = page.locator("ol[aria-label='Nearest by decoder'] .latent-id").all_inner_texts()
        assert near == [str(each["latent"]) for each in neighbours(12, "decoder")]
        columns = page.locator(".latent-side .plot rect.column").evaluate_all(
            "all => all.map(each => Number(each.getAttribute('height')))"
        )
        most = max(told["histogram"])
        expected = [0 if each == 0 else max(1, 84 * each / most) for each in told["histogram"]]
        assert columns == pytest.approx(expected, abs=1e-6)


def test_keys_go_to_the_next_and_the_previous_latent_in_the_same_view(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/12?lines=1")
        for key, number in (("j", 13), ("j", 14), ("k", 13), ("ArrowRight", 14), ("ArrowLeft", 13)):
            page.keyboard.press(key)
            page.wait_for_function("number => document.title === `Latent ${number} · monosem`", arg=number)
            assert visit.hash() == f"#/latent/{number}?lines=1"
        visit.go("#/latent/0")
        page.keyboard.press("k")
        assert visit.hash() == "#/latent/0"


def test_whole_blocks_and_line_breaks_are_switched_by_key_and_keep_the_focus(
    browser: Browser, site: PagesServer
) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/13")
        part = page.locator(".context").first.locator(".t").count()
        for name in ("Whole blocks", "Line breaks"):
            page.get_by_role("button", name=name).focus()
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.textContent") == name
            assert page.evaluate("document.activeElement.ariaPressed") == "true"
        assert part < page.locator(".context").first.locator(".t").count() == 64
        assert visit.hash() == "#/latent/13?lines=1&whole=1"
        written = page.locator(".context").first.evaluate("each => each.innerText")
        assert "\n" in written


def test_one_context_opens_on_its_own(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/latent/13")
        page.get_by_role("button", name="Show").first.click()
        counts = [page.locator(".context").nth(place).locator(".t").count() for place in (0, 1)]
        assert counts[0] == 64 > counts[1]


def test_a_dead_latent_says_so_and_shows_what_there_is(browser: Browser, site: PagesServer) -> None:
    (dead, *_) = sorted(DEAD)
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{dead}")
        assert page.get_by_role("heading", name="It never fires").is_visible()
        assert "2,000,128" in page.locator(".notice").inner_text()
        assert page.get_by_role("tab").count() == 0
        assert page.get_by_role("heading", name="Activations").count() == 0
        assert page.locator("ol.bars[aria-label='Tokens it promotes'] li").count() == 10
        assert page.get_by_role("link", name="Steer with it").count() == 0


def test_a_latents_links_search_for_its_tokens_and_its_like(browser: Browser, site: PagesServer) -> None:
    told = record(PATTERNED)
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{PATTERNED}")
        page.locator("ol.bars[aria-label='Tokens it fires on'] a").first.click()
        page.wait_for_selector(".results li")
        assert page.locator("#find-fires").input_value() == told["fires_on"][0]["text"]
        visit.go(f"#/latent/{PATTERNED}")
        page.get_by_role("link", name="Latents like it").click()
        page.wait_for_selector(".results li")
        assert page.get_by_label("Like latent").input_value() == str(PATTERNED)
        assert rule_token(PATTERNED) == told["fires_on"][0]["token"]
