"""Against the literal definition in float64, one ablation at a time, and on models whose logits are known by hand."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.evaluation.ablation import AblationConfig, AblationResult, _active_contexts, measure_ablation, plan
from monosem.evaluation.ablation_effects import (
    CHANNELS,
    DIRECTIONS,
    LATENTS,
    Ablations,
    Members,
    ablate_all,
    contributions,
    sparsity,
    widened,
)
from monosem.evaluation.sample import Sample, take_sample
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

Coder = tuple[Autoencoder, Site]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def literal_sparsity(change: list[list[float]]) -> float:
    """Of one ablation: positions of logits' changes."""
    v: list[float] = []
    for logits in change:
        ordered, middle = sorted(logits), len(logits) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        v += [logit - median for logit in logits]
    l1, squares = sum(abs(each) for each in v), sum(each * each for each in v)
    return l1 * l1 / squares / len(v) if squares else math.nan


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 10])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_sparsity_is_that_of_literal_loops(vocabulary: int, horizon: int) -> None:
    change = torch.randn(9, horizon, vocabulary, generator=seeded(), dtype=torch.float64) ** 3 + 5
    expected = [literal_sparsity(each.tolist()) for each in change]
    assert sparsity(change).tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert all(map(math.isnan, expected)) == (vocabulary == 1)


@pytest.mark.parametrize("vocabulary", [5, 6])
def test_one_logit_moved_at_one_position_is_as_sparse_as_can_be(vocabulary: int) -> None:
    change = torch.zeros(1, 3, vocabulary)
    change[0, 1, 2] = -0.7
    assert sparsity(change).item() == pytest.approx(1 / (vocabulary * 3), rel=1e-6)


def test_half_the_logits_up_and_half_down_by_as_much_is_not_sparse_at_all() -> None:
    change = torch.tensor([0.5, -0.5, -0.5, 0.5]).expand(1, 3, 4) + torch.tensor([[1.0], [0.0], [-3.0]])
    assert sparsity(change).tolist() == [1.0]


def test_what_moves_all_logits_of_a_position_alike_is_no_effect() -> None:
    assert sparsity(torch.tensor([[[2.0], [0.0], [-1.0]]]).expand(1, 3, 8)).isnan().all()


def test_gaussian_effects_are_two_over_pi_sparse() -> None:
    found = sparsity(torch.randn(2, 16, 20_001, generator=seeded()))
    assert found.tolist() == pytest.approx([2 / math.pi] * 2, rel=1e-2)


def literal_put(sae: Autoencoder, site: Site, rows: dict[str, Tensor], kind: int, what: Any) -> dict[str, Tensor]:
    """Raw activations at one token, less what is ablated; by hookpoint, in float64."""
    wanted = {name: rows[name].clone() for name in site.outputs}
    if kind == LATENTS:
        read = torch.cat([rows[name] for name in site.inputs])
        codes = sae.encode(read[None])
        z = float(codes.values[codes.indices == what].sum())
        assert z > 0
        start = 0
        for name in site.outputs:
            width = len(wanted[name])
            row = sae.W_dec[what, start : start + width]
            centered = wanted[name] - wanted[name].mean()
            scale = float(sae.target_scale) if sae.is_transcoder else float(centered.norm())
            wanted[name] = wanted[name] - scale * z * row
            start += width
        return wanted
    start = 0
    if kind == DIRECTIONS:
        centered = torch.cat([each - each.mean() for each in wanted.values()])
        projected = float(centered @ what) * what
    for name, each in wanted.items():
        if kind == DIRECTIONS:
            wanted[name] = each - projected[start : start + len(each)]
        elif start <= what < start + len(each):
            wanted[name] = each.clone()
            wanted[name][what - start] = each.mean()  # x_j − (x_j − mean)
        start += len(each)
    return wanted


