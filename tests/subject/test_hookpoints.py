"""Hookpoints on small hand-made modules: what they name, what they read and what they put in its place."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.subject.hookpoints import (
    expand_hookpoints,
    find_block_list,
    has_hooks,
    hookable_modules,
    recorder,
    replaced,
)


class Block(nn.Module):
    """Doubles its input in place, as some models do, and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, str]:
        x.mul_(2)
        return x + self.act(self.mlp(x)) * scale, "extra"


class Toy(nn.Module):
    def __init__(self, n_blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Module()
        self.body.blocks = nn.ModuleList(Block() for _ in range(n_blocks))
        self.body.extra = nn.ModuleList([nn.ModuleList(nn.Identity() for _ in range(n_blocks))])
        self.spare = nn.Linear(4, 4)
        self.ends = nn.ModuleDict({"record": Record(), "none": Nothing()})

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens).clone()
        for block in self.body.blocks:
            x, extra = block(x)
            assert extra == "extra"
        self.ends["none"]()
        return self.ends["record"](hidden_states=x)


class Record(nn.Module):
    def forward(self, hidden_states: Tensor) -> dict[str, Any]:
        return {"last_hidden_state": hidden_states, "other": None}


class Nothing(nn.Module):
    def forward(self) -> None:
        return None


@pytest.fixture
def toy() -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy().requires_grad_(False)


def run(toy: Toy) -> Tensor:
    return toy(torch.arange(6).view(2, 3))["last_hidden_state"]


def read(toy: Toy, *hookpoints: str) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        values[name] = value.clone()

    with recorder(toy, hookpoints) as record:
        record(lambda: run(toy), keep)
    return values


def n_hooks(toy: Toy) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in toy.modules())


def test_containers_are_no_hookpoints(toy: Toy) -> None:
    paths = hookable_modules(toy)
    assert "body.blocks" not in paths
    assert "" not in paths
    assert "body.blocks.0.mlp" in paths


def test_a_star_stands_for_one_part_of_the_path(toy: Toy) -> None:
    assert expand_hookpoints(toy, ["body.blocks.*"]) == ["body.blocks.0", "body.blocks.1"]
    assert expand_hookpoints(toy, ["body.blocks.*.mlp"]) == ["body.blocks.0.mlp", "body.blocks.1.mlp"]


def test_hookpoints_come_once_in_model_order_input_first(toy: Toy) -> None:
    patterns = ["body.blocks.1", "body.blocks.?:in", "body.blocks.[01]", "embed", "embed"]
    expected = ["embed", "body.blocks.0:in", "body.blocks.0", "body.blocks.1:in", "body.blocks.1"]
    assert expand_hookpoints(toy, patterns) == expected


def test_an_unknown_hookpoint_names_near_matches(toy: Toy) -> None:
    with pytest.raises(
        UserError, match=r"Unknown hookpoint 'body\.block\.1\.mlp:in'.*Near matches: .*body\.blocks\.1\.mlp"
    ):
        expand_hookpoints(toy, ["body.block.1.mlp:in"])
    with pytest.raises(UserError, match=r"Near matches: body\.blocks\.0\.mlp, body\.blocks\.1\.mlp"):
        expand_hookpoints(toy, ["mlp"])


def test_a_glob_without_matches_is_refused(toy: Toy) -> None:
    with pytest.raises(UserError, match=r"The glob 'h\.\*' matches no hookpoint"):
        expand_hookpoints(toy, ["embed", "h.*"])


def test_the_block_list_is_the_list_of_that_length_nearest_the_root(toy: Toy) -> None:
    assert find_block_list(toy, 2) == "body.blocks"
    with pytest.raises(UserError, match="holds no list of its 5 blocks"):
        find_block_list(toy, 5)


def test_recorded_values_are_those_before_later_in_place_writes(toy: Toy) -> None:
    values = read(toy, "embed", "body.blocks.0:in", "body.blocks.0", "body.blocks.0.act:in", "ends.record")
    embedded = toy.embed(torch.arange(6).view(2, 3))
    assert torch.equal(values["embed"], embedded)
    assert torch.equal(values["body.blocks.0:in"], embedded)
    before = toy.body.blocks[0].mlp(embedded * 2)
    assert torch.equal(values["body.blocks.0.act:in"], before)
    assert torch.equal(values["body.blocks.0"], embedded * 2 + before.relu())
    assert torch.equal(values["ends.record"], run(toy))


