import json
import shutil
from collections import namedtuple
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch

from monosem.data.index import DTYPES, ShardPlan, SubjectIdentity, cache_size_bytes, default_rows_per_shard, open_shards
from monosem.data.shards import ShardReader, ShardWriter, verify_shards
from monosem.errors import UserError

WIDTH = 7
ROWS = 31
DiskUsage = namedtuple("DiskUsage", "total used free")


def make_plan(**changes):
    settings = {
        "subject": SubjectIdentity(name="builtin", revision=None, context_length=64),
        "hookpoint": "transformer.h.4",
        "width": WIDTH,
        "dtype": "bfloat16",
        "rows_total": ROWS,
        "rows_per_shard": 11,
        "provenance": {"text": ("a", "b"), "tokens": {"hash": "00"}},
    }
    return ShardPlan(**settings | changes)


def make_rows(rows=ROWS, dtype="bfloat16"):
    activations = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(5)).to(DTYPES[dtype])
    return activations, torch.arange(rows) * 3 + 1


def fill(writer, activations, positions, stop=None, step=5):
    stop = len(positions) if stop is None else stop
    for start in range(writer.next_row, stop, step):
        end = min(start + step, stop)
        writer.write(start, activations[start:end], positions[start:end])


def write_cache(path, **changes):
    plan = make_plan(**changes)
    activations, positions = make_rows(plan.rows_total, plan.dtype)
    fill(ShardWriter(path, plan), activations, positions)
    return activations, positions


def read_all(path, **settings):
    reader = ShardReader(path, **settings)
    pieces = [reader.rows(i, 0, shard.rows) for i, shard in enumerate(reader.index.shards)]
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])


def assert_same_bits(found, written):
    assert found[0].dtype == written[0].dtype
    assert torch.equal(found[0].view(torch.uint8), written[0].view(torch.uint8))
    assert torch.equal(found[1], written[1])


def edit_index(path, change):
    entries = json.loads((path / "index.json").read_text())
    change(entries)
    (path / "index.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, dtype):
    written = write_cache(tmp_path / "cache", dtype=dtype)
    assert_same_bits(read_all(tmp_path / "cache"), written)
    index = verify_shards(tmp_path / "cache")
    assert index.is_complete
    assert [shard.rows for shard in index.shards] == [11, 11, 9]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "index.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    ]


def test_signed_zeros_infinities_and_nans_survive(tmp_path):
    activations = torch.tensor([[0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, 3e38]])
    fill(ShardWriter(tmp_path, make_plan(rows_total=1, dtype="float32")), activations, torch.tensor([2**40]))
    assert_same_bits(read_all(tmp_path), (activations, torch.tensor([2**40])))


def test_activations_are_stored_in_the_plans_dtype(tmp_path):
    activations, positions = make_rows(dtype="float32")
    fill(ShardWriter(tmp_path, make_plan()), activations, positions)
    assert_same_bits(read_all(tmp_path), (activations.bfloat16(), positions))


def test_the_size_of_a_cache_is_known_before(tmp_path):
    assert cache_size_bytes(1000, 768, "bfloat16") == 1000 * (768 * 2 + 8)
    assert cache_size_bytes(1000, 768, "float32") == 1000 * (768 * 4 + 8)
    write_cache(tmp_path)
    stored = sum(shard.bytes for shard in open_shards(tmp_path).shards)
    assert 0 < stored - cache_size_bytes(ROWS, WIDTH, "bfloat16") < 3 * 300
    assert cache_size_bytes(default_rows_per_shard(768, "bfloat16"), 768, "bfloat16") <= 2**27
    assert default_rows_per_shard(2**30, "float32") == 1


@pytest.mark.parametrize("interruption", [0, 5, 11, 15, 22, 30, 31])
def test_a_resumed_writer_repeats_no_finished_shard_and_ends_the_same(tmp_path, interruption):
    written = write_cache(tmp_path / "whole")
    fill(ShardWriter(tmp_path / "parts", make_plan()), *written, stop=interruption)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("shard-*")}
    assert len(before) == (3 if interruption == ROWS else interruption // 11)

    writer = ShardWriter(tmp_path / "parts", make_plan())
    assert writer.next_row == (ROWS if interruption == ROWS else interruption // 11 * 11)
    fill(writer, *written)
    assert writer.next_row == ROWS
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("shard-*")}
    assert before.items() <= after.items()
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_rows_already_written_are_passed_over(tmp_path):
    activations, positions = make_rows()
    fill(ShardWriter(tmp_path, make_plan()), activations, positions, stop=15)
    writer = ShardWriter(tmp_path, make_plan())
    writer.write(0, torch.zeros(5, WIDTH), torch.zeros(5, dtype=torch.int64))
    assert writer.next_row == 11
    writer.write(5, activations[5:], positions[5:])
    assert_same_bits(read_all(tmp_path), (activations, positions))


def test_a_gap_between_rows_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="rows 0 to 5 are missing"):
        ShardWriter(tmp_path, make_plan()).write(5, *make_rows(5))


