"""Planted latents whose patterns are known, and the literal definition, one sequence at a time, on random models."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.evaluation.n2g import build
from monosem.evaluation.n2g.build import Contexts, LastActivations, find_patterns, full_contexts, padding_token
from monosem.evaluation.n2g.examples import Firings
from monosem.evaluation.n2g.trie import Pattern
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

PAD = 0


class Lookback(nn.Module):
    """A subject whose activations tell the tokens here and up to three back, and the place in the sequence."""

    def __init__(self, vocabulary: int, places: int) -> None:
        super().__init__()
        self.vocabulary, self.places = vocabulary, places
        self.seen = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))
        text = SimpleNamespace(vocab_size=vocabulary)
        self.config = SimpleNamespace(use_cache=False, get_text_config=lambda decoder: text)

    device = property(lambda self: self.weight.device)
    dtype = property(lambda self: self.weight.dtype)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        tokens = nn.functional.one_hot(input_ids, self.vocabulary).float()
        before = torch.cat([torch.zeros(len(tokens), 3, self.vocabulary), tokens], dim=1)
        back = [before[:, 3 - lag : before.shape[1] - lag] for lag in range(4)]
        place = torch.eye(self.places)[: tokens.shape[1]].expand(len(tokens), -1, -1)
        return self.seen(torch.cat([*back, place], dim=2))


VOCABULARY, PLACES = 10, 16
WIDTH = 4 * VOCABULARY + PLACES


def token_at(token: int, back: int = 0) -> int:
    return back * VOCABULARY + token


def place_at(place: int) -> int:
    return 4 * VOCABULARY + place


def planted(*latents: tuple[dict[int, float], float]) -> Autoencoder:
    """ReLU latents, each of weights by feature and a bias, on unpreprocessed activations."""
    config = AutoencoderConfig(architecture="relu", n_latents=len(latents), preprocess="none")
    sae = new_autoencoder(config, WIDTH)
    for i, (weights, bias) in enumerate(latents):
        for feature, weight in weights.items():
            sae.W_enc.data[i, feature] = weight
        sae.b_enc.data[i] = bias
    return sae


@pytest.fixture
def lookback() -> SubjectModel:
    return SubjectModel(model=Lookback(VOCABULARY, PLACES), tokenizer=None, name="lookback")


def patterns_of(sae: Autoencoder, subject: SubjectModel, *texts: list[int], latent: int = 0) -> list[Pattern]:
    """The patterns of blocks that begin with these texts, at whose last tokens the latent is active."""
    bos = [] if subject.bos_id is None else [subject.bos_id]
    site, width = Site(("seen",)), PLACES - len(bos)
    text = torch.tensor([each + [1] * (width - len(each)) for each in texts])
    originals = [literal_activation(sae, subject, site, bos + each, latent) for each in texts]
    firings = Firings(
        latents=torch.full((len(texts),), latent),
        blocks=torch.arange(len(texts)),
        columns=torch.tensor([len(each) - 1 for each in texts]),
        activations=torch.tensor(originals).double(),
    )
    return find_patterns(LastActivations(sae, subject, site, width), full_contexts(text, firings), PAD)


def literal_activation(sae: Autoencoder, subject: SubjectModel, site: Site, sequence: list[int], latent: int) -> float:
    return literal_latents(sae, subject, site, tuple(sequence))[latent]


@lru_cache(maxsize=100_000)
def literal_latents(sae: Autoencoder, subject: SubjectModel, site: Site, sequence: tuple[int, ...]) -> list[float]:
    """Every latent at the last token of one sequence that runs by itself."""
    captured = subject.capture(torch.tensor([sequence]), site.inputs)
    return sae.encode(site.read(captured)[0, -1:]).dense()[0].tolist()


def test_a_latent_of_one_token_has_that_token_as_its_pattern(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0}, 0.0))
    assert patterns_of(sae, lookback, [5, 6, 7, 3], [8, 3, 3, 3]) == [Pattern((3,), False)] * 2


def test_a_latent_of_two_tokens_at_a_distance_has_wildcards_between(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0, token_at(4, back=3): 1.0}, -1.0))
    assert patterns_of(sae, lookback, [9, 4, 6, 7, 3], [4, 4, 3, 7, 3]) == [Pattern((4, None, None, 3), False)] * 2


def test_a_latent_of_the_blocks_start_gets_the_start_mark(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0, place_at(0): 1.0}, -1.0))
    assert patterns_of(sae, lookback, [3]) == [Pattern((3,), True)]


def test_behind_a_start_mark_leading_wildcards_say_how_far_the_start_is(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0, place_at(2): 1.0}, -1.0))
    assert patterns_of(sae, lookback, [5, 6, 3]) == [Pattern((None, None, 3), True)]


def test_a_latent_of_two_unrelated_tokens_has_a_pattern_for_each(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0, token_at(4): 0.7}, 0.0))
    assert patterns_of(sae, lookback, [5, 3], [5, 4]) == [Pattern((3,), False), Pattern((4,), False)]


def test_a_latent_that_always_fires_has_one_wildcard(lookback: SubjectModel):
    assert patterns_of(planted(({}, 1.0)), lookback, [5, 3]) == [Pattern((None,), False)]


def test_a_token_that_takes_exactly_half_is_important(lookback: SubjectModel):
    sae = planted(({token_at(3): 0.5}, 0.5))
    assert patterns_of(sae, lookback, [3]) == [Pattern((3,), False)]
    sae = planted(({token_at(3): 0.499}, 0.5))
    assert patterns_of(sae, lookback, [3]) == [Pattern((None,), False)]


def test_importance_is_measured_against_the_suffix_and_the_start_against_the_original(lookback: SubjectModel):
    # Original 2 with token 4 one back. The suffix "3" has 1.2, which is enough; padding for 3 leaves 0.7: more than
    # half of 1.2, less than half of 2. A padding token in front leaves 0.9: less than half of 2 alone.
    features = {token_at(3): 0.5, token_at(4, back=1): 0.8, token_at(PAD, back=1): -0.3}
    sae = planted((features, 0.7))
    assert patterns_of(sae, lookback, [4, 3]) == [Pattern((None,), True)]


def test_the_shortest_suffix_is_found_where_longer_ones_fail(lookback: SubjectModel):
    # Active on sequences of 2, 5 and 6 tokens; the token in front of the last counts in all of them.
    features = {place_at(1): 1.0, place_at(4): 1.0, place_at(5): 1.0, token_at(4, back=1): 1.0}
    sae = planted((features, -1.0))
    reached = [literal_activation(sae, lookback, Site(("seen",)), [7, 7, 7, 7, 4, 3][-n:], 0) > 0 for n in range(1, 7)]
    assert reached == [False, True, False, False, True, True]
    assert patterns_of(sae, lookback, [7, 7, 7, 7, 4, 3]) == [Pattern((4, None), True)]


def test_the_added_bos_stands_before_every_suffix(lookback: SubjectModel):
    with_bos = SubjectModel(model=lookback.model, tokenizer=None, name="lookback", bos_id=9)
    sae = planted(({token_at(3): 1.0, token_at(9, back=1): 1.0}, -1.0))
    assert patterns_of(sae, with_bos, [3]) == [Pattern((3,), True)]
    sae = planted(({token_at(3): 1.0, place_at(1): 1.0}, -1.0))
    assert patterns_of(sae, with_bos, [3]) == [Pattern((3,), True)]


def test_a_suffix_that_fills_the_block_gets_no_start_mark(lookback: SubjectModel):
    sae = planted(({place_at(PLACES - 1): 1.0, token_at(3): 1.0}, -1.0))
    assert patterns_of(sae, lookback, [5] * (PLACES - 1) + [3]) == [Pattern((3,), False)]


def test_a_full_context_is_taken_though_rounding_leaves_less_of_it(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0}, 0.0))
    contexts = Contexts(torch.tensor([[5, 3]]), torch.tensor([2]), torch.tensor([0]), torch.tensor([99.0]).double())
    read = LastActivations(sae, lookback, Site(("seen",)), PLACES)
    lengths, activations = build.shortest_suffixes(read, contexts)
    assert (lengths.tolist(), activations.tolist()) == ([2], [99.0])


def test_an_example_that_needs_a_longer_suffix_than_the_limit_gives_no_pattern(lookback: SubjectModel):
    sae = planted(({token_at(3): 1.0, token_at(4, back=3): 1.0}, -1.0), ({token_at(3): 1.0}, 0.0))
    columns = torch.tensor([3, 3])
    firings = Firings(torch.tensor([0, 1]), torch.tensor([0, 0]), columns, torch.ones(2).double())
    contexts = full_contexts(torch.tensor([[9, 4, 7, 7, 3]]), firings._replace(columns=columns + 1))
    read = LastActivations(sae, lookback, Site(("seen",)), PLACES)
    wanted = [Pattern((4, None, None, 3), False), Pattern((3,), False)]
    assert find_patterns(read, contexts, PAD, 4) == find_patterns(read, contexts, PAD) == wanted
    assert find_patterns(read, contexts, PAD, 3) == [None, wanted[1]]


def literal_pattern(read: Callable[[list[int]], float], text: list[int], original: float, longest: int) -> Pattern:
    """Of one example, word by word as in the paper."""
    suffix = next((text[-n:] for n in range(1, len(text)) if read(text[-n:]) >= original / 2), text)
    activation = original if suffix == text else read(suffix)
    entries: list[int | None] = []
    for place, token in enumerate(suffix):
        replaced = read([*suffix[:place], PAD, *suffix[place + 1 :]])
        entries.append(token if replaced <= activation / 2 else None)
    at_start = len(suffix) < longest and read([PAD, *suffix]) < original / 2
    while not at_start and len(entries) > 1 and entries[0] is None:
        entries.pop(0)
    return Pattern(tuple(entries), at_start)


def random_autoencoder(subject: SubjectModel, site: Site, tokens: Tensor, **settings: Any) -> Autoencoder:
    x = site.read(subject.capture(tokens, site.inputs)).flatten(0, 1)
    sae = new_autoencoder(AutoencoderConfig(n_latents=24, **settings), x.shape[1])
    prepared = sae.preprocess(x).x.to(sae.W_enc.dtype)
    initialise(sae, prepared, InitialiseConfig(), torch.Generator().manual_seed(3))
    return sae.double()


ARCHITECTURES: list[dict[str, Any]] = [
    {"architecture": "topk", "k": 3},
    {"architecture": "batch_topk", "k": 3},
    {"architecture": "matryoshka", "k": 3},
    {"architecture": "relu"},
    {"architecture": "prolu"},
    {"architecture": "gated"},
    {"architecture": "jumprelu", "initial_threshold": 0.05},
]


@pytest.mark.parametrize(
    ("settings", "bos_id"),
    [
        pytest.param(settings, bos_id, marks=pytest.mark.slow if number % 2 == (bos_id or 0) else ())
        for number, settings in enumerate(ARCHITECTURES)
        for bos_id in (None, 1)
    ],
    ids=lambda each: each["architecture"] if isinstance(each, dict) else str(each),
)
def test_patterns_are_those_of_the_literal_definition(make_model, settings: dict[str, Any], bos_id: int | None):
    check_against_the_literal_definition(make_model("gpt2").double(), settings, bos_id)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "mistral", "qwen2", "gemma2", "opt"])
def test_patterns_are_those_of_the_literal_definition_in_other_subjects(make_model, name: str):
    check_against_the_literal_definition(make_model(name).double(), ARCHITECTURES[0], 1)


def check_against_the_literal_definition(model: Any, settings: dict[str, Any], bos_id: int | None) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(3)  # so that attention is sharp, and what precedes a token matters
    subject = SubjectModel(model=model, tokenizer=None, name="tiny", bos_id=bos_id)
    site = Site((subject.layer_hookpoint(1),))
    text = torch.randint(4, 64, (4, 9), generator=torch.Generator().manual_seed(5))
    text[2:, :7] = text[0, :7]  # suffixes that are alike
    bos = [] if bos_id is None else [bos_id]
    tokens = torch.cat([torch.tensor([bos] * len(text), dtype=torch.int64), text], dim=1)
    sae = random_autoencoder(subject, site, tokens, **settings)

    found: list[tuple[int, int, int, float]] = []
    for block, sequence in enumerate(tokens.tolist()):
        for column in range(len(sequence) - len(bos)):
            for latent in range(0, 24, 3):
                value = literal_activation(sae, subject, site, sequence[: len(bos) + column + 1], latent)
                found += [(latent, block, column, value)] * (value > 0)
    firings = Firings(*map(torch.tensor, zip(*found, strict=True)))
    firings = firings._replace(activations=firings.activations.double())
    read = LastActivations(sae, subject, site, 9)
    patterns = find_patterns(read, full_contexts(text, firings), PAD)
    lengths: list[int] = []
    for pattern, (latent, block, column, original) in zip(patterns, found, strict=True):

        def activation(sequence: list[int], latent: int = latent) -> float:
            return literal_activation(sae, subject, site, bos + sequence, latent)

        assert pattern == literal_pattern(activation, text[block, : column + 1].tolist(), original, 9)
        lengths.append(len(pattern.tokens))
    assert len(found) > 20
    assert max(lengths) > 1
    if settings["architecture"] == "topk":
        assert len({pattern.at_start for pattern in patterns}) == 2


def test_suffixes_that_are_alike_run_once(lookback: SubjectModel, monkeypatch: pytest.MonkeyPatch):
    ran: list[int] = []
    capture = SubjectModel.capture
    monkeypatch.setattr(SubjectModel, "capture", lambda self, *args: ran.append(len(args[0])) or capture(self, *args))
    sae = planted(({token_at(3): 1.0}, 0.0), ({token_at(4): 2.0}, 0.0))
    read = LastActivations(sae, dataclasses.replace(lookback, subject_batch=1), Site(("seen",)), 6)  # 6 tokens a pass
    suffixes = torch.tensor([[5, 3], [5, 4], [5, 3], [6, 3], [5, 3], [5, 4]])
    assert read(suffixes, torch.tensor([0, 1, 1, 0, 0, 0])).tolist() == [1.0, 2.0, 0.0, 1.0, 1.0, 0.0]
    assert ran == [2, 1]


def test_the_padding_token_is_the_tokenizers(lookback: SubjectModel, make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    with_tokenizer = SubjectModel(model=lookback.model, tokenizer=tokenizer, name="lookback")
    assert padding_token(with_tokenizer, None) == tokenizer.eos_token_id == 2
    tokenizer.pad_token = "<pad>"
    assert padding_token(with_tokenizer, None) == 0
    assert padding_token(with_tokenizer, 7) == 7


def test_a_missing_or_unknown_padding_token_is_refused(lookback: SubjectModel):
    with pytest.raises(UserError, match="lookback has no padding, end-of-text or BOS token; give one with padding"):
        padding_token(lookback, None)
    with pytest.raises(UserError, match=r"padding=10 is no token of lookback; its tokens are 0 … 9"):
        padding_token(lookback, 10)
