"""The token cache: what is in the lines of tokens, when they are made anew, and what a limit means."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from monosem import files
from monosem.errors import UserError
from monosem.subject import tokens
from monosem.subject.text import TextConfig, documents, is_held_out
from monosem.subject.tokens import TokenizedText, TokenSplit, special_token_ids, tokenize_text

END = "<|endoftext|>"


def byte_tokenizer(*, eos: bool = True, filler: int = 0, **settings: Any) -> PreTrainedTokenizerFast:
    """A token for each byte, the end-of-text token in front, and ``filler`` more that no text uses."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [END, *alphabet, *(f"unused {number}" for number in range(filler))]
    core = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(END, special=True)])
    if eos:
        settings["eos_token"] = END
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8, **settings)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def config(tmp_path: Path) -> TextConfig:
    """Two hundred documents of a line each, about a third of them held out."""
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": f"document {number}: " + "é" * (number % 23)}) for number in range(200)]
    path.write_text("\n".join(lines))
    return TextConfig(text=(str(path),), held_out=0.3)


def expected_split(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, held_out: bool, limit: int | None
) -> tuple[list[int], list[int], list[str]]:
    """Tokens, starts and names, made as plainly as can be."""
    lines: dict[bool, list[int]] = {False: [], True: []}
    starts: dict[bool, list[int]] = {False: [], True: []}
    names: dict[bool, list[str]] = {False: [], True: []}
    for document in documents(config):
        side = is_held_out(config, document)
        starts[side].append(len(lines[side]))
        names[side].append(document.name)
        ids = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        lines[side] += [tokenizer.eos_token_id, *ids]
        if limit is not None and len(lines[False]) >= limit:
            break
    return lines[held_out], starts[held_out], names[held_out]


def assert_is(
    found: TokenizedText, config: TextConfig, tokenizer: PreTrainedTokenizerFast, limit: int | None = None
) -> None:
    for split, held_out in ((found.training, False), (found.held_out, True)):
        line, starts, names = expected_split(config, tokenizer, held_out, limit)
        assert split.tokens.tolist() == line
        assert split.document_starts.tolist() == starts
        assert list(split.document_names) == names


