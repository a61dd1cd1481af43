"""Python source as ``tokenize`` and ``ast`` see it, with places counted in characters of the text.

An f-string is one token here, whatever stands in its braces: Python tokenises them so up to 3.11 and takes them apart
from 3.12, and ``ast`` gives wrong places inside them up to 3.11. So labels do not depend on the interpreter.
"""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

Span = tuple[int, int]
"""First character and the one behind the last."""

_KINDS = {
    tokenize.NAME: "name",
    tokenize.NUMBER: "number",
    tokenize.OP: "operator",
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
    tokenize.NEWLINE: "newline",
    tokenize.INDENT: "indent",
    tokenize.DEDENT: "dedent",
}
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class Token(NamedTuple):
    """A token of Python's grammar."""

    kind: str
    """name (keywords too), number, operator, string, f-string, bytes, comment, newline (a statement's end), indent or
    dedent."""
    text: str
    """Of an f-string, as much of it as its first token holds."""
    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """A Python file that parses."""

    text: str
    tree: ast.Module
    tokens: tuple[Token, ...]
    lines: tuple[str, ...]

    @cached_property
    def line_starts(self) -> list[int]:
        """The character at which each line starts."""
        return _line_starts(self.lines)

    def place(self, line: int, utf8_column: int) -> int:
        """The character that ``ast`` means: it counts lines from 1, and columns in bytes of UTF-8."""
        start, content = self.line_starts[line - 1], self.lines[line - 1]
        if content.isascii():
            return start + utf8_column
        return start + len(content.encode()[:utf8_column].decode())

    def span(self, node: Any) -> Span:
        """Where a node of the tree stands, decorators left out."""
        return self.place(node.lineno, node.col_offset), self.place(node.end_lineno, node.end_col_offset)

    def span_of_all(self, nodes: list[Any]) -> Span:
        """From the beginning of the first node, with its decorators, to the end of the last."""
        start, end = self.span(nodes[0])[0], self.span(nodes[-1])[1]
        if decorators := getattr(nodes[0], "decorator_list", None):
            start = self.text.rindex("@", 0, self.span(decorators[0])[0])
        return start, end

    @cached_property
    def token_at(self) -> dict[int, int]:
        """The number of the token that starts at a character; indents and dedents have none."""
        numbered = enumerate(self.tokens)
        return {token.start: number for number, token in numbered if token.kind not in ("indent", "dedent")}

    @cached_property
    def token_ending_at(self) -> dict[int, int]:
        """The number of the token behind which a character stands."""
        return {token.end: number for number, token in enumerate(self.tokens) if token.kind not in ("indent", "dedent")}

    @cached_property
    def partners(self) -> dict[int, int]:
        """From each bracket to the one that it closes or is closed by, as characters."""
        partners: dict[int, int] = {}
        open_brackets: list[int] = []
        for token in self.tokens:
            if token.kind == "operator" and token.text in _OPENING:
                open_brackets.append(token.start)
            elif token.kind == "operator" and token.text in _CLOSING:
                partners[token.start] = open_brackets.pop()
                partners[partners[token.start]] = token.start
        return partners


def read_source(text: str) -> Source | None:
    """Parse a file; None where this interpreter cannot: it is for another Python, or is meant to be wrong.

    A carriage return that ends a line by itself, of which only ``ast`` takes notice, is such a case too.
    """
    if re.search(r"\r(?!\n)", text):
        return None
    lines = tuple(text.split("\n"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that will be errors one day
            tree = ast.parse(text)
            read = tokenize.generate_tokens(io.StringIO(text, newline="\n").readline)
            tokens = tuple(code_tokens(read, _line_starts(lines)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return Source(text, tree, tokens, lines)


def _line_starts(lines: Iterable[str]) -> list[int]:
    return list(accumulate((len(line) + 1 for line in lines), initial=0))


def code_tokens(read: Iterable[tokenize.TokenInfo], line_starts: list[int]) -> Iterator[Token]:
    """Tokens with places in characters; what stands between an f-string's quotes goes into one."""
    depth, first = 0, None
    for info in read:
        name = tokenize.tok_name[info.type]
        if name in ("FSTRING_START", "TSTRING_START"):
            first = info if depth == 0 else first
            depth += 1
        elif name in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
        if first is None and info.type in _KINDS:
            kind = _string_kind(info.string) if info.type == tokenize.STRING else _KINDS[info.type]
            yield Token(kind, info.string, _place(info.start, line_starts), _place(info.end, line_starts))
        elif first is not None and depth == 0:
            yield Token("f-string", first.string, _place(first.start, line_starts), _place(info.end, line_starts))
            first = None


def _place(position: Span, line_starts: list[int]) -> int:
    line, column = position
    return min(line_starts[line - 1] + column, line_starts[-1] - 1)  # behind the last line stands nothing


def _string_kind(literal: str) -> str:
    prefix = re.split("['\"]", literal, maxsplit=1)[0].lower()
    return "f-string" if "f" in prefix else "bytes" if "b" in prefix else "string"
