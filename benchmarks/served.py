"""A run's pages, served by a process of their own, and a browser to look at them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from monosem.errors import UserError

CHROMIUM = Path(os.environ.get("MONOSEM_CHROMIUM", "/usr/bin/chromium"))
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@contextlib.contextmanager
def served(run: Path, *flags: str) -> Generator[str]:
    """``monosem view RUN`` for as long as it is needed; its address. The index is made first, if it is not there."""
    command = [sys.executable, "-m", "monosem", "view", str(run), *flags, "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = [word for word in process.stdout.readline().split() if word.startswith("http://127.0.0.1:")]
            if not found:
                raise UserError(f"{' '.join(command)} has not started; run it to see why.")
            yield found[0]
        finally:
            process.terminate()


@contextlib.contextmanager
def chromium() -> Generator[Any]:
    """Debian's Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
