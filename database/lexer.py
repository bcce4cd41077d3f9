"""
What in SQL text is no SQL: literals, dollar quotes, quoted names, comments. And where a script's statements end.

https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# Skipped as a whole; comments nest, so that of those between /* and */ only the beginning is found here.
SKIPPED = r"""
      (?P<escaped> (?<![\w$]) [eE]'(?:[^'\\]|\\.|'')*' )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<dollar>  (?<![\w$]) \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<line>    --[^\n]* )
    | (?P<block>   /\* )
"""
_COMMENT = re.compile(r"/\*|\*/")
_TOKEN = re.compile(
    rf"{SKIPPED} | (?P<word> [^\W\d][\w$]* ) | (?P<space> \s+ ) | (?P<sign> . )", re.VERBOSE | re.DOTALL
)
_CLIENT = re.compile(r"\b(?:FROM\s+STDIN|TO\s+STDOUT)\b", re.IGNORECASE)
_HEAD = 4  # words tell what a statement is


class Statement(NamedTuple):
    """One statement of a script, which begins at *start* there; *words* are its first ones, in small letters."""

    text: str
    start: int
    words: tuple[str, ...]

    @property
    def controls_transaction(self) -> bool:
        """True where it begins or ends one; savepoints do not."""
        first, second = (*self.words, "", "")[:2]
        if first == "rollback":
            return "to" not in self.words
        return first in ("begin", "commit", "end", "abort") or (first, second) in (
            ("start", "transaction"),
            ("prepare", "transaction"),
        )

    @property
    def talks_to_client(self) -> bool:
        """True for a COPY whose rows come from the client, or go there."""
        return self.words[:1] == ("copy",) and bool(_CLIENT.search(self.text))


def end_of_comment(sql: str, position: int) -> int:
    """Where the comment ends that a `/*` just before *position* begins."""
    depth = 1
    while depth and (mark := _COMMENT.search(sql, position)):
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return position if not depth else len(sql)


def split_statements(script: str) -> list[Statement]:
    """The statements of *script*, without their semicolons and what stands between them; [] where there is none."""
    return list(_statements(script))


def _statements(script: str) -> Iterator[Statement]:
    begin: int | None = None
    end = parentheses = blocks = 0
    words: list[str] = []
    for kind, text, position in tokens(script):
        if kind == "sign" and text == ";" and parentheses <= 0 and blocks <= 0:
            if begin is not None:
                yield Statement(script[begin:end], begin, tuple(words))
            begin, parentheses, blocks, words = None, 0, 0, []
            continue
        if begin is None:
            begin = position
        end = position + len(text)
        if kind == "sign":
            parentheses += {"(": 1, ")": -1}.get(text, 0)
        elif kind == "word":
            word = text.lower()
            if len(words) < _HEAD:
                words.append(word)
            # the body of a function that is no literal: BEGIN ATOMIC …; …; END, as psql tells it (psqlscan.l)
            if parentheses == 0 and _makes_routine(words):
                if word == "begin" or (word == "case" and blocks):
                    blocks += 1
                elif word == "end" and blocks:
                    blocks -= 1
    if begin is not None:
        yield Statement(script[begin:end], begin, tuple(words))


def _makes_routine(words: list[str]) -> bool:
    head = words[:1] + (words[3:] if words[1:3] == ["or", "replace"] else words[1:])
    return head[:2] in (["create", "function"], ["create", "procedure"])


def tokens(script: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, position) of all that is neither space nor comment."""
    position = 0
    while token := _TOKEN.match(script, position):
        start, position = position, token.end()
        kind = token.lastgroup or ""
        if kind == "block":
            position = end_of_comment(script, position)
        elif kind not in ("line", "space"):
            yield kind, token[0], start
