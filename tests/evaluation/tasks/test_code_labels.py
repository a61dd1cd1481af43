"""Labels on snippets with known answers: ``«…»`` marks the characters that have the label, and no others do."""

import tokenize
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from monosem.evaluation.tasks import code_source
from monosem.evaluation.tasks.code_kinds import KINDS
from monosem.evaluation.tasks.code_labels import LABELS, deciding_characters, label_tokens
from monosem.evaluation.tasks.code_regions import REGIONS
from monosem.evaluation.tasks.code_source import read_source
from monosem.subject import builtin

# Several snippets a label: the usual cases, and what could be mistaken for them; non-ASCII text before, in the line.
SNIPPETS: dict[str, tuple[str, ...]] = {
    "keyword": ("'é'; «assert» x «is» «not» None; «pass»\n", "iffy = x.if_; match = print\n", 'f"{a if b else c}"\n'),
    "constant": ("é = «True», «None»\nx.true = «False»\n", "# None\n'True'\n"),
    "self": ("def é(«self», selfie): «self».x = «self»\n", "'self' # self\n"),
    "plain-name": ("«é» = «int»(«a1».«b») if None else 3\n", "'a' # a\n"),
    "defined-function": ("def «é»(def_): pass\nasync def «g»(): pass\nclass A: pass\n",),
    "defined-class": ("class «É»(B): pass\ndef f(): pass\n",),
    "private-name": ("«_é» = x.«_a» + __b + _ + __init__ + a_\n",),
    "dunder-name": ("x.«__é__» = «__name__» + __ + __x + _y_ + ____\n",),
    "capitals-name": ("«É_X» = A + AbC + «_AB» + «A1» + a\n", "True and None\n"),
    "camel-case-name": ("«ÉaB» = A + Ab + «_AbC» + AB + ab + A_b + A1B + «Ab1C»\n",),
    "snake-case-name": ("«é_x» = _a + «a_1» + A_B + ab + «_a_b» + __init__\n",),
    "exception-name": ("é = «KeyError», x.KeyError, MyError, «Warning»\n",),
    "number": ("é = «1» + x1 - «0x_f» * «1e3j»; y = -«2»\n", "'3' # 4\n"),
    "operator": ("é «=» a «+» b[c] «**» «-»d\n", "x «@=» y\n", "f(b.c, «*»d, a«=»1)\n", "def f() -> a: ...\n"),
    "comparison-operator": ("é «==» a «<=» b in c is d\n", "x = a «>» b >> c\n", "def f() -> a: b = '=='\n"),
    "equals-sign": ("é «=» f(a«=»1) == 2\n", "x += 1\n", "def g(a: int «=» 2): pass\n"),
    "opening-bracket": ("é = «(»a«[»1], «{»2})\n", "'(' # [\n"),
    "closing-bracket": ("é = (a[1«]», {2«}»«)»\n", "')' # ]\n"),
    "comma": ("é = f(a«,» b)«,»\n", "','\n"),
    "colon": ("é = a[1«:»2]; b = {1«:» 2}\nif x«:» pass\n", "(a := 1)\n"),
    "dot": ("é = a«.»b«.»c(1.5, ...)\n", "from «.» import x\n"),
    "string-start": ("é = «'»é' «r»'''\n''', «b»'x'\n", '«f»"{x}"\n', "# 'x'\n"),
    "in-string": ("é = «'é'» «r'x'» f'{x}', b'y'\n", '"""docstring"""\n«"""no docstring"""»\n'),
    "in-f-string": ("é = 'a' «f'é{x + \"é\"}'» + «Rf'''{y!r:>{w}}\n'''» + z\n",),
    "in-bytes": ("é = «b'x'» + «Rb'''\n'''» + 'b'\n",),
    "in-comment": ("é = '# no' «# é yes»\n«#»\n",),
    "line-break": ("é = 1«\n»if x:«\n    »y«\n\n\n»z«\n»", "é«\n  \n»x  # c«\n»", "'''a«\n »b'''«\n»", "é«\r\n»a"),
    "indent": ("if é:«\n    »x\n    y\n", "if a: # c«\n\n  »b = (1,\n      2)\n"),
    "dedent": ("if é:\n  if y:\n    x«\n  »z«\n»", "if a:\n  b«\n\n»c\n", "if a:\n  b\n# d«\n»c"),
    "line-start": ("«é» = (1,\n\n  «x»)\n\t«#» c\n",),
    "statement-start": ("«é» = (1,\n 2)\n# c\n«i»f x:\n  «y»; z\n", "«'»''doc\n'''\n"),
    "continued-line": ("é = (1,\n« 2)»\nx = 1\n", "y = 1 + \\\n«  2»\n", "'''a\n«b'''»\n"),
    "deep-block": ("if a:\n  if b:\n    if é:\n      «x\n      y\n  »z\n", "if a: b = [\n        1]\n"),
    "deep-brackets": ("é = (a, [«b, (c,), d»], e)\n", "f(x)[1]\n", "((«(1)»))\n"),
    "word-inside": ("é«tä1_b» = a + x«_»\n", "# b«cd» '1«2»'\n"),
    "in-decorator": ("«@é.a(\n  1)»\n«@b»\ndef f(): pass\n", "a @ b\n"),
    "in-docstring": ('«"é"»\nx = "a"\ndef f():\n  «"""b\n  c"""»\n  "d"\nclass A: «"e"»\n', 'f"{x}"\n', "b'x'\n"),
    "in-class": ("@é\n«class É(B):\n  def f(self): pass\n  x = 1»\ny\n",),
    "in-function": ("é\n@d\n«def f(a=1):\n  return a»\nx = lambda: 1\n«async def g(): pass»\n",),
    "in-method": ("class É:\n  é = 1\n  «def f(self): 1»\n  class B:\n    «def g(self): 2»\ndef h(): pass\n",),
    "in-nested-function": ("def é():\n  x = 1\n  «def g():\n    pass»\n  class A:\n    def m(self): pass\n",),
    "in-async-function": ("«async def é():\n  def g(): pass»\ndef h(): pass\n",),
    "in-test-method": ("class É:\n  «def test_é(self): pass»\n  def a_test(self): pass\ndef test_b(): pass\n",),
    "in-signature": ("é = 1\ndef f(«a: int = (1), *b»): pass\ndef g(): pass\nclass A(B): pass\nx = lambda a: a\n",),
    "in-default": ("def é(a, b=«1 + 2», *, c=«'é'», d, **e): pass\nlambda x=«3»: 4\n",),
    "in-annotation": ("def é(a: «int», *b: «'é'») -> «dict[str, int]»: pass\nx: «list» = [1]\ny = {1: 2}\n",),
    "in-class-bases": ("class É(«A, metaclass=B»): pass\nclass C: pass\ndef f(x): pass\n",),
    "in-lambda": ("é = [«lambda x, y=1: x + y», 2]\n",),
    "in-comprehension": ("é = «[x for x in y if z]», «{a: b for a in c}», f«(i for i in j)»\nfor q in r: pass\n",),
    "in-call": (
        "é = f(«a, g(b)»)[c](«d»)\n(x)\nclass A(B): pass\n",
        "(f)(«1»)\n",
        "def f(a): b\n@d(«1»)\nclass C: e\n",
    ),
    "in-keyword-value": ("é = f(a, b=«c + 1», **d)\nx = 1\ndef g(y=2): pass\n",),
    "in-subscript": ("é = a[«1:2, b[c]»][«d»] + [e]\n",),
    "in-list": ("é = «[1, [2]]» + a[3] + [x for x in y]\n",),
    "in-dict": ("é = «{1: {2: 3}}» + {4}\nx = {a: b for a in c}\n",),
    "in-tuple": ("é = «(1, 2)» + (3)\nx = «1,»\nf(a, b)\n",),
    "in-comparison": ("é = «a < b == c + 1», d\nif «x in y»: pass\n", "x = not a\n"),
    "in-and-or": ("é = «a and b or c + 1», d\n", "x = not a\n"),
    "in-arithmetic": ("é = («a + b * c») if -d else «'%s' % e»\nx += 1\n",),
    "in-conditional": ("é = [«a if b else c», d]\nif x: pass\n",),
    "in-condition": ("if «é and a»: b\nelif «c»: d\nwhile «e»: f\nx = g if h else i\n",),
    "in-assigned-value": ("é = b = «c + 1»\nx: int = «2»\ny: int\nz += «3»\nf(a=4)\n",),
    "in-assignment-target": ("«é» = «b[1]» = c\n«x.y»: int = 2\n«z» += 3\nfor i in j: pass\n",),
    "in-loop": ("for é in y:\n  «a\n  b»\nelse: c\nwhile d: «e»\n[f for f in g]\n",),
    "in-loop-target": ("for «é, (a, b)» in y: c\n[d for d in e]\n",),
    "in-else": (
        "if é: a\n«elif b: c\nelse: d»\n",
        "for x in y: a\nelse: «b»\n",
        "try: a\nexcept: b\nelse: «c»\nx if y else z\n",
    ),
    "in-with": ("with é as a:\n  «b\n  @c\n  def f(): pass»\n", "async def f():\n  async with a: «b»\n"),
    "in-with-items": ("with «open(é) as a, b as (c, d)»: e\n", "with («a as b, c»): d\n"),
    "in-try": ("try:\n  «é\n  a»\nexcept B: c\nelse: d\nfinally: e\n", "try:\n  «@a\n  def f(): pass»\nfinally: b\n"),
    "in-except": ("try: é\n«except A as b:\n  c»\n«except B: pass»\nelse: d\n", "try: a\n«except* B: c»\n"),
    "in-finally": ("try: é\nfinally:\n  «a\n  b»\nc\n",),
    "in-import": ("é = 1; «import a.b as c»\n«from .d import (e,\n  f)»\n__import__('x')\n",),
    "in-raise": ("def é():\n  «raise A('é') from b»\n  «raise»\n",),
    "in-return": ("def é():\n  «return (a,\n    1)»\n  «return»\n  yield 1\n",),
    "in-assert": ("é = 1; «assert a, 'é'»; b\nself.assertEqual(a)\n",),
    "in-await": ("async def é():\n  x = «await f(1)» + 2\n",),
    "in-yield": ("def é():\n  a = «yield b»\n  «yield from c»\n  return d\n",),
    "attribute-name": ("é = é.«x».«y»(z).«w»\n", "from .a import b\nimport c.d\n1.0 .«real»\n", "x.\\\n  «y»\n"),
    "called-name": (
        "é = «f»(a).«g»(b)[c](d)\n",
        "(«f»)(1)\n",
        "def h(x): pass\nclass A(B): c\n@«d»(1)\nclass C: e\n",
    ),
    "keyword-name": ("é = f(a, «b»=c, **d)\nclass A(B, «metaclass»=C): pass\ndef g(x=1): pass\n",),
    "parameter-name": ("def é(«a», «b»: int = c, /, *«d», «e»=1, **«f»): g\nlambda «h», *, «i»=1: j\n",),
    "builtin-name": ("é = «len»(«print») + x.len + KeyError + f(len=1)\n", "'len' # len\n"),
}


