"""A run's subject and autoencoder at work on text that someone types: the latents of each token, and steering."""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from monosem.errors import UserError
from monosem.runs.block_codes import encode_text
from monosem.runs.directory import read_run
from monosem.runs.inputs import tell_changed_subject
from monosem.runs.steering import Steered, steered
from monosem.sae.interventions import How, Intervention
from monosem.sae.storage import load_autoencoder
from monosem.subject.generation import Sampling
from monosem.subject.loading import load_subject
from monosem.viewer.query import LARGEST_NUMBER, require_between

if TYPE_CHECKING:
    from rich.console import Console

PROMPT_CHARACTERS = 20_000
"""Of a text that is read."""
PROMPT_TOKENS = 1024
"""Of a text that is read."""
STEER_TOKENS = 256
"""Of a text that is steered, its continuation included."""
SHOWN_LATENTS = 256
"""The strongest of a token that are told."""
STEERED_LATENTS = 20
"""Steered at once."""
STEER_LENGTH, STEER_SAMPLES = 100, 5
"""Tokens of a continuation; continuations."""
LARGEST_STRENGTH = 1e6
LARGEST_TEMPERATURE = 10.0


class ReadToken(NamedTuple):
    """A token of a text and its active latents."""

    token: int
    latents: list[tuple[int, float]]
    """Latent and activation, strongest first."""


@dataclass(frozen=True, kw_only=True)
class SteeredLatent:
    """What is done to a latent."""

    latent: int
    """Its number."""
    how: How
    """Add to its activation, set it, set it to nothing, multiply it."""
    strength: float = 0.0
    """In the latent's activation units; of ``scale`` a factor; ``ablate`` takes none."""

    def __post_init__(self) -> None:
        require_between("latents: latent", self.latent, 0, LARGEST_NUMBER)
        require_between("latents: strength", self.strength, -LARGEST_STRENGTH, LARGEST_STRENGTH)


@dataclass(frozen=True, kw_only=True)
class SteerRequest:
    """A text, and what is done to which latents while the subject reads and continues it."""

    text: str
    """Of the prompt."""
    latents: tuple[SteeredLatent, ...]
    """Each named once."""
    keep_error: bool = True
    """Leave what the autoencoder does not reconstruct in place."""
    length: int = 30
    """Tokens of a continuation; 0: next-token probabilities alone."""
    samples: int = 3
    """Continuations."""
    temperature: float = 1.0
    """Of sampling; 0 takes the likeliest token."""
    seed: int = 0
    """Of sampling."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.latents) <= STEERED_LATENTS:
            raise UserError(f"latents names {len(self.latents)}; give from 1 to {STEERED_LATENTS}.")
        named = Counter(each.latent for each in self.latents)
        if twice := [latent for latent, count in named.items() if count > 1]:
            raise UserError(f"latents names {twice[0]} twice; give each once.")
        require_between("length", self.length, 0, STEER_LENGTH)
        require_between("samples", self.samples, 1, STEER_SAMPLES)
        require_between("temperature", self.temperature, 0, LARGEST_TEMPERATURE)
        require_between("seed", self.seed, 0, LARGEST_NUMBER)


class LiveRun:
    """A run's subject and autoencoder; one text at a time passes through them."""

    def __init__(self, run: Path, console: "Console") -> None:
        """
        Raises:
            UserError: the run, its autoencoder or its subject is not there, or is damaged.
        """
        config = read_run(run)
        self.sae = load_autoencoder(run)
        if self.sae.provenance is None:
            raise UserError(f"{run} does not say which activations its autoencoder was trained on.")
        self.subject = load_subject(config.subject)
        tell_changed_subject(self.sae.provenance, self.subject, console)
        self.sae.to(self.subject.device)
        self._context_length = config.subject.context_length
        self._one_at_a_time = threading.Lock()

    def prompt(self, text: str) -> list[ReadToken]:
        """The tokens of a text with their active latents; read in blocks, as the run was trained.

        Raises:
            UserError: the text is too long, or is not whole characters.
        """
        with self._one_at_a_time:
            ids = self._ids(text, PROMPT_TOKENS)
            if not ids:
                return []
            codes = encode_text(self.sae, self.subject, ids, self._context_length)
        offsets = codes.row_offsets.tolist()
        values, indices = codes.values.tolist(), codes.indices.tolist()
        tokens: list[ReadToken] = []
        for token, start, stop in zip(ids, offsets, offsets[1:], strict=False):
            kept = zip(indices[start:stop], values[start:stop], strict=True)
            active = sorted((pair for pair in kept if pair[1] > 0), key=lambda pair: (-pair[1], pair[0]))
            tokens.append(ReadToken(token, active[:SHOWN_LATENTS]))
        return tokens

    def steer(self, request: SteerRequest) -> Steered:
        """Next tokens and continuations with and without what is done to the latents.

        Raises:
            UserError: the text is empty or too long, or a latent is not of this dictionary.
        """
        for each in request.latents:
            if each.latent >= self.sae.n_latents:
                raise UserError(
                    f"latents: latent={each.latent} is not in this dictionary; its latents are "
                    f"0 … {self.sae.n_latents - 1:,}."
                )
        sampling = Sampling(
            length=request.length, samples=request.samples, temperature=request.temperature, seed=request.seed
        )
        seen = min(STEER_TOKENS, self.subject.max_context_length or STEER_TOKENS)
        room = seen - request.length - (self.subject.bos_id is not None)
        if room < 1:
            raise UserError(f"length={request.length} leaves no room for the text, of {seen} tokens in all; lower it.")
        with self._one_at_a_time:
            ids = self._ids(request.text, room)
            if not ids:
                raise UserError("text is empty; give at least one word.")
            return steered(
                self.subject,
                self.sae,
                ids,
                {each.latent: Intervention(each.how, each.strength) for each in request.latents},
                sampling,
                keep_error=request.keep_error,
            )

    def _ids(self, text: str, most: int) -> list[int]:
        """The tokens of a text, of which there may be so many."""
        if len(text) > PROMPT_CHARACTERS:
            raise UserError(f"text has {len(text):,} characters and may have {PROMPT_CHARACTERS:,}; shorten it.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"text has half a character at {error.start}, a lone surrogate; leave it out.") from error
        ids: list[int] = self.subject.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if len(ids) > most:
            raise UserError(f"text has {len(ids):,} tokens and may have {most:,}; shorten it.")
        return ids
