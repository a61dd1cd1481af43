"""A token as text."""

import re
from typing import Any

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def decoded(tokenizer: Any, token: int) -> str | None:
    """What the tokenizer decodes a token to; None where that is no text by itself, as for a part of a character."""
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        return None
    # Tokenizers that mark word starts by ▁ take the space of what they decode first.
    name = str(tokenizer.convert_ids_to_tokens(token))
    return f" {text}" if name.startswith("▁") and not text.startswith(" ") else text


def token_text(tokenizer: Any, token: int) -> str:
    """A token's text; of bytes that are no character by themselves ``⟨0xE2⟩``, and ``⟨123⟩``, its number, else."""
    if tokenizer is None:
        return f"⟨{token}⟩"
    if (text := decoded(tokenizer, token)) is not None:
        return text
    data = _bytes(tokenizer, token)
    return f"⟨{token}⟩" if data is None else _with_bytes(data)


def _bytes(tokenizer: Any, token: int) -> bytes | None:
    """The bytes that a token stands for, told by its name in the vocabulary: ``<0xE2>``, or a letter for each byte."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    if found := _BYTE.fullmatch(name):
        data = bytes([int(found[1], 16)])
    elif name and all(letter in _BYTE_OF_LETTER for letter in name):
        data = bytes(_BYTE_OF_LETTER[letter] for letter in name)
    else:
        return None
    is_it = data.decode(errors="replace") == tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return data if is_it else None


def _letters() -> dict[str, int]:
    """The letters that stand for bytes in byte-level vocabularies: printable ones of Latin-1 themselves (GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_LETTER = _letters()


def _with_bytes(data: bytes) -> str:
    """The characters in some bytes, and the bytes that are none."""
    parts: list[str] = []
    while data:
        try:
            parts.append(data.decode())
            break
        except UnicodeDecodeError as error:
            parts.append(data[: error.start].decode())
            parts += [f"⟨0x{byte:02X}⟩" for byte in data[error.start : error.end]]
            data = data[error.end :]
    return "".join(parts)