def unmarked(snippet: str) -> tuple[str, list[bool]]:
    characters, marks, is_marked = [], [], False
    for character in snippet:
        if character in "«»":
            is_marked = character == "«"
        else:
            characters.append(character)
            marks.append(is_marked)
    return "".join(characters), marks


def columns(text: str, offsets: Any) -> dict[str, np.ndarray]:
    labels = label_tokens(text, np.array(offsets, dtype=np.int64).reshape(-1, 2))
    assert labels is not None, f"does not parse: {text}"
    assert labels.shape == (len(LABELS), len(offsets))
    return dict(zip(LABELS, labels, strict=True))


def each_character(text: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place in range(len(text))]


def show(text: str, marks: Any) -> str:
    marked = "".join(f"«{character}»" if mark else character for character, mark in zip(text, marks, strict=True))
    return marked.replace("»«", "")


def test_every_label_has_snippets_with_and_without_it() -> None:
    assert set(SNIPPETS) == set(KINDS | REGIONS)
    for label, snippets in SNIPPETS.items():
        marks = [mark for snippet in snippets for mark in unmarked(snippet)[1]]
        assert any(marks), label
        assert not all(marks), label


@pytest.mark.parametrize(("label", "snippet"), [(label, each) for label in SNIPPETS for each in SNIPPETS[label]])
def test_a_label_marks_just_these_characters(label: str, snippet: str) -> None:
    text, marks = unmarked(snippet)
    assert show(text, columns(text, each_character(text))[label]) == show(text, marks)