def literal_effect(
    subject: SubjectModel, site: Site, tokens: Tensor, position: int, horizon: int, put: dict[str, Tensor]
) -> float:
    """One ablation in one forward pass of one block, hooked in by hand."""
    modules = dict(subject.model.named_modules())

    def hook(new: Tensor) -> Callable[..., Any]:
        def swap(_module: Any, _args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            value[0, position] = new
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return swap

    unmodified = subject.model(tokens[None]).logits[0]
    handles = [modules[name].register_forward_hook(hook(new)) for name, new in put.items()]
    changed = subject.model(tokens[None]).logits[0]
    for handle in handles:
        handle.remove()
    return literal_sparsity((changed - unmodified)[position : position + horizon].tolist())


@torch.no_grad()
def test_every_ablation_has_the_literal_effect(
    coder: Coder, subject: SubjectModel, blocks: Blocks, monkeypatch
) -> None:
    monkeypatch.setattr("monosem.evaluation.ablation_effects.blocks_in_memory", lambda subject, tokens: 3)
    sae, site = coder
    sae.double()
    double = SubjectModel(model=copy.deepcopy(subject.model).double(), tokenizer=None, name="double")
    horizon, tokens = 4, blocks.tokens[:5]
    captured = double.capture(tokens, site.hookpoints)
    generator = seeded()
    block, position = torch.tensor([3, 0, 3, 1, 4, 0, 0]), torch.tensor([0, 8, 5, 2, 8, 8, 1])
    codes = sae.encode(site.read({name: each[block, position] for name, each in captured.items()}))
    first = codes.padded()[1][:, 0]  # an active latent at each of the tokens
    directions = torch.randn(7, sae.d_target, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    members = Members(first, torch.randint(sae.d_target, (7,), generator=generator), directions)
    ablations = Ablations(
        kind=torch.tensor([LATENTS, CHANNELS, DIRECTIONS]).repeat_interleave(7),
        member=torch.arange(7).repeat(3),
        block=block.repeat(3),
        position=position.repeat(3),
    )
    calls: list[tuple[int, int]] = []
    found = ablate_all(
        sae, double, site, tokens, ablations, members, horizon, lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (21, 21)
    for row in range(21):
        kind, member, b, p = (int(each[row]) for each in ablations)
        what = (int(first[member]), int(members.channels[member]), directions[member])[kind]
        put = literal_put(sae, site, {name: each[b, p] for name, each in captured.items()}, kind, what)
        for each, of_positions in zip(found, (horizon, 1), strict=True):
            expected = literal_effect(double, site, tokens[b], p, of_positions, put)
            assert each[row].item() == pytest.approx(expected, rel=1e-7, nan_ok=True), row


@pytest.mark.parametrize("preprocess", ["none", "layer_norm", "unit_norm"])
def test_contributions_undo_the_preprocessing(preprocess: Any) -> None:
    sae = new_autoencoder(AutoencoderConfig(n_latents=9, k=3, preprocess=preprocess), 6).double()
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=seeded(1), dtype=torch.float64))
    raw = 4 * torch.randn(20, 6, generator=seeded(2), dtype=torch.float64) + 3
    codes = sae.encode(raw)
    latents = codes.indices.view(20, 3)
    parts = [contributions(sae, raw, latents[:, rank]) for rank in range(3)]
    nothing = sae.decode(codes._replace(values=torch.zeros_like(codes.values)))
    torch.testing.assert_close(sum(parts), sae.decode(codes) - nothing)
    others = torch.tensor([next(i for i in range(9) if i not in row) for row in latents.tolist()])
    assert (contributions(sae, raw, others) == 0).all()


class LinearModel(nn.Module):
    """Logits at a position: those of its own activations, and a share of those of the position before."""

    def __init__(self, head: Tensor, share: float) -> None:
        super().__init__()
        vocabulary, width = head.shape
        self.embed, self.block = nn.Embedding(vocabulary, width), nn.Identity()
        self.head = nn.Parameter(head)
        self.share = share
        self.config = SimpleNamespace(use_cache=False)
        self.embed.weight.data.copy_(1 + torch.rand(vocabulary, width, generator=seeded()))

    device, dtype = torch.device("cpu"), torch.float64

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        logits = self.block(self.embed(input_ids)) @ self.head.T
        before = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)
        return SimpleNamespace(logits=logits + self.share * before)


