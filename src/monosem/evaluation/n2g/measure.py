"""N2G on a sample: latents explained on half of its documents, and their explanations scored on the other half."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.config import require_positive
from monosem.errors import UserError
from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.n2g.build import explain_latents, padding_token
from monosem.evaluation.n2g.examples import (
    Firings,
    collect_examples,
    read_firings,
    split_sample,
    text_of,
    text_places,
)
from monosem.evaluation.n2g.render import render_pattern, token_reader
from monosem.evaluation.n2g.score import ScoredText, Scores, count_predictions, scores
from monosem.evaluation.n2g.trie import KINDS, Explanation
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.sample import Sample
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

SHOWN_PATTERNS = 5
# What explaining a latent counts in the report of progress; it takes about as long as reading so many tokens.
LATENT_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class N2GConfig:
    """How many latents are explained, and from how much."""

    latents: int = 200
    """Latents, drawn at random among those that fire in the sample; all where there are fewer."""
    chosen: tuple[int, ...] = ()
    """These latents instead, by number."""
    examples: int = 16
    """Activating tokens a latent to build from, of each kind: drawn at random, and the strongest."""
    padding: int | None = None
    """The token that replaces others; by default the tokenizer's padding token, else its end-of-text or BOS token."""
    longest_suffix: int | None = 16
    """Tokens in the longest suffix tried; an example that needs a longer one gives no pattern. None: no limit, which
    takes three times as long. On the bundled subject 92% of examples need at most 16, and what needs more hardly ever
    matches again."""
    bootstrap_samples: int = 1000
    """Samples of documents, or latents, behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, "latents", "examples", "bootstrap_samples")
        if self.longest_suffix is not None and self.longest_suffix < 1:
            raise UserError(f"longest_suffix={self.longest_suffix} is below 1; give one or more, or none for no limit.")
        if len(set(self.chosen)) < len(self.chosen):
            raise UserError(f"chosen={list(self.chosen)} names a latent twice; give each once.")


@dataclass(frozen=True, kw_only=True)
class N2GResults:
    """Explanations, and how well they predict; by the kind of examples they were built from, ``random`` and ``top``."""

    config: N2GConfig
    seed: int
    building_tokens: int
    """Tokens, in half of the documents, that the examples are from."""
    scoring_tokens: int
    """Tokens, in the other half, on which the explanations are scored."""
    scoring_documents: int
    alive: int
    """Latents that fire in the sample; those to explain were drawn from them, if they were not named."""
    unexplained: tuple[int, ...]
    """Latents that never fire in the half to build from, and so have no explanation and no score."""
    explanations: tuple[Explanation, ...]
    scores: Mapping[str, Scores]
    """By kind."""
    token_text: Callable[[int], str]
    """Shows a token to a reader."""

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Means over the explained latents, ``n2g_precision_random`` and so on, with intervals over latents.

        Latents whose explanation predicts nothing on the scored text have no precision and are left out of its mean;
        they have a recall and an F1 of 0. Latents that are not active there have no recall.
        """
        return {f"n2g_{name}_{kind}": estimate for kind in KINDS for name, estimate in self.scores[kind].mean.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = ("building_tokens", "scoring_tokens", "scoring_documents", "alive")
        return {
            "settings": asdict(self.config) | {"seed": self.seed, "chosen": list(self.config.chosen)},
            "metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()},
            **{name: getattr(self, name) for name in told},
            "unexplained": list(self.unexplained),
            "defined": {f"n2g_{name}_{kind}": n for kind in KINDS for name, n in self.scores[kind].defined.items()},
            "latents": [self._latent(slot) for slot in range(len(self.explanations))],
        }

    def _latent(self, slot: int) -> dict[str, Any]:
        explanation = self.explanations[slot]
        return explanation.to_dict() | {
            kind: {name: estimate._asdict() for name, estimate in self.scores[kind].of_latents[slot].items()}
            | {"examples": explanation.examples(kind), "shown": self.shown(explanation, kind)}
            for kind in KINDS
        }

    def shown(self, explanation: Explanation, kind: str, count: int = SHOWN_PATTERNS) -> list[str]:
        """An explanation's patterns for a reader: those that most examples gave, of these the strongest first."""
        ranked = sorted(
            explanation.tries[kind].patterns(), key=lambda match: (match[1].examples, match[1].activation), reverse=True
        )
        return [render_pattern(pattern, self.token_text) for pattern, _ in ranked[:count]]


@torch.no_grad()
def measure_n2g(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: N2GConfig,
    *,
    alive: Bool[Tensor, " n_latents"],
    seed: int,
    explained: Sequence[Explanation] = (),
    done: Callable[[Explanation], None] = lambda _: None,
    report: Report | None = None,
) -> N2GResults:
    """Explain latents on half of the sample's documents and score the explanations on the other half.

    Args:
        alive: which latents fire in the sample.
        explained: explanations that an interrupted measurement with the same arguments left.
        done: called with each new explanation; they come in groups.
        report: called with the tokens read and in all, a latent to explain counting as LATENT_TOKENS.

    Raises:
        UserError: the sample has fewer than two documents, no latent to explain, or there is no padding token.
    """
    padding = padding_token(subject, config.padding)
    building, scoring = split_sample(sample, subject, seed)
    latents = choose_latents(config.chosen, config.latents, alive, seed)
    advance = counting(report, building.tokens + scoring.tokens + LATENT_TOKENS * len(latents))

    def read(part: Sample) -> Iterator[tuple[int, Firings]]:
        return read_firings(sae, subject, site, part, advance)

    examples = collect_examples(read(building), latents, sae.n_latents, config.examples, seed)
    found = {each.latent: each for each in explained}
    missing = [latent for latent in latents.tolist() if latent not in found]
    text = text_of(building, subject)
    for new in explain_latents(sae, subject, site, text, examples, missing, padding, config.longest_suffix):
        found[new.latent] = new
        done(new)
        advance(LATENT_TOKENS)
    explanations = tuple(found[latent] for latent in latents.tolist() if latent in found)
    advance(LATENT_TOKENS * (len(latents) - len(set(missing) & found.keys())))  # of those that needed none
    scored = ScoredText(text_of(scoring, subject), *text_places(scoring, subject), scoring.n_documents)
    counts = count_predictions(explanations, scored, read(scoring))
    return N2GResults(
        config=config,
        seed=seed,
        building_tokens=building.tokens,
        scoring_tokens=scoring.tokens,
        scoring_documents=scoring.n_documents,
        alive=int(alive.sum()),
        unexplained=tuple(latent for latent in latents.tolist() if latent not in found),
        explanations=explanations,
        scores={kind: scores(each, samples=config.bootstrap_samples, seed=seed) for kind, each in counts.items()},
        token_text=token_reader(subject.tokenizer),
    )


def choose_latents(
    chosen: Sequence[int], count: int, alive: Bool[Tensor, " n_latents"], seed: int
) -> Int64[Tensor, " explained"]:
    """The latents to explain, in order: those chosen by number, or so many drawn among those alive.

    A draw of fewer is part of a draw of more by the same seed.

    Raises:
        UserError: one that is chosen does not exist, or none is alive.
    """
    if chosen:
        unknown = [latent for latent in chosen if not 0 <= latent < len(alive)]
        if unknown:
            raise UserError(f"chosen={unknown[0]} is no latent; the autoencoder has latents 0 … {len(alive) - 1}.")
        return torch.tensor(sorted(chosen))
    living = alive.nonzero()[:, 0]
    if len(living) == 0:
        raise UserError("No latent fires in the sample, so there is nothing to explain; evaluate on more text.")
    drawn = torch.randperm(len(living), generator=derive_generator(seed, "n2g", "latents"))[:count]
    return living[drawn].sort().values
