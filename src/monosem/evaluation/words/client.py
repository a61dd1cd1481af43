"""Asks a model at an OpenAI-compatible endpoint. What was answered once is kept and not asked again.

What fails on the way (nobody there, too busy, no right to ask) ends the measurement with one message; an answer that
is not what was asked for is asked for again, and is in the end nobody's fault but the model's.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from monosem.errors import UserError
from monosem.evaluation.words.config import WordsConfig
from monosem.evaluation.words.prompts import WrongAnswerError
from monosem.evaluation.words.reply import Reply, message_content, response_record, used_tokens
from monosem.files import checksum

if TYPE_CHECKING:
    from openai import OpenAI

# Bytes of a response that are read; beyond that it is no answer.
_LONGEST_RESPONSE = 1 << 20
# Characters of an endpoint's own words that are shown.
_LONGEST_WORDS = 300
# Sent as the key where there is none: the client insists on one.
_NO_KEY = "none"


class StoppedError(Exception):
    """Nothing more is asked."""


class Endpoint:
    """A model to ask, from several threads."""

    def __init__(
        self,
        config: WordsConfig,
        seed: int,
        answered: Sequence[Reply] = (),
        done: Callable[[Reply], None] = lambda _: None,
    ) -> None:
        """
        Args:
            answered: replies that an interrupted measurement left.
            done: called with each new reply, by one thread at a time.

        Raises:
            UserError: the client is not installed, or the key cannot be one.
        """
        assert config.url is not None
        self._config, self._seed = config, seed % (1 << 31)
        self._key = (os.environ.get(config.key_variable) or "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"The key in {config.key_variable} holds characters that no key has; set it anew.")
        self._answered, self._done = {reply.asked: reply for reply in answered}, done
        self._lock, self._is_stopped = threading.Lock(), threading.Event()
        self._client = _connect(config, self._key or _NO_KEY)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let requests that are under way come to their end, and make no other."""
        self._is_stopped.set()

    def ask(self, prompt: str, check: Callable[[str], object]) -> Reply:
        """The model's answer to a prompt, asked for again as long as ``check`` raises WrongAnswerError, within limits.

        Raises:
            UserError: the endpoint cannot be reached or refuses.
            StoppedError: it is not to be asked any more.
        """
        asked = checksum(prompt.encode())
        known = self._answered.get(asked)
        if known is not None and (known.content is None or _is_right(known.content, check)):
            return known
        reply = Reply(asked, None, None, 0, 0, 0)
        while reply.content is None and reply.requests <= self._config.retries:
            if self._is_stopped.is_set():
                raise StoppedError
            reply = self._request(prompt, reply, check)
        with self._lock:
            self._answered[asked] = reply
            self._done(reply)
        return reply

    def _request(self, prompt: str, before: Reply, check: Callable[[str], object]) -> Reply:
        """The reply after one more request, or, where the client had to repeat it, several."""
        if before.reason is not None:
            prompt += f"\n\nYour last answer was not what was asked for: {before.reason}."
        content, reason = None, None
        requests, used = 1, (0, 0)
        try:
            body, requests = self._post(prompt)
            record = response_record(body)
            used = used_tokens(record)
            answer = message_content(record)
            check(answer)
            content = answer
        except WrongAnswerError as error:
            reason = str(error)
        return Reply(
            before.asked,
            content,
            reason,
            before.requests + requests,
            before.prompt_tokens + used[0],
            before.completion_tokens + used[1],
        )

    def _post(self, prompt: str) -> tuple[bytes, int]:
        """The body of a response, and how many requests it took."""
        deadline = time.monotonic() + self._config.timeout * (self._config.retries + 1)
        with (
            self._telling_failures(),
            self._client.chat.completions.with_streaming_response.create(
                model=self._config.model or "",
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                seed=self._seed,
                max_tokens=self._config.answer_tokens,
            ) as response,
        ):
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _LONGEST_RESPONSE:
                    raise WrongAnswerError(f"it has more than {_LONGEST_RESPONSE:,} bytes")
                if time.monotonic() > deadline:
                    raise WrongAnswerError("it was too slow to come")
            return bytes(body), 1 + response.retries_taken

    @contextmanager
    def _telling_failures(self) -> Generator[None]:
        """Turns what fails on the way into words for the user; what an endpoint says never shows the key."""
        import httpx2
        import openai

        try:
            yield
        except openai.APITimeoutError:
            self._fail(f"did not answer within timeout={self._config.timeout:g} s; raise it, or lower concurrency")
        except openai.APIConnectionError as error:
            self._fail(f"cannot be reached ({self._told(error.__cause__)}); start it, or mend url")
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            what = "refuses the key in" if self._key else "wants a key, and there is none in"
            name = self._config.key_variable
            self._fail(f"{what} the environment variable {name} (HTTP {error.status_code}); set it, or key_variable")
        except openai.NotFoundError:
            self._fail(
                f"does not know model={self._config.model}, or url is not its address (HTTP 404); mend one of them"
            )
        except openai.RateLimitError:
            self._fail("is too busy for us (HTTP 429); try again later, or lower concurrency")
        except openai.APIStatusError as error:
            told = self._told(error.message)
            self._fail(f"refuses a request (HTTP {error.status_code}: {told}); mend the server, model or answer_tokens")
        except httpx2.HTTPError as error:
            raise WrongAnswerError(f"it broke off ({type(error).__name__})") from None

    def _fail(self, what: str) -> NoReturn:
        kept = " What is answered already is kept: the same command goes on."
        raise UserError(f"The endpoint {self._config.url} {what}.{kept}") from None

    def _told(self, words: object) -> str:
        """Somebody else's words, fit to be shown."""
        text = str(words).replace(self._key, "…") if self._key else str(words)
        return "".join(each if each.isprintable() else " " for each in text[:_LONGEST_WORDS])


def _is_right(content: str, check: Callable[[str], object]) -> bool:
    try:
        check(content)
    except WrongAnswerError:
        return False
    return True


def _connect(config: WordsConfig, key: str) -> "OpenAI":
    """A client that follows no redirection, so that text and key go nowhere but to the url that was given."""
    try:
        import openai
    except ImportError:
        raise UserError("Explanations in words need the package openai: pip install 'monosem[words]'.") from None
    return openai.OpenAI(
        base_url=config.url,
        api_key=key,
        max_retries=config.retries,
        timeout=config.timeout,
        http_client=openai.DefaultHttpxClient(follow_redirects=False, timeout=config.timeout),
    )
