"""Which part of a sweep a process trains: groups of runs that share a stream, dealt out by how much work they are."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from monosem.errors import UserError
from monosem.runs.config import RunConfig

# On two cores a token of 256 latents takes 10 µs and one of 4,096 about 22 µs (d_model 256).
FIXED_LATENTS = 2048
# The most work that a part may have, as a multiple of a fair share, before groups are divided for it.
UNEVEN = 1.2


@dataclass(frozen=True)
class Share:
    """Part ``number`` of ``of``, counted from 1; of that perhaps a part again."""

    number: int = 1
    of: int = 1
    within: "Share | None" = None

    def __str__(self) -> str:
        own = f"{self.number}/{self.of}"
        return own if self.within is None else f"{own}:{self.within}"

    def divided(self, count: int) -> list["Share"]:
        """The same share in ``count`` parts."""
        if self.within is not None:
            return [Share(self.number, self.of, part) for part in self.within.divided(count)]
        return [Share(self.number, self.of, Share(number, count)) for number in range(1, count + 1)]


def read_share(text: str) -> Share:
    """``2/4`` as a share; ``2/4:1/3`` is the first third of that.

    Raises:
        UserError: it is none.
    """
    first, colon, rest = text.partition(":")
    number, _, of = first.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"part={text} is no part such as 2/4: a number from 1 on, and how many parts there are.")
    return Share(int(number), int(of), read_share(rest) if colon else None)


def stream_of(run: RunConfig) -> Hashable:
    """Runs with the same can be trained side by side."""
    training = run.training
    seen = (training.batch_size, training.seed, training.shuffle_batches, training.end_to_end)
    return (run.subject, run.text, run.activations, run.autoencoder.crosscoder, *seen)


def total_work(runs: Sequence[RunConfig], *, up_to: int | None = None) -> int:
    """What runs cost in time, in latents times tokens; up to so many tokens of each."""
    tokens = [run.training.tokens if up_to is None else min(up_to, run.training.tokens) for run in runs]
    return sum((run.autoencoder.n_latents + FIXED_LATENTS) * seen for run, seen in zip(runs, tokens, strict=True))


def take_share(runs: Sequence[RunConfig], share: Share, together: int) -> list[list[RunConfig]]:
    """The share's groups of runs to train side by side: a function of the configuration alone, whatever is finished."""
    by_stream: dict[Hashable, list[RunConfig]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.training.tokens):  # a group's stream is as long as its longest run
        by_stream[stream_of(run)].append(run)
    groups = [
        stream[start : start + together] for stream in by_stream.values() for start in range(0, len(stream), together)
    ]
    mine = _deal(groups, share.of)[share.number - 1]
    if share.within is None:
        return mine
    return take_share([run for group in mine for run in group], share.within, together)


def _deal(groups: list[list[RunConfig]], parts: int) -> list[list[list[RunConfig]]]:
    """Groups to so many parts, about evenly: where one part has too much, its largest group is halved, and so on."""
    while True:
        dealt = _deal_whole(groups, parts)
        loads = [sum(map(total_work, part)) for part in dealt]
        largest = max(dealt[loads.index(max(loads))], key=lambda group: (len(group) > 1, total_work(group)), default=[])
        if max(loads, default=0) <= UNEVEN * sum(loads) / parts or len(largest) < 2:
            return dealt
        place, middle = groups.index(largest), len(largest) // 2
        groups = [*groups[:place], largest[:middle], largest[middle:], *groups[place + 1 :]]


def _deal_whole(groups: Sequence[list[RunConfig]], parts: int) -> list[list[list[RunConfig]]]:
    """The largest first, each to whoever has the least work; then in their own order."""
    loads, dealt = [0] * parts, [list[int]() for _ in range(parts)]
    for index in sorted(range(len(groups)), key=lambda index: -total_work(groups[index])):
        least = loads.index(min(loads))
        loads[least] += total_work(groups[index])
        dealt[least].append(index)
    return [[groups[index] for index in sorted(indices)] for indices in dealt]
