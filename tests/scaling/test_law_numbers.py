"""Numbers of laws, by known answers and by what is said of their digits."""

import math
import random
import re

import pytest

from monosem.laws.law import Estimate
from monosem.scaling.law_numbers import Cell, told, told_estimate, told_percent

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read(text: str) -> float:
    """The number that was told."""
    mantissa, _, power = text.replace(",", "").replace("−", "-").partition(" × 10")
    return float(f"{mantissa}e{power.translate(SUPERSCRIPTS) or 0}")


def read_bounds(text: str) -> list[float]:
    inside, _, power = text.partition("]")
    return [read(each + (power if "×" not in each else "")) for each in re.split(r",\s", inside.lstrip("["))]


@pytest.mark.parametrize(
    ("estimate", "value", "detail"),
    [
        ((-0.48123, -0.5312, -0.4401), "−0.481", "[−0.531, −0.440]"),
        ((-0.48123, -0.55, -0.41), "−0.48", "[−0.55, −0.41]"),
        ((3.1e6, 2.2e6, 4.5e6), "3.1 × 10⁶", "[2.2, 4.5] × 10⁶"),
        ((12345.0, 11000.0, 14000.0), "12,300", "[11,000, 14,000]"),
        ((2000.0, 3.0, 4e7), "2,000", "[3.0, 4.0 × 10⁷]"),
        ((-0.02, -0.09, 0.05), "−0.02", "[−0.09, 0.05]"),
        ((0.0001, -0.9, 0.7), "0.0", "[−0.9, 0.7]"),
        ((0.5, 0.5, 0.5), "0.50000", "[0.50000, 0.50000]"),
        ((3.2e-7, 2e-7, 6e-7), "3.2 × 10⁻⁷", "[2.0, 6.0] × 10⁻⁷"),
        ((0.0, 0.0, 0.0), "0", "[0, 0]"),
        ((None, 0.0, 1.0), "n. d.", ""),
        ((1.0, None, None), "1.00", ""),
        ((1.0, None, 3.0), "1.00", "(−∞, 3.00]"),
        ((1.0, 0.5, None), "1.00", "[0.500, ∞)"),
        ((5e-324, 5e-324, 1.0), "4.9 × 10⁻³²⁴", "[4.9 × 10⁻³²⁴, 1.0]"),
    ],
)
def test_an_estimate_is_told_to_two_digits_of_its_width(
    estimate: tuple[float | None, float | None, float | None], value: str, detail: str
) -> None:
    assert told_estimate(Estimate(*estimate)) == Cell(value, detail)


def test_what_is_told_is_the_estimate_to_half_a_unit_of_two_digits_of_its_width() -> None:
    random.seed(0)
    for _ in range(2000):
        value = random.choice([-1, 1]) * 10 ** random.uniform(-12, 12)
        low = value - abs(value) * 10 ** random.uniform(-3, -0.5)
        high = value + abs(value) * 10 ** random.uniform(-3, -0.5)
        cell = told_estimate(Estimate(value, low, high))
        unit = 10 ** (math.floor(math.log10(high - low)) - 1)
        for number, true in zip([read(cell.value), *read_bounds(cell.detail)], (value, low, high), strict=True):
            assert abs(number - true) <= 0.5001 * unit, cell
            assert abs(number / unit - round(number / unit)) < 1e-3 or unit > abs(value), cell


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999.6, "1,000"),
        (0.0314159, "0.0314"),
        (31415.0, "31,400"),
        (3.14159e6, "3.14 × 10⁶"),
        (9.999e6, "1.00 × 10⁷"),
        (99999.0, "1.00 × 10⁵"),
        (-2.5e-5, "−2.50 × 10⁻⁵"),
        (0.0, "0"),
    ],
)
def test_a_bare_number_has_three_digits(value: float, text: str) -> None:
    assert told(value) == text


@pytest.mark.parametrize(
    ("share", "plain", "signed"),
    [
        (0.0131, "1.3%", "+1.3%"),
        (-0.0131, "−1.3%", "−1.3%"),
        (0.21, "21%", "+21%"),
        (1.5, "150%", "+150%"),
        (0.00034, "0.03%", "+0.03%"),
        (-1e-7, "0.00%", "0.00%"),
        (1e-7, "0.00%", "0.00%"),
        (0.0, "0.00%", "0.00%"),
    ],
)
def test_shares_are_told_in_percent(share: float, plain: str, signed: str) -> None:
    assert told_percent(share) == plain and told_percent(share, signed=True) == signed