def linear_case(head: Tensor, share: float, rows: Tensor) -> tuple[Autoencoder, SubjectModel, Site, Sample]:
    """A linear model, and an autoencoder without preprocessing whose latents are always active."""
    subject = SubjectModel(model=LinearModel(head.double(), share).double(), tokenizer=None, name="linear")
    sae = new_autoencoder(AutoencoderConfig(architecture="relu", n_latents=len(rows), preprocess="none"), head.shape[1])
    sae.W_enc.data.fill_(0.5)
    sae.W_dec.data.copy_(rows)
    tokens = torch.randint(len(head), (6, 5), generator=seeded(1))
    positions = torch.arange(30).view(6, 5)
    sample = take_sample(
        Blocks(tokens, torch.ones_like(tokens, dtype=torch.bool), positions), positions * 0, tokens >= 0, 99
    )
    return sae.double(), subject, Site(("block",)), sample


def of_latents(*case: Any, horizon: int, **settings: int) -> AblationResult:
    config = AblationConfig(horizon=horizon, bootstrap_samples=10, **settings)
    return measure_ablation(*case, config, seed=0)


def test_a_latent_that_writes_to_one_logit_alone_has_the_least_sparsity() -> None:
    result = of_latents(*linear_case(torch.eye(7), 0.0, torch.eye(7)[:3]), horizon=3)
    assert result.groups["latents"].sparsity.tolist() == pytest.approx([1 / 21] * 3, rel=1e-9)
    assert result.groups["channels"].sparsity.tolist() == pytest.approx([1 / 21] * 100, rel=1e-9)
    assert result.to_dict()["metrics"]["ablation_sparsity_latents"]["value"] == pytest.approx(1 / 21, rel=1e-9)


def test_an_effect_on_the_next_position_too_is_as_computed_by_hand() -> None:
    """v has 1 and ½ among 7 · 3 numbers: (1 + ½)² / (1 + ¼) / 21."""
    result = of_latents(*linear_case(torch.eye(7), 0.5, torch.eye(7)[:3]), horizon=3)
    assert result.groups["latents"].sparsity.tolist() == pytest.approx([2.25 / 1.25 / 21] * 3, rel=1e-9)
    assert result.groups["latents"].own_sparsity.tolist() == pytest.approx([1 / 7] * 3, rel=1e-9)
    alone = of_latents(*linear_case(torch.eye(7), 0.5, torch.eye(7)[:3]), horizon=1)
    assert alone.groups["latents"].sparsity.tolist() == pytest.approx([1 / 7] * 3, rel=1e-9)


def test_a_latent_that_moves_half_up_and_half_down_has_sparsity_one() -> None:
    head = torch.zeros(6, 4)
    head[:, 1] = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    result = of_latents(*linear_case(head, 1.0, torch.eye(4)[1:2]), horizon=2, channels=0, directions=0)
    assert result.groups["latents"].sparsity.tolist() == pytest.approx([1.0], rel=1e-9)


def test_an_ablation_without_effect_has_no_sparsity_and_is_counted() -> None:
    head = torch.eye(6)
    head[:, 2] = 0.0
    head[:, 3] = 1.0  # all logits alike, which the median takes off
    result = of_latents(*linear_case(head, 0.0, torch.eye(6)[[1, 2]]), horizon=2, positions=3, channels=0)
    told = json.loads(json.dumps(result.to_dict()))
    assert told["latents"]["sparsity"] == [pytest.approx(1 / 12), None]
    assert (told["latents"]["ablations"], told["latents"]["without_effect"]) == (6, 3)
    assert told["metrics"]["ablation_sparsity_latents"] == {"value": pytest.approx(1 / 12), "low": None, "high": None}
    assert told["channels"] == {"members": [], "sparsity": [], "quantiles": None, "ablations": 0, "without_effect": 0}
    assert told["metrics"]["ablation_sparsity_channels"]["value"] is None
    assert told["metrics"]["ablation_own_sparsity_latents"]["value"] == pytest.approx(1 / 6)


