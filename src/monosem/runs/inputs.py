"""What a run reads: the subject model, its text as tokens, and the activations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from monosem.data.sources import ActivationSource, CachedActivations, Rows
from monosem.errors import UserError
from monosem.runlog import ProgressLine, short
from monosem.runs.config import RunConfig
from monosem.sae.site import Provenance
from monosem.subject.blocks import Blocks, BlockStream, EvenBlocks
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig, SubjectModel
from monosem.subject.text import TextConfig, fingerprint
from monosem.subject.tokens import TokenizedText, TokenSplit, special_token_ids, tokenize_text

if TYPE_CHECKING:
    from rich.console import Console


class LiveActivations:
    """Rows made on demand: the training text's blocks through the subject model, kept positions only."""

    def __init__(self, subject: SubjectModel, stream: BlockStream, hookpoints: Sequence[str]) -> None:
        self.subject, self._stream, self._hookpoints = subject, stream, list(hookpoints)
        probe = subject.capture(stream.rows(0, 1).tokens, self._hookpoints)
        self._widths = {hookpoint: value.shape[-1] for hookpoint, value in probe.items()}

    @property
    def widths(self) -> Mapping[str, int]:
        """Components of an activation vector, by hookpoint."""
        return self._widths

    @property
    def reads_ahead(self) -> bool:
        """No: the subject model would take its time from the autoencoder."""
        return False

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start … stop - 1``, on the subject's device and in its dtype."""
        blocks, captured = self.blocks(start, stop)
        kept = blocks.kept.to(self.subject.device)
        return Rows({hookpoint: value[kept] for hookpoint, value in captured.items()}, blocks.positions[blocks.kept])

    def blocks(self, start: int, stop: int) -> tuple[Blocks, dict[str, Float[Tensor, "blocks length _"]]]:
        """The blocks that rows ``start … stop - 1`` lie in, with exactly these kept, and their activations."""
        blocks = self._stream.rows(start, stop)
        return blocks, self.subject.capture(blocks.tokens, self._hookpoints)


class Inputs(NamedTuple):
    """Everything that a run reads."""

    subject: SubjectModel
    text: TokenizedText
    hookpoints: list[str]
    """Those to read; a transcoder's target comes beside them."""
    source: ActivationSource
    caches: Mapping[str, str]
    """Directories of cached activations by hookpoint; none of live ones."""

    @property
    def extent(self) -> dict[str, int]:
        """Sizes of what the rows come from: a run goes on only where they are the same."""
        if isinstance(self.source, CachedActivations):
            return {"cached activations": self.source.rows_per_epoch}
        training = self.text.training
        return {"training tokens": len(training.tokens), "training documents": len(training.document_names)}

    def name_of(self, position: int) -> str:
        """Where a position of the training text lies, for a message."""
        return describe_position(self.text.training, position)


def describe_position(split: TokenSplit, position: int) -> str:
    """The document that holds a position, and the token within it, of which 0 is the end-of-text that opens it."""
    if not 0 <= position < len(split.tokens):  # an added BOS; or the cache was made from more of the text
        return "an added BOS token" if position < 0 else f"token {position:,} of the text"
    document = int(split.document_of(np.asarray(position)))
    return f"{split.document_names[document]}, token {position - int(split.document_starts[document])}"


def open_text(text: TextConfig, subject: SubjectModel, limit: int | None, console: "Console") -> TokenizedText:
    """The text as tokens, from the cache where it has been read before."""
    with ProgressLine("Reading text", 0, console, transient=True) as line:
        tokenized = tokenize_text(text, subject.tokenizer, limit=limit, report=lambda done, _: line.update(done))
    console.print(
        f"Text: {short(len(tokenized.training.tokens))} tokens in {len(tokenized.training.document_names):,} documents "
        f"to train on, {short(len(tokenized.held_out.tokens))} in {len(tokenized.held_out.document_names):,} held out",
        highlight=False,
        soft_wrap=True,
    )
    return tokenized


def tell_changed_subject(provenance: Provenance, subject: SubjectModel, console: "Console") -> None:
    """Say so where the subject is not the one that the autoencoder was trained on."""
    if provenance.revision != subject.revision:
        console.print(
            f"[yellow]The subject has changed since training:[/] {subject.name} was at {provenance.revision} "
            f"and is at {subject.revision} now",
            highlight=False,
        )


def open_stream(config: SubjectConfig, subject: SubjectModel, split: TokenSplit, seed: int) -> BlockStream:
    """The training text as an endless sequence of kept tokens."""
    return BlockStream(
        split,
        context_length=config.context_length,
        seed=seed,
        special_ids=special_token_ids(subject.tokenizer),
        bos_id=subject.bos_id,
        keep_special=config.keep_special,
    )