# Tokens


def test_a_token_counts_by_its_first_character_that_is_no_white_space() -> None:
    text = "if x:\n    # né\n    y = 1\n"
    pieces = ["if", " x", ":\n", "    ", "#", " n", "é", "é", "\n    ", "y", " =", " 1\n"]
    offsets, place = [], 0
    for number, piece in enumerate(pieces):
        place -= piece == pieces[number - 1]  # two tokens of one byte each stand for the same character
        offsets.append((place, place + len(piece)))
        place += len(piece)
    found = columns(text, offsets)

    def with_label(label: str) -> list[str]:
        return [piece for piece, has in zip(pieces, found[label], strict=True) if has]

    assert place == len(text)
    assert with_label("plain-name") == [" x", "y"]
    assert with_label("colon") == [":\n"]
    assert with_label("line-break") == ["    ", "\n    "]
    assert with_label("in-comment") == ["#", " n", "é", "é"]
    assert with_label("equals-sign") == [" ="]
    assert with_label("line-start") == ["if", "#", "y"]
    assert with_label("next-equals-sign") == ["y"]
    assert with_label("next-line-break") == [":\n", "é"]
    assert with_label("next-word-inside") == [" n", "é"]


def test_a_token_of_white_space_counts_by_its_line_break() -> None:
    text = "a  \n  \n b \t"
    offsets = np.array([(0, 3), (1, 4), (1, 3), (3, 7), (4, 6), (7, 10), (9, 11), (2, 2), (11, 11)])
    assert deciding_characters(text, offsets).tolist() == [0, 3, 1, 3, 4, 8, 9, 2, 10]


