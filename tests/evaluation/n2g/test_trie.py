"""The trie's walk against every pattern tried in turn; the fast matcher against the walk; on random tries and texts."""

import json
from typing import Any

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.evaluation.n2g.match import TextIndex
from monosem.evaluation.n2g.render import render_pattern, token_reader, visible
from monosem.evaluation.n2g.trie import Explanation, Leaf, Pattern, Trie


def trie_of(*patterns: Pattern) -> Trie:
    trie = Trie()
    for number, pattern in enumerate(patterns, start=1):
        trie.insert(pattern, float(number))
    return trie


def random_trie(rng: np.random.Generator, vocabulary: int, patterns: int) -> Trie:
    trie = Trie()
    for _ in range(patterns):
        tokens = rng.integers(0, vocabulary, rng.integers(1, 6)).tolist()
        entries = tuple(None if rng.random() < 0.4 else token for token in tokens)
        trie.insert(Pattern(entries, bool(rng.random() < 0.3)).simplified(), float(rng.random() + 0.1))
    return trie


def greedy(trie: Trie, text: list[int], position: int) -> float:
    """What a walk predicts that takes the literal branch wherever there is one and never turns back."""
    node, predicted = trie._root, 0.0
    for place in range(position, -1, -1):
        branch = node.branches.get(text[place], node.branches.get(None))
        if branch is None:
            break
        node = branch
        predicted = node.leaf.activation if node.leaf else predicted
    return predicted


def matches_literally(pattern: Pattern, text: list[int], position: int) -> bool:
    first = position - len(pattern.tokens) + 1
    if first < 0 or (pattern.at_start and first != 0):
        return False
    return all(token in (None, text[first + i]) for i, token in enumerate(pattern.tokens))


@pytest.mark.parametrize("seed", range(20))
def test_the_walk_finds_the_most_specific_of_all_patterns_that_match(seed: int):
    rng = np.random.default_rng(seed)
    trie = random_trie(rng, 3, 17)
    text = rng.integers(0, 3, 13).tolist()
    found = 0
    for position in range(len(text)):
        matching = [each for each in trie.patterns() if matches_literally(each[0], text, position)]
        keys = [pattern.specificity for pattern, _ in matching]
        assert len(set(keys)) == len(keys)
        best = max(matching, key=lambda each: each[0].specificity, default=None)
        assert trie.match(text, position) == best
        found += best is not None
    assert found > 0


@pytest.mark.parametrize(
    ("seed", "vocabulary", "patterns"), [(s, v, p) for s in range(8) for v, p in [(2, 9), (5, 31), (40, 80)]]
)
def test_the_fast_matcher_predicts_what_the_walk_predicts(seed: int, vocabulary: int, patterns: int):
    rng = np.random.default_rng(seed)
    trie = random_trie(rng, vocabulary, patterns)
    text = rng.integers(0, vocabulary, (11, 7))
    walked = [[trie.match(block, place) for place in range(7)] for block in text.tolist()]
    expected = [match[1].activation if match else 0.0 for block in walked for match in block]
    assert TextIndex(text).predict(trie.patterns()).tolist() == expected
    assert any(expected)
    assert any(match is not None and match[0].at_start for block in walked for match in block) or vocabulary == 40


def test_a_greedy_walk_misses_a_match_that_is_found():
    trie = trie_of(Pattern((1, None, 3), False), Pattern((9, 2, 3), False))
    text = [1, 2, 3]  # the literal branch of 2 leads to the pattern of 9 alone; the wildcard's matches
    assert greedy(trie, text, 2) == 0
    assert trie.match(text, 2) == (Pattern((1, None, 3), False), Leaf(1.0, 1))
    assert TextIndex(np.array([text])).predict(trie.patterns()).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (Pattern((None, None, 3), True), Pattern((2, 3), False)),
        (Pattern((1, None, 3), False), Pattern((1, None, 3), True)),
        (Pattern((2, 3), False), Pattern((2, 3), False)._replace(tokens=(1, None, 3), at_start=True)),
        (Pattern((2, 3), False), Pattern((1, None, 3), False)),
        (Pattern((1, None, 3), True), Pattern((None, 2, 3), True)),
    ],
    ids=["literals", "start mark", "start mark before length", "length", "nearness"],
)
def test_the_more_specific_pattern_predicts(less: Pattern, more: Pattern):
    for order in ((less, more), (more, less)):
        trie = trie_of(*order)
        match = trie.match([1, 2, 3], 2)
        assert match is not None
        assert match[0] == more
        assert TextIndex(np.array([[1, 2, 3]])).predict(trie.patterns())[2] == match[1].activation


def test_patterns_never_look_across_the_start_of_a_block():
    index = TextIndex(np.array([[1, 2, 5], [3, 2, 3]]))
    assert index.matches(Pattern((2, 5), False)).tolist() == [2]
    assert index.matches(Pattern((5, 3), False)).tolist() == []
    assert index.matches(Pattern((2, None, 3), False)).tolist() == []
    assert index.matches(Pattern((5, None, 2), False)).tolist() == []


def test_the_start_mark_matches_at_the_first_token_of_the_text():
    index = TextIndex(np.array([[1, 1, 2], [7, 1, 1]]))
    assert index.matches(Pattern((1,), True)).tolist() == [0]
    assert index.matches(Pattern((1,), False)).tolist() == [0, 1, 4, 5]
    assert index.matches(Pattern((None, 1), True)).tolist() == [1, 4]
    assert index.matches(Pattern((None,), True)).tolist() == [0, 3]


def test_one_wildcard_predicts_every_token():
    assert TextIndex(np.array([[4, 5]])).matches(Pattern((None, None), False).simplified()).tolist() == [0, 1]


