"""The index of a run: one pass over text, and all that the pages show of each latent, in ``viewer.sqlite``."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.errors import UserError
from monosem.files import checksum, file_checksum, require_free_space
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import read_run
from monosem.runs.evaluate import evaluated_content
from monosem.runs.inputs import open_even_blocks, open_text, tell_changed_subject
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.storage import load_autoencoder
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel
from monosem.viewer.build import Material, build, say
from monosem.viewer.config import IndexConfig
from monosem.viewer.evaluated import evaluation_files, read_evaluated
from monosem.viewer.rows import insert
from monosem.viewer.schema import FORMAT_VERSION, INDEX, open_index
from monosem.viewer.unfinished import Unfinished

if TYPE_CHECKING:
    from rich.console import Console

# Raised when what is indexed changes, so that it is indexed anew.
VERSION = 1
# Bytes on the disk for a latent, a token and an activation, about.
_LATENT_BYTES, _ROW_BYTES, _RECORD_BYTES = 12_000, 24, 8


class Identity(NamedTuple):
    """Checksums of all that an index depends on."""

    content: str
    """Autoencoder, subject, text and settings: what takes long."""
    identity: str
    """These, and the evaluations."""


def build_index(
    run: Path,
    config: IndexConfig = IndexConfig(),  # noqa: B008 (frozen)
    *,
    again: bool = False,
    console: "Console | None" = None,
) -> Path:
    """Index a run's autoencoder on the run's text; the path of the finished ``viewer.sqlite``.

    What is there and belongs to the same autoencoder, subject, text, settings and evaluations is kept, unless
    ``again``. Where only the evaluations are others, only their tables are made anew.

    Raises:
        UserError: the run, its subject model or its text is not there, or is damaged; the disk is full; another process
            is making the index.
    """
    console, run = console or default_console(), Path(run)
    run_config = replace(read_run(run), out=run)
    sae = load_autoencoder(run)  # what is missing or damaged is told before anything else is read
    if sae.provenance is None:
        raise UserError(f"{run} does not say which activations its autoencoder was trained on.")
    subject = load_subject(run_config.subject)
    sae.to(subject.device)
    content = evaluated_content(run_config, subject)
    wanted = _identity(run_config, config, content)
    found = _kept(run / INDEX, wanted, again, console)
    if found == wanted:
        return run / INDEX
    try:
        with Unfinished(run, wanted.content) as work:
            if found is None:
                build(work, _material(run_config, config, sae, subject, console), console)
            else:
                work.take_over(run / INDEX)
            _write_evaluated(work, run, content, sae, subject, console)
            work.put("identity", wanted.identity)
            work.finish(run / INDEX)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("What is indexed is kept; the same command goes on.") from None
    return run / INDEX


def _identity(run_config: RunConfig, config: IndexConfig, content: Mapping[str, Any]) -> Identity:
    parts = {name: value for name, value in content.items() if name != "evaluation"}  # whose tokens are others
    parts["subject"] = content["subject"][:2]  # in any precision
    parts |= {"limit": run_config.text_limit, "index": asdict(config), "version": [FORMAT_VERSION, VERSION]}
    key = checksum(json.dumps(parts, sort_keys=True).encode())
    evaluations = [[path.name, file_checksum(path)] for path in evaluation_files(run_config.out)]
    return Identity(key, checksum(json.dumps([key, evaluations]).encode()))


def _kept(path: Path, wanted: Identity, again: bool, console: "Console") -> Identity | None:
    """The identity of the index that is there, as far as anything of it can be kept; says what cannot, and why."""
    if not path.exists():
        return None
    found, why = None, "is made again, as asked"
    if not again:
        found, why = _found_identity(path), "is damaged or of another version, and is made again"
        if found is not None and found.content != wanted.content:
            found, why = None, "is of another autoencoder, subject, text or of other settings, and is made again"
    if found is None:
        say(console, f"{path} {why}")
    elif found != wanted:
        say(console, f"{path} is of other evaluations; what it holds of them is made again")
    return found


def _found_identity(path: Path) -> Identity | None:
    try:
        connection = open_index(path)
        try:
            meta = {row["key"]: json.loads(row["value"]) for row in connection.execute("SELECT * FROM meta")}
        finally:
            connection.close()
        return Identity(str(meta["content"]), str(meta["identity"]))
    except (UserError, sqlite3.Error, ValueError, KeyError):
        return None


def _material(
    run_config: RunConfig, config: IndexConfig, sae: Autoencoder, subject: SubjectModel, console: "Console"
) -> Material:
    """Open the text, and see that the disk has room."""
    assert sae.provenance is not None
    tell_changed_subject(sae.provenance, subject, console)
    text = open_text(run_config.text, subject, run_config.text_limit, console)
    split = {"training": text.training, "held_out": text.held_out}[config.split]
    blocks = open_even_blocks(run_config.subject, subject, split, config.tokens)
    active = sae.training_summary.get("l0", sae.config.k)
    needed = blocks.rows * (_ROW_BYTES + _RECORD_BYTES * active) + _LATENT_BYTES * sae.n_latents
    require_free_space(run_config.out, int(needed), "The index")
    return Material(run_config, config, sae, subject, blocks, vocabulary_of(subject))


def vocabulary_of(subject: SubjectModel) -> int:
    """One more than the highest token that the subject or its tokenizer knows."""
    known = int(subject.model.get_input_embeddings().weight.shape[0])
    return max(known, 1 + max(subject.tokenizer.get_vocab().values()))


def _write_evaluated(
    work: Unfinished,
    run: Path,
    content: Mapping[str, Any],
    sae: Autoencoder,
    subject: SubjectModel,
    console: "Console",
) -> None:
    """What the evaluations say, in the place of what is there of others."""
    vocabulary = vocabulary_of(subject)
    found = read_evaluated(run, content, subject.tokenizer, sae.n_latents, vocabulary, lambda what: say(console, what))
    with work.transaction() as connection:
        for table, rows in found.tables.items():
            connection.execute(f"DELETE FROM {table}")
            insert(connection, table, rows)
        work.put("metrics", found.metrics)
