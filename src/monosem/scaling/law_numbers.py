"""Numbers of laws as they are read: no more digits than are known, powers of ten where they are large or small."""

import math
from typing import NamedTuple

from monosem.laws.law import Estimate

NOT_DETERMINED = "not determined"
# In a cell, where the words would not fit.
NOT_DETERMINED_CELL = "n. d."
# Of a value whose interval is narrower still, so many digits are told.
MOST_DIGITS = 5
# Bounds are orders of magnitude apart from this factor on.
FAR = 10.0
# Of a value without an interval, and of a bound that is orders of magnitude from the other.
BARE_DIGITS, FAR_DIGITS = 3, 2
# Numbers outside are written with a power of ten.
PLAIN_FROM, PLAIN_BELOW = 1e-3, 1e5

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Cell(NamedTuple):
    """What a table tells in one place: ``−0.48`` and ``[−0.53, −0.44]``."""

    value: str
    detail: str = ""


def told_estimate(estimate: Estimate) -> Cell:
    """A value and its interval: the interval's width has two digits, and both share a power of ten.

    Where the bounds are orders of magnitude apart two digits of the width would hide the lower, and each has its own.
    """
    value, low, high = estimate
    if value is None:
        return Cell(NOT_DETERMINED_CELL)
    if low is None or high is None:
        bounds = ("(−∞" if low is None else f"[{told(low)}", "∞)" if high is None else f"{told(high)}]")
        return Cell(told(value), "" if low is high is None else ", ".join(bounds))
    if (low > 0 or high < 0) and max(high / low, low / high) > FAR:
        return Cell(told(value, FAR_DIGITS), f"[{told(low, FAR_DIGITS)}, {told(high, FAR_DIGITS)}]")
    power = _power(max(abs(value), abs(low), abs(high)))
    finest = _exponent(high - low) - 1 if high > low else -math.inf
    finest = max(finest, _exponent(value) - MOST_DIGITS + 1) if value else finest
    decimals = power - int(finest) if math.isfinite(finest) else 0
    first, *bounds = (_plain(_scaled(number, power), decimals) for number in (value, low, high))
    return Cell(first + _times(power), f"[{', '.join(bounds)}]{_times(power)}")


def told(value: float, digits: int = BARE_DIGITS) -> str:
    """A number of so many significant digits: ``0.0314``, ``31,400``, ``3.14 × 10⁶``."""
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    power = _power(value)
    return _plain(_scaled(value, power), power - _exponent(value) + digits - 1) + _times(power)


def told_percent(share: float, signed: bool = False) -> str:
    """A share in percent, of two digits, down to hundredths: ``+1.3%``."""
    percent = 100 * share
    decimals = min(2, max(0, 1 - _exponent(percent))) if percent else 2
    text = _plain(percent, decimals)
    is_more = signed and percent > 0 and not _is_nothing(text)
    return f"{'+' * is_more}{text}%"


def power_of_ten(exponent: int) -> str:
    """``10⁶``"""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _power(value: float) -> int:
    """The power of ten that a number is written with; 0 of one that needs none."""
    return 0 if value == 0 or PLAIN_FROM <= abs(value) < PLAIN_BELOW else _exponent(value)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _times(power: int) -> str:
    return f" × {power_of_ten(power)}" if power else ""


def _scaled(value: float, power: int) -> float:
    """Without a power of ten; in two steps, for a float holds no power of ten of its least numbers."""
    half = -power // 2
    return value * 10.0**half * 10.0 ** (-power - half)


def _plain(value: float, decimals: int) -> str:
    """Rounded to so many decimals, or to tens where these are negative; with a minus that is one, never of nothing."""
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text.lstrip("-") if _is_nothing(text) else text.replace("-", "−")


def _is_nothing(text: str) -> bool:
    return not any(digit in text for digit in "123456789")