def total_tokens(config: TextConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    return len(expected_split(config, tokenizer, False, None)[0])


def refuse_to_encode(*_: object) -> None:
    raise AssertionError("tokenised again")


# What is in the lines


def test_the_lines_hold_every_document_behind_an_end_of_text_token(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_BATCH_CHARACTERS", 100)  # many batches
    found = tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    assert_is(found, config, tokenizer)
    assert found.training.tokens.dtype == np.uint16
    assert not found.training.tokens.flags.writeable
    first = found.training.tokens[1 : found.training.document_starts[1]]
    assert tokenizer.decode(first.tolist()) == next(d.text for d in documents(config) if not is_held_out(config, d))


def test_training_and_held_out_share_no_document(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    found = tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    training, held_out = set(found.training.document_names), set(found.held_out.document_names)
    assert training.isdisjoint(held_out)
    assert training | held_out == {document.name for document in documents(config)}
    assert 30 < len(held_out) < 90


def test_each_position_belongs_to_the_document_around_it() -> None:
    split = TokenSplit(
        tokens=np.zeros(9, dtype=np.uint16), document_starts=np.array([0, 3, 4]), document_names=["a", "b", "c"]
    )
    assert split.document_of(np.arange(9)).tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert split.document_of(torch.tensor([[-1, 2], [3, 8]])).tolist() == [[-1, 0], [1, 2]]
    assert split.document_of(np.array(4)).tolist() == 2


def test_names_can_be_sliced(config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    names = tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache").training.document_names
    assert names[-2:] == [names[len(names) - 2], names[-1]]
    assert names[0].endswith("corpus.jsonl:1") or names[0].endswith("corpus.jsonl:2")


def test_a_special_token_spelled_in_a_text_becomes_that_token(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(f"a{END}b")
    config = TextConfig(text=(str(tmp_path / "a.txt"),), held_out=1e-9)
    found = tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    assert found.training.tokens.tolist() == [0, a, 0, b]
    assert len(found.held_out.tokens) == len(found.held_out.document_names) == 0


def test_a_vocabulary_beyond_65536_takes_four_bytes(config: TextConfig, tmp_path: Path) -> None:
    for filler, dtype in ((1 << 16) - 257, np.uint16), ((1 << 16) - 256, np.uint32):
        tokenizer = byte_tokenizer(filler=filler)
        found = tokenize_text(config, tokenizer, limit=100, cache=tmp_path / "cache")
        assert found.training.tokens.dtype == dtype
        assert_is(found, config, tokenizer, limit=100)


def test_a_tokenizer_that_cuts_or_pads_loses_nothing_and_stays_as_it_was(config: TextConfig, tmp_path: Path) -> None:
    cutting = byte_tokenizer()
    cutting.backend_tokenizer.enable_truncation(4)
    cutting.backend_tokenizer.enable_padding(length=7)
    found = tokenize_text(config, cutting, limit=None, cache=tmp_path / "cache")
    assert_is(found, config, byte_tokenizer())
    assert cutting.backend_tokenizer.truncation["max_length"] == 4


def test_documents_are_separated_by_sep_or_pad_where_there_is_no_eos(config: TextConfig, tmp_path: Path) -> None:
    for name in ("sep_token", "pad_token"):
        tokenizer = byte_tokenizer(eos=False, **{name: "!"})
        found = tokenize_text(config, tokenizer, limit=50, cache=tmp_path / "cache")
        assert found.training.tokens[0] == tokenizer.convert_tokens_to_ids("!")


def test_special_tokens_are_the_named_and_the_marked_ones() -> None:
    tokenizer = byte_tokenizer(pad_token="!")
    tokenizer.add_tokens([AddedToken("<|system|>", special=True), AddedToken("ordinary", special=False)])
    expected = tokenizer.convert_tokens_to_ids([END, "!", "<|system|>"])
    assert special_token_ids(tokenizer) == frozenset(expected)


# Tokenizers that will not do


def test_a_tokenizer_without_any_separator_is_named(config: TextConfig, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(eos=False, name_or_path="some/subject")
    with pytest.raises(UserError, match="'some/subject' has no eos, sep or pad token"):
        tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")


def test_a_slow_tokenizer_is_named(config: TextConfig, tmp_path: Path) -> None:
    class Slow:
        name_or_path = "some/subject"

    with pytest.raises(UserError, match=r"'some/subject' \(Slow\) is not a fast one"):
        tokenize_text(config, Slow(), limit=None, cache=tmp_path / "cache")


# The limit


@pytest.mark.parametrize("limit", [1, 50, 1000, 10**6])
def test_a_limit_ends_reading_after_the_document_that_reaches_it(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = tokenize_text(config, tokenizer, limit=limit, cache=tmp_path / "fresh")
    assert_is(fresh, config, tokenizer, limit)
    tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "whole")
    monkeypatch.setattr(tokens, "_next_batch", refuse_to_encode)
    assert_is(tokenize_text(config, tokenizer, limit=limit, cache=tmp_path / "whole"), config, tokenizer, limit)


def test_a_limit_equal_to_the_whole_text_or_to_a_documents_end_is_exact(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    whole = tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "whole")
    end_of_third = int(whole.training.document_starts[3])
    for limit in (
        end_of_third - 1,
        end_of_third,
        end_of_third + 1,
        *(len(whole.training.tokens) + i for i in (-1, 0, 1)),
    ):
        for cache in ("fresh", "whole"):
            found = tokenize_text(config, tokenizer, limit=limit, cache=tmp_path / cache)
            assert_is(found, config, tokenizer, limit)


def test_a_text_that_ends_before_its_limit_serves_every_limit(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = total_tokens(config, tokenizer)
    tokenize_text(config, tokenizer, limit=total + 1, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(tokens, "_next_batch", refuse_to_encode)
    for limit in (None, total + 500, total, 77):
        assert_is(tokenize_text(config, tokenizer, limit=limit, cache=tmp_path / "cache"), config, tokenizer, limit)


def test_a_text_cut_by_its_limit_serves_that_limit_alone(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize_text(config, tokenizer, limit=100, cache=tmp_path / "cache")
    monkeypatch.setattr(tokens, "_next_batch", refuse_to_encode)
    tokenize_text(config, tokenizer, limit=100, cache=tmp_path / "cache")
    with pytest.raises(AssertionError, match="tokenised again"):
        tokenize_text(config, tokenizer, limit=101, cache=tmp_path / "cache")


def test_progress_is_reported_while_tokens_are_made_and_only_then(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_BATCH_CHARACTERS", 300)
    seen: list[tuple[int, int | None]] = []
    found = tokenize_text(config, tokenizer, limit=900, cache=tmp_path / "cache", report=lambda *now: seen.append(now))
    assert seen[0] == (0, 900)
    assert seen[-1] == (len(found.training.tokens), 900)
    assert len(seen) > 3
    assert seen == sorted(seen)
    seen.clear()
    tokenize_text(config, tokenizer, limit=900, cache=tmp_path / "cache", report=lambda *now: seen.append(now))
    assert not seen


# The cache


def test_another_text_tokenizer_or_split_is_tokenised_anew(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def folders() -> int:
        return len(list((tmp_path / "cache").iterdir()))

    tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    tokenize_text(TextConfig(text=config.text, held_out=0.2), tokenizer, limit=None, cache=tmp_path / "cache")
    tokenize_text(config, byte_tokenizer(filler=1), limit=None, cache=tmp_path / "cache")
    (tmp_path / "corpus.jsonl").write_text('{"text": "another"}\n' * 3)
    tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    assert folders() == 4


def test_the_default_cache_follows_the_environment(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MONOSEM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    expected = [tmp_path / "home" / ".cache" / "monosem" / "tokens"]
    for name, place in (("XDG_CACHE_HOME", "monosem/tokens"), ("MONOSEM_CACHE", "tokens")):
        tokenize_text(config, tokenizer, limit=50)
        assert len(list(expected[-1].iterdir())) == 1
        monkeypatch.setenv(name, str(tmp_path / name))
        expected.append(tmp_path / name / place)
    tokenize_text(config, tokenizer, limit=50)
    assert all(len(list(place.iterdir())) == 1 for place in expected)


def damage(folder: Path, how: str) -> None:
    line = folder / "training.tokens"
    data = bytearray(line.read_bytes())
    if how == "truncated":
        line.write_bytes(data[:-2])
    elif how == "flipped":
        data[-1] ^= 1
        line.write_bytes(data)
    elif how == "removed":
        (folder / "held_out.names").unlink()
    elif how == "no index":
        (folder / "index.json").unlink()
    else:
        (folder / "index.json").write_text(how)


@pytest.mark.parametrize("limit", [None, 300, 10**6])
@pytest.mark.parametrize("how", ["truncated", "flipped", "removed", "no index", "{", "[]", '{"splits": []}', "{}"])
def test_a_damaged_cache_is_made_anew(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, how: str, limit: int | None
) -> None:
    tokenize_text(config, tokenizer, limit=limit, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder, how)
    seen: list[tuple[int, int | None]] = []
    found = tokenize_text(
        config, tokenizer, limit=limit, cache=tmp_path / "cache", report=lambda *now: seen.append(now)
    )
    assert_is(found, config, tokenizer, limit)
    assert seen[0] == (0, limit)
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_a_large_cache_is_checked_by_its_sizes_alone(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_VERIFIED_BYTES", 10)
    tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    checksum = files.file_checksum
    monkeypatch.setattr(files, "file_checksum", lambda path: "read" if path.parent == folder else checksum(path))
    assert_is(tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache"), config, tokenizer)
    damage(folder, "truncated")
    assert_is(tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache"), config, tokenizer)


def test_an_interrupted_tokenisation_leaves_nothing(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def interrupt(so_far: int, _: int | None) -> None:
        if so_far:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache", report=interrupt)
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_a_clear_error(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"(?s)Could not write .*No space left on device.*free some space"):
        tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_made_is_a_clear_error(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Could not write the token cache .*MONOSEM_CACHE"):
        tokenize_text(config, tokenizer, limit=None, cache=tmp_path / "file")


def test_a_bad_text_leaves_no_cache(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nbad\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        tokenize_text(TextConfig(text=(str(tmp_path / "a.jsonl"),)), tokenizer, limit=None, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("limit", [None, 300, 10**6])
def test_another_process_that_finishes_first_is_no_harm(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    cache = tmp_path / "cache"

    def meanwhile(so_far: int, _: int | None) -> None:
        if not so_far:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 1)
                tokenize_text(config, tokenizer, limit=limit, cache=cache)

    found = tokenize_text(config, tokenizer, limit=limit, cache=cache, report=meanwhile)
    assert_is(found, config, tokenizer, limit)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("reason", [errno.ENOTEMPTY, errno.ENOENT])
def test_a_folder_that_another_process_replaces_at_the_same_moment_is_used(
    config: TextConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: int,
) -> None:
    cache, rename = tmp_path / "cache", Path.rename

    def beaten(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        tokenize_text(config, tokenizer, limit=10**6, cache=cache)
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(Path, "rename", beaten)
    assert_is(tokenize_text(config, tokenizer, limit=10**6, cache=cache), config, tokenizer)
    assert len(list(cache.iterdir())) == 1
