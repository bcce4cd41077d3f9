"""Languages: which text search configuration of PostgreSQL a text or a name of a language asks for; pure."""

from __future__ import annotations

import re

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
