import fsspec
import pytest
import torch

from monosem.data.index import ShardPlan, SubjectIdentity
from monosem.data.shards import ShardWriter
from monosem.data.sources import CachedActivations
from monosem.errors import UserError

ROWS = 31


def write_cache(path, hookpoint="h", rows=ROWS, width=5, rows_per_shard=7, first_position=100, stop=None, **changes):
    plan = ShardPlan(
        subject=SubjectIdentity(name="builtin", revision=None, context_length=64),
        hookpoint=hookpoint,
        width=width,
        dtype=changes.pop("dtype", "float32"),
        rows_total=rows,
        rows_per_shard=rows_per_shard,
        **changes,
    )
    activations = torch.randn(rows, width, generator=torch.Generator().manual_seed(width))
    positions = torch.arange(rows) + first_position
    ShardWriter(path, plan).write(0, activations[:stop], positions[:stop])
    return activations, positions


def test_the_first_epoch_is_what_was_written_in_order(tmp_path):
    activations, positions = write_cache(tmp_path)
    rows = CachedActivations([tmp_path], seed=3).rows(0, ROWS)
    assert torch.equal(rows.activations["h"], activations)
    assert torch.equal(rows.positions, positions)


def test_rows_are_a_pure_function_of_the_range(tmp_path):
    write_cache(tmp_path)
    source = CachedActivations([tmp_path], seed=3)
    whole = source.rows(0, 5 * ROWS)
    for start, stop in [(0, 0), (31, 31), (0, 1), (6, 8), (7, 14), (29, 33), (62, 155), (3, 151), (100, 101), (0, 1)]:
        for asked in (source, CachedActivations([tmp_path], seed=3)):
            rows = asked.rows(start, stop)
            assert torch.equal(rows.activations["h"], whole.activations["h"][start:stop])
            assert torch.equal(rows.positions, whole.positions[start:stop])


def test_later_epochs_are_whole_shards_in_another_order(tmp_path):
    activations, positions = write_cache(tmp_path)
    shards = [positions[start : start + 7].tolist() for start in range(0, ROWS, 7)]
    source = CachedActivations([tmp_path], seed=3)
    orders = []
    for epoch in range(1, 7):
        rows = source.rows(epoch * ROWS, (epoch + 1) * ROWS)
        assert torch.equal(rows.activations["h"], activations[rows.positions - 100])
        left = rows.positions.tolist()
        order = []
        while left:
            shard = next(i for i, its_rows in enumerate(shards) if its_rows[0] == left[0])
            assert left[: len(shards[shard])] == shards[shard]
            left = left[len(shards[shard]) :]
            order.append(shard)
        assert sorted(order) == list(range(5))
        orders.append(tuple(order))
    assert len(set(orders)) > 3
    other = CachedActivations([tmp_path], seed=4)
    assert not torch.equal(other.rows(ROWS, 7 * ROWS).positions, source.rows(ROWS, 7 * ROWS).positions)


def test_a_range_may_be_many_times_a_small_cache(tmp_path):
    write_cache(tmp_path, rows=3, rows_per_shard=2)
    rows = CachedActivations([tmp_path], seed=3).rows(1, 31)
    assert sorted(rows.positions.tolist()) == [100] * 10 + [101] * 10 + [102] * 10


def test_several_hookpoints_are_read_at_the_same_rows(tmp_path):
    a, _ = write_cache(tmp_path / "a", "a", width=5, rows_per_shard=7)
    b, _ = write_cache(tmp_path / "b", "b", width=3, rows_per_shard=7, dtype="bfloat16")
    source = CachedActivations([tmp_path / "a", tmp_path / "b"], seed=3)
    assert source.widths == {"a": 5, "b": 3}
    assert source.rows_per_epoch == ROWS
    assert source.plans["b"].dtype == "bfloat16"
    rows = source.rows(25, 58)
    of = rows.positions - 100
    assert torch.equal(rows.activations["a"], a[of])
    assert torch.equal(rows.activations["b"], b.bfloat16()[of])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 32}, "rows_total is 31 and 32"),
        ({"rows_per_shard": 8}, "their shards are of other sizes"),
        ({"provenance": {"text": "x"}}, "provenance is {} and {'text': 'x'}"),
    ],
)
def test_caches_of_other_rows_are_not_joined(tmp_path, changes, message):
    write_cache(tmp_path / "a", "a")
    write_cache(tmp_path / "b", "b", **changes)
    with pytest.raises(UserError, match=f"don't hold the same rows: {message}; cache their hookpoints together"):
        CachedActivations([tmp_path / "a", tmp_path / "b"], seed=3)


def test_caches_of_other_positions_are_not_joined(tmp_path):
    write_cache(tmp_path / "a", "a")
    write_cache(tmp_path / "b", "b", first_position=101)
    with pytest.raises(UserError, match="don't hold the same rows: shard 0 has other positions"):
        CachedActivations([tmp_path / "a", tmp_path / "b"], seed=3).rows(0, 5)


def test_one_hookpoint_is_read_from_one_cache(tmp_path):
    write_cache(tmp_path / "a")
    write_cache(tmp_path / "b")
    with pytest.raises(UserError, match="both hold h; name one of them"):
        CachedActivations([tmp_path / "a", tmp_path / "b"], seed=3)


def test_an_unfinished_cache_is_refused(tmp_path):
    write_cache(tmp_path, stop=20)
    with pytest.raises(UserError, match="holds 14 of 31 rows; run the same `monosem cache` again"):
        CachedActivations([tmp_path], seed=3)


def test_damage_is_found_when_its_shard_is_touched(tmp_path):
    write_cache(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    source = CachedActivations([tmp_path], seed=3)
    source.rows(0, 14)
    with pytest.raises(UserError, match=r"shard-00002.safetensors has the checksum"):
        source.rows(0, 15)
    CachedActivations([tmp_path], seed=3, verify=False).rows(0, 15)


def test_what_is_given_is_a_copy(tmp_path):
    activations, _ = write_cache(tmp_path)
    source = CachedActivations([tmp_path], seed=3)
    rows = source.rows(0, 5)
    rows.activations["h"].zero_()
    assert torch.equal(source.rows(0, 5).activations["h"], activations[:5])


def test_a_remote_cache_gives_the_same_rows(tmp_path):
    write_cache(tmp_path)
    write_cache("memory://monosem-test-sources")
    try:
        local = CachedActivations([tmp_path], seed=3).rows(5, 100)
        remote = CachedActivations(["memory://monosem-test-sources"], seed=3).rows(5, 100)
        assert torch.equal(local.activations["h"], remote.activations["h"])
        assert torch.equal(local.positions, remote.positions)
    finally:
        fsspec.filesystem("memory").rm("/monosem-test-sources", recursive=True)
