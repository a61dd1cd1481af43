"""Take the pictures of the viewer that the documentation shows, from a run.

    PYTHONPATH=src:. python scripts/viewer_screenshots.py runs/gpt2 --compare runs/gpt2-k64 --latent 1234

Needs Chromium and playwright, as the tests do.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tyro
from benchmarks.served import chromium, served

WIDE, PHONE = (1280, 860), (390, 844)


@dataclass(frozen=True)
class Options:
    """What to take pictures of."""

    run: tyro.conf.Positional[Path]
    """A run directory."""
    latent: int
    """Whose page is shown, and which is steered with."""
    compare: Path | None = None
    """Another run."""
    search: str = "import"
    """Searched for among tokens that latents fire on."""
    text: str = "def mean(values):\n    return sum(values) / len(values)\n"
    """Of the prompt and of steering."""
    out: Path = Path("docs/images")
    """Where the pictures go."""
    whole: bool = False
    """The whole pages, not only what a window shows of them; every page in both themes and at both widths."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    text = quote(options.text)
    addresses = {
        "overview": "#/",
        "latents": f"#/latents?fires={quote(options.search)}",
        "latent": f"#/latent/{options.latent}",
        "prompt": f"#/prompt?text={text}",
        "steer": f"#/steer?text={text}&latents={options.latent}:add:4",
        **({} if options.compare is None else {"compare": "#/compare"}),
    }
    looks = [(name, WIDE, name in ("prompt", "latents")) for name in addresses] + [("latent", PHONE, True)]
    if options.whole:
        looks = [(name, size, dark) for name in addresses for size in (WIDE, PHONE) for dark in (False, True)]
    flags = () if options.compare is None else ("--compare", str(options.compare))
    with served(options.run, *flags) as url, chromium() as browser:
        for name, size, dark in looks:
            suffix = ("-phone" if size == PHONE else "") + ("-dark" if dark else "")
            path = options.out / f"viewer-{name}{suffix}.png"
            _take(browser, url + addresses[name], size, dark, path, options.whole)
            print(path)


def _take(browser: Any, address: str, size: tuple[int, int], dark: bool, path: Path, whole: bool) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        device_scale_factor=1 if size == WIDE else 2,
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("main:not([aria-busy]) h1")
    page.wait_for_load_state("networkidle")
    page.screenshot(path=str(path), full_page=whole)
    context.close()


if __name__ == "__main__":
    main()
