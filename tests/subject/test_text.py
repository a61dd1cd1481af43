"""Text sources: what makes a document, how they are split, and what is said when a source is wrong."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from monosem.errors import UserError
from monosem.subject import builtin, text_files
from monosem.subject.documents import Document
from monosem.subject.text import TextConfig, documents, fingerprint, is_held_out

COMMIT = "0123456789" * 4


def read(*sources: str | Path, **settings: str) -> list[Document]:
    return list(documents(TextConfig(text=tuple(map(str, sources)), **settings)))


def texts(*sources: str | Path, **settings: str) -> list[str]:
    return [document.text for document in read(*sources, **settings)]


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Settings


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, float("nan")])
def test_a_held_out_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"held_out=.* is not above 0 and at most 0\.5"):
        TextConfig(text=("a.txt",), held_out=share)


def test_the_builtin_text_keeps_the_bundled_models_split() -> None:
    with pytest.raises(UserError, match="the bundled model was trained with that split"):
        TextConfig(held_out=0.2)


def test_the_builtin_text_does_not_mix_with_files() -> None:
    with pytest.raises(UserError, match=r"text mixes 'builtin' with notes\.txt"):
        TextConfig(text=("builtin", "notes.txt"))


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="text names no source"):
        TextConfig(text=())


def test_a_setting_that_would_be_unused_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text_split='validation' has no meaning for the builtin text"):
        TextConfig(text_split="validation")
    path = write(tmp_path / "a.txt", "text")
    with pytest.raises(UserError, match="text_revision='v1' has no meaning for local files"):
        read(path, text_revision="v1")
    with pytest.raises(UserError, match="text_field='body' has no meaning for plain text files"):
        read(path, text_field="body")


# Which files


def test_files_globs_and_directories_are_read_in_order_and_each_file_once(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "b")
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "deep" / "er" / "c.jsonl", jsonl({"text": "c"}))
    write(tmp_path / "deep" / "notes.md", "not a known kind: passed over in a directory")
    assert texts(tmp_path / "b.txt", tmp_path / "a.txt") == ["b", "a"]
    assert texts(tmp_path / "*.txt") == ["a", "b"]
    assert texts(tmp_path) == ["a", "b", "c"]
    assert texts(tmp_path / "**" / "*.jsonl", tmp_path / "a.txt", tmp_path) == ["c", "a", "b"]


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b")
    with pytest.raises(UserError, match=r"a\.csv is of no kind that can be read.*\.txt, \.txt\.gz.*\.parquet"):
        read(path)
    with pytest.raises(UserError, match=r"The directory .* holds no text file\. Known: \.txt"):
        read(tmp_path)


def test_a_missing_file_is_named_with_its_near_matches(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt", "text")
    with pytest.raises(UserError, match=r"corpsu\.txt' is no file, no directory.*Near: .*corpus\.txt"):
        read(tmp_path / "corpsu.txt")
    with pytest.raises(UserError, match=r"\*\.jsonl' is no file, no directory and no pattern"):
        read(tmp_path / "*.jsonl")
    with pytest.raises(UserError, match=r"missing\.txt' is no file"):
        read("missing.txt")


# Plain text


def test_a_short_text_file_is_one_document_named_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Grüße\r\nzwei")
    assert read(path) == [Document(str(path), "Grüße\r\nzwei")]


def test_a_long_text_file_is_cut_at_line_ends_and_nothing_is_lost(tmp_path: Path) -> None:
    content = "".join(f"line {number} ⟨é⟩ {'word ' * (number % 37)}\n" for number in range(3000))
    path = write(tmp_path / "a.txt", content)
    found = read(path)
    assert "".join(document.text for document in found) == content
    assert [document.name for document in found] == [f"{path}#{part + 1}" for part in range(len(found))]
    assert all(document.text.endswith("\n") for document in found)
    assert all(12_000 < len(document.text) <= text_files.PART_CHARACTERS for document in found[:-1])


def test_a_text_file_without_line_ends_is_cut_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "title\n" + "x" * 40_000)
    assert [len(part) for part in texts(path)] == [16_000, 16_000, 8_006]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.txt", "\ufeffa\ufeffb")) == ["a\ufeffb"]


@pytest.mark.parametrize("before", [0, 3, 65_534, 65_535, 65_536, 200_001])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path, before: int) -> None:
    path = write(tmp_path / "a.txt", b"\n" * before + b"\xe9t\xe9")
    with pytest.raises(UserError, match=rf"a\.txt is not UTF-8: byte {before} \(0xe9\)"):
        read(path)


def test_a_character_cut_off_at_the_end_of_a_file_is_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "abc€".encode()[:-1])
    with pytest.raises(UserError, match="not UTF-8: byte 3 "):
        read(path)


def test_characters_that_straddle_the_pieces_read_are_whole(tmp_path: Path) -> None:
    content = "a" + "€\n" * 60_000
    assert "".join(texts(write(tmp_path / "a.txt", content))) == content


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.zst"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is empty: there is no text in it"):
        read(write(tmp_path / name, b""))


# jsonl


def test_each_line_of_jsonl_is_a_document_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl({"text": "one\n"}, {"text": ""}) + "\n" + '{"text": "four", "n": 1}')
    assert read(path) == [Document(f"{path}:1", "one\n"), Document(f"{path}:4", "four")]


def test_the_field_of_jsonl_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl({"body": "wanted", "text": "other"}))
    assert texts(path, text_field="body") == ["wanted"]


def test_long_lines_of_jsonl_are_whole(tmp_path: Path) -> None:
    long = ["é" * 150_000, "b", "c" * 65_536]
    assert texts(write(tmp_path / "a.jsonl", jsonl(*({"text": line} for line in long)))) == long


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", r"a\.jsonl, line 2 is not JSON"),
        ("[" * 100_000, r"a\.jsonl, line 2 is not JSON"),
        ('["text"]', r"a\.jsonl, line 2 holds a list, where an object with a field 'text' is needed"),
        ('{"title": 1, "body": 2}', r"a\.jsonl, line 2 has no field 'text'; it has: body, title"),
        ('{"text": null}', r"a\.jsonl, line 2: field 'text' holds a NoneType, not a string"),
        ('{"text": "ab\\ud800"}', r"a\.jsonl, line 2: field 'text' holds half a surrogate pair at character 2"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", jsonl({"text": "good"}) + line + "\n")
    with pytest.raises(UserError, match=message):
        read(path)


# Compressed files


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESSIONS = [pytest.param(gzip.compress, ".gz", id="gz"), pytest.param(zstd, ".zst", id="zst")]


# pzstd writes frames that hold no data.
SKIPPED = {".gz": b"", ".zst": bytes.fromhex("502a4d18 04000000 01020304")}


@pytest.mark.parametrize(("compress", "suffix"), COMPRESSIONS)
def test_compressed_files_read_as_their_content(
    tmp_path: Path, compress: Callable[[bytes], bytes], suffix: str
) -> None:
    lines = jsonl(*({"text": f"Zeile {number} €"} for number in range(20_000))).encode()
    several = compress(lines[:100_001]) + compress(b"") + SKIPPED[suffix] + compress(lines[100_001:])
    plain = write(tmp_path / "a.jsonl", lines)
    assert texts(write(tmp_path / f"b.jsonl{suffix}", several)) == texts(plain)
    assert texts(write(tmp_path / f"c.TXT{suffix}", compress(b"text"))) == ["text"]


@pytest.mark.parametrize(("compress", "suffix"), COMPRESSIONS)
def test_damaged_compressed_files_are_refused(tmp_path: Path, compress: Callable[[bytes], bytes], suffix: str) -> None:
    whole = compress("".join(f"line {number * number}\n" for number in range(9000)).encode())
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for name, data in {
        "cut": whole[:-3],
        "half": whole[:middle],
        "flipped": flipped,
        "other": b"not compressed",
    }.items():
        with pytest.raises(UserError, match=rf"{name}\.txt\{suffix} is damaged"):
            read(write(tmp_path / f"{name}.txt{suffix}", data))


# Parquet


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["one", "", "drei €"], other=[1, 2, 3])
    assert read(path) == [Document(f"{path}:1", "one"), Document(f"{path}:3", "drei €")]
    many = [f"row {number}" for number in range(1000)]
    assert texts(write_parquet(tmp_path / "b.parquet", body=many), text_field="body") == many


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet has no field 'text'; it has: body, title"):
        read(write_parquet(tmp_path / "a.parquet", title=["t"], body=["b"]))
    with pytest.raises(UserError, match=r"b\.parquet, row 1: field 'text' holds a int, not a string"):
        read(write_parquet(tmp_path / "b.parquet", text=[1]))
    with pytest.raises(UserError, match=r"c\.parquet is empty"):
        read(write_parquet(tmp_path / "c.parquet", text=[]))
    with pytest.raises(UserError, match=r"d\.parquet could not be read as parquet"):
        read(write(tmp_path / "d.parquet", b"PAR1 not really"))
    whole = write_parquet(tmp_path / "e.parquet", text=["some text"] * 50).read_bytes()
    with pytest.raises(UserError, match=r"f\.parquet could not be read as parquet"):
        read(write(tmp_path / "f.parquet", whole[:-20]))


# The split


def test_equal_texts_fall_on_the_same_side_and_the_share_is_kept(tmp_path: Path) -> None:
    config = TextConfig(text=(str(tmp_path),), held_out=0.3)
    sides = [is_held_out(config, Document(f"name {number}", f"text {number}")) for number in range(2000)]
    again = [is_held_out(config, Document("other name", f"text {number}")) for number in range(2000)]
    assert sides == again
    assert 0.27 < sum(sides) / 2000 < 0.33


def test_a_larger_share_holds_out_the_same_documents_and_more() -> None:
    found = [Document("", f"text {number}") for number in range(500)]
    small, large = (TextConfig(text=("a.txt",), held_out=share) for share in (0.1, 0.4))
    assert all(is_held_out(large, document) for document in found if is_held_out(small, document))


def test_the_builtin_text_is_the_library_split_by_path() -> None:
    config = TextConfig()
    found = documents(config)
    first = [next(found) for _ in range(30)]
    expected = builtin.library_documents()
    assert [tuple(document) for document in first] == [next(expected) for _ in range(30)]
    assert [is_held_out(config, document) for document in first] == [builtin.is_held_out(d.name) for d in first]


# The fingerprint


def test_the_fingerprint_follows_content_and_settings_not_names(tmp_path: Path) -> None:
    def of(*names: str, **settings: str | float) -> str:
        return fingerprint(TextConfig(text=tuple(str(tmp_path / name) for name in names), **settings))

    for name in ("a.jsonl", "same.jsonl"):
        write(tmp_path / name, jsonl({"text": "one"}))
    write(tmp_path / "b.jsonl", jsonl({"text": "two"}))
    write(tmp_path / "as_text.txt", jsonl({"text": "one"}))
    assert of("a.jsonl") == of("same.jsonl")
    others = [
        of("a.jsonl"),
        of("b.jsonl"),
        of("a.jsonl", "b.jsonl"),
        of("b.jsonl", "a.jsonl"),
        of("as_text.txt"),
        of("a.jsonl", held_out=0.2),
        of("a.jsonl", text_field="body"),
    ]
    assert len(set(others)) == len(others)


def test_the_builtin_fingerprint_follows_the_librarys_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "library_root", lambda: tmp_path)
    write(tmp_path / "a.py", "one")
    first = fingerprint(TextConfig())
    assert fingerprint(TextConfig()) == first
    write(tmp_path / "a.py", "two")
    second = fingerprint(TextConfig())
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, fingerprint(TextConfig())}) == 3


# The hub


def test_a_hub_id_without_network_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A port where nobody listens: the error is the one that really arises.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wikitexts", "a file with nearly this name")
    message = (
        "text 'wikitext' is no file here, and could not be read as a data set of the hub: .* Check the name, connect"
    )
    for call in (lambda config: next(documents(config)), fingerprint):
        with pytest.raises(UserError, match=message + ".*Near: wikitexts"):
            call(TextConfig(text=("wikitext",)))


def test_a_hub_id_stands_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "text")
    with pytest.raises(UserError, match="text names 'owner/name', which is no file here, beside 1 more"):
        read(path, "owner/name")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A hub with one data set of three rows; returns the calls to ``load_dataset``."""
    calls: list[dict[str, object]] = []

    def load_dataset(hub_id: str, name: str | None, **settings: object) -> list[dict[str, str]]:
        calls.append({"id": hub_id, "name": name, **settings})
        return [{"text": "one"}, {"text": ""}, {"text": "three"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    return calls


def test_a_hub_data_set_is_streamed_at_its_resolved_commit(hub: list[dict[str, object]]) -> None:
    found = read("owner/name", text_split="test", text_subset="small")
    assert found == [Document("owner/name:1", "one"), Document("owner/name:3", "three")]
    assert hub == [{"id": "owner/name", "name": "small", "split": "test", "revision": COMMIT, "streaming": True}]


def test_a_hub_data_set_without_the_field_lists_what_is_there(hub: list[dict[str, object]]) -> None:
    with pytest.raises(UserError, match="owner/name, row 1 has no field 'body'; it has: text"):
        read("owner/name", text_field="body")


@pytest.mark.usefixtures("hub")
def test_a_hub_fingerprint_is_its_commit_and_a_full_commit_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = fingerprint(TextConfig(text=("owner/name",)))
    assert newest == fingerprint(TextConfig(text=("owner/name",), text_revision="main"))
    assert newest != fingerprint(TextConfig(text=("owner/name",), text_split="test"))
    monkeypatch.delattr(huggingface_hub.HfApi, "dataset_info")
    assert newest == fingerprint(TextConfig(text=("owner/name",), text_revision=COMMIT))
