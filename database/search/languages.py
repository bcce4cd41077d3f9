"""
Languages: which text search configuration of PostgreSQL a name of a language, or a text, asks for; pure.

A text is known by its most frequent words, as Grefenstette compared them with letter statistics in 1995: from a
sentence on they are as sure as these, and need no model.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from .frequent_words import FREQUENT_WORDS, RARE_LETTERS, SELDOM
from .scripts import UNSPACED

# ISO 639-1 codes of the text search configurations that come with PostgreSQL 15; other languages are not stemmed.
_CONFIGURATIONS = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "da": "danish", "nl": "dutch", "en": "english",
    "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi", "hu": "hungarian",
    "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian", "ne": "nepali", "no": "norwegian",
    "nb": "norwegian", "nn": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
_NAMES = frozenset({*_CONFIGURATIONS.values(), "simple"})


def text_search_configuration(language: str) -> str | None:
    """
    PostgreSQL's text search configuration for *language*, a name ("german") or an ISO code ("de", "pt-BR").

    "simple", which does not stem, for the other codes; None where *language* is neither.
    """
    key = language.strip().lower()
    if key in _NAMES:
        return key
    code = re.split(r"[-_]", key)[0]
    if not re.fullmatch(r"[a-z]{2,3}", code):
        return None
    return _CONFIGURATIONS.get(code, "simple")


READ = 3_000  # characters of a text
_ENOUGH = 600  # characters without code
# What is no prose, and what it begins with: alone, each of them is found in a fraction of the time.
_CODE = (
    ("```", re.compile(r"```.*?(?:\n *```|\Z)", re.DOTALL)),
    ("~~~", re.compile(r"~~~.*?(?:\n *~~~|\Z)", re.DOTALL)),
    ("`", re.compile(r"`[^`\n]*`")),
    ("<", re.compile(r"<[^<>\n]*>")),
    ("](", re.compile(r"\]\([^)\n]*\)")),
    ("http", re.compile(r"https?://\S+")),
)
_WORD = re.compile(r"[^\s\d!-/:-@\[-`{-~\u0080-\u00BF\u060C\u0964\u2000-\u206F]+")  # with signs on letters, as in Hindi
_ASCII_WORD = re.compile(r"[a-z]+")  # the same in a fifth of the time
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_WEIGHT_OF_LETTER = 0.3  # a word of one language alone is 1
_LEAST_EVIDENCE = 0.8
_LEAST_SHARE = 0.08  # of the words; in ordinary sentences it is .25 to .5
_LEAST_LEAD = 1.15


def _weigh() -> Iterator[tuple[str, dict[str, float]]]:
    """How much each of the words speaks for each language: the less, the more languages have it."""
    languages = defaultdict(set)
    for language, words in FREQUENT_WORDS.items():
        for word in words.split():
            languages[word].add(language)
    for word, names in languages.items():
        yield word, {name: (0.75 if name in SELDOM else 1) / len(names) for name in names}


_WORDS = dict(_weigh())
_LETTERS = {letter: names.split() for letters, names in RARE_LETTERS.items() for letter in letters}


def guess_language(text: str) -> str | None:
    """
    PostgreSQL's text search configuration for the language that *text* is written in; None where it does not say.

    "simple" for languages that PostgreSQL does not stem, Chinese, Japanese, Korean and Thai among them. Reads the first
    3,000 characters at most, without Markdown's code. A sentence is enough for most languages, a single word seldom is.
    """
    text = text[:READ]
    for beginning, code in _CODE:
        if beginning in text:
            text = code.sub(" ", text)
    text = text[:_ENOUGH].lower()
    words = Counter((_ASCII_WORD if text.isascii() else _WORD).findall(text))
    # a letter of such a script says about as much as three of an alphabet
    if not text.isascii() and 3 * len(_UNSPACED.findall(text)) > sum(map(len, words.elements())) / 2:
        return "simple"
    known = words.keys() & _WORDS.keys()
    letters = [letter for letter in _NOT_ASCII.findall(text) if letter in _LETTERS]
    if len(known) + len(letters) < 2:
        return None
    evidence: defaultdict[str, float] = defaultdict(float)
    for word in known:
        for language, weight in _WORDS[word].items():
            evidence[language] += words[word] * weight
    for letter in letters:
        for language in _LETTERS[letter]:
            evidence[language] += _WEIGHT_OF_LETTER
    seen = sum(words[word] for word in known) + len(letters)
    best = max(evidence, key=evidence.__getitem__)
    most = evidence.pop(best)
    second = max(evidence.values(), default=0)
    if most < _LEAST_EVIDENCE or most < _LEAST_LEAD * second or seen < _LEAST_SHARE * words.total():
        return None
    return "simple" if best.startswith("-") else best
