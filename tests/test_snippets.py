"""Snippets: the best passage, its words marked, as the server compares words."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import database as db
from database import Settings
from database.search import parse_question
from database.search.scripts import fold_letters
from database.search.snippets import make_snippet

from .sentences import CHINESE, JAPANESE, KOREAN, THAI


async def snippet(text: str, question: str, language: str = "english", **options: Any) -> str:
    sought = list(parse_question(question).sought)
    async with db.get_db_connection() as conn:
        marks = await conn.fetchval("SELECT section_marks($1, $2, $3)", language, text, sought)
    return make_snippet(text, marks, sought, **options)


@pytest.mark.parametrize(
    ("language", "text", "question", "marked"),
    [
        ("english", "Pools keep connections open.", "pool connected", "[Pools] keep [connections] open."),
        ("english", "Use fastapi.Depends and/or a pool.", "depend or", "Use fastapi.[Depends] and/or a pool."),
        ("german", "Viele Häuser stehen am Fluss.", "Haus", "Viele [Häuser] stehen am Fluss."),
        ("english", "asynchronous code, asyncio", "asyn*", "[asynchronous] code, [asyncio]"),
        ("english", "“Water” the roses—water!", "water", "“[Water]” the roses—[water]!"),
        ("english", "Die ﬁnal data\u00adbase ＡＢＣ cafe\u0301", "final database abc café",
         "Die [ﬁnal] [data\u00adbase] [ＡＢＣ] [cafe\u0301]"),
        ("english", "日本語のPostgreSQL入門とPython", "postgresql 入門", "日本語の[PostgreSQL入門]とPython"),
        ("english", "全文検索では、文章を単語に分ける。", "検索 単語", "全文[検索]では、文章を[単語]に分ける。"),
        ("english", "ｶﾞﾗｽの㌔", "ガラス キロ", "[ｶﾞﾗｽ]の[㌔]"),
        ("english", "น้ำและเกลือ", "น้ำ", "[น้ำ]และเกลือ"),
        ("english", "\u1112\u1161\u11ab 책", "한 책", "[\u1112\u1161\u11ab] [책]"),
        ("english", "a\1b\2 pool \1 pool 日\1本", "pool 本", "a\1b\2 [pool] \1 [pool] 日\1[本]"),
        ("english", "<b>pool</b> &amp; <script>List<Pool>", "pool", "<b>[pool]</b> &amp; <script>List<[Pool]>"),
        ("english", "the end", "the", "the end"),
        ("english", "", "pool", ""),
    ],
)  # fmt: skip
async def test_words_are_marked(database: Settings, language: str, text: str, question: str, marked: str) -> None:
    """What the server finds is marked as it stands in the text, in whatever form, and nothing else is."""
    assert await snippet(text, question, language, start="[", stop="]") == marked


async def test_the_best_passage_is_shown(database: Settings) -> None:
    """Where most of the words are near each other; from the beginning of a sentence; … where something is left out."""
    filler = "Nothing of that matters here, not at all. " * 20
    text = filler + "An event is rare. " + filler + "Here an event loop runs tasks. Another sentence. " + filler
    found = await snippet(text, "event loop tasks", length=100)
    assert "an <mark>event</mark> <mark>loop</mark> runs <mark>tasks</mark>." in found
    assert found.startswith("… ")
    assert found.endswith(" …")
    assert len(found) < 100 + 3 * len("<mark></mark>") + 5
    assert (await snippet(text, "zebra", length=50)) == "Nothing of that matters here, not at all. Nothing …"


@pytest.mark.parametrize(
    ("sentences", "word"), [(CHINESE, "玫瑰"), (JAPANESE, "小麦粉"), (KOREAN, "밀가루"), (THAI, "กุหลาบ")]
)
async def test_passages_of_unspaced_texts(database: Settings, sentences: tuple[str, ...], word: str) -> None:
    """A word from inside a long text without spaces is marked, in its sentence."""
    found = await snippet("".join(sentences[:3] * 20 + sentences), word, length=80)
    assert f"<mark>{word}</mark>" in found
    assert len(found) <= 80 + 20 * len("<mark></mark>")


async def test_html_is_escaped_on_request(database: Settings) -> None:
    """The text is safe, the marks are what was given."""
    found = await snippet("<script>x</script> & a pool", "pool", start='<em class="hit">', stop="</em>", escape=True)
    assert found == '&lt;script&gt;x&lt;/script&gt; &amp; a <em class="hit">pool</em>'


async def test_marks_by_language(database: Settings) -> None:
    """Stems that begin otherwise than their words are seen, too."""
    for language, text, question in (
        ("german", "[Äpfel] und [Häuser]", "Apfel Haus"), ("russian", "[Ёлки] и [дома]", "елка дом"),
        ("english", "[Dying] [skies]", "die sky"), ("greek", "Οι [άνθρωποι]", "άνθρωπος"),
        ("indonesian", "[Membaca] buku", "baca"), ("french", "Les [élèves] [étudiés]", "élève étudier"),
        ("simple", "[İstanbul] [ÉCOLE]", "İstanbul école"), ("spanish", "[Canción] [árboles]", "canciones árbol"),
    ):  # fmt: skip
        plain = text.replace("[", "").replace("]", "")
        assert await snippet(plain, question, language, start="[", stop="]") == text


_PIECES = st.sampled_from(
    ["pool", "Pools", "connection", " ", "\n", ".", "。", "日本", "本", "한국", "ก็น้ำ", "ﬁn", "e\u0301", "\u00ad",
     "\u0301", "<b>", "</b>", "&amp;", "\1", "\2", "ｶﾞ", "\ufdfa", "💥", "foo/bar.baz-1", "́", "\u1112\u1161", "'", "\\"]
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(_PIECES | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)),
    question=st.lists(_PIECES, max_size=6).map(" ".join),
    length=st.integers(1, 60),
)
def test_a_snippet_is_a_passage_of_the_text(
    database_in_sync_test: Settings, text: list[str], question: str, length: int
) -> None:
    """Whatever the text and the question: without the marks it is a part of the text."""
    whole = "".join(text)

    async def run() -> str:
        found = await snippet(whole, question, start="\ue000", stop="\ue001", length=length)
        await db.close_connection_pool()
        return found

    shown = asyncio.run(run())
    assert len(re.findall("\ue000[^\ue000\ue001]+\ue001", shown)) == shown.count("\ue000") - whole.count("\ue000")
    plain = re.sub("[\ue000\ue001]", "", shown).removeprefix("… ").removesuffix(" …")
    assert plain in re.sub(r"\s+", " ", whole) or "\ue000" in whole or "\ue001" in whole or "…" in whole


@pytest.mark.parametrize("text", ["\u1112\u1161\u11ab", "ｶﾞ", "น้ำ", "ﬁ", "e\u0301", "한", "日本"])
async def test_letters_are_folded_as_on_the_server(database: Settings, text: str) -> None:
    """The form that the client compares is the one in the index."""
    async with db.get_db_connection() as conn:
        words = await conn.fetchval("SELECT section_words($1)", text)
    assert fold_letters(text).startswith(words.split()[0])
