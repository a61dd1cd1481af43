"""Text from data is shown and never interpreted; nothing is asked of any other place."""

import re

import pytest
from pages_browser import STATIC, Browser, Visit, visiting
from pages_hostile import ACTIVE, HOSTILE, IMAGE, OVERRIDE, SCRIPT, TOKENS
from pages_server import POLICY, PagesServer

pytestmark = pytest.mark.browser

HOSTILE_VIEWS = (
    f"#/latent/{HOSTILE}",
    f"#/latent/{HOSTILE}?lines=1&whole=1",
    "#/latents?fires=script",
    "#/latents?promotes=onerror",
    f"#/latents?fires={SCRIPT}".replace("<", "%3C"),
    "#/steer?text=<script>alert(1)</script>&latents=3:add:4",
    "#/prompt?text=<script>alert(1)</script>\u202ex%00<img src=x onerror=alert(1)>",
    "#/",
    "#/<script>alert(1)</script>",
    "#/latent/<script>alert(1)</script>",
    "#/constructor",
    "#/__proto__",
    "#/%F0%28",
)
# Whatever a page has that no page is made of.
FOREIGN = """() => [...document.querySelectorAll(
  'body script, body style, iframe, object, embed, link[href^=http], img, [onerror], [onclick], [style*=url]'
)].filter(each => each.getAttribute('src') !== 'icon.svg').map(each => each.outerHTML)"""
UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b\ufeff]")
LINKS = "[...document.querySelectorAll('a[href]')].map(each => each.getAttribute('href') ?? each.href.baseVal)"


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_text_becomes_no_element_and_no_link(browser: Browser, site: PagesServer, dark: bool) -> None:
    with visiting(browser, site, dark=dark) as visit:
        for address in HOSTILE_VIEWS:
            page = visit.go(address)
            visit.settled()
            assert page.evaluate(FOREIGN) == [], address
            assert all(re.fullmatch(r"#(main|/.*)", link) for link in page.evaluate(LINKS)), address
            # Fields show what a reader typed; everywhere else what cannot be seen is marked.
            assert not UNSEEN.search(page.evaluate("document.body.innerText"))


def test_tokens_are_shown_with_all_that_cannot_be_seen(browser: Browser, site: PagesServer) -> None:
    shown = {
        SCRIPT: SCRIPT,
        IMAGE: IMAGE,
        OVERRIDE: "⟨U+202E⟩gnp.exe",
        "\x00": "⟨U+0000⟩",
        "\n\n\n": "⏎⏎⏎",
        "\t": "⇥",
        "\r": "⟨U+000D⟩",
        " " * 9: "␣×9",
        "\x1b[31m": "⟨U+001B⟩[31m",
        "\u200b\u2066": "⟨U+200B⟩⟨U+2066⟩",
        "\u0301": "⟨U+0301⟩",
        "\ufeff": "⟨U+FEFF⟩",
        "👩\u200d🔬": "👩⟨U+200D⟩🔬",
        "\ud800": "⟨U+D800⟩",
        "␣⏎": "⟨U+2423⟩⟨U+23CE⟩",
        "\u00a0\u3000": "⟨U+00A0⟩⟨U+3000⟩",
    }
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{HOSTILE}")
        tokens = page.locator(".context").first.locator(".t").evaluate_all("all => all.map(each => each.textContent)")
        assert len(tokens) == len(TOKENS)
        assert {text: tokens[TOKENS.index(text)] for text in shown} == shown
        assert tokens[TOKENS.index(" end")] == " end"
        assert tokens[-2].endswith("…+5840 characters")
        # The pile of accents is cut: it cannot cover the lines around.
        assert tokens[TOKENS.index("e" + "\u0301" * 8)] == "e\u0301\u0301" + "⟨U+0301⟩" * 6
        assert page.locator("h1 bdi").inner_text() == f"{SCRIPT}⟨U+202E⟩gnp.exe"
        assert len(ACTIVE) == page.locator(".context").first.locator("mark").count()


def test_right_to_left_text_stays_within_its_token(browser: Browser, site: PagesServer) -> None:
    with visiting(browser, site) as visit:
        page = visit.go(f"#/latent/{HOSTILE}")
        isolated = page.locator(".context .t, .token, h1 bdi").evaluate_all(
            "all => all.map(each => getComputedStyle(each).unicodeBidi)"
        )
        assert isolated
        assert set(isolated) <= {"isolate", "plaintext"}
        lefts = (
            page.locator(".context")
            .first.locator(".t")
            .evaluate_all(
                "all => all.map(each => [each.getBoundingClientRect().top, each.getBoundingClientRect().left])"
            )
        )
        hebrew = TOKENS.index("שלום")
        after = lefts[hebrew + 1]
        assert after[0] > lefts[hebrew][0] or after[1] > lefts[hebrew][1]


def test_the_policy_holds_and_markup_from_text_is_refused(browser: Browser, site: PagesServer) -> None:
    visit = Visit(browser, site.url)
    page = visit.go("#/")
    tried = page.evaluate(
        """() => {
          try { document.body.innerHTML = '<b>x</b>'; return 'taken'; } catch (error) { return error.name; }
        }"""
    )
    assert tried == "TypeError"
    page.evaluate(
        """() => {
          const script = document.createElement('script');
          try { script.textContent = 'window.ran = true'; document.body.append(script); } catch {}
        }"""
    )
    assert page.evaluate("window.ran") is None
    assert visit.wrong, "the console tells of what the policy refused"
    visit.context.close()


def test_the_page_asks_for_the_same_policy_where_a_server_sends_none() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith(POLICY)
    assert "unsafe" not in policy
