"""Dealing a sweep out: every run to exactly one part, streams kept together, the work about even."""

from pathlib import Path

import pytest

from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.scaling.config import Grid, SweepConfig
from monosem.scaling.shares import Share, read_share, stream_of, take_share, total_work

GRIDS = (
    Grid(n_latents=(64, 256, 1024, 4096), k=(4, 8, 16)),
    Grid(n_latents=(64, 2048), k=(4,), seed=(1, 2), tokens=(10_000,)),
)


def runs() -> list[RunConfig]:
    return SweepConfig(out=Path("out"), grid=GRIDS).runs()


def names(groups: list[list[RunConfig]]) -> list[str]:
    return [run.out.name for group in groups for run in group]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("together", [1, 4, 100])
def test_every_run_is_in_exactly_one_part(parts: int, together: int) -> None:
    found = [name for part in range(1, parts + 1) for name in names(take_share(runs(), Share(part, parts), together))]
    assert sorted(found) == sorted(run.out.name for run in runs())


@pytest.mark.parametrize("together", [1, 4, 100])
def test_a_group_is_of_one_stream_and_no_larger_than_allowed(together: int) -> None:
    for group in take_share(runs(), Share(), together):
        assert len({stream_of(run) for run in group}) == 1 and len(group) <= together


def test_the_parts_have_about_as_much_work() -> None:
    works = [sum(map(total_work, take_share(runs(), Share(part, 3), 2))) for part in (1, 2, 3)]
    assert max(works) < 1.35 * sum(works) / 3


def test_a_part_of_a_part_divides_it() -> None:
    whole = names(take_share(runs(), Share(2, 3), 4))
    parts = [names(take_share(runs(), share, 4)) for share in Share(2, 3).divided(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole) and all(parts)
    twice = [names(take_share(runs(), share, 4)) for share in Share(2, 3, Share(1, 2)).divided(2)]
    assert sorted(twice[0] + twice[1]) == sorted(parts[0])


@pytest.mark.parametrize("text", ["1/1", "3/4", "2/4:1/3", "2/4:1/3:2/2"])
def test_a_share_reads_as_it_is_written(text: str) -> None:
    assert str(read_share(text)) == text


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/2:", "-1/2", "1/0"])
def test_no_share_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no part such as 2/4"):
        read_share(text)
