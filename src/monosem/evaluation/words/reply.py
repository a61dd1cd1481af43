"""What an endpoint responds with, read with nothing in it trusted; and what is kept of it."""

import json
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.evaluation.words.prompts import WrongAnswerError


class Reply(NamedTuple):
    """What became of a prompt."""

    asked: str
    """Checksum of the prompt."""
    content: str | None
    """What the model answered; None if it was never what was asked for."""
    reason: str | None
    """Then: what was wrong with the last answer."""
    requests: int
    prompt_tokens: int
    """Of all of these requests, as the endpoint reports them; 0 where it does not."""
    completion_tokens: int

    @classmethod
    def from_dict(cls, record: object, where: str) -> "Reply":
        """Read what ``_asdict`` gave.

        Raises:
            UserError: it is something else.
        """
        values = record if isinstance(record, dict) else {}
        given: list[Any] = [values.get(name) for name in cls._fields]
        asked, content, reason, *counts = given
        if (
            isinstance(asked, str)
            and isinstance(content, str | None)
            and isinstance(reason, str | None)
            and (content is None) != (reason is None)
            and all(type(count) is int and count >= 0 for count in counts)
        ):
            return cls(asked, content, reason, *counts)
        raise UserError(f"{where} is damaged: it holds something else than a model's answers; remove it.")


def response_record(body: bytes) -> dict[str, Any]:
    """The JSON object that a response is.

    Raises:
        WrongAnswerError: it is none.
    """
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise WrongAnswerError("the response is no JSON object")
    return record


def used_tokens(record: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and of completion that a response reports; 0 where it does not."""
    usage = record.get("usage")
    found = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (each if type(each) is int and 0 <= each < 1 << 53 else 0 for each in found)
    return prompt, completion


def message_content(record: dict[str, Any]) -> str:
    """What the model said.

    Raises:
        WrongAnswerError: it said nothing, or was cut off.
    """
    try:
        choice = record["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise WrongAnswerError("the response holds no message") from None
    if finish == "length":
        raise WrongAnswerError("it was cut off at answer_tokens")
    if not isinstance(content, str):
        raise WrongAnswerError("the message holds no text")
    return content
