"""What is read from an index, against the rows that it was made of."""

import json
import math
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_library import BARE, DEAD, EXPLAINED_DEAD, N_LATENTS, VOCABULARY, Made, make_library

from monosem.errors import UserError
from monosem.viewer import reading
from monosem.viewer.reading import Library, NotHereError
from monosem.viewer.schema import ACTIVATIONS, BANDS, DECODER, FIRING, QUANTILES, TOKENS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_library(tmp_path_factory.mktemp("index") / "viewer.sqlite")


@pytest.fixture(scope="module")
def library(made: Made) -> Library:
    return Library(made.path)


def text(token: int) -> str:
    return VOCABULARY[token] if token < len(VOCABULARY) else f"⟨{token}⟩"


def undefined_as_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def test_every_latents_record_is_what_its_rows_say(made: Made, library: Library) -> None:
    documents = dict(made.tables["documents"])
    blocks = {row[0]: row for row in made.tables["blocks"]}
    for latent in range(N_LATENTS):
        record = library.latent(latent)
        json.dumps(record, allow_nan=False)
        (row,) = made.of("latents", latent)
        names = ("latent", "fired", "density", "mean", "largest")
        assert [record[name] for name in names] == list(row[:5])
        cosines = ("encoder_cosine", "nearest_cosine", "top_token_share")
        assert [record[name] for name in cosines] == [undefined_as_none(value) for value in row[7:]]
        if row[5] is None:
            assert record["quantiles"] is None
            assert record["histogram"] is None
        else:
            assert np.array(record["quantiles"], np.float32).tobytes() == np.frombuffer(row[5], QUANTILES).tobytes()
            assert record["histogram"] == list(np.frombuffer(row[6], "<u4"))
        assert record["fires_on"] == [
            {"token": token, "text": text(token), "count": count, "mean": mean, "share": share}
            for _, _, token, count, mean, share in made.of("fires_on", latent)
        ]
        effects = made.of("logit_effects", latent)
        for name, sign in (("promotes", 1), ("suppresses", -1)):
            strongest = sorted((row for row in effects if row[3] * sign > 0), key=lambda row: -abs(row[3]))
            assert record[name] == [{"token": row[2], "text": text(row[2]), "effect": row[3]} for row in strongest]
        assert len(record["examples"]) == len(made.of("examples", latent))
        for found, (_, band, rank, block, position, value, activations) in zip(
            record["examples"], made.of("examples", latent), strict=True
        ):
            ids = list(np.frombuffer(blocks[block][3], TOKENS))
            active = np.frombuffer(activations, ACTIVATIONS)
            assert found == {
                "band": band,
                "rank": rank,
                "document": documents[blocks[block][1]],
                "start": blocks[block][2],
                "ids": ids,
                "texts": [text(token) for token in ids],
                "position": position,
                "value": value,
                "activations": [(place, pytest.approx(float(each), rel=1e-7)) for place, each in active.tolist()],
            }


def test_neighbours_carry_their_own_labels(made: Made, library: Library) -> None:
    for latent in (1, 33, 228):
        for kind in (DECODER, FIRING):
            assert library.latent(latent)["neighbours"][kind] == [
                {"latent": other, "similarity": similarity, "label": library.latent(other)["label"]}
                for _, found, _, other, similarity in made.of("neighbours", latent)
                if found == kind
            ]


def test_patterns_explanations_and_ablations_are_there_where_an_evaluation_made_them(library: Library) -> None:
    record = library.latent(11)
    assert record["patterns"]["random"] | {"patterns": []} == {
        "precision": 0.5,
        "recall": None,
        "f1": 0.25,
        "patterns": [],
    }
    first, second = record["patterns"]["random"]["patterns"]
    assert (first["tokens"], first["at_start"], first["activation"]) == ([1, None, 2], False, 0.5)
    assert (second["text"], second["at_start"]) == ("11% of a_b \\ IMPORT", True)
    assert library.latent(2)["patterns"] == {"top": {"precision": None, "recall": None, "f1": None, "patterns": []}}
    assert library.latent(10)["explanation"]["f1"] == 0.6
    assert library.latent(3)["ablation"] == {"kl": 0.125, "text": "</script>"}


def test_a_latent_without_parts_is_still_a_whole_record(library: Library) -> None:
    for latent in (BARE, *DEAD):
        record = library.latent(latent)
        assert record["examples"] == record["fires_on"] == record["promotes"] == record["suppresses"] == []
        assert record["neighbours"] == {DECODER: [], FIRING: []}
        assert record["patterns"] == {}
        assert record["ablation"] is None


def test_a_label_is_the_explanation_else_three_tokens_else_that_it_never_fires(made: Made, library: Library) -> None:
    assert library.latent(EXPLAINED_DEAD)["label"] == "Nothing: it is 100% dead"
    assert library.latent(0)["label"] == "never fires"
    explained = library.latent(10)["label"]
    assert explained == ("Fires on <b>imports</b> of 10 things. " * 3)[:79] + "…"
    for latent in (4, 8, 13, 14):
        assert made.of("explanations", latent) == []
        names = library.latent(latent)["label"].split(" · ")
        assert len(names) == min(3, len(made.of("fires_on", latent)))


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ("<script>alert(1)</script>", "<script>alert(1)</scrip…"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("nul\0inside", "nul\\x00inside"),
        ("x" * 10_000, "x" * 23 + "…"),
        ("", "⟨13⟩"),
        ("\n\n\n\n\n", "⏎×5"),
        (" ", "␣"),
        ("⟨0xE2⟩", "⟨0xE2⟩"),
    ],
)
def test_in_a_label_every_token_can_be_seen(library: Library, token: str, name: str) -> None:
    assert library._vocabulary.name(VOCABULARY.index(token)) == name