def open_even_blocks(
    config: SubjectConfig, subject: SubjectModel, split: TokenSplit, max_tokens: int | None
) -> EvenBlocks:
    """So many tokens of a split in whole blocks, evenly spread."""
    return EvenBlocks(
        split,
        context_length=config.context_length,
        special_ids=special_token_ids(subject.tokenizer),
        bos_id=subject.bos_id,
        keep_special=config.keep_special,
        max_tokens=max_tokens,
    )


def open_held_out(config: SubjectConfig, subject: SubjectModel, split: TokenSplit, max_tokens: int | None) -> Blocks:
    """The held-out blocks to evaluate on."""
    return open_even_blocks(config, subject, split, max_tokens).all()


def open_inputs(config: RunConfig, console: "Console") -> Inputs:
    """Load the subject, read the text and open the activations, live or cached.

    Raises:
        UserError: anything of it is missing, damaged, too small or does not fit together.
    """
    subject = load_subject(config.subject)
    hookpoints = [] if config.activations else subject.resolve(config.subject)
    text = open_text(config.text, subject, config.text_limit, console)
    require_held_out_text(config, text.held_out)
    open_held_out(config.subject, subject, text.held_out, config.evaluation.eval_tokens)
    if config.activations:
        source = open_cache(config, subject)
        require_full_buffer(config, source.rows_per_epoch, "cache", "cache more tokens")
        caches = dict(zip(source.widths, config.activations, strict=True))
        if config.subject.target is not None and config.subject.target not in caches:
            raise UserError(
                f"target={config.subject.target} is not among the cached hookpoints, {', '.join(caches)}; "
                "cache it together with what is read."
            )
        read = [name for name in caches if name != config.subject.target]
        return Inputs(subject, text, read, source, caches)
    require_full_buffer(config, len(text.training.tokens), "training text", "give more text with --text")
    stream = open_stream(config.subject, subject, text.training, config.training.seed)
    require_full_buffer(config, stream.rows_in_epoch(0), "training text", "give more text with --text")
    captured = hookpoints if config.subject.target is None else [*hookpoints, config.subject.target]
    return Inputs(subject, text, hookpoints, LiveActivations(subject, stream, captured), {})


def require_full_buffer(config: RunConfig, found: int, what: str, remedy: str) -> None:
    """The tokens to train on must fill the shuffle buffer once.

    Raises:
        UserError: they do not.
    """
    needed = config.training.shuffle_batches * config.training.batch_size
    if found < needed:
        raise UserError(
            f"The {what} has {found:,} tokens and needs at least {needed:,}, a shuffle buffer of "
            f"{config.training.shuffle_batches} batches of {config.training.batch_size:,}; "
            f"{remedy}, or lower --batch-size."
        )


def require_held_out_text(config: RunConfig, split: TokenSplit) -> None:
    """There must be something to evaluate on, which a run should not find out at its end.

    Raises:
        UserError: the held-out documents do not fill a block.
    """
    needed = config.subject.context_length
    if len(split.tokens) < needed:
        raise UserError(
            f"The held-out text has {len(split.tokens):,} tokens in {len(split.document_names):,} documents and needs "
            f"at least {needed:,}, a block of --context-length; give more documents with --text, or raise --held-out "
            f"(now {config.text.held_out:g} of the documents)."
        )


def open_cache(config: RunConfig, subject: SubjectModel) -> CachedActivations:
    """Cached activations, checked to belong to the configured subject and text."""
    source = CachedActivations(config.activations, seed=config.training.seed)
    expected = cache_identity(config.subject, config.text, subject)
    plan = next(iter(source.plans.values()))
    identity = plan.subject
    found = {"subject": identity.name, "revision": identity.revision, "context_length": identity.context_length}
    found |= plan.provenance
    for name, value in expected.items():
        if found.get(name) != value:
            raise UserError(
                f"The activations in {config.activations[0]} were made with {name} = {found.get(name)!r} and this run "
                f"has {value!r}; give the run the same --subject, --text and block settings as the cache."
            )
    return source


def cache_identity(config: SubjectConfig, text: TextConfig, subject: SubjectModel) -> dict[str, Any]:
    """What decides cached activations, beside the hookpoint: a run that trains from them must agree."""
    return {
        "subject": subject.name,
        "revision": subject.revision,
        "context_length": config.context_length,
        "bos_id": subject.bos_id,
        "keep_special": config.keep_special,
        "text": fingerprint(text),
    }