@pytest.fixture
def measure(subject: SubjectModel, sample: Sample) -> Callable[..., AblationResult]:
    def run(coder: Coder, seed: int = 0, **settings: Any) -> AblationResult:
        small = {"latents": 7, "positions": 2, "horizon": 3, "channels": 4, "directions": 5, "bootstrap_samples": 20}
        return measure_ablation(*(coder[0], subject, coder[1], sample), AblationConfig(**(small | settings)), seed=seed)

    return run


def test_every_coder_is_measured(coder: Coder, measure: Callable[..., AblationResult]) -> None:
    result = measure(coder)
    told = json.loads(json.dumps(result.to_dict()))
    for name, count in (("latents", 7), ("channels", 4), ("directions", 5)):
        group, metric = told[name], told["metrics"][f"ablation_sparsity_{name}"]
        assert len(group["members"]) == len(group["sparsity"]) == count
        assert count < group["ablations"] <= 2 * count
        assert group["without_effect"] == 0
        assert metric["value"] == pytest.approx(sum(group["sparsity"]) / count, rel=1e-12)
        assert metric["low"] < metric["value"] < metric["high"]
        assert 1 / 150 <= group["quantiles"]["0"] <= group["quantiles"]["1"] <= 1


def test_a_latents_value_is_the_mean_over_its_positions(make_coder, measure, subject, sample) -> None:
    sae, site = make_coder("topk")
    config = AblationConfig(positions=3, horizon=3)
    contexts = _active_contexts(sae, subject, site, sample, config, seeded())
    latents = (contexts.positions[:, -1] >= 0).nonzero().squeeze(1)[:4]
    members = Members(latents, latents[:0], torch.empty(0, sae.d_target))
    ablations = plan(contexts.positions[latents], sample.blocks.tokens.shape[1], members, 3, seeded())
    assert len(ablations.block) == 12
    found = ablate_all(sae, subject, site, sample.blocks.tokens, ablations, members, 3).sparsity
    for number, latent in enumerate(latents.tolist()):
        mine = found[ablations.member == number]
        assert len(mine) == 3
        places = ablations.block[ablations.member == number] * 12 + ablations.position[ablations.member == number]
        assert sorted(places.tolist()) == sorted(contexts.positions[latent].tolist())


@pytest.mark.parametrize("horizon", [1, 4, 12])
def test_positions_are_active_followed_and_in_different_blocks(make_coder, subject, sample, horizon) -> None:
    sae, site = make_coder("relu")
    config = AblationConfig(positions=5, horizon=horizon)
    contexts = _active_contexts(sae, subject, site, sample, config, seeded())
    tokens, kept, _ = sample.blocks
    captured = subject.capture(tokens, site.hookpoints)
    active = (sae.encode(site.read(captured)).dense() > 0).view(*tokens.shape, -1)
    eligible = torch.zeros_like(kept)
    for block in range(len(kept)):
        for position in range(12 - horizon + 1):
            eligible[block, position] = all(kept[block, position : position + horizon].tolist())
    assert 0 < eligible.sum() < kept.sum() or horizon == 1
    for latent, places in enumerate(contexts.positions.tolist()):
        chosen = [divmod(place, 12) for place in places if place >= 0]
        assert all(bool(active[at][latent] & eligible[at]) for at in chosen)
        found_in = [block for block in range(len(kept)) if bool((active[block, :, latent] & eligible[block]).any())]
        assert len(chosen) == len({block for block, _ in chosen}) == min(5, len(found_in))


