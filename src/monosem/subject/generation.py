"""What the subject model says next."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.errors import UserError
from monosem.randomness import derive_generator
from monosem.subject.model import SubjectModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is continued."""

    length: int = 30
    """Tokens of a continuation; 0 for none."""
    samples: int = 3
    """Continuations."""
    temperature: float = 1.0
    """Probabilities are raised to one over this; 0 takes the likeliest token."""
    seed: int = 0
    """Of the random numbers that tokens are drawn by."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"length={self.length} is below 0; give 0 for no continuation.")
        if self.samples < 1:
            raise UserError(f"samples={self.samples} is below 1; ask for one, or set length=0.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} is no number from 0 up; give 0 for the likeliest, or 1.")
        if self.temperature == 0 and self.samples > 1:
            raise UserError(f"samples={self.samples} with temperature=0 would be the same; ask for one, or raise it.")


def next_token_probabilities(subject: SubjectModel, tokens: Int[Tensor, " length"]) -> Float[Tensor, " vocabulary"]:
    """The probability of each token after these, in float32, on the CPU."""
    return _last_logits(subject, tokens[None])[0].softmax(dim=0)


def continuations(
    subject: SubjectModel,
    tokens: Int[Tensor, " length"],
    sampling: Sampling,
) -> list[list[int]]:
    """Continuations of a text, each cut before an end-of-text token.

    The same seed draws by the same random numbers whatever the model says (the largest of p^(1/temperature) divided by
    exponential noise), so that two calls differ only as far as the model does. Every pass reads the whole text, so that
    what is hooked into the model sees all of it.

    Raises:
        UserError: the model cannot read so long a text.
    """
    _require_room(subject, len(tokens) + sampling.length)
    generator = derive_generator(sampling.seed, "continuations")
    text = tokens.expand(sampling.samples, -1)
    for _ in range(sampling.length):
        logits = _last_logits(subject, text)
        noise = torch.empty_like(logits).exponential_(generator=generator)
        scores = logits / sampling.temperature - noise.log() if sampling.temperature > 0 else logits
        text = torch.cat([text, scores.argmax(dim=1, keepdim=True)], dim=1)
    end = subject.tokenizer.eos_token_id
    drawn: list[list[int]] = text[:, len(tokens) :].tolist()
    return [sample[: sample.index(end)] if end in sample else sample for sample in drawn]


def _last_logits(subject: SubjectModel, tokens: Int[Tensor, "blocks length"]) -> Float[Tensor, "blocks vocabulary"]:
    return subject.logits(tokens)[:, -1].float().cpu()


def _require_room(subject: SubjectModel, total: int) -> None:
    longest = subject.max_context_length
    if longest is not None and total > longest:
        raise UserError(
            f"The text and its continuation have {total} tokens and {subject.name} reads at most {longest}; "
            "shorten the text, or ask for a shorter continuation."
        )