def test_leftovers_of_an_interrupted_writer_are_cleared_away(tmp_path):
    activations, positions = make_rows()
    fill(ShardWriter(tmp_path, make_plan()), activations, positions, stop=11)
    (tmp_path / "shard-00001.safetensors").write_bytes(b"unlisted")
    (tmp_path / ".shard-00001.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("kept")
    writer = ShardWriter(tmp_path, make_plan())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "notes.txt", "shard-00000.safetensors"]
    fill(writer, activations, positions)
    assert_same_bits(read_all(tmp_path), (activations, positions))


def test_a_cache_is_extended_by_further_shards(tmp_path):
    activations, positions = make_rows(53)
    fill(ShardWriter(tmp_path, make_plan()), activations[:ROWS], positions[:ROWS])
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    writer = ShardWriter(tmp_path, make_plan(rows_total=53))
    assert not open_shards(tmp_path).is_complete
    fill(writer, activations, positions)
    assert_same_bits(read_all(tmp_path), (activations, positions))
    assert [shard.rows for shard in verify_shards(tmp_path).shards] == [11, 11, 9, 11, 11]
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())


def test_a_cache_ends_sooner_but_not_below_what_is_stored(tmp_path):
    fill(ShardWriter(tmp_path, make_plan()), *make_rows(), stop=25)
    with pytest.raises(UserError, match=r"already holds 22 rows, more than the rows_total=21 .* --out.* --overwrite"):
        ShardWriter(tmp_path, make_plan(rows_total=21))
    assert ShardWriter(tmp_path, make_plan(rows_total=22)).next_row == 22
    assert open_shards(tmp_path).is_complete


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hookpoint": "transformer.h.3"}, r"hookpoint='transformer.h.4', and hookpoint='transformer.h.3'"),
        ({"dtype": "float32"}, r"dtype='bfloat16', and dtype='float32'"),
        ({"width": 5}, r"width=7, and width=5"),
        ({"rows_per_shard": 13}, r"rows_per_shard=11, and rows_per_shard=13"),
        (
            {"subject": SubjectIdentity(name="builtin", revision="abc", context_length=64)},
            r"subject.revision=None, and subject.revision='abc'",
        ),
        (
            {"subject": SubjectIdentity(name="gpt2", revision=None, context_length=64)},
            r"subject.name='builtin', and subject.name='gpt2'",
        ),
        ({"provenance": {"text": ["c"], "tokens": {"hash": "00"}}}, r"provenance.text=\['a', 'b'\], and .*=\['c'\]"),
        ({"provenance": {"text": ["a", "b"]}}, r"provenance.tokens=\{'hash': '00'\}, and provenance.tokens=None"),
    ],
)
def test_another_plan_is_refused_by_the_field_that_differs(tmp_path, changes, message):
    write_cache(tmp_path)
    with pytest.raises(UserError, match=message + r".*--out.*--overwrite"):
        ShardWriter(tmp_path, make_plan(**changes))


def test_overwriting_starts_anew_and_keeps_what_is_not_the_caches(tmp_path):
    write_cache(tmp_path)
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "index.json").write_text("not json")
    writer = ShardWriter(tmp_path, make_plan(hookpoint="other", rows_total=5), overwrite=True)
    assert writer.next_row == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "notes.txt"]
    fill(writer, *make_rows(5))
    assert open_shards(tmp_path).plan.hookpoint == "other"


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("rows_total", 0), ("rows_per_shard", -1)])
def test_a_plan_without_rows_is_refused(field, value):
    with pytest.raises(UserError, match=f"{field}={value} must be at least 1"):
        make_plan(**{field: value})


def test_float16_is_refused_because_it_overflows():
    with pytest.raises(UserError, match=r"dtype='float16': float16 overflows.*use bfloat16 or float32"):
        make_plan(dtype="float16")


def test_a_disk_too_full_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    needed = cache_size_bytes(ROWS, WIDTH, "bfloat16")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: DiskUsage(10**9, 0, needed - 1))
    with pytest.raises(UserError, match=r"Caching 31 rows of transformer.h.4 needs .* GB free"):
        ShardWriter(tmp_path / "cache", make_plan())
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: DiskUsage(10**9, 0, needed))
    assert ShardWriter(tmp_path / "cache", make_plan()).next_row == 0