def test_baselines_are_ablated_where_latents_are() -> None:
    positions = torch.tensor([[3, 17], [29, -1], [17, 8]])
    members = Members(torch.tensor([5, 6, 9]), torch.tensor([1, 1]), torch.eye(4)[:3])
    ablations = plan(positions, 10, members, 2, seeded())
    assert ablations.kind.tolist() == [LATENTS] * 5 + [CHANNELS] * 4 + [DIRECTIONS] * 6
    assert ablations.member.tolist() == [0, 0, 1, 2, 2, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2]
    places = (10 * ablations.block + ablations.position).tolist()
    assert places[:5] == [3, 17, 29, 17, 8]
    assert set(places[5:]) <= {3, 8, 17, 29}
    assert all(places[start] != places[start + 1] for start in range(5, 15, 2))


def test_what_takes_nothing_away_has_no_effect(make_coder, subject, sample) -> None:
    sae, site = make_coder("topk")
    at = torch.arange(4)
    codes = sae.encode(site.read(subject.capture(sample.blocks.tokens[:4, :1], site.hookpoints)))
    members = Members(codes.padded()[1][:, 0], torch.empty(0, dtype=torch.int64), torch.empty(0, sae.d_target))
    sae.W_dec[members.latents[1]] = 0.0
    found = ablate_all(sae, subject, site, sample.blocks.tokens, Ablations(0 * at, at, at, 0 * at), members, 3).sparsity
    assert found.isnan().tolist() == (sae.W_dec[members.latents] == 0).all(dim=1).tolist()
    assert found[1].isnan()
    assert not found.isnan().all()


def test_a_subject_in_half_precision_is_ablated_in_float32(make_coder, measure, subject, sample) -> None:
    coder = make_coder("topk")
    half = SubjectModel(model=copy.deepcopy(subject.model).bfloat16(), tokenizer=None, name="half")
    wide = SubjectModel(model=copy.deepcopy(half.model).float(), tokenizer=None, name="wide")
    config = AblationConfig(latents=3, horizon=3, channels=2, directions=2)
    weights = {name: each.clone() for name, each in half.model.state_dict().items()}
    found = [measure_ablation(coder[0], each, coder[1], sample, config, seed=0).to_dict() for each in (half, wide)]
    assert found[0] == found[1]
    assert half.dtype == torch.bfloat16
    assert all(torch.equal(each, weights[name]) for name, each in half.model.state_dict().items())
    with pytest.raises(ValueError, match="stop"), widened(half):
        assert half.dtype == torch.float32
        raise ValueError("stop")
    assert half.dtype == torch.bfloat16


def test_latents_are_drawn_or_named(make_coder, measure) -> None:
    coder = make_coder("topk")
    coder[0].b_enc[:30] = -9  # dead
    drawn = measure(coder, latents=4)
    assert drawn.candidates == 10
    assert len(drawn.groups["latents"].members) == 4
    assert set(drawn.groups["latents"].members) < set(range(30, 40))
    assert measure(coder, latents=99).groups["latents"].members == tuple(range(30, 40))
    assert measure(coder, only=(33, 2, 31)).groups["latents"].members == (31, 33)


def test_it_repeats_with_the_seed(make_coder, measure) -> None:
    coder = make_coder("topk")
    first, again, other = (measure(coder, seed=seed) for seed in (0, 0, 1))
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert first.groups["latents"].members != other.groups["latents"].members


def test_what_cannot_be_ablated_is_refused(make_coder, measure) -> None:
    coder = make_coder("topk")
    with pytest.raises(UserError, match="names a latent of n_latents=40"):
        measure(coder, only=(40,))
    with pytest.raises(UserError, match="horizon=13 kept positions"):
        measure(coder, horizon=13)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(({name: 0}, f"{name}=0 is below 1") for name in ("latents", "positions", "horizon", "tokens")),
        ({"channels": -1}, "channels=-1 is below 0"),
        ({"only": (3, 3)}, r"only=\[3, 3\] are not different latents"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(AblationConfig(), **settings)
