"""Explanations of latents by patterns of tokens, found by running the model: N2G.

Foote et al. 2023, simplified as in Gao et al. 2024, §4.3.

From each example, a token at which a latent is active, one pattern is made:
1. The text behind the token is cut off. What precedes it in its block is the full context.
2. The shortest suffix of that is taken whose activation, at its last token, is at least half of the original. A longer
   suffix may have less, so no bisection finds it: suffixes are tried from the shortest on, for each must be known to
   fail before a longer one may be taken. Where none reaches half, the full context is taken, whose activation is the
   original, even if rounding in another batch gives less. The cost of an example grows with the square of its suffix;
   with a limit on the length, an example that would need a longer suffix gives no pattern.
3. Each token of the suffix is replaced by a padding token; it is important if that lowers the suffix's activation by
   half or more. The others become wildcards.
4. The start of the sequence matters if a padding token in front of the suffix leaves less than half of the original
   activation. A suffix that fills a block has no room in front of it, and gets no start mark.
The pattern goes into the latent's trie with the original activation.

Activation means the value that the latent has at inference, so a latent that TopK does not keep has none. Where blocks
begin with an added BOS, so does every suffix. A padding token in the place of itself changes nothing: such a token
never counts as important.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.n2g.examples import Firings, joined
from monosem.evaluation.n2g.trie import Explanation, Pattern, Trie
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

# Examples worked through together: many, so that suffixes of one length fill whole passes and many are alike.
GROUP_EXAMPLES = 1 << 13
# Tokens of the suffixes held at once with each of their tokens replaced: 32 MB.
_VARIANT_TOKENS = 1 << 22


class Contexts(NamedTuple):
    """Full contexts of examples, each ending in the token at which its latent is active."""

    tokens: Int64[Tensor, "examples text_length"]
    """On the right; before their first token stands anything. As wide as a block's text."""
    lengths: Int64[Tensor, " examples"]
    latents: Int64[Tensor, " examples"]
    activations: Float[Tensor, " examples"]
    """The original ones, above 0."""


def full_contexts(text: Int64[Tensor, "blocks text_length"], firings: Firings) -> Contexts:
    """The text of each firing's block up to it."""
    width = text.shape[1]
    columns = firings.columns[:, None] - (width - 1) + torch.arange(width)
    tokens = text[firings.blocks[:, None], columns.clamp(min=0)]
    return Contexts(tokens, firings.columns + 1, firings.latents, firings.activations)


