"""Tokens as text: what the tokenizer decodes, and bytes that are no character by themselves."""

from collections.abc import Callable
from typing import Any

import pytest

from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig
from monosem.subject.token_text import decoded, token_text


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """The bundled subject's tokenizer."""
    return load_subject(SubjectConfig(device="cpu")).tokenizer


def sentencepiece() -> Any:
    """A tokenizer that marks word starts by ▁ and falls back to bytes, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁import", "import", "▁", "\ufffd", "▁▁"]
    model = models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def test_every_token_of_a_byte_level_vocabulary_has_its_bytes(byte_level: Any) -> None:
    letters = {token: name for name, token in byte_level.get_vocab().items()}
    from tokenizers import pre_tokenizers

    byte_of = {pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(chr(b))[0][0]: b for b in range(128)}
    assert len(letters) > 1000
    shown = 0
    for token, name in letters.items():
        text = token_text(byte_level, token)
        if all(letter in byte_of for letter in name):
            assert text == "".join(chr(byte_of[letter]) for letter in name)
        shown += "⟨0x" in text
        assert "\ufffd" not in text and not text.startswith(f"⟨{token}⟩")
    assert shown > 50


def test_parts_of_a_character_are_shown_as_bytes(byte_level: Any) -> None:
    for character in ("😀", "—", "ж", "é"):
        tokens = byte_level.encode(character, add_special_tokens=False)
        texts = "".join(token_text(byte_level, token) for token in tokens)
        whole = "".join(f"⟨0x{byte:02X}⟩" for byte in character.encode())
        assert texts in (character, whole), texts
    assert token_text(byte_level, byte_level.encode(" import", add_special_tokens=False)[0]) == " import"


def test_characters_around_a_part_of_one_stay(monkeypatch: pytest.MonkeyPatch, byte_level: Any) -> None:
    class Stub:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return b" caf\xc3\xa9 \xe2\x80!\xff".decode(errors="replace")

        def convert_ids_to_tokens(self, token: int) -> str:
            return "ĠcafÃ©ĠâĢ!ÿ"

    assert decoded(Stub(), 5) is None
    assert token_text(Stub(), 5) == " café ⟨0xE2⟩⟨0x80⟩!⟨0xFF⟩"


def test_word_starts_keep_their_space_and_byte_tokens_are_bytes() -> None:
    tokenizer = sentencepiece()
    texts = {name: token_text(tokenizer, token) for name, token in tokenizer.get_vocab().items()}
    assert (texts["▁import"], texts["import"]) == (" import", "import")
    assert (texts["<0xE2>"], texts["<0x41>"], texts["<0x0A>"]) == ("⟨0xE2⟩", "A", "\n")
    assert texts["<s>"] == "<s>"


def test_what_is_no_text_is_a_number(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    assert (token_text(tokenizer, 4), token_text(tokenizer, 2)) == ("w0", "</s>")
    assert token_text(tokenizer, 99) == "⟨99⟩"  # the model has a row for it, the tokenizer does not know it
    assert token_text(None, 4) == "⟨4⟩"


def test_a_name_of_such_letters_is_no_proof_of_bytes() -> None:
    class Stub:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return "\ufffd\ufffd\ufffd"

        def convert_ids_to_tokens(self, token: int) -> str:
            return "été"

    assert token_text(Stub(), 7) == "⟨7⟩"