def test_a_next_label_is_the_label_of_the_next_token() -> None:
    text = "if x:\n  def f(self, a=1): return 'b', self.c[2] + 3  # d\ne = None\n"
    found = columns(text, each_character(text))
    for label in (label for label in LABELS if label.startswith("next-")):
        of_next = found[label.removeprefix("next-")]
        assert of_next.any(), label
        assert found[label].tolist() == [*of_next[1:].tolist(), False], label


def make_tokenizer(kind: str) -> Tokenizer:
    """Some that cut otherwise than the bundled one."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = {
        "metaspace": pre_tokenizers.Metaspace(prepend_scheme="always"),
        "words": pre_tokenizers.BertPreTokenizer(),
        "characters": pre_tokenizers.Split("", "isolated"),
    }[kind]
    return tokenizer


@pytest.mark.parametrize("kind", ["metaspace", "words", "characters", "bundled"])
def test_labels_do_not_depend_on_the_tokenizer(kind: str) -> None:
    text = (builtin.library_root() / "json" / "encoder.py").read_text(encoding="utf-8")
    text = "# Größe 漢字\nx = 'ü'  # ß\n" + text
    bundled = str(builtin.MODEL_DIRECTORY / "tokenizer.json")
    tokenizer = Tokenizer.from_file(bundled) if kind == "bundled" else make_tokenizer(kind)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    by_character = columns(text, each_character(text))
    found = columns(text, offsets)
    assert len(offsets) > 1000
    for label in KINDS | REGIONS:
        for (start, end), has in zip(offsets, found[label], strict=True):
            piece = text[start:end]
            at = len(piece) - len(piece.lstrip()) if piece.strip() else max(piece.find("\n"), 0)
            assert has == by_character[label][start + at], (label, piece)


# Files


@pytest.mark.parametrize(
    "text",
    ["print 'two'\n", "x = 0377\n", "def f(:\n", "\ufeffx = 1\n", "x = 1\0\n", "a\rb = 1\n", "(" * 1000 + "\n", "'''"],
)
def test_what_does_not_parse_has_no_labels(text: str) -> None:
    assert label_tokens(text, np.array(each_character(text))) is None


@pytest.mark.parametrize(
    "text", ["x = 1", "if x:\n  y", "\n\n", "# a comment", "x = '\\d'\n", "x = 1\n\f\ny\n", "x = 1\n  # c"]
)
def test_odd_ends_of_files_are_labelled(text: str) -> None:
    columns(text, each_character(text))


def test_only_line_feeds_end_lines() -> None:
    text = "x = 'é'\f # é\ny = [1]\r\n'''\x0c\u2028\x85é'''; z = len\n"
    found = columns(text, each_character(text))
    assert show(text, found["in-list"]) == text.replace("[1]", "«[1]»")
    assert show(text, found["builtin-name"]) == text.replace("len", "«len»")


def test_f_strings_that_come_in_pieces_are_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python 3.12 and later take f'a{f"{b}"}c'+ apart.
    names = {200: "FSTRING_START", 201: "FSTRING_MIDDLE", 202: "FSTRING_END"}
    monkeypatch.setattr(tokenize, "tok_name", {**tokenize.tok_name, **names})
    pieces = [(200, "f'"), (201, "a"), (tokenize.OP, "{"), (200, 'f"'), (tokenize.OP, "{"), (tokenize.NAME, "b")]
    pieces += [(tokenize.OP, "}"), (202, '"'), (tokenize.OP, "}"), (201, "c"), (202, "'"), (tokenize.OP, "+")]
    column, read = 0, []
    for kind, string in pieces:
        read.append(tokenize.TokenInfo(kind, string, (1, column), (1, column + len(string)), ""))
        column += len(string)
    tokens = [tuple(token) for token in code_source.code_tokens(read, [0, 100])]
    assert tokens == [("f-string", "f'", 0, column - 1), ("operator", "+", column - 1, column)]


def test_an_f_string_is_one_token_in_this_python() -> None:
    source = read_source("x = f'{a + len(b)}' 'c'\n")
    assert source is not None
    kinds = [(token.kind, source.text[token.start : token.end]) for token in source.tokens]
    assert kinds[2:4] == [("f-string", "f'{a + len(b)}'"), ("string", "'c'")]


@pytest.mark.parametrize("label", ["builtin-name", "called-name", "in-call", "in-arithmetic", "attribute-name", "dot"])
def test_nothing_inside_an_f_strings_braces_is_labelled(label: str) -> None:
    text = 'f"{len(a.b + c)!r}"\n'
    assert not columns(text, each_character(text))[label].any()