def test_keyword_inputs_are_read_and_replaced(toy: Toy) -> None:
    expected = run(toy)
    assert torch.equal(read(toy, "ends.record:in")["ends.record:in"], expected)
    with replaced(toy, "ends.record:in", lambda value: value + 1):
        assert torch.equal(run(toy), expected + 1)


def test_the_first_of_a_tuple_and_of_a_record_is_replaced(toy: Toy) -> None:
    plain = run(toy)
    with replaced(toy, "body.blocks.1", torch.zeros_like):
        assert torch.equal(run(toy), torch.zeros_like(plain))
    with replaced(toy, "ends.record", torch.neg):
        assert torch.equal(run(toy), -plain)
    assert n_hooks(toy) == 0


def test_a_replacement_may_write_into_what_it_gets(toy: Toy) -> None:
    def spoil(value: Tensor) -> Tensor:
        return value.fill_(torch.nan)

    plain = run(toy)
    where = torch.tensor([[True, False, False], [False, False, True]])
    with replaced(toy, "body.blocks.1", spoil, where):
        spoilt = run(toy)
    assert torch.equal(spoilt.isnan().all(-1), where)
    assert torch.equal(spoilt[~where], plain[~where])


def test_nested_replacements_compose(toy: Toy) -> None:
    plain = run(toy)
    with replaced(toy, "ends.record", lambda value: value + 1), replaced(toy, "ends.record", lambda value: value * 2):
        assert torch.equal(run(toy), (plain + 1) * 2)
        with replaced(toy, "ends.record:in", torch.zeros_like):
            assert torch.equal(run(toy), torch.full_like(plain, 2))
    assert torch.equal(run(toy), plain)


@pytest.mark.parametrize(
    ("hookpoint", "message"),
    [
        ("spare", r"never ran spare"),
        ("ends.none", r"ends\.none holds nothing, not floating-point"),
        ("ends.none:in", r"ends\.none:in holds nothing"),
        ("embed:in", r"embed:in holds a tensor \[2, 3\] of int64"),
        ("body.blocks", r"Unknown hookpoint 'body\.blocks'"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_no_hook(toy: Toy, hookpoint: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(toy, "body.blocks.0", hookpoint)
    assert n_hooks(toy) == 0


def test_a_replacement_of_another_shape_is_refused_and_leaves_no_hook(toy: Toy) -> None:
    with (
        pytest.raises(UserError, match=r"for embed gave a tensor \[2, 3, 2\] of float32, not \[2, 3, 4\]"),
        replaced(toy, "embed", lambda value: value[..., :2]),
    ):
        run(toy)
    with pytest.raises(UserError, match=r"gave nothing"), replaced(toy, "embed", lambda value: None):  # type: ignore[arg-type, return-value] - that is the test
        run(toy)
    with (
        pytest.raises(UserError, match=r"where=\[2, 2\] does not fit the pass, whose tokens are \[2, 3\]"),
        replaced(toy, "embed", torch.neg, torch.ones(2, 2, dtype=torch.bool)),
    ):
        run(toy)
    assert n_hooks(toy) == 0


def test_an_exception_in_the_pass_leaves_no_hook(toy: Toy) -> None:
    def fail(value: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), replaced(toy, "body.blocks.0", fail):
        run(toy)
    with pytest.raises(IndexError), recorder(toy, ["spare"]) as record:
        record(lambda: toy(torch.full((1, 1), 99)), lambda name, value: None)
    assert n_hooks(toy) == 0


def test_passes_in_several_threads_are_each_recorded_whole(toy: Toy) -> None:
    hookpoints = ["embed", "body.blocks.1"]
    meeting = threading.Barrier(2)
    found: dict[tuple[int, str], Tensor] = {}

    def keep(number: int, hookpoint: str, value: Tensor) -> None:
        meeting.wait(10)  # both passes are at the same hookpoint
        found[number, hookpoint] = value.clone()

    passes = [torch.tensor([[number, 0, 1]]) for number in (2, 3)]
    with recorder(toy, hookpoints) as record, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: record(lambda: toy(passes[number]), partial(keep, number)), (0, 1)))
    for number in (0, 1):
        with recorder(toy, hookpoints) as record:
            record(
                lambda number=number: toy(passes[number]),
                lambda hookpoint, value, number=number: torch.testing.assert_close(value, found[number, hookpoint]),
            )
    assert len(found) == 4


def test_hooks_of_others_are_seen(toy: Toy) -> None:
    assert not has_hooks(toy)
    with replaced(toy, "body.blocks.0:in", torch.neg):
        assert has_hooks(toy)
    with recorder(toy, ["embed"]):
        assert has_hooks(toy)
    assert not has_hooks(toy)
