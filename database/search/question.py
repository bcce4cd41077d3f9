"""
What a person types into a search box, taken apart; pure.

A term is a word, several side by side ("event loop"), or with * behind it the beginning of words (asyn*): what the SQL
functions section_query and section_lexemes take. Any text whatever is a question: what means nothing is left out. Stop
words stay, because which words are is a matter of the language of the documents; the server leaves them out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .scripts import HAN, HANGUL, HIRAGANA, KATAKANA, LETTERS, SIGNS, UNSPACED, fold_letters

_MOST_TERMS = 100  # of each kind
_LONGEST_TERM = 2_000
_LONGEST_QUESTION = 10_000

_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»「」『』", '"'))
_PIECE = re.compile(r'(?:(?<!\S)(?P<sign>[-+])(?![-+]))?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')
_CONJUNCTIONS = frozenset({"OR", "AND"})  # in small letters, "or" is gold in French

_LONGEST_WORD = 4  # letters in a row; what is longer is a sentence, whose words nobody has marked
_LONGEST_SPELLED_WORD = 12  # where letters stand for sounds, as in Thai, or in Japanese words from abroad
_SCRIPTS = re.compile(f"(?P<unspaced>[{UNSPACED}]+)|[^{UNSPACED}]+")
_PARTS = re.compile(
    f"(?P<han>[{HAN}]+)|(?P<hiragana>[{HIRAGANA}]+)|(?P<katakana>[{KATAKANA}]+)|(?P<hangul>[{HANGUL}]+)"
    f"|(?P<other>[^{HAN}{HIRAGANA}{KATAKANA}{HANGUL}]+)"
)
_WITH_SIGNS = re.compile(f"[{LETTERS}][{SIGNS}]*")
# Korean particles stand behind their noun without a space.
_PARTICLE = re.compile("(?<=..)(?:에서|에게|으로|부터|까지|하고|은|는|이|가|을|를|의|에|도|로|와|과|만)$")


@dataclass(frozen=True, slots=True)
class Question:
    """
    Terms, each once; *counts* says how often each of the *alternatives* was named.

    A text fits that holds all *demanded* terms, or where there are none, any of the *alternatives*, and none of the
    *excluded*.
    """

    alternatives: tuple[str, ...]
    counts: tuple[int, ...]
    demanded: tuple[str, ...]
    excluded: tuple[str, ...]

    def __bool__(self) -> bool:
        """False where it asks for nothing, and so finds nothing."""
        return bool(self.alternatives or self.demanded)

    @property
    def sought(self) -> tuple[str, ...]:
        """What a text that fits may hold: the demanded terms and the alternatives."""
        return tuple(dict.fromkeys(self.demanded + self.alternatives))


def parse_question(text: str) -> Question:
    """
    *text* taken apart; never raises.

    Words are alternatives; "quoted words" and +words are demanded, -words and -"quoted words" excluded. Of a sentence
    without spaces between words, its pairs of letters and the words that its scripts show are the alternatives. The
    first 10,000 characters and 100 terms of a kind are read.
    """
    text = text[:_LONGEST_QUESTION].replace("\0", " ").encode(errors="replace").decode()
    text = fold_letters(text)[:_LONGEST_QUESTION].translate(_QUOTES)
    words: list[str] = []
    demanded: dict[str, None] = {}
    excluded: dict[str, None] = {}
    for piece in _PIECE.finditer(text):
        term = _trimmed(piece["word"] if piece["phrase"] is None else piece["phrase"])
        if not term:
            continue
        if piece["sign"] == "-":
            excluded[term] = None
        elif piece["sign"] or piece["phrase"] is not None:
            demanded[term] = None
        elif term not in _CONJUNCTIONS:
            words.append(term)
    counts: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for word in words:
        for term in _alternatives(word, alone=len(words) == 1):
            counts[spelling.setdefault(term.casefold(), term)] += 1
    alternatives = tuple(counts)[:_MOST_TERMS]
    return Question(
        alternatives,
        tuple(counts[term] for term in alternatives),
        tuple(demanded)[:_MOST_TERMS],
        tuple(excluded)[:_MOST_TERMS],
    )


def _trimmed(text: str) -> str:
    """*text* without what stands around its letters and digits, but with one * behind them; may be empty."""
    start, end = 0, len(text)
    while start < end and unicodedata.category(text[start])[0] in "PSZC":
        start += 1
    while start < end and unicodedata.category(text[end - 1])[0] in "PSZC":
        end -= 1
    if not any(map(str.isalnum, text[start:end])):
        return ""
    begins = text[end:].startswith("*") and not text[end:].startswith("**") and "*" not in text[:start]
    # a word may be cut, a phrase with half a word in it would not be found any more
    if end - start > _LONGEST_TERM:
        end = max(text.rfind(" ", start, start + _LONGEST_TERM), start + _LONGEST_TERM // 2)
    return text[start:end] + "*" * begins


def _alternatives(word: str, *, alone: bool) -> Iterator[str]:
    """The terms that stand for *word*: itself, unless it holds a sentence without spaces."""
    if len(word) <= _LONGEST_WORD:
        yield word
        if not alone and (stem := _PARTICLE.sub("", word)) != word:
            yield stem
        return
    for run in _SCRIPTS.finditer(word):
        if run["unspaced"]:
            yield from _words_of(run[0], alone=alone)
        elif term := _trimmed(run[0]):
            yield term


def _words_of(run: str, *, alone: bool) -> Iterator[str]:
    """The words that the letters *run* may consist of, as far as a change of script or their number shows them."""
    if len(run) <= _LONGEST_WORD:
        yield run
        return
    parts = [(str(part.lastgroup), part[0]) for part in _PARTS.finditer(run)]
    for i, (script, part) in enumerate(parts):
        if script == "hangul":
            stem = _PARTICLE.sub("", part)
            yield from [stem] if alone and len(parts) == 1 and len(stem) <= _LONGEST_SPELLED_WORD else _pairs(stem)
        elif script == "hiragana":  # mostly endings and particles
            yield from _pairs(part) if len(parts) == 1 else ()
        elif script == "han" and len(part) == 1 and i + 1 < len(parts):
            yield part + parts[i + 1][1][0]  # a verb and the first letter of its ending
        elif len(part) <= (_LONGEST_WORD if script == "han" else _LONGEST_SPELLED_WORD):
            yield part
        elif script == "other":
            letters = _WITH_SIGNS.findall(part)
            yield from ("".join(letters[j : j + 3]) for j in range(0, len(letters) - 2, 2))
        else:
            yield from _pairs(part)


def _pairs(run: str) -> Iterator[str]:
    return (run[i : i + 2] for i in range(max(1, len(run) - 1)))
