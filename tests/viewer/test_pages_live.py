"""Prompt, steer and compare: what is asked for, what is shown of the answer, what stands in the address."""

from typing import Any

import pytest
from pages_answers import compare, prompt, steer
from pages_browser import Browser, Page, visiting
from pages_latents import summary
from pages_server import PagesServer

pytestmark = pytest.mark.browser

TEXT = "def heappush(heap, item):\n    return heap"

NAMED = """wanted =>
  [...document.querySelectorAll('tbody th .latent-id')].map(each => each.textContent).join() === wanted"""
TOKENS = "count => document.querySelectorAll('.prompt-tokens button').length === count"


def pick_numbers(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".pick .latent-id").all_inner_texts()]


def test_a_typed_prompt_shows_its_tokens_and_their_latents(browser: Browser, site: PagesServer) -> None:
    answer = prompt({"text": TEXT})
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt")
        assert "Type a text" in page.locator(".prompt-tokens").inner_text()
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.wait_for_function(TOKENS, arg=len(answer["tokens"]))
        page.locator(".prompt-tokens button").nth(1).click()
        assert pick_numbers(page) == [latent for latent, _ in answer["tokens"][1]["latents"]]
        values = page.locator(".pick .number").all_inner_texts()
        assert [float(value) for value in values] == pytest.approx(
            [value for _, value in answer["tokens"][1]["latents"]], rel=5e-3
        )
        assert visit.hash().endswith("&token=1")


def test_the_strongest_latents_of_a_text_come_by_their_share_of_the_largest(
    browser: Browser, site: PagesServer
) -> None:
    answer = prompt({"text": TEXT})
    best: dict[int, float] = {}
    for token in answer["tokens"]:
        for latent, value in token["latents"]:
            best[latent] = max(best.get(latent, 0), value / answer["latents"][str(latent)]["largest"])
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt?text=" + TEXT.replace("\n", "%0A"))
        page.wait_for_selector(".pick")
        shown = pick_numbers(page)
        assert len(shown) == min(40, len(best))
        shares = [best[latent] for latent in shown]
        assert shares == sorted(shares, reverse=True)
        assert min(shares) >= sorted(best.values(), reverse=True)[len(shown) - 1] - 1e-12


def test_a_chosen_latent_shades_every_token_by_its_activation(browser: Browser, site: PagesServer) -> None:
    answer = prompt({"text": TEXT})
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt?text=" + TEXT.replace("\n", "%0A"))
        page.wait_for_selector(".pick")
        chosen = pick_numbers(page)[0]
        page.locator(".pick").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.dataset.latent") == str(chosen)
        shades = page.locator(".prompt-tokens button").evaluate_all(
            "all => all.map(each => Number(each.style.getPropertyValue('--a')))"
        )
        largest = answer["latents"][str(chosen)]["largest"]
        values = [dict(map(tuple, token["latents"])).get(chosen, 0) for token in answer["tokens"]]
        assert shades == pytest.approx([0.1 + 0.9 * value / largest if value else 0 for value in values])
        assert f"&latent={chosen}" in visit.hash()
        page.reload()
        page.wait_for_selector(".pick[aria-pressed=true]")
        page.locator(".picks .open").first.click()
        page.wait_for_selector(".latent-number")


def test_a_latent_that_is_pointed_at_shades_the_tokens_meanwhile(browser: Browser, site: PagesServer) -> None:
    answer = prompt({"text": TEXT})
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt?text=" + TEXT.replace("\n", "%0A"))
        page.wait_for_selector(".pick")
        first, second = pick_numbers(page)[:2]
        active = {
            latent: [int(latent in dict(map(tuple, token["latents"]))) for token in answer["tokens"]]
            for latent in (first, second)
        }
        shaded = "all => all.map(each => Number(Number(each.style.getPropertyValue('--a')) > 0))"
        tokens = page.locator(".prompt-tokens button")
        page.locator(".pick").first.hover()
        assert tokens.evaluate_all(shaded) == active[first]
        page.mouse.move(1, 1)
        assert tokens.evaluate_all(shaded) == [0] * len(answer["tokens"])
        page.locator(".pick").first.click()
        page.locator(".pick").nth(1).hover()
        assert tokens.evaluate_all(shaded) == active[second]
        page.mouse.move(1, 1)
        assert tokens.evaluate_all(shaded) == active[first]


