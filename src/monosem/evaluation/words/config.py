"""Which model explains latents in words, how many latents, and on how much text."""

from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from monosem.config import require_positive
from monosem.errors import UserError

_ON_THE_WAY = ("key_variable", "concurrency", "timeout")


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Which model at an endpoint explains latents in words; pieces of the held-out text are sent to it."""

    url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1. Pieces of the held-out text are sent
    there. None: no latent is explained in words."""
    model: str | None = None
    """The model's name at the endpoint."""
    latents: int = 20
    """Latents, drawn at random among those that fire in the sample; all where there are fewer."""
    chosen: tuple[int, ...] = ()
    """These latents instead, by number."""
    examples: int = 16
    """Contexts shown for an explanation, each of another block: half with the strongest activations, half with random
    ones; fewer where the latent fires in fewer blocks."""
    scored_contexts: int = 20
    """Blocks a latent that its explanation is scored on: half in which it fires, half in which it does not."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is sent to the endpoint alone; it may be absent."""
    answer_tokens: int = 2048
    """Tokens in the longest answer, a model's thinking included."""
    concurrency: int = 4
    """Requests under way at once."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    retries: int = 3
    """How often a request that fails, or is not answered as asked, is made again."""
    bootstrap_samples: int = 1000
    """Samples of latents behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, "latents", "examples", "answer_tokens", "concurrency", "bootstrap_samples")
        self._require_at_least("scored_contexts", 2)
        self._require_at_least("retries", 0)
        if not 0 < self.timeout < float("inf"):
            raise UserError(f"timeout={self.timeout} is no number of seconds above 0; give one.")
        if not self.key_variable:
            raise UserError("key_variable is empty; name an environment variable, which may be absent.")
        if len(set(self.chosen)) < len(self.chosen):
            raise UserError(f"chosen={list(self.chosen)} names a latent twice; give each once.")
        self._check_endpoint()

    def _require_at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise UserError(f"{name}={getattr(self, name)} is below {least}; give at least {least}.")

    def _check_endpoint(self) -> None:
        if self.url is None:
            if unused := [each.name for each in fields(self) if getattr(self, each.name) != each.default]:
                name = unused[0]
                raise UserError(
                    f"{name}={getattr(self, name)} would not be used without url; give url, or leave it out."
                )
            return
        check_url(self.url)
        if not self.model:
            raise UserError(f"url={self.url} is given without model; name the model at this endpoint with model.")

    @property
    def measured(self) -> dict[str, Any]:
        """The settings that results depend on: without those that only say how the endpoint is reached."""
        return {name: value for name, value in asdict(self).items() if name not in _ON_THE_WAY}

    @property
    def missing(self) -> str | None:
        """What is to be given before a latent can be explained."""
        return None if self.url is not None else "needs an endpoint; give words.url and words.model"


def check_url(url: str) -> None:
    """Refuse what is no base URL, and what would carry a secret into the results; a secret is never shown.

    Raises:
        UserError: it is one of these.
    """
    remedy = "give a base URL such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        is_address = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        )
    except ValueError:
        raise UserError(f"url is no address of http or https; {remedy}.") from None
    if "@" in parts.netloc:
        raise UserError("url carries a user name or password, which would be stored; put the key into key_variable.")
    if parts.query or parts.fragment:
        raise UserError(f"url carries a query or fragment, which would be stored; {remedy}, and a key by key_variable.")
    if not is_address or not url.isprintable():
        raise UserError(f"url={url!r} is no address of http or https; {remedy}.")