def test_a_range_of_latents_gives_the_records_of_each(library: Library) -> None:
    assert library.latents(3, 17) == [library.latent(latent) for latent in range(3, 18)]


@pytest.mark.parametrize("latent", [-1, N_LATENTS, 10**15])
def test_an_unknown_latent_is_refused(library: Library, latent: int) -> None:
    with pytest.raises(NotHereError, match=rf"latent={latent} is not in this dictionary; its latents are 0 … 229\."):
        library.latent(latent)


def test_the_runs_card(made: Made, library: Library) -> None:
    record = library.run(live=True, compare="another")
    stored = {key: json.loads(value) for key, value in made.tables["meta"]}
    for name in ("run", "index", "metrics", "density"):
        assert record[name] == stored[name]
    assert record["bands"] == list(BANDS)
    scored = {row[0] for row in made.tables["pattern_scores"]} | {row[0] for row in made.tables["patterns"]}
    assert record["with"] == {
        "patterns": len(scored),
        "explanations": len(made.tables["explanations"]),
        "ablations": len(made.tables["ablations"]),
    }
    assert record["can"] == {"prompt": True, "steer": True, "compare": "another"}
    assert library.run()["can"] == {"prompt": False, "steer": False, "compare": None}


def test_the_scatter_shows_every_living_latent(made: Made, library: Library) -> None:
    record = library.scatter()
    living = [row for row in made.tables["latents"] if row[1] > 0]
    assert record["of"] == len(living) == N_LATENTS - len(DEAD)
    assert record["latent"] == [row[0] for row in living]
    for name, column in (("density", 2), ("mean", 3), ("largest", 4), ("encoder_cosine", 7), ("nearest_cosine", 8)):
        wanted = [row[column] for row in living]
        assert [value is None for value in record[name]] == [value is None for value in wanted]
        pairs = [(value, true) for value, true in zip(record[name], wanted, strict=True) if true is not None]
        assert all(value == pytest.approx(true, rel=1e-5) for value, true in pairs)
    assert record["top_token_share"][record["latent"].index(12)] is None  # it was infinite


def test_of_too_many_latents_the_scatter_shows_evenly_spaced_ones(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SCATTER_LATENTS", 10)
    record = Library(made.path).scatter()
    living = [row[0] for row in made.tables["latents"] if row[1] > 0]
    assert record["of"] == len(living)
    assert record["latent"] == [living[number * len(living) // 10] for number in range(10)]
    assert all(len(record[name]) == 10 for name in record if name != "of")


def test_tokens_are_found_exact_ones_first_then_beginnings_then_short_ones(library: Library) -> None:
    found = [each["text"] for each in library.tokens("import")]
    assert found == ["import", "Import", " import", " imported", "reimport"]
    assert [each["text"] for each in library.tokens("über")] == ["ÜBER"]
    assert [each["text"] for each in library.tokens("STRASSE")] == ["straße"]
    assert library.tokens("") == []
    assert [VOCABULARY[each["token"]] for each in library.tokens("\0")] == ["\0", "nul\0inside"]
    assert [each["text"] for each in library.tokens("%")] == ["100%"]
    assert [each["text"] for each in library.tokens("_")] == ["under_score"]
    assert len(library.tokens("w")) == 20


def test_a_text_to_search_for_is_bounded(library: Library) -> None:
    with pytest.raises(UserError, match="text has 201 characters and may have 200; shorten it"):
        library.tokens("a" * 201)


def test_many_threads_read_at_once_each_over_a_connection_of_its_own(library: Library) -> None:
    connections: set[int] = set()
    together = threading.Barrier(8)

    def read(latent: int) -> Any:
        together.wait(timeout=30)
        connections.add(id(library._connection))
        return library.latent(latent)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(40)))
    assert found == [library.latent(latent) for latent in range(40)]
    assert len(connections) == 8


def test_an_index_that_goes_away_is_told_without_its_path(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "viewer.sqlite"
    place.write_bytes(made.path.read_bytes())
    library = Library(place)
    place.unlink()
    with ThreadPoolExecutor(1) as pool, pytest.raises(sqlite3.OperationalError) as caught:
        pool.submit(library.latent, 1).result()
    assert str(caught.value) == "the index has gone"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda connection: connection.execute("DROP TABLE vocabulary"), "no such table: vocabulary"),
        (lambda connection: connection.execute("DELETE FROM meta WHERE key = 'run'"), "does not say its run"),
        (lambda connection: connection.execute("UPDATE meta SET value = '{' WHERE key = 'run'"), "is damaged"),
    ],
)
def test_a_damaged_index_says_how_to_make_it_again(
    made: Made, tmp_path: Path, damage: Callable[[sqlite3.Connection], Any], message: str
) -> None:
    place = tmp_path / "viewer.sqlite"
    place.write_bytes(made.path.read_bytes())
    connection = sqlite3.connect(place)
    damage(connection)
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match=rf"{message}.*monosem view --again"):
        Library(place)
