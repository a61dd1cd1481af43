"""What an autoencoder sees in a text: each token's strongest latents, and where each of those fires most."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt

from monosem.errors import UserError
from monosem.evaluation.examples import Examples, load_examples, telling_latents
from monosem.runs.block_codes import encode_text
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import EVALUATION, EXAMPLES, read_run
from monosem.runs.inputs import open_text
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.storage import load_autoencoder
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel
from monosem.subject.text import fingerprint
from monosem.subject.tokens import TokenSplit

if TYPE_CHECKING:
    from rich.console import Console

TOKENS_BEFORE, TOKENS_AFTER = 14, 6


class Context(NamedTuple):
    """A place in the held-out text where a latent fires."""

    activation: float
    before: str
    token: str
    after: str
    document: str


class LatentView(NamedTuple):
    """A latent, how often it fires, and its strongest contexts."""

    latent: int
    density: float
    """Share of the evaluated tokens."""
    contexts: list[Context]


class TokenView(NamedTuple):
    """A token of the inspected text and its strongest active latents, strongest first."""

    token: str
    latents: list[tuple[int, float]]


class Inspection(NamedTuple):
    """An inspected text."""

    tokens: list[TokenView]
    latents: list[LatentView]
    """The strongest latents of the text, each once, by their strongest activation in it."""


class Reader:
    """An evaluated run, open for looking at its latents."""

    def __init__(self, run: str | Path, *, console: "Console | None" = None) -> None:
        """
        Raises:
            UserError: the run, its subject or its text is not there; or it was not evaluated yet.
        """
        directory = Path(run)
        self.config: RunConfig = read_run(directory)
        self.sae: Autoencoder = load_autoencoder(directory)
        if not (directory / EXAMPLES).exists():
            raise UserError(f"{directory} has no examples yet; make them with: monosem eval {directory}")
        require_same_text(directory, self.config)
        self.subject: SubjectModel = load_subject(self.config.subject)
        self.sae.to(self.subject.device)
        text = open_text(self.config.text, self.subject, self.config.text_limit, console or default_console())
        self.held_out: TokenSplit = text.held_out
        self.examples: Examples = load_examples(
            directory / EXAMPLES, n_latents=self.sae.n_latents, line_length=len(self.held_out.tokens)
        )

    def telling_latents(self, count: int) -> list[LatentView]:
        """A few latents that are worth a first look."""
        return [self.view(latent) for latent in telling_latents(self.examples, self.held_out.tokens, count)]

    def view(self, latent: int, contexts: int = 5) -> LatentView:
        """A latent with its strongest contexts in the held-out text."""
        values, positions = self.examples.values[latent].tolist(), self.examples.positions[latent].tolist()
        found = [self._context(v, p) for v, p in zip(values, positions, strict=True) if p >= 0]
        return LatentView(latent, float(self.examples.density[latent]), found[:contexts])

    def _context(self, activation: float, position: int) -> Context:
        line, starts = self.held_out.tokens, self.held_out.document_starts
        document = int(self.held_out.document_of(torch.tensor([position]))[0])
        end = int(starts[document + 1]) if document + 1 < len(starts) else len(line)
        before = line[max(int(starts[document]) + 1, position - TOKENS_BEFORE) : position]
        after = line[position + 1 : min(end, position + 1 + TOKENS_AFTER)]
        name = self.held_out.document_names[document]
        return Context(
            activation, self._text(before), self._text(line[position : position + 1]), self._text(after), name
        )

    def _text(self, tokens: UInt[np.ndarray, " tokens"] | list[int]) -> str:
        return self.subject.tokenizer.decode([int(token) for token in tokens])

    def inspect(self, text: str, *, per_token: int = 3, latents: int = 5) -> Inspection:
        """The strongest latents of a text, token by token.

        Raises:
            UserError: the text holds no token.
        """
        ids: list[int] = self.subject.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if not ids:
            raise UserError("The text to inspect is empty; give at least one word.")
        codes = encode_text(self.sae, self.subject, ids, self.config.subject.context_length)
        views: list[TokenView] = []
        strongest: dict[int, float] = {}
        for token, start, stop in zip(ids, codes.row_offsets, codes.row_offsets[1:], strict=False):
            pairs = zip(codes.indices[start:stop].tolist(), codes.values[start:stop].tolist(), strict=True)
            active = sorted(((latent, value) for latent, value in pairs if value > 0), key=lambda pair: -pair[1])
            views.append(TokenView(self._text([token]), active[:per_token]))
            for latent, value in active:
                strongest[latent] = max(value, strongest.get(latent, 0.0))
        top = sorted(strongest, key=lambda latent: -strongest[latent])[:latents]
        return Inspection(views, [self.view(latent, 3) for latent in top])


def require_same_text(run: Path, config: RunConfig) -> None:
    """The examples point into the text that the run was evaluated on.

    Raises:
        UserError: the text is another one now.
    """
    try:
        evaluated = json.loads((run / EVALUATION).read_bytes())["text"]
    except (OSError, ValueError, KeyError, TypeError):
        evaluated = None
    if evaluated != fingerprint(config.text):
        raise UserError(
            f"The text of {run} is not the one that it was evaluated on, and its examples point into that; "
            f"make them again with: monosem eval {run}"
        )
