"""
Snippets: the passage of a text that fits a question best, its words marked; pure, in linear time.

Which words have the stems of the question says the server (the SQL function section_marks); where they stand, and what
is written in scripts without spaces, is found here.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from .scripts import LETTERS, SEPARATORS, SIGNS, UNSPACED, fold_letters

_WORD = re.compile(rf"[^\s\x00-/:-@\[-`{{-\x7F{UNSPACED}{SEPARATORS[1:-1]}]+")
_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_UNSPACED_LETTER = re.compile(f"[{LETTERS}]")
_SIGNS = re.compile(f"[{SIGNS}]*")
_SENTENCE_END = re.compile(r"[.!?…:]\s+|[\u3002\uFF01\uFF0E\uFF1F\uFF61]\s*|\s*\n\s*|[|]\s*")
# A letter with what is written onto it: combining signs, Korean vowels and final consonants, half-width voicing marks.
_CLUSTER = re.compile(r"(?s).[\u0300-\u036F\u1160-\u11FF\u3099\u309A\uD7B0-\uD7FB\uFF9E\uFF9F\u0E32\u0EB2]*")
_FEW_MARKS = 30  # that are looked for one by one


class _Span(NamedTuple):
    start: int
    stop: int


def make_snippet(
    text: str,
    marks: Sequence[str],
    terms: Sequence[str],
    *,
    start: str = "<mark>",
    stop: str = "</mark>",
    length: int = 240,
    escape: bool = False,
) -> str:
    """
    The passage of *text* with most of *terms*, these between *start* and *stop*; the beginning where it has none.

    *marks* are the words that section_marks(language, text, terms) says. About *length* characters without *start* and
    *stop*, white space as single spaces, … where something is left out. *escape* makes the text, but not *start* and
    *stop*, safe within HTML.
    """
    spans = _find(text, marks, terms)
    first, last = _best(text, spans, length)
    begin, end = _bounds(text, first, last, length)
    pieces = [] if begin == 0 else ["… "]
    place = begin
    for span in spans:
        if begin <= span.start and span.stop <= end:
            pieces += (
                _shown(text[place : span.start], escape),
                start,
                _shown(text[span.start : span.stop], escape),
                stop,
            )
            place = span.stop
    pieces += [_shown(text[place:end], escape), "" if end == len(text) else " …"]
    return "".join(pieces)


def _shown(text: str, escape: bool) -> str:
    words = f".{html.escape(text) if escape else text}.".split()  # a space at either end stays one
    return " ".join(words)[1:-1]


# --- where the words are


def _find(text: str, marks: Sequence[str], terms: Sequence[str]) -> list[_Span]:
    """The places of *terms* in *text*, in order and apart from each other."""
    folded, origins = _fold(text)
    found = list(_marked(folded, frozenset(marks))) if marks else []
    found += _unspaced(folded, terms)
    if origins is not None:
        found = [_Span(origins[start], max(origins[stop], origins[stop - 1] + 1)) for start, stop in found]
    apart: list[_Span] = []
    for span in sorted(found):
        if apart and span.start <= apart[-1].stop:
            apart[-1] = _Span(apart[-1].start, max(span.stop, apart[-1].stop))
        else:
            apart.append(span)
    return apart


@lru_cache(8192)
def _fold_letter(letter: str) -> str:
    return fold_letters(letter)


def _fold(text: str) -> tuple[str, list[int] | None]:
    """*text* in the form in which it is indexed, and where its characters come from; None where nothing has moved."""
    folded = fold_letters(text)
    if folded is text or folded == text:
        return text, None
    letters = [_fold_letter(letter) for letter in text]
    if "".join(letters) != folded:
        clusters = _CLUSTER.findall(text)
        letters = [fold_letters(cluster) for cluster in clusters]
        places = accumulate(map(len, clusters), initial=0)
        origins = [place for place, letter in zip(places, letters, strict=False) for _ in letter]
    elif len(folded) == len(text):
        return folded, None
    else:
        origins = [place for place, letter in enumerate(letters) for _ in letter]
    return "".join(letters), [*origins, len(text)]


def _marked(folded: str, marks: Collection[str]) -> Iterator[_Span]:
    lowered = folded.lower()
    if len(lowered) != len(folded):
        # PostgreSQL makes a plain i out of the Turkish capital with a dot, Python two characters
        lowered = "".join([letter.lower()[0] for letter in folded])
    if len(marks) > _FEW_MARKS:
        yield from (_Span(*word.span()) for word in _WORD.finditer(lowered) if word[0] in marks)
        return
    for mark in marks:
        place = lowered.find(mark)
        while place >= 0:
            word = _WORD.match(lowered, place)
            end = word.end() if word else place + 1
            if end == place + len(mark) and not (place and _WORD.match(lowered, place - 1)):
                yield _Span(place, end)
            place = lowered.find(mark, end)


def _unspaced(folded: str, terms: Sequence[str]) -> Iterator[_Span]:
    if folded.isascii() or not _UNSPACED_LETTER.search(folded):
        return
    for run in {run for term in terms for run in _UNSPACED_RUN.findall(fold_letters(term))}:
        place = folded.find(run)
        while place >= 0:
            end = place + len(run)
            if signs := _SIGNS.match(folded, end):
                end = signs.end()
            yield _Span(place, end)
            place = folded.find(run, end)


# --- which passage


def _best(text: str, spans: Sequence[_Span], length: int) -> _Span:
    """From the first to the last of the words that stand within *length* and are the most different ones."""
    best, best_score = _Span(0, 0), 0.0
    within: Counter[str] = Counter()
    words = [text[start:stop].casefold()[:5] for start, stop in spans]  # forms of one word begin alike
    first = 0
    for last, span in enumerate(spans):
        within[words[last]] += 1
        while first < last and span.stop - spans[first].start > length:
            within[words[first]] -= 1
            if not within[words[first]]:
                del within[words[first]]
            first += 1
        score = len(within) + 0.1 * min(last - first, 5)
        if score > best_score:
            best, best_score = _Span(spans[first].start, span.stop), score
    return best


def _bounds(text: str, first: int, last: int, length: int) -> _Span:
    """About *length* characters around *first* to *last*, from the beginning of a sentence if one is near."""
    if len(text) <= length:
        return _Span(0, len(text))
    spare = max(0, length - (last - first))
    earliest = max(0, min(first - spare // 2, len(text) - length))
    begin = 0
    if earliest > 0:
        sentence = _SENTENCE_END.search(text, earliest - 1, first)
        begin = sentence.end() if sentence else _word_start(text, earliest, first)
    end = min(len(text), max(last, begin + length))
    if end < len(text):
        end = _word_end(text, end, last)
    return _Span(begin, end)


def _word_start(text: str, place: int, limit: int) -> int:
    """The first place from *place* on, *limit* at the latest, where a word may begin."""
    while place < limit and not _is_boundary(text, place):
        place += 1
    return place


def _word_end(text: str, place: int, limit: int) -> int:
    """The last place up to *place*, *limit* at the earliest, where a word may end."""
    while place > limit and not _is_boundary(text, place):
        place -= 1
    return len(text[:place].rstrip()) if place > limit else place


def _is_boundary(text: str, place: int) -> bool:
    after = text[place]
    if text[place - 1].isspace() or after.isspace():
        return True
    return _UNSPACED_LETTER.match(after) is not None
