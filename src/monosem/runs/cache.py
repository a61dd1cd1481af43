"""Writing activations to disk, to train from many times."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.data.index import ShardPlan, SubjectIdentity, cache_size_bytes, default_rows_per_shard
from monosem.data.shards import ShardWriter
from monosem.files import require_free_space
from monosem.runlog import ProgressLine
from monosem.runs.config import CacheConfig, text_limit
from monosem.runs.console import default_console
from monosem.runs.inputs import LiveActivations, cache_identity, open_stream, open_text
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel

if TYPE_CHECKING:
    from rich.console import Console

# Rows asked for at a time: large enough to fill forward passes, small beside a shard.
PIECE_ROWS = 16_384


def cache(config: CacheConfig, *, overwrite: bool = False, console: "Console | None" = None) -> list[str]:
    """Store the activations of ``config.tokens`` kept tokens at each hookpoint; goes on where an interruption left it.

    Returns:
        The directories written: ``config.out``, or with several hookpoints one inside it for each.

    Raises:
        UserError: the disk has no room for all of it, or a different cache lies there already.
    """
    console = console or default_console()
    subject = load_subject(config.subject)
    hookpoints = subject.resolve(config.subject)
    hookpoints += [] if config.subject.target is None else [config.subject.target]
    text = open_text(config.text, subject, text_limit(config.text, config.tokens, 1), console)
    source = LiveActivations(subject, open_stream(config.subject, subject, text.training, config.seed), hookpoints)
    plans = {hookpoint: _plan(config, subject, hookpoint, source.widths[hookpoint]) for hookpoint in hookpoints}
    directories = _directories(config.out, hookpoints)
    _announce(plans, config.out, console)
    writers = {
        hookpoint: ShardWriter(directories[hookpoint], plan, overwrite=overwrite) for hookpoint, plan in plans.items()
    }
    done = min(writer.next_row for writer in writers.values())
    with ProgressLine("Caching", config.tokens, console, done=done) as line:
        while done < config.tokens:
            stop = min(done + PIECE_ROWS, config.tokens)
            rows = source.rows(done, stop)
            for hookpoint, writer in writers.items():
                writer.write(done, rows.activations[hookpoint].cpu(), rows.positions)
            done = stop
            line.update(done)
    return list(directories.values())


def _plan(config: CacheConfig, subject: SubjectModel, hookpoint: str, width: int) -> ShardPlan:
    identity = cache_identity(config.subject, config.text, subject)
    return ShardPlan(
        subject=SubjectIdentity(
            name=identity.pop("subject"),
            revision=identity.pop("revision"),
            context_length=identity.pop("context_length"),
        ),
        hookpoint=hookpoint,
        width=width,
        dtype=config.store_dtype,
        rows_total=config.tokens,
        rows_per_shard=default_rows_per_shard(width, config.store_dtype),
        provenance={**identity, "seed": config.seed},
    )


def _directories(out: str, hookpoints: list[str]) -> dict[str, str]:
    if len(hookpoints) == 1:
        return {hookpoints[0]: out}
    return {hookpoint: f"{out.rstrip('/')}/{hookpoint.replace(':', '-')}" for hookpoint in hookpoints}


def _announce(plans: dict[str, ShardPlan], out: str, console: "Console") -> None:
    """Say how large the cache will be, and refuse it where a local disk has no room for what is still missing."""
    size = sum(cache_size_bytes(plan.rows_total, plan.width, plan.dtype) for plan in plans.values())
    first = next(iter(plans.values()))
    console.print(
        f"Cache: {first.rows_total:,} tokens × {sum(plan.width for plan in plans.values()):,} numbers in {first.dtype} "
        f"= {size / 1e9:.2f} GB in {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if "://" not in out:
        there = 0
        with suppress(OSError):
            there = sum(file.stat().st_size for file in Path(out).rglob("shard-*.safetensors"))
        require_free_space(Path(out), size - there, "The cache")
