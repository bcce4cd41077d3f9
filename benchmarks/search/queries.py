"""What is asked of the generated collections: kinds of queries, by how frequent their words are."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from .generated import make_sections, ranks_of, vocabulary


class Query(NamedTuple):
    """
    Words of which any may occur, or all side by side.

    Where *prefix* or *half* is given, only in documents whose code begins so, or whose metadata says so.
    """

    words: tuple[str, ...]
    is_phrase: bool = False
    prefix: str = ""
    half: str = ""

    @property
    def typed(self) -> str:
        """What a person would type."""
        return f'"{" ".join(self.words)}"' if self.is_phrase else " ".join(self.words)


# in which share of the sections the words of a class are
_RARE, _MIDDLING, _COMMON = (0.0, 0.0002), (0.002, 0.01), (0.1, 0.5)
RARE, MIDDLING, COMMON = "rare word", "middling word", "common word"
THREE, THREE_COMMON, PHRASE = "three words", "three common words", "phrase"
IN_HALF, IN_HUNDREDTH, IN_FEW = "common word in 1/2", "common word in 1/100", "common word in 1/10,000"


def _words(random: Random, share: tuple[float, float], number: int = 1) -> tuple[str, ...]:
    ranks = ranks_of(*share)
    return tuple(vocabulary()[rank] for rank in random.sample(ranks, number))


def _three(random: Random) -> Query:
    return Query(tuple(word for share in (_RARE, _MIDDLING, _COMMON) for word in _words(random, share)))


def _phrase(random: Random) -> Query:
    """Two words that stand side by side in one of the first sections."""
    section = next(make_sections(range(number := random.randrange(100), number + 1)))
    words = section.content.partition(".")[0].lower().split()
    place = random.randrange(len(words) - 1)
    return Query(tuple(words[place : place + 2]), is_phrase=True)


def _in_part(digits: int) -> Callable[[Random], Query]:
    def make(random: Random) -> Query:
        pairs = [f"{random.randrange(100):02}/" for _ in range(digits)]
        return Query(_words(random, _COMMON), prefix="".join(pairs))

    return make


KINDS: dict[str, Callable[[Random], Query]] = {
    RARE: lambda random: Query(_words(random, _RARE)),
    MIDDLING: lambda random: Query(_words(random, _MIDDLING)),
    COMMON: lambda random: Query(_words(random, _COMMON)),
    THREE: _three,
    THREE_COMMON: lambda random: Query(_words(random, _COMMON, 3)),
    PHRASE: _phrase,
    IN_HALF: lambda random: Query(_words(random, _COMMON), half=random.choice("ab")),
    IN_HUNDREDTH: _in_part(1),
    IN_FEW: _in_part(2),
}


def make_queries(kind: str, number: int, seed: int) -> list[Query]:
    """So many queries of a *kind*; the same for the same *seed*."""
    random = Random(f"{kind} {seed}")
    return [KINDS[kind](random) for _ in range(number)]
