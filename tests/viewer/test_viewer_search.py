"""Searches, against a literal reading of their conditions over all rows."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from made_library import BARE, DEAD, N_LATENTS, VOCABULARY, Made, make_library

from monosem.errors import UserError
from monosem.viewer import search
from monosem.viewer.query import Query
from monosem.viewer.reading import Library
from monosem.viewer.schema import DECODER

Reason = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_library(tmp_path_factory.mktemp("index") / "viewer.sqlite")


@pytest.fixture(scope="module")
def library(made: Made) -> Library:
    return Library(made.path)


def reasons(made: Made, latent: int, kind: str, wanted: Any) -> list[tuple[str, float | None]]:
    """All texts and values by which a latent meets a condition."""
    if kind == "like":
        rows = [row for row in made.of("neighbours", wanted) if row[1] == DECODER and row[3] == latent]
        return [(str(wanted), row[4]) for row in rows]
    if kind in ("pattern", "explanation"):
        table, text, value = ("patterns", 3, 6) if kind == "pattern" else ("explanations", 1, 4)
        return [(row[text], row[value]) for row in made.of(table, latent) if wanted.lower() in row[text].lower()]
    table, value = ("fires_on", 5) if kind == "fires" else ("logit_effects", 3)
    return [
        (VOCABULARY[row[2]], row[value])
        for row in made.of(table, latent)
        if wanted.casefold() in VOCABULARY[row[2]].casefold()
        and (kind == "fires" or (row[1] >= 0) == (kind == "promotes"))
    ]


def met(made: Made, conditions: dict[str, Any], low: float = 0.0, high: float = 1.0) -> set[int]:
    """The latents that meet all conditions."""
    return {
        row[0]
        for row in made.tables["latents"]
        if low <= row[2] <= high and all(reasons(made, row[0], *condition) for condition in conditions.items())
    }


def found(library: Library, **query: Any) -> list[int]:
    """The latents of all pages, in order."""
    latents: list[int] = []
    for offset in itertools.count(0, 7):
        page = library.search(Query(**query, offset=offset, limit=7))
        assert len(page["latents"]) <= 7
        latents += [each["latent"] for each in page["latents"]]
        if not page["more"]:
            assert len(set(latents)) == len(latents)
            return latents
        assert len(page["latents"]) == 7
    raise AssertionError


CONDITIONS: list[dict[str, Any]] = [
    {},
    {"fires": "import"},
    {"fires": "e"},
    {"fires": "W1"},
    {"fires": " "},
    {"fires": "\0"},
    {"fires": "%"},
    {"fires": "_"},
    {"fires": "' OR 1=1 --"},
    {"fires": "no such token"},
    {"promotes": "e"},
    {"suppresses": "ü"},
    {"pattern": "import"},
    {"pattern": "11% of a_b \\"},
    {"pattern": "_"},
    {"pattern": "1%1"},
    {"explanation": "IMPORTS</b> of 1"},
    {"explanation": "%"},
    {"explanation": "'; DROP TABLE latents; --"},
    {"like": 3},
    {"like": 0},
    {"fires": "e", "promotes": "w"},
    {"fires": "e", "promotes": "e", "suppresses": "e"},
    {"fires": "w", "like": 21},
    {"pattern": "end", "explanation": "fires", "promotes": "w"},
]


@pytest.mark.parametrize("conditions", CONDITIONS)
@pytest.mark.parametrize("few", [5000, 3, 0])
def test_a_search_finds_exactly_the_latents_that_meet_all_conditions(
    made: Made, library: Library, conditions: dict[str, Any], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW", few)
    rows = {row[0]: row for row in made.tables["latents"]}
    wanted = met(made, conditions)
    for order, key in {
        "density": lambda latent: (-rows[latent][2], latent),
        "largest": lambda latent: (-(rows[latent][4] or -1), latent),
        "number": lambda latent: latent,
    }.items():
        assert found(library, **conditions, order=order) == sorted(wanted, key=key)
    living = wanted - set(DEAD)
    assert found(library, **conditions, order="rare") == sorted(living, key=lambda latent: (rows[latent][2], latent))
    assert set(found(library, **conditions, order="number", low=0.02, high=0.1)) == met(made, conditions, 0.02, 0.1)
    assert set(found(library, **conditions)) == wanted
    assert set(found(library, **conditions, low=0.02, high=0.1)) == met(made, conditions, 0.02, 0.1)


def test_where_very_many_match_the_best_come_first_and_the_others_by_number(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = found(library, fires="e")
    monkeypatch.setattr(search, "FEW", 9)
    few = found(library, fires="e")
    assert sorted(few) == sorted(everything)
    assert few[:5] == everything[:5]
    assert few[10:] == sorted(few[10:])
    assert few != everything


def quality(wanted: str, text: str) -> int:
    wanted, text = wanted.casefold(), text.casefold()
    if text == wanted or (wanted.strip() and text.strip() == wanted.strip()):
        return 0
    return 1 if text.startswith(wanted) or text.lstrip().startswith(wanted) else 2


@pytest.mark.parametrize(
    ("kind", "text", "sign"),
    [("fires", "e", 1), ("fires", "import", 1), ("promotes", "self", 1), ("suppresses", "w1", -1), ("like", 3, 1)],
)
def test_the_best_matches_come_first(made: Made, library: Library, kind: str, text: Any, sign: int) -> None:
    def best(latent: int) -> tuple[int, float]:
        ranks = [
            (quality(text, token) if kind != "like" else 2, -sign * (value or 0))
            for token, value in reasons(made, latent, kind, text)
        ]
        return min(ranks)

    latents = found(library, **{kind: text})
    assert latents == sorted(latents, key=lambda latent: (best(latent), latent))
    page = library.search(Query(**{kind: text}, limit=100))["latents"]
    for each in page:
        (why,) = each["why"]
        assert why["kind"] == kind
        assert (why["text"], why["value"]) in reasons(made, each["latent"], kind, text)
        level = quality(text, why["text"]) if kind != "like" else 2
        assert (level, -sign * why["value"]) == best(each["latent"])


def test_every_condition_gives_its_reason(made: Made, library: Library) -> None:
    conditions = {"fires": "w", "promotes": "w", "suppresses": "e"}
    page = library.search(Query(**conditions, limit=100))["latents"]
    assert page
    for each in page:
        assert [why["kind"] for why in each["why"]] == list(conditions)
        for why in each["why"]:
            kind = why["kind"]
            assert (why["text"], why["value"]) in reasons(made, each["latent"], kind, conditions[kind])


def test_what_is_found_carries_label_density_and_largest(made: Made, library: Library) -> None:
    for each in library.search(Query(limit=100, offset=50))["latents"]:
        record = library.latent(each["latent"])
        assert {name: each[name] for name in ("label", "density", "largest")} == {
            name: record[name] for name in ("label", "density", "largest")
        }
        assert each["why"] == []


def test_the_dead_are_found_by_their_density(library: Library) -> None:
    assert found(library, high=0.0) == found(library, high=0.0, order="rare") == sorted(DEAD)
    assert BARE in found(library)
    assert len(found(library)) == N_LATENTS


def test_beyond_the_last_latent_there_is_nothing(library: Library) -> None:
    assert library.search(Query(offset=10**6)) == {"latents": [], "more": False}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Query(fires="a" * 201), "fires has 201 characters and may have 200; shorten it"),
        (lambda: Query(pattern="a\0b"), "pattern holds a NUL character"),
        (lambda: Query(low=-0.1), r"low=-0\.1 is no density; give a number from 0 to 1"),
        (lambda: Query(high=float("nan")), "high=nan is no density"),
        (lambda: Query(low=0.5, high=0.25), r"low=0\.5 exceeds high=0\.25; lower it"),
        (lambda: Query(limit=101), "limit=101 is not from 1 to 100"),
        (lambda: Query(limit=0), "limit=0 is not from 1 to 100"),
        (lambda: Query(offset=-1), "offset=-1 is not from 0"),
        (lambda: Query(offset=2**63), "offset=9223372036854775808 is not from 0"),
        (lambda: Query(like=-1), "like=-1 is not from 0"),
    ],
)
def test_what_no_search_can_be_is_refused(make: Callable[[], Query], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_likeness_to_no_latent_is_refused(library: Library) -> None:
    with pytest.raises(UserError, match="like=230 is not in this dictionary; its latents are 0 … 229"):
        library.search(Query(like=230))