class LastActivations:
    """Runs suffixes through the subject, as far as the hookpoint, and reads latents at their last tokens."""

    def __init__(self, sae: Autoencoder, subject: SubjectModel, site: Site, text_length: int) -> None:
        self._sae, self._subject, self._site = sae, subject, site
        self._pass_tokens = subject.subject_batch * text_length

    @torch.no_grad()
    def __call__(
        self, suffixes: Int64[Tensor, "suffixes length"], latents: Int64[Tensor, " suffixes"]
    ) -> Float[Tensor, " suffixes"]:
        """The value of one latent for each suffix; suffixes that are alike run once."""
        distinct, which = torch.unique(suffixes, dim=0, return_inverse=True)
        by_suffix = which.argsort(stable=True)
        asked = torch.bincount(which, minlength=len(distinct)).cumsum(0)
        batch = max(1, self._pass_tokens // (suffixes.shape[1] + 1))
        found = torch.empty(len(suffixes), dtype=torch.float64)
        for start in range(0, len(distinct), batch):
            stop = min(start + batch, len(distinct))
            these = by_suffix[int(asked[start - 1]) if start else 0 : int(asked[stop - 1])]
            values, indices = self._codes(distinct[start:stop])
            row = which[these] - start
            is_asked = indices[row] == latents[these][:, None]
            found[these] = (values[row] * is_asked).sum(dim=1)
        return found

    def _codes(self, suffixes: Tensor) -> tuple[Tensor, Tensor]:
        """Values and indices of the latents kept at the last token, rows of one length; values in float64."""
        if self._subject.bos_id is not None:
            suffixes = torch.cat([suffixes.new_full((len(suffixes), 1), self._subject.bos_id), suffixes], dim=1)
        subject = dataclasses.replace(self._subject, subject_batch=len(suffixes))
        captured = subject.capture(suffixes, self._site.inputs)
        values, indices = self._sae.encode(
            self._site.read({name: value[:, -1] for name, value in captured.items()})
        ).padded()
        return values.cpu().double(), indices.cpu()


def padding_token(subject: SubjectModel, padding: int | None) -> int:
    """The token that replaces others: the one given, or the tokenizer's padding, end-of-text or BOS token.

    Raises:
        UserError: there is none, or the subject knows no such token.
    """
    if padding is None:
        names = ("pad_token_id", "eos_token_id", "bos_token_id")
        known = [getattr(subject.tokenizer, name, None) for name in names]
        padding = next((token for token in known if token is not None), None)
    if padding is None:
        raise UserError(
            f"The tokenizer of {subject.name} has no padding, end-of-text or BOS token; give one with padding."
        )
    vocabulary = subject.model.config.get_text_config(decoder=True).vocab_size
    if not 0 <= padding < vocabulary:
        raise UserError(f"padding={padding} is no token of {subject.name}; its tokens are 0 … {vocabulary - 1}.")
    return padding


def shortest_suffixes(
    read: LastActivations, contexts: Contexts, longest: int | None = None
) -> tuple[Int64[Tensor, " examples"], Float[Tensor, " examples"]]:
    """Each example's shortest suffix that reaches half of the original activation: its length and its activation.

    The length is 0 where none of at most ``longest`` tokens does.
    """
    limit = contexts.tokens.shape[1] if longest is None else longest
    lengths, activations = contexts.lengths.clone(), contexts.activations.clone()
    remaining = torch.arange(len(lengths))
    for length in range(1, min(limit, int(lengths.max())) + 1):
        if len(remaining) == 0:
            break
        measured = read(contexts.tokens[remaining, -length:], contexts.latents[remaining])
        is_enough = measured >= contexts.activations[remaining] / 2
        lengths[remaining[is_enough]] = length
        activations[remaining[is_enough]] = measured[is_enough]
        remaining = remaining[~is_enough & (contexts.lengths[remaining] > length)]
    lengths[remaining] = 0
    return lengths, activations


def important_tokens(
    read: LastActivations,
    suffixes: Int64[Tensor, "suffixes length"],
    latents: Int64[Tensor, " suffixes"],
    activations: Float[Tensor, " suffixes"],
    padding: int,
) -> Bool[Tensor, "suffixes length"]:
    """Which tokens, when a padding token stands in their place, leave half of the suffix's activation or less."""
    count, length = suffixes.shape
    rows = max(1, _VARIANT_TOKENS // length**2)
    is_important = torch.empty(count, length, dtype=torch.bool)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        variants = suffixes[part, None, :].repeat(1, length, 1)
        variants.diagonal(dim1=1, dim2=2).fill_(padding)
        measured = read(variants.flatten(0, 1), latents[part].repeat_interleave(length))
        is_important[part] = measured.view(-1, length) <= activations[part, None] / 2
    return is_important


def find_patterns(
    read: LastActivations, contexts: Contexts, padding: int, longest: int | None = None
) -> list[Pattern | None]:
    """The pattern of each example; None where it needs a suffix of more than ``longest`` tokens."""
    lengths, activations = shortest_suffixes(read, contexts, longest)
    patterns: dict[int, Pattern] = {}
    for length in lengths[lengths > 0].unique().tolist():
        these = (lengths == length).nonzero()[:, 0]
        suffixes, latents = contexts.tokens[these, -length:], contexts.latents[these]
        is_important = important_tokens(read, suffixes, latents, activations[these], padding)
        if length < contexts.tokens.shape[1]:
            padded = torch.cat([suffixes.new_full((len(suffixes), 1), padding), suffixes], dim=1)
            at_start = read(padded, latents) < contexts.activations[these] / 2
        else:
            at_start = torch.zeros(len(these), dtype=torch.bool)
        rows = zip(these.tolist(), suffixes.tolist(), is_important.tolist(), at_start.tolist(), strict=True)
        for example, tokens, important, starts in rows:
            entries = tuple(token if counts else None for token, counts in zip(tokens, important, strict=True))
            patterns[example] = Pattern(entries, starts).simplified()
    return [patterns.get(example) for example in range(len(lengths))]


def explain_latents(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    text: Int64[Tensor, "blocks text_length"],
    examples: Mapping[str, Firings],
    latents: Sequence[int],
    padding: int,
    longest: int | None = None,
) -> Iterator[Explanation]:
    """Explain latents by their examples, in groups; those without an example are passed over.

    Args:
        text: the blocks that the examples point into, without added BOS.
        examples: firings by kind; a trie is built of each kind's.
        padding: the token that replaces others.
        longest: tokens in the longest suffix; None: as many as there are.
    """
    read = LastActivations(sae, subject, site, text.shape[1])
    counts = sum(torch.bincount(each.latents, minlength=sae.n_latents) for each in examples.values())
    assert isinstance(counts, Tensor)
    for group in _groups(latents, counts):
        is_in_group = torch.zeros(sae.n_latents, dtype=torch.bool).index_fill_(0, torch.tensor(group), True)
        chosen = {kind: each.at(is_in_group[each.latents]) for kind, each in examples.items()}
        firings = joined(list(chosen.values()))
        patterns = iter(find_patterns(read, full_contexts(text, firings), padding, longest))
        tries = {latent: {kind: Trie() for kind in examples} for latent in group}
        for kind, each in chosen.items():
            pairs = zip(each.latents.tolist(), each.activations.tolist(), strict=True)
            for latent, activation in pairs:
                if (pattern := next(patterns)) is not None:
                    tries[latent][kind].insert(pattern, activation)
        for latent in group:
            yield Explanation(latent=latent, tries=tries[latent])


def _groups(latents: Sequence[int], counts: Int64[Tensor, " n_latents"]) -> Iterator[list[int]]:
    """The latents that have examples, in groups of about GROUP_EXAMPLES examples."""
    group: list[int] = []
    held = 0
    for latent in latents:
        count = int(counts[latent])
        if count == 0:
            continue
        group.append(latent)
        held += count
        if held >= GROUP_EXAMPLES:
            yield group
            group, held = [], 0
    if group:
        yield group
