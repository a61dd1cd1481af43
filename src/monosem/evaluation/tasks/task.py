"""Binary classification tasks on text, for probes: examples that point into one pool of contexts."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Bool, Int64
from torch import Tensor

FEWEST_OF_A_CLASS = 25
"""Examples of either answer that a task needs, to fit on and again held out."""


class Contexts(NamedTuple):
    """Pieces of text that the subject model reads, all in one tensor; the shorter ones end in padding."""

    tokens: Int64[Tensor, "contexts length"]
    kept: Bool[Tensor, "contexts length"]
    """Positions that count: neither BOS, nor other special tokens, nor padding."""
    documents: Int64[Tensor, " contexts"]
    """Which document, a file or a text, each is from: contexts of one are alike."""

    def at(self, chosen: Int64[Tensor, " chosen"] | Bool[Tensor, " contexts"]) -> "Contexts":
        """Some of the contexts."""
        return Contexts(*(each[chosen] for each in self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A yes-or-no question about tokens or whole contexts, with labelled examples."""

    name: str
    """A word or a few, joined by hyphens; as in ``--tasks`` and in eval.json."""
    description: str
    """The question, in a line."""
    level: Literal["token", "document"]
    """Whether a position of a context is asked about, or the context as a whole."""
    contexts: Int64[Tensor, " examples"]
    """Which context each example lies in."""
    positions: Int64[Tensor, " examples"]
    """Which of its positions; −1 at document level, where all kept ones count."""
    labels: Bool[Tensor, " examples"]
    is_training: Bool[Tensor, " examples"]
    """Otherwise the example is held out. No document has examples on both sides."""
    corpus_share: float | None = None
    """Share of positives where the examples were drawn from; None where that is not known."""


class TaskPool(NamedTuple):
    """Tasks that share their contexts, so that the subject model reads these once."""

    contexts: Contexts
    tasks: tuple[Task, ...]
