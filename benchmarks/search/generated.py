"""
A collection of any size, made fast and always the same: words by Zipf's law, so that a few are in half of all sections.

The n-th word is drawn with a probability in proportion to 1 / (n + SHIFT), as Mandelbrot has it: what would come before
are the words of a language that no index keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from math import log
from random import Random
from typing import NamedTuple
from uuid import UUID

_WORDS = 200_000
_SHIFT = 30
_DRAWN_FROM = 4_000_000
_LENGTHS = (60, 230)  # words of a text; they come to 139 different ones on average
_BLOCK = 500  # sections that are made of one seed

# Stemming leaves these alone, so that a word is a lexeme.
_CONSONANTS = (*"bdfghklmnprtvz", "st", "tr", "pl", "kr", "gl", "br")
_SYLLABLES = [consonant + vowel for consonant, vowel in product(_CONSONANTS, "aou")]


class Section(NamedTuple):
    """A document of one section. Its *code* begins with two digits and a slash, twice: one in 100, one in 10,000."""

    id: UUID
    code: str
    name: str
    content: str
    half: str  # "a" or "b"


@cache
def vocabulary() -> list[str]:
    """All words, the most frequent first."""
    words = ["".join(syllables) for syllables in product(_SYLLABLES, repeat=3)]
    Random(7).shuffle(words)
    return words[:_WORDS]


def _probability(rank: int) -> float:
    """Of the word number *rank*, from 0."""
    return 1 / (rank + 1 + _SHIFT) / log((_WORDS + _SHIFT) / _SHIFT)


@cache
def _urn() -> list[str]:
    """Each word as often as it is probable: drawing from here is faster than drawing by weights."""
    return [word for rank, word in enumerate(vocabulary()) for _ in range(round(_probability(rank) * _DRAWN_FROM))]


def share_of(rank: int) -> float:
    """In what share of the sections the word number *rank*, from 0, is to be expected."""
    return float(1 - (1 - _probability(rank)) ** (sum(_LENGTHS) / 2))


def ranks_of(low: float, high: float) -> range:
    """The ranks of the words that are to be expected in a share of the sections between *low* and *high*."""
    return range(_first_below(high), _first_below(low))


def _first_below(share: float) -> int:
    low, high = 0, _WORDS
    while low < high:
        middle = (low + high) // 2
        if share_of(middle) > share:
            low = middle + 1
        else:
            high = middle
    return low


def make_sections(numbers: range, *, seed: int = 0) -> Iterator[Section]:
    """The sections with these *numbers*, always the same ones; with another *seed*, others."""
    for block in range(numbers.start // _BLOCK, -(-numbers.stop // _BLOCK)):
        random = Random(seed * 1_000_000_007 + block)
        for number in range(block * _BLOCK, (block + 1) * _BLOCK):
            section = _make_section(random, number, seed)
            if number in numbers:
                yield section


def _make_section(random: Random, number: int, seed: int) -> Section:
    words = random.choices(_urn(), k=random.randint(*_LENGTHS))
    code = f"{number % 100:02}/{number // 100 % 100:02}/{seed}/{number}"
    return Section(
        UUID(int=random.getrandbits(128), version=4), code, " ".join(words[:4]), _prose(words), "ab"[number % 2]
    )


def _prose(words: Sequence[str]) -> str:
    """Sentences of a dozen words."""
    sentences = (" ".join(words[start : start + 12]) for start in range(0, len(words), 12))
    return ". ".join(sentence.capitalize() for sentence in sentences) + "."
