"""The files of the pages: few, small, whole in the wheel, and without what could take text for markup."""

import re
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src" / "monosem" / "viewer" / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))


def code(path: Path) -> str:
    """A script without its comments."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"(?m)^\s*//.*$|\s//\s.*$", "", text)


FORBIDDEN = "|".join(
    (
        r"(inner|outer|insertAdjacent|set)HTML",
        r"document\.write",
        r"DOMParser|createContextualFragment|createPolicy",
        r"\beval\(|new Function|javascript:|cssText",
    )
)


def test_nothing_reads_markup_or_code_from_text() -> None:
    assert [(path.name, found) for path in SCRIPTS for found in re.findall(FORBIDDEN, code(path))] == []


def test_attributes_are_set_in_one_place_alone() -> None:
    # Where a name is not a literal, it could be anything; `dom.js` guards it.
    loose = {path.name for path in SCRIPTS if re.search(r"setAttribute\((?!\")", code(path))}
    assert loose <= {"dom.js"}


def test_the_page_names_no_place_but_its_own_files() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in STATIC.iterdir())
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place to ask


def test_the_page_holds_no_style_and_no_script_of_its_own() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=", html)
    assert all("src=" in each for each in re.findall(r"<script[^>]*>", html))


def test_every_module_is_asked_for_at_once() -> None:
    """By a list in head.js; else a module would be asked for only when those that import it are there."""
    listed = (STATIC / "head.js").read_text(encoding="utf-8").partition("MODULES =")[2].partition(";")[0]
    named = re.findall(r"\w+", listed)
    assert sorted([*named, "app", "head"]) == [path.stem for path in SCRIPTS]


def test_imports_go_in_no_circle() -> None:
    imports = {path.name: set(re.findall(r'from "\./([\w.]+)"', path.read_text(encoding="utf-8"))) for path in SCRIPTS}
    while imports:
        free = {name for name, needs in imports.items() if not needs & imports.keys()}
        assert free, f"a circle among {sorted(imports)}"
        imports = {name: needs for name, needs in imports.items() if name not in free}


def test_the_pages_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in STATIC.iterdir()}
    assert sum(sizes.values()) < 150_000
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in SCRIPTS) <= 300
    assert max(len(line) for path in SCRIPTS for line in path.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_wheel_holds_every_file_of_the_pages() -> None:
    builder = WheelBuilder(str(ROOT))
    held = {file.distribution_path for file in builder.recurse_included_files()}
    assert {f"monosem/viewer/static/{path.name}" for path in STATIC.iterdir()} <= held
