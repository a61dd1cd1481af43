"""The static site: the API's records in files."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_library import N_LATENTS, Made, make_library
from rich.console import Console

from monosem.errors import UserError
from monosem.viewer import export as export_module
from monosem.viewer import static_files
from monosem.viewer.comparison import Comparison, Nearest, Side
from monosem.viewer.export import MARK, export
from monosem.viewer.reading import Library
from monosem.viewer.schema import DECODER

INDEX = '<!doctype html><meta name="monosem-source" content="live"><p>live</p>'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_library(tmp_path_factory.mktemp("index") / "viewer.sqlite")


@pytest.fixture(scope="module")
def library(made: Made) -> Library:
    return Library(made.path)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture(autouse=True)
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "static"
    (directory / "parts").mkdir(parents=True)
    (directory / "index.html").write_text(INDEX)
    (directory / "parts" / "more.js").write_text("export {}")
    (directory / "notes.txt").write_text("left out")
    monkeypatch.setattr(static_files, "DIRECTORY", directory)
    return directory


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def plain(record: Any) -> Any:
    return json.loads(json.dumps(record))


def test_every_record_of_the_api_is_in_a_file(library: Library, tmp_path: Path, console: Console) -> None:
    out = tmp_path / "a" / "site"
    export(library, out, console=console)
    assert files(out) == {
        MARK,
        "index.html",
        "parts/more.js",
        "data/run.json",
        "data/scatter.json",
        "data/contents.json",
        "data/latents/0.json",
        "data/latents/1.json",
        "data/latents/2.json",
        "data/search/0.json",
    }
    assert (out / "index.html").read_text() == INDEX.replace('content="live"', 'content="static"')
    assert read(out / "data/run.json") == plain(library.run())
    assert read(out / "data/scatter.json") == plain(library.scatter())
    assert read(out / "data/contents.json") == {
        "latents": {"size": 100, "files": 3},
        "search": {"size": 2000, "files": 1},
    }
    latents: list[Any] = []
    for number in range(3):
        piece = read(out / f"data/latents/{number}.json")
        assert piece["first"] == 100 * number
        latents += piece["latents"]
        for each in (example for latent in piece["latents"] for example in latent["examples"]):
            each["texts"] = [piece["vocabulary"][str(token)] for token in each["ids"]]
    assert latents == [plain(library.latent(latent)) for latent in range(N_LATENTS)]
    assert isinstance(console.file, io.StringIO)
    assert "Exporting" in console.file.getvalue()


def test_what_a_search_needs_is_what_the_records_say(
    library: Library, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "SEARCH_LATENTS_A_FILE", 60)
    export(library, tmp_path / "site", console=console)
    assert read(tmp_path / "site/data/contents.json")["search"] == {"size": 60, "files": 4}
    entries = [each for number in range(4) for each in read(tmp_path / f"site/data/search/{number}.json")["latents"]]
    assert [each["latent"] for each in entries] == list(range(N_LATENTS))
    for entry in entries:
        record = plain(library.latent(entry["latent"]))
        texts = [each["text"] for kind in record["patterns"].values() for each in kind["patterns"]]
        assert entry == {
            **{name: record[name] for name in ("latent", "label", "density", "largest")},
            "fires": [[each["text"], each["share"]] for each in record["fires_on"][:5]],
            "promotes": [[each["text"], each["effect"]] for each in record["promotes"][:5]],
            "suppresses": [[each["text"], each["effect"]] for each in record["suppresses"][:5]],
            "patterns": texts,
            "explanation": record["explanation"] and record["explanation"]["text"],
            "like": [[each["latent"], each["similarity"]] for each in record["neighbours"][DECODER][:5]],
        }


def test_a_comparison_is_cut_like_the_rest(
    library: Library, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "COMPARE_LATENTS_A_FILE", 100)
    other = Library(make_library(tmp_path / "other.sqlite", "another", 50, seed=1).path)
    generator = torch.Generator().manual_seed(0)

    def side(library: Library, others: int) -> Side:
        cosines = torch.rand(library.n_latents, 3, generator=generator).sort(descending=True).values
        return Side(library, Nearest(torch.randint(0, others, cosines.shape, generator=generator), cosines))

    comparison = Comparison(side(library, 50), side(other, N_LATENTS))
    out = tmp_path / "site"
    export(library, out, comparison, console)
    contents = read(out / "data/compare.json")
    assert (contents["run"], contents["other"]) == ("made", "another")
    for name, count, n_files in (("run", N_LATENTS, 3), ("other", 50, 1)):
        assert contents["sides"][name] == {"of": count, "size": 100, "files": n_files}
        records = [each for i in range(n_files) for each in read(out / f"data/compare/{name}/{i}.json")["latents"]]
        assert records == comparison.records(name, range(count))
    assert read(out / "data/run.json")["can"] == {"prompt": False, "steer": False, "compare": "another"}


def test_an_earlier_export_is_replaced_and_what_is_not_its_own_stays(
    library: Library, tmp_path: Path, console: Console, pages: Path
) -> None:
    out = tmp_path / "site"
    (pages / "old.js").write_text("old")
    export(library, out, console=console)
    (out / "CNAME").write_text("mine")
    (pages / "old.js").unlink()
    small = Library(make_library(tmp_path / "small.sqlite", "small", 20).path)
    export(small, out, console=console)
    assert files(out) == {
        MARK,
        "CNAME",
        "index.html",
        "parts/more.js",
        "data/run.json",
        "data/scatter.json",
        "data/contents.json",
        "data/latents/0.json",
        "data/search/0.json",
    }
    assert read(out / "data/run.json")["run"]["name"] == "small"


def test_a_directory_with_something_else_is_left_alone(library: Library, tmp_path: Path, console: Console) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no earlier export; name an empty directory"):
        export(library, out, console=console)
    assert files(out) == {"index.html"}
    (out / MARK).write_text('{"files": ["../static/index.html"]}')
    with pytest.raises(UserError, match=r"names \.\./static/index\.html, which is not inside"):
        export(library, out, console=console)
    assert (tmp_path / "static/index.html").exists()
    (out / MARK).write_text('{"files": 3}')
    with pytest.raises(UserError, match="holds no earlier export"):
        export(library, out, console=console)
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another directory"):
        export(library, out / "index.html", console=console)


def test_an_export_that_was_cut_short_can_be_made_again(
    library: Library, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read_latents = tmp_path / "site", Library.latents

    def interrupt(self: Library, first: int, last: int) -> list[Any]:
        if first == 100:
            raise KeyboardInterrupt
        return read_latents(self, first, last)

    with monkeypatch.context() as patch:
        patch.setattr(Library, "latents", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(library, out, console=console)
    assert not (out / "index.html").exists()
    assert not list(out.rglob("*.tmp"))
    export(library, out, console=console)
    whole = tmp_path / "whole"
    export(library, whole, console=console)
    assert files(out) == files(whole)
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in files(whole))


def test_only_a_piece_is_in_memory_at_a_time(
    library: Library, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    read_latents = Library.latents

    def counted(self: Library, first: int, last: int) -> list[Any]:
        asked.append((first, last))
        return read_latents(self, first, last)

    monkeypatch.setattr(Library, "latents", counted)
    export(library, tmp_path / "site", console=console)
    assert asked == [(0, 99), (100, 199), (200, 229)]


def test_no_file_holds_more_latents_than_a_browser_should_fetch() -> None:
    sizes = (export_module.LATENTS_A_FILE, export_module.SEARCH_LATENTS_A_FILE, export_module.COMPARE_LATENTS_A_FILE)
    assert max(sizes) <= 2000
