"""The words of a section and what finds them: the SQL functions of 0003_search_words.sql, against a real server."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import database as db
from database import Settings
from database.search.scripts import LETTERS, SIGNS, UNSPACED

from .sentences import CHINESE, JAPANESE, KOREAN, THAI

MIXED = ("PostgreSQL入門とPython3の使い方", "用FastAPI写的接口，版本2.0", "한국어Python책", "ใช้PostgreSQLเก็บข้อมูล")

_RUN = re.compile(f"[{UNSPACED}]+")
_LETTER = re.compile(f"[{LETTERS}][{SIGNS}]*")


async def ask(sql: str, *values: object) -> Any:
    async with db.get_db_connection() as conn:
        return await conn.fetchval(sql, *values)


async def words_of(language: str, body: str, title: str = "", headings: str = "") -> str:
    return str(await ask("SELECT section_tsvector($1, $2, $3, $4)::text", language, title, headings, body))


async def is_found(language: str, body: str, *alternatives: str, **terms: list[str]) -> bool:
    return bool(
        await ask(
            "SELECT section_tsvector($1, '', '', $2) @@ section_query($1, $3, $4, $5) IS TRUE",
            language, body, list(alternatives), terms.get("demanded", []), terms.get("excluded", []),
        )
    )  # fmt: skip


async def test_title_headings_and_body_have_weights(database: Settings) -> None:
    """A, B and D, and words are stemmed in the language of the section."""
    assert (
        await words_of("english", "Roses", "Gardens", "Watering > Spring")
        == "'garden':1A 'rose':4 'spring':3B 'water':2B"
    )
    assert await words_of("german", "Häuser") == "'haus':1"
    assert await ask("SELECT section_tsvector('english', NULL, NULL, NULL)::text") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo/bar fastapi.Depends covid-19 v1.2", ["foo", "bar", "fastapi", "depend", "covid", "19", "v1", "2"]),
        ("“Water”—foo…bar «rosa» x·y ‘z’ 💥boom", ["water", "foo", "bar", "rosa", "x", "y", "z", "boom"]),
        ("see http://example.com/path/page.html", ["see", "http", "exampl", "com", "path", "page", "html"]),
        ("<b>bold</b> List<String> x<y; &amp; <script>z", ["b", "bold", "list", "string", "x", "y", "script", "z"]),
        ("data\u00adbase cafe\u0301 \ufb01nd ＡＢＣ", ["databas", "café", "find", "abc"]),
        ("यह है।वह", ["यह", "है", "वह"]),
    ],
)
async def test_every_word_is_one(database: Settings, text: str, words: list[str]) -> None:
    """Paths, hosts, versions, dashes, typographic quotes: what stands between separators is a word of its own."""
    found = await ask("SELECT tsvector_to_array(section_tsvector('english', '', '', $1))", text)
    assert sorted(words) == sorted(found)


@pytest.mark.parametrize("sentences", [CHINESE, JAPANESE, KOREAN, THAI, MIXED, CHINESE + JAPANESE + MIXED])
async def test_any_part_of_an_unspaced_text_is_found_and_nothing_else(
    database: Settings, sentences: tuple[str, ...]
) -> None:
    """Recall and precision are 1.0 for every part of 1 to 6 letters, wherever it begins and ends."""
    runs = [_LETTER.findall(run) for sentence in sentences for run in _RUN.findall(sentence)]
    parts = {"".join(run[i : i + n]) for run in runs for n in range(1, 7) for i in range(len(run) - n + 1)}
    rows = await db.execute_with_retry(
        """
        SELECT part, array_agg(sentence) FILTER (WHERE found) AS sentences
          FROM unnest($1::text[]) AS part, unnest($2::text[]) AS sentence,
               LATERAL (
                   SELECT section_tsvector('english', '', '', sentence) @@ section_term('english', part))
                   AS f (found)
         GROUP BY part
        """,
        sorted(parts), list(sentences),
    )  # fmt: skip
    assert len(rows) == len(parts) > 50
    for row in rows:
        assert isinstance(row, dict)
        # a single letter is the beginning of a word, with whatever sign
        end = "" if len(_LETTER.findall(row["part"])) == 1 else f"(?![{SIGNS}])"
        expected = {sentence for sentence in sentences if re.search(row["part"] + end, sentence)}
        assert set(row["sentences"] or []) == expected, row["part"]


async def test_words_of_several_scripts_in_one(database: Settings) -> None:
    """Latin words next to Chinese or Japanese ones are words; a phrase may hold both."""
    text = "日本語のPostgreSQL入門"
    for term in ("postgresql", "入門", "PostgreSQL入門", "語のPostgreSQL", "日本語のPostgreSQL入門", "のPostgreSQL入"):
        assert await is_found("english", text, term), term
    for term in ("本のPostgreSQL", "PostgreSQL門", "日本PostgreSQL", "postgre"):
        assert not await is_found("english", text, term), term


async def test_terms(database: Settings) -> None:
    """Alternatives are any of them; demanded ones are all of them; excluded ones are none; * is a beginning."""
    text = "A pool keeps connections open. Callers wait for a free connection."
    assert await is_found("english", text, "zebra", "connected")
    assert not await is_found("english", text, "zebra", demanded=["free connections", "lion"])
    assert await is_found("english", text, "zebra", demanded=["free connections", "+pool"])
    assert not await is_found("english", text, "pool", excluded=["free connection"])
    assert await is_found("english", text, "pool", excluded=["connection free"])
    assert await is_found("english", text, "conn*")
    assert await is_found("english", text, "free conn*")
    assert await is_found("english", "theatre", "the*")
    assert not await is_found("english", text, "onn*")


@pytest.mark.parametrize("term", ["", " ", "*", "the", "***", "&|!()", "'", "\\", "…", "💥", "''':*"])
async def test_terms_that_ask_for_nothing(database: Settings, term: str) -> None:
    """Stop words and punctuation are nothing, which finds nothing and disturbs no other term."""
    assert not await is_found("english", "the text", term)
    assert await is_found("english", "the text", term, "text")
    assert await is_found("english", "the text", "text", demanded=[term], excluded=[term])


async def test_lexemes_are_counted(database: Settings) -> None:
    """What ranks: each lexeme once, with how often it was asked for, and whether it is a beginning."""
    rows = await db.execute_with_retry(
        "SELECT * FROM section_lexemes('english', $1, $2)",
        ["pool", "pools", "the", "日本語", "asyn*", r"o\'x", "free pool"], [2, 1, 9, 1, 1, 1, 3],
    )  # fmt: skip
    found = {(row["lexeme"], row["begins"]): int(row["count"]) for row in rows if isinstance(row, dict)}
    assert found == {
        ("pool", False): 6, ("日本", False): 1, ("本語", False): 1, ("asyn", True): 1, ("o", False): 1, ("x", False): 1,
        ("free", False): 3,
    }  # fmt: skip


async def test_texts_that_exceed_a_tsvector_are_cut(database: Settings) -> None:
    """A tsvector holds 1 MB; of a longer text as many words are kept as fit, from its beginning on."""
    source = random.Random(7)
    words = " ".join(f"{source.getrandbits(64):016x}" for _ in range(150_000))
    signs = "".join(chr(0x4E00 + source.randrange(20_000)) for _ in range(400_000))
    for text in (words, signs, "x" * 3_000_000, "a " * 1_000_000, "\ufdfa" * 200_000, "é" * 1_100_000):
        lexemes = await ask("SELECT length(section_tsvector('english', $1, $1, $1))", text)
        assert lexemes > 30_000 or text not in (words, signs)
    assert await is_found("english", words, words[:16])
    assert await is_found("simple", signs, signs[:3])


async def test_indexes_on_the_words_can_be_built_without_the_search_path(database: Settings) -> None:
    """REINDEX, ANALYZE and a restore run with an empty search_path; the functions find each other all the same."""
    async with db.get_db_connection() as conn:
        await conn.execute("""
            CREATE TABLE page (
                body text,
                words tsvector GENERATED ALWAYS AS (section_tsvector('english', '', '', body)) STORED
            );
            CREATE INDEX page_index ON page USING gin (section_tsvector('english', body, '', body));
            INSERT INTO page VALUES ('pool 日本語'), ('naïve “x”');
            SET search_path = '';
            REINDEX INDEX public.page_index;
            ANALYZE public.page;
            INSERT INTO public.page VALUES ('another 한국어');
        """)
        assert await conn.fetchval("SELECT count(*) FROM public.page") == 3


@pytest.fixture
def any_text() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_unicode_text_is_indexed_and_searched(
    database_in_sync_test: Settings, any_text: st.SearchStrategy[str], data: st.DataObject
) -> None:
    """No text is an error, neither as a section nor as a term."""
    signs = st.sampled_from("'\"\\&|!()<>:*-+./ aéß中日の한ก\u0301\u00ad\ufdfaｱﾞ")
    text, term = data.draw(any_text), data.draw(st.text(signs, max_size=30) | any_text)

    async def run() -> None:
        await is_found("english", text, term, demanded=[term[::2]], excluded=[term[1::2]])
        await ask("SELECT count(*) FROM section_lexemes('german', $1, $2)", [term, text], [1, 1])
        await ask("SELECT section_marks('english', $1, $2)", text + term, [term, text])
        await db.close_connection_pool()

    asyncio.run(run())