def test_leading_wildcards_go_unless_a_start_mark_gives_them_a_meaning():
    assert Pattern((None, None, 4, None), False).simplified() == Pattern((4, None), False)
    assert Pattern((None, 4), True).simplified() == Pattern((None, 4), True)
    assert Pattern((None, None), False).simplified() == Pattern((None,), False)


def test_examples_that_end_in_one_leaf_keep_mean_and_count():
    trie = Trie()
    for activation in (1.0, 2.0, 6.0):
        trie.insert(Pattern((4, None), False), activation)
    trie.insert(Pattern((4, None), True), 5.0)
    assert trie.patterns() == [
        (Pattern((4, None), True), Leaf(5.0, 1)),
        (Pattern((4, None), False), Leaf(3.0, 3)),
    ]


def test_an_explanation_survives_json():
    rng = np.random.default_rng(0)
    explanation = Explanation(latent=7, tries={"random": random_trie(rng, 9, 40), "top": Trie()})
    read = Explanation.from_dict(json.loads(json.dumps(explanation.to_dict())), "n2g.json")
    assert read.latent == 7
    for kind in ("random", "top"):
        assert read.tries[kind].patterns() == explanation.tries[kind].patterns()


GOOD: list[Any] = [[4, None, 5], False, 0.5, 2]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"0": GOOD}, "no list of at most"),
        ([GOOD] * 70_000, "no list of at most"),
        ([GOOD, GOOD], "stands there twice"),
        ([GOOD[:3]], "no list of tokens, start mark"),
        ([[[], *GOOD[1:]]], "between 1 and 65,536 tokens"),
        ([[[1] * 70_000, *GOOD[1:]]], "between 1 and 65,536 tokens"),
        ([[[-1], *GOOD[1:]]], "neither null nor a whole number"),
        ([[[2**40], *GOOD[1:]]], "neither null nor a whole number"),
        ([[[True], *GOOD[1:]]], "neither null nor a whole number"),
        ([[["a"], *GOOD[1:]]], "neither null nor a whole number"),
        ([[[[1]], *GOOD[1:]]], "neither null nor a whole number"),
        ([[[None, 4], *GOOD[1:]]], "begins with wildcards"),
        ([[[n, *[1] * 60_000], *GOOD[1:]] for n in range(5)], "more than 262,144 tokens"),
        ([[[4], 1, 0.5, 2]], "neither true nor false"),
        ([[[4], False, float("nan"), 2]], "no finite number above 0"),
        ([[[4], False, float("inf"), 2]], "no finite number above 0"),
        ([[[4], False, 0, 2]], "no finite number above 0"),
        ([[[4], False, "1", 2]], "no finite number above 0"),
        ([[[4], False, 10**400, 2]], "no finite number above 0"),
        ([[[4], False, 0.5, 0]], "no whole number from 1"),
        ([[[4], False, 0.5, 1.0]], "no whole number from 1"),
    ],
)
def test_patterns_from_outside_are_checked(entries: Any, why: str):
    with pytest.raises(UserError, match=rf"n2g.json is damaged.*{why}.*make the explanations again"):
        Trie.from_list(entries, "n2g.json")


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"latent": 3},
        {"latent": -3, "patterns": {"random": [], "top": []}},
        {"latent": "3", "patterns": {"random": [], "top": []}},
        {"latent": 3, "patterns": {"random": []}},
        {"latent": 3, "patterns": []},
    ],
)
def test_explanations_from_outside_are_checked(values: Any):
    with pytest.raises(UserError, match=r"n2g.json is damaged"):
        Explanation.from_dict(values, "n2g.json")


def test_a_long_pattern_from_outside_needs_no_deep_recursion():
    trie = Trie.from_list([[[1, *[None] * 5000, 2], False, 1.0, 1]], "n2g.json")
    text = [0, 1, *[3] * 5000, 2]
    assert trie.match(text, len(text) - 1) == trie.patterns()[0]
    assert TextIndex(np.array([text])).predict(trie.patterns()).nonzero()[0].tolist() == [5002]


def test_patterns_are_rendered_for_a_reader():
    def text(token: int) -> str:
        return visible(["import", " os", "\n    ", "\x07"][token])

    assert render_pattern(Pattern((0, None, 1), True), text) == "⟨start⟩ import · ␣os"
    assert render_pattern(Pattern((0, None, None, 0), False), text) == "import · · import"
    assert render_pattern(Pattern((2, *[None] * 12, 3), False), text) == r"⏎␣×4 ·×12 \x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a␣b"),
        ("\t\n\r", r"⇥⏎\r"),
        ("·", r"\xb7"),
        ("\u202eabc", r"\u202eabc"),
        ("\u200b", r"\u200b"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\n" * 7, "⏎×7"),
        ("é漢", "é漢"),
    ],
)
def test_nothing_in_a_token_is_invisible(text: str, shown: str):
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_tokens_are_read_by_the_tokenizer(make_tokenizer):
    read = token_reader(make_tokenizer())
    assert (read(4), read(2)) == ("w0", "</s>")
    assert token_reader(None)(4) == "⟨4⟩"


def test_a_token_that_is_part_of_a_character_is_shown_by_its_number():
    from monosem.subject.loading import load_subject
    from monosem.subject.model import SubjectConfig

    tokenizer = load_subject(SubjectConfig()).tokenizer
    part = tokenizer.encode("😀")[-1]
    assert token_reader(tokenizer)(part) == f"⟨{part}⟩"
    assert token_reader(tokenizer)(tokenizer.encode(" import")[0]) == "␣import"