def test_only_what_is_still_to_be_written_must_fit(tmp_path, monkeypatch):
    written = write_cache(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: DiskUsage(10**9, 10**9, 0))
    assert ShardWriter(tmp_path, make_plan()).next_row == ROWS
    fill(ShardWriter(tmp_path, make_plan(), overwrite=True), *written)
    with pytest.raises(UserError, match="needs"):
        ShardWriter(tmp_path, make_plan(rows_total=200))
    assert open_shards(tmp_path).is_complete


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_flipped_byte_is_found_and_its_shard_named(tmp_path, share):
    write_cache(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00001.safetensors has the checksum \w+ instead of \w+\..*--overwrite"):
        verify_shards(tmp_path)
    reader = ShardReader(tmp_path)
    reader.rows(0, 0, 3)
    with pytest.raises(UserError, match=r"shard-00001.safetensors has the checksum"):
        reader.rows(1, 0, 3)


def test_every_damaged_shard_is_named(tmp_path):
    write_cache(tmp_path)
    (tmp_path / "shard-00000.safetensors").unlink()
    path = tmp_path / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00000.safetensors is missing; shard-00002.safetensors has \d+ bytes"):
        verify_shards(tmp_path)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_refused(tmp_path, verify):
    write_cache(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"shard-00001.safetensors has 100 bytes instead of \d+.*--overwrite"):
        ShardReader(tmp_path, verify=verify).rows(1, 0, 1)
    with pytest.raises(UserError, match=r"shard-00001.safetensors has 100 bytes"):
        ShardWriter(tmp_path, make_plan())


def test_a_shard_with_other_tensors_is_refused_even_unverified(tmp_path):
    write_cache(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    size = path.stat().st_size
    path.write_bytes(b"\0" * size)
    with pytest.raises(UserError, match=r"shard-00000.safetensors .*--overwrite"):
        ShardReader(tmp_path, verify=False).rows(0, 0, 1)
    data = safetensors.torch.save({"activations": torch.zeros(11, WIDTH), "positions": torch.zeros(11)})
    path.write_bytes(data)
    edit_index(tmp_path, lambda entries: entries["shards"][0].update(bytes=len(data)))
    with pytest.raises(UserError, match=r"shard-00000.safetensors holds .*float32.* instead of .*bfloat16"):
        ShardReader(tmp_path, verify=False).rows(0, 0, 1)


def test_checksums_are_recomputed_once_a_shard(tmp_path, monkeypatch):
    write_cache(tmp_path, rows_per_shard=5)
    from monosem.data import shards

    checked: list[Path] = []
    original = shards.file_checksum
    monkeypatch.setattr(shards, "file_checksum", lambda path: checked.append(path) or original(path))
    reader = ShardReader(tmp_path)
    for shard in [0, 1, 0, 2, 3, 4, 0, 1]:
        reader.rows(shard, 0, 5)
    assert [path.name for path in checked] == [f"shard-0000{i}.safetensors" for i in range(5)]
    read_all(tmp_path, verify=False)
    assert len(checked) == 5


def test_a_missing_cache_names_the_command_that_writes_one(tmp_path):
    with pytest.raises(
        UserError, match=r"nothing holds no cached activations \(index.json is missing\).*monosem cache"
    ):
        open_shards(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not read"):
        open_shards(tmp_path / "file")
    with pytest.raises(UserError, match="Could not make the directory"):
        ShardWriter(tmp_path / "file", make_plan())


def first_shard(**changes):
    return lambda entries: entries["shards"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_shard(file="../shard-00000.safetensors"), r"file='../shard-00000.safetensors' should be 'shard-00000"),
        (first_shard(file="/etc/passwd"), "file='/etc/passwd' should be"),
        (first_shard(file="..\\x"), "should be 'shard-00000"),
        (first_shard(file="shard-00001.safetensors"), "shard 0: file='shard-00001"),
        (first_shard(file=3), "file=3 should be of type str"),
        (first_shard(rows=-4), "rows=-4 should be from 1 to rows_per_shard=11"),
        (first_shard(rows=0), "rows=0 should be"),
        (first_shard(rows=12), "rows=12 should be"),
        (first_shard(rows=True), "rows=True should be of type int"),
        (first_shard(rows=11.0), "rows=11.0 should be of type int"),
        (first_shard(bytes=-1), "bytes=-1 is too little"),
        (first_shard(checksum="zz"), "checksum='zz' should be 32"),
        (lambda entries: entries["shards"].append("x"), "an object with 'file' was expected"),
        (lambda entries: entries["shards"].append(dict(entries["shards"][0])), "shard 3: file"),
        (lambda entries: entries.update(shards={}), "should be of type list"),
        (lambda entries: entries.update(shards=[]), "complete=True with 0 of 31 rows"),
        (lambda entries: entries.update(complete=False), "complete=False with 31 of 31"),
        (lambda entries: entries.update(complete=1), "complete=1 should be of type bool"),
        (lambda entries: entries.update(rows_total=30), "hold 31 rows and rows_total=30"),
        (lambda entries: entries.update(rows_total=-1), "rows_total=-1 must be at least 1"),
        (lambda entries: entries.update(width="7"), "width='7' should be of type int"),
        (lambda entries: entries.update(width=-7), "width=-7 must be at least 1"),
        (lambda entries: entries.update(dtype="float16"), "dtype='float16'"),
        (lambda entries: entries.update(dtype="complex"), "dtype='complex'"),
        (lambda entries: entries.update(subject=[]), "should be of type dict"),
        (lambda entries: entries["subject"].update(revision=1), "revision=1 should be of type str"),
        (lambda entries: entries.pop("hookpoint"), "hookpoint=None should be of type str"),
        (lambda entries: entries.update(format_version=0), "format_version=0 should be at least 1"),
        (lambda entries: entries.update(format_version="1"), "format_version='1' should be of type int"),
    ],
)
def test_an_unsound_index_is_refused(tmp_path, change, message):
    write_cache(tmp_path)
    edit_index(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        open_shards(tmp_path)
    assert "index.json is not a sound index" in str(caught.value)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}'])
def test_an_index_that_is_no_object_is_refused(tmp_path, data):
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(UserError, match="not a sound index"):
        open_shards(tmp_path)


def test_a_newer_format_says_to_upgrade(tmp_path):
    write_cache(tmp_path)
    edit_index(tmp_path, lambda entries: entries.update(format_version=2, new="field"))
    with pytest.raises(UserError, match=r"format_version=2 and this monosem reads up to 1; upgrade monosem") as caught:
        open_shards(tmp_path)
    assert "--overwrite" not in str(caught.value)


def test_a_remote_filesystem_holds_a_cache_too():
    filesystem = fsspec.filesystem("memory")
    path = "memory://monosem-test/cache"
    try:
        written = make_rows()
        fill(ShardWriter(path, make_plan()), *written, stop=15)
        filesystem.pipe_file("/monosem-test/cache/shard-00001.safetensors", b"unlisted")
        writer = ShardWriter(path, make_plan())
        assert writer.next_row == 11
        assert not filesystem.exists("/monosem-test/cache/shard-00001.safetensors")
        fill(writer, *written)
        assert_same_bits(read_all(path), written)
        assert verify_shards(path).is_complete

        data = bytearray(filesystem.cat_file("/monosem-test/cache/shard-00002.safetensors"))
        data[-1] ^= 1
        filesystem.pipe_file("/monosem-test/cache/shard-00002.safetensors", bytes(data))
        with pytest.raises(UserError, match=r"shard-00002.safetensors has the checksum"):
            read_all(path)
        filesystem.rm_file("/monosem-test/cache/shard-00001.safetensors")
        with pytest.raises(UserError, match=r"shard-00001.safetensors is missing; shard-00002"):
            verify_shards(path)
        with pytest.raises(UserError, match=r"shard-00001.safetensors is missing"):
            ShardWriter(path, make_plan())
    finally:
        filesystem.rm("/monosem-test", recursive=True)


def test_a_remote_reader_keeps_two_shards(monkeypatch):
    path = "memory://monosem-test-lru"
    filesystem = fsspec.filesystem("memory")
    try:
        write_cache(path, rows_per_shard=8)
        reader = ShardReader(path)
        fetched: list[str] = []
        original = reader.fetch
        monkeypatch.setattr(
            reader, "fetch", lambda shard, verify: fetched.append(shard.file[6:11]) or original(shard, verify=verify)
        )
        for shard in [0, 1, 0, 1, 2, 1, 0]:
            reader.rows(shard, 0, 1)
        assert fetched == ["00000", "00001", "00002", "00000"]
    finally:
        filesystem.rm("/monosem-test-lru", recursive=True)


def test_a_missing_plug_in_is_named(monkeypatch):
    def no_plug_in(path):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", no_plug_in)
    with pytest.raises(UserError, match="Cannot open s3://bucket/cache: Install s3fs to access S3"):
        open_shards("s3://bucket/cache")


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match="Cannot open s9://bucket: Protocol not known: s9"):
        open_shards("s9://bucket")


def test_a_local_directory_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ["a[0-9]*", "b::c", "Größe 1", "file:in"]:
        write_cache(name)
        assert (tmp_path / name / "shard-00002.safetensors").is_file()
        assert ShardWriter(name, make_plan()).next_row == ROWS
        assert verify_shards(Path(name)).is_complete
    assert verify_shards(f"file://{tmp_path}/file:in").is_complete
