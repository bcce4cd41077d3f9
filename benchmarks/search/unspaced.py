"""Words looked for inside texts that have no spaces between words: Chinese and Japanese, and Korean, which has few."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import database as db
from database.document_batches import insert_documents

from ..address import Address
from ..server import execute
from .plan import Plan
from .results import Results, Unspaced, times_of
from .tables import make_documents

LANGUAGES = ("zh", "ja", "ko")
_HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2_500)]
_HIRAGANA = [chr(code) for code in range(0x3042, 0x3094)]
_KATAKANA = [chr(code) for code in range(0x30A2, 0x30F4)]
_HANGUL = [chr(code) for code in range(0xAC00, 0xAC00 + 11_172, 9)]
_LATIN = ("PostgreSQL", "Python", "2024", "API", "v18")
_WORDS = 4_000
_SENTENCES, _SENTENCE_WORDS = (4, 12), (5, 15)


def make_texts(language: str, number: int) -> list[str]:
    """
    So many sections of sentences of made-up words, now and then a Latin one; the same every time.

    The words are 1 to 4 characters long, and by Zipf's law a few of them are everywhere.
    """
    random = Random(language)
    words = [_make_word(random, language) for _ in range(_WORDS)]
    weights = [1 / (rank + 5) for rank in range(_WORDS)]
    between = " " if language == "ko" else ""

    def sentence() -> str:
        drawn = random.choices(words, weights, k=random.randint(*_SENTENCE_WORDS))
        if random.random() < 0.2:
            drawn.insert(random.randrange(len(drawn)), random.choice(_LATIN))
        return between.join(drawn) + ("." if language == "ko" else "。")

    return ["".join(sentence() for _ in range(random.randint(*_SENTENCES))) for _ in range(number)]


def _make_word(random: Random, language: str) -> str:
    length = random.choice((1, 2, 2, 3, 4))
    if language == "zh":
        letters = _HAN
    elif language == "ko":
        letters = _HANGUL
    else:
        letters = random.choice((_HAN, _HIRAGANA, _KATAKANA))
    return "".join(random.choices(letters, k=length))


def sample_words(random: Random, texts: list[str], number: int) -> list[str]:
    """Pieces of 2 to 4 characters from anywhere inside the *texts*: no space, no punctuation, nothing Latin in them."""
    words: list[str] = []
    while len(words) < number:
        text = random.choice(texts)
        length = random.randint(2, 4)
        start = random.randrange(len(text) - length)
        word = text[start : start + length]
        if all(ord(letter) > 0x3040 for letter in word):
            words.append(word)
    return words


async def measure_unspaced(plan: Plan, server: Address, results: Results, progress: Callable[[str], None]) -> None:
    """Each language in a database of its own; what is found is compared with what is in the texts."""
    for language in LANGUAGES:
        progress(f"{plan.unspaced:,} sections of {language}")
        address = await make_documents(server, f"unspaced_{language}")
        async with db.database_lifespan():
            results.unspaced[language] = await _measure_language(plan, address, language)
        db.configure(None)


async def _measure_language(plan: Plan, address: Address, language: str) -> Unspaced:
    texts = make_texts(language, plan.unspaced)
    documents = [
        {"code": str(number), "name": str(number), "content": text, "language": language}
        for number, text in enumerate(texts)
    ]
    await insert_documents(documents)
    await execute(address, "VACUUM ANALYZE")
    await db.refresh_search_index()
    words = sample_words(Random(language), texts, plan.unspaced_words)
    taken, recalls, precisions = [], [], []
    for word in words:
        found = {section["code"] for section in await db.search_sections(word, plan.unspaced)}
        right = {str(number) for number, text in enumerate(texts) if word in text}
        recalls.append(len(found & right) / len(right))
        precisions.append(len(found & right) / len(found) if found else 1.0)
    for word in words:
        began = time.perf_counter()
        await db.search_sections(word, 10)
        taken.append(time.perf_counter() - began)
    return Unspaced(len(words), len(texts), sum(recalls) / len(words), sum(precisions) / len(words), times_of(taken))
