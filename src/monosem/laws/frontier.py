"""L(C): the irreducible law along the frontier of many runs' curves (Gao et al. 2024, §3.1)."""

from monosem.laws.curves import Envelope
from monosem.laws.fit import SAMPLES, fit_law
from monosem.laws.forms import IRREDUCIBLE
from monosem.laws.law import Form, Law, UndeterminedError


def fit_frontier(frontier: Envelope, form: Form = IRREDUCIBLE, *, samples: int = SAMPLES, seed: int = 0) -> Law:
    """The law of an envelope. Points of one run stand or fall together: the law's ``groups`` are the envelope's runs.

    Drawing runs again, as one might, leaves sizes out, and each draw's frontier has another extent: of 40 simulations
    of six sizes such intervals held the truth in 29. These cover (tests/laws/test_coverage.py).

    Raises:
        UndeterminedError: the frontier has no more runs than the law has parameters.
    """
    group = frontier.best.tolist()
    runs, needed = len(set(group)), 1 + sum(map(len, form.parameters))
    if runs < needed:
        raise UndeterminedError(
            f"The frontier has {len(group)} points of {runs} runs, and the {form.name} law needs {needed}; "
            "train more sizes, for longer."
        )
    return fit_law(form, frontier.compute, y=frontier.loss, group=group, samples=samples, seed=seed)
