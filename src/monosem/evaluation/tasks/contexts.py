"""Texts as contexts of the subject: their first tokens, behind a BOS where the subject wants one, then padding."""

from collections.abc import Sequence

import torch

from monosem.errors import UserError
from monosem.evaluation.tasks.task import Contexts
from monosem.subject.model import SubjectModel
from monosem.subject.tokens import plain_backend, special_token_ids


def padding_id(subject: SubjectModel) -> int:
    """What stands behind a text that is shorter than its context; no position before it sees it."""
    known = (subject.tokenizer.pad_token_id, subject.tokenizer.eos_token_id, 0)
    return next(int(token_id) for token_id in known if token_id is not None)


def text_length(subject: SubjectModel, context_length: int) -> int:
    """Tokens of text in a context: all, but for a BOS in front.

    Raises:
        UserError: none is left, or the subject does not see so many.
    """
    limit = subject.max_context_length
    if limit is not None and context_length > limit:
        raise UserError(
            f"context_length={context_length} exceeds the {limit} tokens that {subject.name} sees; lower it."
        )
    length = context_length - (subject.bos_id is not None)
    if length < 1:
        raise UserError(f"context_length={context_length} leaves no room for text; raise it.")
    return length


def encode_texts(subject: SubjectModel, texts: Sequence[str], context_length: int) -> Contexts:
    """Each text's first tokens, in a context of its own.

    Text that spells a special token is encoded as that token, and the position does not count.

    Raises:
        UserError: the tokenizer is not a fast one, or contexts are too short or too long.
    """
    length, special = text_length(subject, context_length), special_token_ids(subject.tokenizer)
    tokens = torch.full((len(texts), context_length), padding_id(subject))
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    first = context_length - length
    if subject.bos_id is not None:
        tokens[:, 0] = subject.bos_id
    encodings = plain_backend(subject.tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    for row, encoding in enumerate(encodings):
        ids = encoding.ids[:length]
        tokens[row, first : first + len(ids)] = torch.tensor(ids, dtype=torch.int64)
        kept[row, first : first + len(ids)] = torch.tensor([each not in special for each in ids], dtype=torch.bool)
    return Contexts(tokens, kept, torch.arange(len(texts)))
