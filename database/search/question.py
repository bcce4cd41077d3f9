"""A stand-in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_PIECE = re.compile(r'(?P<sign>(?<!\S)[-+])?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


@dataclass(frozen=True, slots=True)
class Question:
    """Terms."""

    alternatives: tuple[str, ...]
    counts: tuple[int, ...]
    demanded: tuple[str, ...]
    excluded: tuple[str, ...]


def parse_question(text: str) -> Question:
    """Terms."""
    text = text[:10_000].replace("\0", " ").encode(errors="replace").decode()
    words: Counter[str] = Counter()
    demanded: dict[str, None] = {}
    excluded: dict[str, None] = {}
    for piece in list(_PIECE.finditer(text))[:100]:
        term = (piece["phrase"] if piece["phrase"] is not None else piece["word"][:255]).strip().lstrip("-+")
        if not term or term.lower() == "or":
            continue
        if piece["sign"] == "-":
            excluded[term] = None
        elif piece["phrase"] is not None or piece["sign"]:
            demanded[term] = None
        else:
            words[term] += 1
    return Question(tuple(words), tuple(words.values()), tuple(demanded), tuple(excluded))
