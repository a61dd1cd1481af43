"""What a piece of Python source is by ``tokenize``: its part of speech, and where it stands in lines and brackets."""

import builtins
import keyword
import re
from collections.abc import Iterator

from monosem.evaluation.tasks.code_source import Source, Span, Token

KINDS = {
    "keyword": "a keyword, but not True, False or None",
    "constant": "True, False or None",
    "self": "the name self",
    "plain-name": "a name that is no keyword",
    "defined-function": "the name that a def statement defines",
    "defined-class": "the name that a class statement defines",
    "private-name": "a name that begins with one underscore",
    "dunder-name": "a name like __init__",
    "capitals-name": "a name in capital letters, of two or more",
    "camel-case-name": "a name of several capitalised words, like TestCase",
    "snake-case-name": "a name of words joined by underscores",
    "exception-name": "the name of a built-in exception",
    "number": "a number",
    "operator": "an operator: arithmetic, comparison, assignment",
    "comparison-operator": "==, !=, <, >, <= or >=",
    "equals-sign": "=, of an assignment or an argument",
    "opening-bracket": "an opening bracket",
    "closing-bracket": "a closing bracket",
    "comma": "a comma",
    "colon": "a colon",
    "dot": "a dot between names",
    "string-start": "the beginning of a string literal",
    "in-string": "in a string that is neither docstring, f-string nor bytes",
    "in-f-string": "in an f-string",
    "in-bytes": "in a bytes literal",
    "in-comment": "in a comment",
    "line-break": "a line break, with the white space behind it",
    "indent": "white space before a line that is indented more",
    "dedent": "white space before a line that is indented less",
    "line-start": "the beginning of a line that is not blank",
    "statement-start": "the beginning of a statement",
    "continued-line": "on a further line of a statement of several lines",
    "deep-block": "indented by three levels or more",
    "deep-brackets": "inside two pairs of brackets or more",
    "word-inside": "inside a word, number or name, behind its first letter",
    "in-decorator": "in a decorator's line",
}
"""Labels and what they mark."""

NAMED_EXCEPTIONS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)
_CONSTANTS = frozenset({"True", "False", "None"})
_SIGNS = {
    **dict.fromkeys("([{", ("opening-bracket",)),
    **dict.fromkeys(")]}", ("closing-bracket",)),
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">="), ("operator", "comparison-operator")),
    **dict.fromkeys((";", "->", "...", "@", "!"), ()),
    "=": ("operator", "equals-sign"),
    ",": ("comma",),
    ":": ("colon",),
    ".": ("dot",),
}
_DEEP_BLOCK, _DEEP_BRACKETS = 3, 2

Labelled = Iterator[tuple[str, Span]]


def kind_spans(source: Source) -> Labelled:
    """Every label of ``KINDS`` with each stretch of the source that has it."""
    yield from _parts_of_speech(source)
    yield from _white_space(source)
    yield from _lines(source)
    yield from _statements(source)
    yield from _depths(source)
    yield from _inside_words(source)


def _parts_of_speech(source: Source) -> Labelled:
    before = ""
    for token in source.tokens:
        span = token.start, token.end
        if token.kind == "name":
            for label in _name_kinds(token.text, before):
                yield label, span
        elif token.kind == "operator":
            for label in _SIGNS.get(token.text, ("operator",)):
                yield label, span
        elif token.kind in ("number", "comment"):
            yield {"number": "number", "comment": "in-comment"}[token.kind], span
        elif token.kind in ("string", "f-string", "bytes"):
            yield f"in-{token.kind}", span
            yield "string-start", (token.start, token.start + 1)
        before = token.text


def _name_kinds(name: str, before: str) -> Iterator[str]:
    if name in _CONSTANTS:
        yield "constant"
        return
    if keyword.iskeyword(name):
        yield "keyword"
        return
    yield "plain-name"
    if name == "self":
        yield "self"
    if before == "def":
        yield "defined-function"
    if before == "class":
        yield "defined-class"
    if name in NAMED_EXCEPTIONS and before != ".":
        yield "exception-name"
    yield from _spellings(name)


def _spellings(name: str) -> Iterator[str]:
    bare = name.strip("_")
    if name.startswith("__") and name.endswith("__") and bare:
        yield "dunder-name"
    elif name.startswith("_") and not name.startswith("__") and bare:
        yield "private-name"
    if bare.isupper() and len(bare) > 1:
        yield "capitals-name"
    elif bare[:1].isupper() and "_" not in bare and any(letter.isupper() for letter in bare[1:]):
        yield "camel-case-name"
    elif "_" in bare and bare.islower():
        yield "snake-case-name"


def _white_space(source: Source) -> Labelled:
    """Line breaks everywhere, and those before which and behind which the indentation differs."""
    text = source.text
    for number, line in enumerate(source.lines[:-1]):
        start = source.line_starts[number] + len(line.removesuffix("\r"))
        following = source.lines[number + 1]
        indentation = len(following) - len(following.lstrip())
        yield "line-break", (start, source.line_starts[number + 1] + indentation)
    for token in source.tokens:
        if token.kind in ("indent", "dedent"):
            start = token.end
            while start > 0 and text[start - 1].isspace():
                start -= 1
            yield token.kind, (start, token.end)


def _lines(source: Source) -> Labelled:
    """The first character of each line that is not white space."""
    for start, line in zip(source.line_starts, source.lines, strict=False):
        if content := line.lstrip():
            first = start + len(line) - len(content)
            yield "line-start", (first, first + 1)


def _statements(source: Source) -> Labelled:
    """Logical lines: where they begin, the physical lines behind their first, and decorators."""
    first: Token | None = None
    for token in source.tokens:
        if token.kind in ("comment", "indent", "dedent"):
            continue
        if first is None:
            first = token
            yield "statement-start", (first.start, first.start + 1)
        if token.kind == "newline":
            if first.text == "@":
                yield "in-decorator", (first.start, token.start)
            line_end = source.text.find("\n", first.start, token.start)
            if line_end >= 0:
                yield "continued-line", (line_end + 1, token.start)
            first = None


def _depths(source: Source) -> Labelled:
    blocks: list[int] = []
    depth = outermost = 0
    for token in source.tokens:
        if token.kind == "indent":
            blocks.append(token.end)
        elif token.kind == "dedent":
            start = blocks.pop()
            if len(blocks) + 1 == _DEEP_BLOCK:
                yield "deep-block", (start, token.start)
        elif token.kind == "operator" and token.text in ("(", "[", "{"):
            depth += 1
            outermost = token.end if depth == _DEEP_BRACKETS else outermost
        elif token.kind == "operator" and token.text in (")", "]", "}"):
            if depth == _DEEP_BRACKETS:
                yield "deep-brackets", (outermost, token.start)
            depth -= 1


def _inside_words(source: Source) -> Labelled:
    """Everywhere, in comments and strings too: letters, digits and underscores behind another of them."""
    for word in re.finditer(r"\w\w+", source.text):
        yield "word-inside", (word.start() + 1, word.end())