def test_dense_latents_can_be_left_out(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt?text=" + TEXT.replace("\n", "%0A"))
        page.wait_for_selector(".pick")
        page.get_by_label("Show").select_option("0.01")
        assert visit.hash().endswith("&dense=0.01")
        assert pick_numbers(page)
        assert all(summary(latent)["density"] < 0.01 for latent in pick_numbers(page))


def test_arrows_go_through_the_tokens_of_a_prompt(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/prompt?text=" + TEXT.replace("\n", "%0A"))
        page.wait_for_selector(".pick")
        page.locator(".prompt-tokens button").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert visit.hash().endswith("&token=1")
        assert page.evaluate("document.activeElement.ariaPressed") == "true"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        assert visit.hash().endswith("&token=2")


def asked_to_steer(site: PagesServer) -> dict[str, Any]:
    """The last body sent to the API."""
    return site.bodies[-1]


def test_strengths_are_sent_in_the_latents_own_units(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/steer?text=def main(&latents=12:add:4,39:ablate,40:scale:2,60:clamp:1.5&keep=0&seed=7")
        page.wait_for_selector(".next")
        sent = asked_to_steer(site)
        largest = {latent: summary(latent)["largest"] for latent in (12, 60)}
        assert sent == {
            "text": "def main(",
            "latents": [
                {"latent": 12, "how": "add", "strength": 4 * largest[12]},
                {"latent": 39, "how": "ablate", "strength": 0},
                {"latent": 40, "how": "scale", "strength": 2},
                {"latent": 60, "how": "clamp", "strength": 1.5 * largest[60]},
            ],
            "keep_error": False,
            "length": 30,
            "samples": 3,
            "temperature": 1,
            "seed": 7,
        }
        answer = steer(sent)
        told = page.locator(".next .paired .number").all_inner_texts()
        before, after = answer["next"][0]["before"], answer["next"][0]["after"]
        assert [float(text.rstrip("%")) for text in told[:2]] == pytest.approx([100 * before, 100 * after], rel=0.06)
        assert page.locator(".next tbody tr").count() == len(answer["next"])
        assert page.locator(".continuations").count() == 2
        assert page.locator(".continuations li").count() == 6


def test_latents_are_found_set_and_taken_out_and_the_address_follows(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/steer")
        page.get_by_label("Text", exact=True).fill("import ")
        page.get_by_role("button", name="Steer").click()
        assert page.locator(".go .status").inner_text() == "Choose a latent first."
        field = page.get_by_label("Add a latent")
        field.fill("12")
        field.press("Enter")
        field.press_sequentially("def")
        page.locator(".offer").first.click()
        assert page.locator(".steered > li").count() == 2
        slider = page.get_by_label("Strength of latent 12")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == f"4.5 × 1.20 = {4.5 * summary(12)['largest']:.2f}"
        assert "latents=12:add:4.5," in visit.hash()
        page.locator(".steered .icon").last.click()
        page.get_by_label("What is done to latent 12").select_option("ablate")
        assert slider.is_hidden()
        assert visit.hash() == "#/steer?text=import+&latents=12:ablate"
        page.get_by_label("Text", exact=True).press("Control+Enter")
        page.wait_for_selector(".next")
        page.get_by_label("Temperature").fill("0.5")
        assert page.locator(".outcome.stale").count() == 1
        page.get_by_role("button", name="Steer").click()
        page.wait_for_selector(".outcome:not(.stale)")
        assert asked_to_steer(site)["temperature"] == 0.5


def test_a_number_that_is_no_latent_is_refused_where_it_is_typed(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/steer?latents=99999:add:4,x:add,12:melt:1,8:add:2")
        assert page.locator(".steered > li").count() == 1
        page.get_by_label("Add a latent").fill("4096")
        page.wait_for_selector(".found .none")
        assert page.locator(".found").inner_text() == "There are 4,096 latents, counted from 0."


def test_two_runs_are_compared_from_either_side(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go("#/compare")
        for side, order in (("run", "similar"), ("other", "similar"), ("other", "different")):
            page.locator(f"[data-side={side}]").click()
            page.get_by_label("Order").select_option(order)
            told = compare({"side": side, "order": order})["latents"]
            numbers = [str(each["latent"]) for each in told]
            page.wait_for_function(NAMED, arg=",".join(numbers))
            # Only latents of this run have pages here.
            assert page.locator("tbody th a").count() == (len(told) if side == "run" else 0)
            similarities = page.locator(".nearest .number").all_inner_texts()
            assert similarities == [f"{near['similarity']:.2f}" for each in told for near in each["nearest"]]
        assert visit.hash() == "#/compare?side=other&order=different"
        page.get_by_role("button", name="More").click()
        page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 100")
