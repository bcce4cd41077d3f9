"""
What a person types into a search box, taken apart.

Words are alternatives, "quoted words" must occur side by side, -words must not occur. Any text whatever is a query:
what means nothing is left out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MOST_WORDS = 100
_LONGEST_WORD = 255  # PostgreSQL indexes words of up to 2,046 bytes
_LONGEST_QUERY = 10_000

_PIECE = re.compile(r'(?P<minus>(?<!\S)-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')

# ISO 639-1 codes of the text search configurations that come with PostgreSQL 15; other languages are not stemmed.
_CONFIGURATIONS = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "da": "danish", "nl": "dutch", "en": "english",
    "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi", "hu": "hungarian",
    "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian", "ne": "nepali", "no": "norwegian",
    "nb": "norwegian", "nn": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
_NAMES = frozenset({*_CONFIGURATIONS.values(), "simple"})


class SearchQuery(NamedTuple):
    """Three texts for `websearch_to_tsquery`: alternatives, what must occur, what must not."""

    words: str
    required: str
    excluded: str


def parse_search(text: str) -> SearchQuery:
    """*text* taken apart; never raises. Three empty strings where it asks for nothing."""
    text = text[:_LONGEST_QUERY].replace("\0", " ").encode(errors="replace").decode()
    words: dict[str, None] = {}
    required: dict[str, None] = {}
    excluded: dict[str, None] = {}
    for piece in list(_PIECE.finditer(text))[:_MOST_WORDS]:
        phrase, word = piece["phrase"], piece["word"]
        # a word may be cut, a phrase with half a word in it would not be found any more
        kept = (phrase if phrase is not None else (word or "")[:_LONGEST_WORD]).strip().lstrip("-")
        if not kept:
            continue
        if piece["minus"]:
            excluded[f'-"{kept}"'] = None
        elif phrase is not None:
            required[f'"{kept}"'] = None
        elif kept.lower() != "or":
            words[f'"{kept}"'] = None
    return SearchQuery(" or ".join(words), " ".join(required), " ".join(excluded))


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
