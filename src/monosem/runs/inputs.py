"""What a run reads: the subject model, its text as tokens, and the activations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.data.sources import ActivationSource, CachedActivations, Rows
from monosem.errors import UserError
from monosem.runlog import ProgressLine, short
from monosem.runs.config import RunConfig
from monosem.subject.blocks import Blocks, BlockStream, held_out_blocks
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig, SubjectModel
from monosem.subject.text import TextConfig, fingerprint
from monosem.subject.tokens import TokenizedText, TokenSplit, special_token_ids, tokenize_text

if TYPE_CHECKING:
    from rich.console import Console


class LiveActivations:
    """Rows made on demand: the training text's blocks through the subject model, kept positions only."""

    def __init__(self, subject: SubjectModel, stream: BlockStream, hookpoints: Sequence[str]) -> None:
        self._subject, self._stream, self._hookpoints = subject, stream, list(hookpoints)
        probe = subject.capture(stream.rows(0, 1).tokens, self._hookpoints)
        self._widths = {hookpoint: value.shape[-1] for hookpoint, value in probe.items()}

    @property
    def widths(self) -> Mapping[str, int]:
        """Components of an activation vector, by hookpoint."""
        return self._widths

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start … stop - 1``, on the subject's device and in its dtype."""
        blocks = self._stream.rows(start, stop)
        captured = self._subject.capture(blocks.tokens, self._hookpoints)
        kept = blocks.kept.to(self._subject.device)
        return Rows({hookpoint: value[kept] for hookpoint, value in captured.items()}, blocks.positions[blocks.kept])


class Inputs(NamedTuple):
    """Everything that a run reads."""

    subject: SubjectModel
    text: TokenizedText
    hookpoints: list[str]
    source: ActivationSource

    def name_of(self, position: int) -> str:
        """Where a position of the training text lies, for a message."""
        return describe_position(self.text.training, position)


def describe_position(split: TokenSplit, position: int) -> str:
    """The document that holds a position, and the token within it."""
    document = int(split.document_of(_array(position))[()])
    within = position - int(split.document_starts[document])
    return f"{split.document_names[document]}, token {within}"


def _array(position: int) -> Any:
    import numpy as np

    return np.asarray(position)


def open_text(text: TextConfig, subject: SubjectModel, limit: int | None, console: "Console") -> TokenizedText:
    """The text as tokens, from the cache where it has been read before."""
    with ProgressLine("Reading text", limit or 0, console) as line:
        tokenized = tokenize_text(text, subject.tokenizer, limit=limit, report=lambda done, _: line.update(done))
    console.print(
        f"Text: {short(len(tokenized.training.tokens))} tokens in {len(tokenized.training.document_names):,} documents "
        f"to train on, {short(len(tokenized.held_out.tokens))} in {len(tokenized.held_out.document_names):,} held out",
        highlight=False,
    )
    return tokenized


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


def open_held_out(config: SubjectConfig, subject: SubjectModel, split: TokenSplit, max_tokens: int | None) -> Blocks:
    """The held-out blocks to evaluate on."""
    return held_out_blocks(
        split,
        context_length=config.context_length,
        special_ids=special_token_ids(subject.tokenizer),
        bos_id=subject.bos_id,
        keep_special=config.keep_special,
        max_tokens=max_tokens,
    )


def open_inputs(config: RunConfig, console: "Console") -> Inputs:
    """Load the subject, read the text and open the activations, live or cached.

    Raises:
        UserError: anything of it is missing, damaged, too small or does not fit together.
    """
    subject = load_subject(config.subject)
    hookpoints = subject.resolve(config.subject)
    text = open_text(config.text, subject, config.text_limit, console)
    if config.activations:
        source = open_cache(config, subject)
        return Inputs(subject, text, list(source.widths), source)
    stream = open_stream(config.subject, subject, text.training, config.training.seed)
    require_enough_text(config, stream)
    return Inputs(subject, text, hookpoints, LiveActivations(subject, stream, hookpoints))


def require_enough_text(config: RunConfig, stream: BlockStream) -> None:
    """The training text must fill the shuffle buffer once.

    Raises:
        UserError: it does not.
    """
    needed = config.training.shuffle_batches * config.training.batch_size
    found = stream.rows_in_epoch(0)
    if found < needed:
        raise UserError(
            f"The training text has {found:,} tokens and needs at least {needed:,}, a shuffle buffer of "
            f"{config.training.shuffle_batches} batches of {config.training.batch_size:,}; "
            "give more text with --text, or lower --batch-size."
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
