"""What a typed question is taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import database as db
from database import Settings
from database.search import Question, parse_question
from database.search.scripts import LETTERS, SEPARATORS, SIGNS


@pytest.mark.parametrize(
    ("text", "alternatives", "demanded", "excluded"),
    [
        ("hot water", ["hot", "water"], [], []),
        ('"hot water" +dough -roses -"cut them" tea', ["tea"], ["hot water", "dough"], ["roses", "cut them"]),
        ("“smart quotes” 「接続プール」", [], ["smart quotes", "接続プール"], []),
        ("tea OR coffee AND or", ["tea", "coffee", "or"], [], []),
        ('asyn* +conn* "event lo*" -py*', ["asyn*"], ["conn*", "event lo*"], ["py*"]),
        ("**bold** *it* * foo*bar", ["bold", "it", "foo*bar"], [], []),
        ("--verbose ++x - + -- C++ (a|b) node.js, v1.2!", ["verbose", "x", "C", "a|b", "node.js", "v1.2"], [], []),
        ("Tea tea TEA", ["Tea"], [], []),
        ("ＡＢＣ ＋必要 －不要", ["ABC"], ["必要"], ["不要"]),
        ("日本語 使い方", ["日本語", "使い方"], [], []),
        ("日本語PostgreSQL入門 Tシャツ", ["日本語", "PostgreSQL", "入門", "Tシャツ"], [], []),
        ("全文検索はどうやって使いますか", ["全文検索", "使い"], [], []),
        ("データベースの接続", ["データベース", "接続"], [], []),
        ("如何使用数据库", ["如何", "何使", "使用", "用数", "数据", "据库"], [], []),
        ("데이터베이스를", ["데이터베이스"], [], []),
        ("학교에서 공부", ["학교에서", "학교", "공부"], [], []),
        ("ภาษาไทย", ["ภาษาไทย"], [], []),
        ("การค้นหาข้อความ", ["การ", "รค้น", "นหา", "าข้อ", "อคว", "วาม"], [], []),
        ("", [], [], []), (" ", [], [], []), ('" "', [], [], []), ('-"', [], [], []), ("☃ … * \0", [], [], []),
    ],
)  # fmt: skip
def test_what_is_asked(text: str, alternatives: list[str], demanded: list[str], excluded: list[str]) -> None:
    """Words are alternatives, quoted ones and +words demanded, -words excluded, * is a beginning."""
    question = parse_question(text)
    assert [list(question.alternatives), list(question.demanded), list(question.excluded)] == [
        alternatives, demanded, excluded
    ]  # fmt: skip
    assert bool(question) is bool(alternatives or demanded)


def test_words_are_counted() -> None:
    """How often a word is named matters in long questions."""
    question = parse_question("Tea, green tea, tea! Water?")
    assert dict(zip(question.alternatives, question.counts, strict=True)) == {"Tea": 3, "green": 1, "Water": 1}


def test_sought_are_demanded_terms_and_alternatives() -> None:
    """What a snippet marks: all that the text may hold, each once."""
    assert parse_question('tea "hot water" +tea -roses').sought == ("hot water", "tea")


@pytest.mark.parametrize(
    "text",
    ["a" * 50_000, "a " * 50_000, '"' * 9_999, "日" * 50_000, '"' + "日本" * 9_000, "ก" * 50_000, "\ufdfa" * 10_000,
     " ".join(map(str, range(9_999))), "-x " * 9_999, '"a b" ' * 9_999],
)  # fmt: skip
def test_questions_are_bounded(text: str) -> None:
    """However long the text, a question has at most 100 terms of a kind, of at most 2,000 characters."""
    question = parse_question(text)
    for terms in (question.alternatives, question.demanded, question.excluded):
        assert len(terms) <= 100
        assert all(len(term) <= 2_001 for term in terms)


@given(
    st.text(
        st.characters(exclude_categories=["Cn"]) | st.sampled_from("'\"-+*&|!()<>:\\ aoräж中の한ก\u3000"), max_size=80
    )
)
def test_any_unicode_text_is_a_question(text: str) -> None:
    """Parsing never raises, and what comes out holds nothing that the server would refuse."""
    question = parse_question(text)
    assert isinstance(question, Question)
    assert len(question.alternatives) == len(question.counts)
    for term in (*question.alternatives, *question.demanded, *question.excluded):
        term.encode()
        assert "\0" not in term
        assert any(letter.isalnum() for letter in term)


@pytest.mark.parametrize(
    "text", ['"' + "日本" * 5_000, '"' + "a b " * 2_500, '"' + "a " * 4_000 + '*"', "日本 " * 3_000]
)
async def test_the_longest_questions_are_understood_by_the_server(database: Settings, text: str) -> None:
    """A phrase of thousands of words stays within what PostgreSQL can hold."""
    question = parse_question(text)
    rows = await db.execute_with_retry(
        "SELECT section_query('english', $1, $2, $3)::text AS query",
        list(question.alternatives), list(question.demanded), list(question.excluded),
    )  # fmt: skip
    assert len(rows) == 1


async def test_client_and_server_know_the_same_letters(database: Settings) -> None:
    """The classes of letters are the same on both sides."""
    async with db.get_db_connection() as conn:
        row = await conn.fetchrow("SELECT section_letters(), section_signs(), section_separators()")
    assert tuple(row or ()) == (LETTERS, SIGNS, SEPARATORS)
