"""Explanations of latents by a sentence that a language model at an endpoint writes, and how well these predict.

After Bills et al. 2023, *Language models can explain neurons in language models*, but scored as N2G's explanations are
(Gao et al. 2024, §4.3), and on the same halves of the same documents: the model is shown where a latent fires in one
half and explains it; then it is shown the explanation and blocks of the other half, and names the tokens at which the
latent should be active. Precision, recall and F1 count tokens, so they say how well explainer and predictor do
together: the model that predicts is the one that explains.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.n2g.examples import read_firings, split_sample
from monosem.evaluation.n2g.measure import choose_latents
from monosem.evaluation.n2g.score import MEASURES, mean_over_latents
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.sample import Sample
from monosem.evaluation.words.client import Endpoint
from monosem.evaluation.words.config import WordsConfig
from monosem.evaluation.words.contexts import Example, ScoredContext, collect_contexts, draw_contexts
from monosem.evaluation.words.prompts import (
    activity_prompt,
    explanation_prompt,
    read_active,
    read_sentence,
    token_shower,
)
from monosem.evaluation.words.reply import Reply
from monosem.evaluation.words.score import Described, Prediction, total_usage
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

# What explaining a latent counts in the report of progress, beside tokens read.
LATENT_TOKENS = 20_000
NEVER_FIRES = "never fires in the half of the documents that explanations are made from"


@dataclass(frozen=True, kw_only=True)
class WordsResults:
    """Explanations in words, and how well they predict."""

    config: WordsConfig
    seed: int
    building_tokens: int
    """Tokens, in half of the documents, that the contexts shown are from."""
    scoring_tokens: int
    """Tokens, in the other half, that the scores are expectations over."""
    scoring_documents: int
    alive: int
    """Latents that fire in the sample; those to explain were drawn from them, if they were not named."""
    described: tuple[Described, ...]
    """Latent by latent, explained or not."""

    @property
    def explained(self) -> tuple[Described, ...]:
        return tuple(each for each in self.described if each.reason is None)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Means over the explained latents for which each score is defined, with intervals over these latents."""
        return {
            f"words_{name}": mean_over_latents(values, samples=self.config.bootstrap_samples, seed=self.seed)
            for name, values in self._values().items()
        }

    def _values(self) -> dict[str, list[float | None]]:
        scores = [each.scores for each in self.explained]
        return {name: [each[name] for each in scores] for name in MEASURES}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = ("building_tokens", "scoring_tokens", "scoring_documents", "alive")
        defined = {name: sum(value is not None for value in values) for name, values in self._values().items()}
        return {
            "settings": asdict(self.config) | {"seed": self.seed, "chosen": list(self.config.chosen)},
            "metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()},
            **{name: getattr(self, name) for name in told},
            **total_usage([reply for each in self.described for reply in each.replies]),
            "defined": {f"words_{name}": count for name, count in defined.items()},
            "latents": [each.to_dict() for each in self.explained],
            "unexplained": [each.to_dict() for each in self.described if each.reason is not None],
        }


@torch.no_grad()
def measure_words(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: WordsConfig,
    *,
    alive: Bool[Tensor, " n_latents"],
    seed: int,
    explained: Sequence[Reply] = (),
    done: Callable[[Reply], None] = lambda _: None,
    report: Report | None = None,
) -> WordsResults:
    """Explain latents on half of the sample's documents and score the explanations on the other half.

    Args:
        alive: which latents fire in the sample.
        explained: replies that an interrupted measurement with the same arguments left; they are not asked for again.
        done: called with each new reply, by one thread at a time.
        report: called with the tokens read and in all, a latent counting as LATENT_TOKENS.

    Raises:
        UserError: there is no endpoint, or it cannot be reached or refuses; the sample has fewer than two documents, or
            no latent to explain.
    """
    if config.missing is not None:
        raise UserError(f"Explaining latents in words {config.missing}.")
    with Endpoint(config, seed, explained, done) as endpoint:
        building, scoring = split_sample(sample, subject, seed)
        latents = choose_latents(config.chosen, config.latents, alive, seed)
        advance = counting(report, building.tokens + scoring.tokens + LATENT_TOKENS * len(latents))
        examples = collect_contexts(sae, subject, site, building, latents, config.examples, seed, advance)
        firings = read_firings(sae, subject, site, scoring, advance)
        contexts = draw_contexts(firings, scoring, subject, latents, config.scored_contexts, seed)
        described = _describe_all(
            endpoint, examples, contexts, token_shower(subject.tokenizer), config.concurrency, advance
        )
    return WordsResults(
        config=config,
        seed=seed,
        building_tokens=building.tokens,
        scoring_tokens=scoring.tokens,
        scoring_documents=scoring.n_documents,
        alive=int(alive.sum()),
        described=described,
    )


def _describe_all(
    endpoint: Endpoint,
    examples: Mapping[int, tuple[Example, ...]],
    contexts: Mapping[int, tuple[ScoredContext, ...]],
    show: Callable[[int], str],
    concurrency: int,
    advance: Callable[[int], None],
) -> tuple[Described, ...]:
    """So many latents at once, each by a thread; what one of them raises stops the others."""
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [
            pool.submit(_describe, endpoint, latent, examples[latent], contexts[latent], show) for latent in examples
        ]
        try:
            for future in as_completed(futures):
                future.result()
                advance(LATENT_TOKENS)
        except BaseException:
            endpoint.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(future.result() for future in futures)


def _describe(
    endpoint: Endpoint,
    latent: int,
    examples: Sequence[Example],
    contexts: Sequence[ScoredContext],
    show: Callable[[int], str],
) -> Described:
    """Ask for a latent's explanation, and then block by block where it should be active."""
    if not examples:
        return Described(latent, None, (), NEVER_FIRES, ())
    reply = endpoint.ask(explanation_prompt(examples, show), read_sentence)
    replies = [reply]
    if reply.content is None:
        return Described(latent, None, (), f"no explanation: {reply.reason}", tuple(replies))
    sentence = read_sentence(reply.content)
    predictions: list[Prediction] = []
    for context in contexts:
        count = len(context.tokens)
        reply = endpoint.ask(
            activity_prompt(sentence, context.tokens, show), lambda content, count=count: read_active(content, count)
        )
        replies.append(reply)
        if reply.content is None:
            return Described(latent, sentence, (), f"no prediction: {reply.reason}", tuple(replies))
        named = read_active(reply.content, count)
        predictions.append(Prediction(context, tuple(token for token in sorted(named) if context.counted[token])))
    return Described(latent, sentence, tuple(predictions), None, tuple(replies))
