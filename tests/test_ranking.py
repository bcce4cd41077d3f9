"""How sections are ranked, with lists of common words and without, against a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

import database as db
from database import Settings
from database.document_batches import delete_documents, insert_documents
from database.search import Question, ranking, word_lists
from database.search.ranking import Wanted

VOCABULARY = [f"word{number}" for number in range(400)]


@pytest.fixture
def small_lists(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lists from a few hundred sections on, so short that much is not in them."""
    monkeypatch.setattr(word_lists, "SECTIONS_FROM", 200)
    monkeypatch.setattr(word_lists, "_LISTED_FROM", 20)
    monkeypatch.setattr(word_lists, "_SEGMENT_FROM", 30)
    monkeypatch.setattr(word_lists, "_SEGMENT", 400)
    monkeypatch.setattr(word_lists, "_SEGMENTS", 3)
    monkeypatch.setattr(word_lists, "_kept", lambda of, _: of // 5)
    monkeypatch.setattr(ranking, "_RESCORED", 30)
    yield


async def store(first: int, last: int) -> None:
    """Documents of one to three sections, whose words are the rarer the later they stand in the vocabulary."""
    weights = [1 / rank for rank in range(1, len(VOCABULARY) + 1)]
    documents = []
    for number in range(first, last):
        words = random.Random(number)
        parts = [
            f"# {words.choice(VOCABULARY)}\n\n{' '.join(words.choices(VOCABULARY, weights, k=words.randint(20, 80)))}\n"
            for _ in range(words.randint(1, 3))
        ]
        documents.append({"name": f"number{number}", "code": f"c{number}", "content": "".join(parts),
                          "metadata": {"fifth": number % 5, "hundredth": number % 100}})  # fmt: skip
    await insert_documents(documents)


def ranks(rows: list[dict[str, Any]]) -> list[float]:
    return [round(row["rank"], 4) for row in rows]


async def without_lists(search_term: str, limit: int = 10, where: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What is found where all sections are looked at, as without lists."""
    arguments_of = ranking.arguments_of

    def without(question: Question, wanted: Wanted, rescored: int, _: bool, configuration: str | None) -> Any:
        return arguments_of(question, wanted, rescored, False, configuration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "arguments_of", without)
        return await db.search_documents(search_term, limit, exact=True, where=where)


QUERIES = ["word1", "word1 word2 word3", "word390", "word0 word399", "word5 word6 -word0", "word39*", "+word2 word0",
           '"word0 word1"', "+word2 +word1", "+word2 word390", "+word390 word0", '"word1 word0" word5', "word0-word2",
           "word2-word380", "+the word1", "word1-word0-word2 -word3"]  # fmt: skip


async def test_ranks_are_those_of_bm25(database: Settings) -> None:
    """Computed here again, from the texts: a word in the title counts three times, one in a heading twice."""
    from math import log

    texts = {"a": ("tea", "tea tea water"), "b": ("x", "water water fire earth"), "c": ("y", "tea fire")}
    for code, (name, text) in texts.items():
        await db.insert_document(name, code, text)
    found = {row["code"]: row["rank"] for row in await db.search_documents("tea water water")}
    lengths = {"a": 2, "b": 4, "c": 3}  # lexemes: a name is one, too
    frequencies = {"a": {"tea": 2 + 3, "water": 1}, "b": {"tea": 0, "water": 2}, "c": {"tea": 1, "water": 0}}
    average = sum(lengths.values()) / 3
    for code, counted in frequencies.items():
        norm = 1.2 * (0.25 + 0.75 * lengths[code] / average)
        idf = log(1 + (3 - 2 + 0.5) / 2.5)
        rank = sum(
            times * idf * 2.2 * counted[word] / (counted[word] + norm) for word, times in (("tea", 1), ("water", 2))
        )
        assert found[code] == pytest.approx(rank, rel=1e-6)


@pytest.mark.usefixtures("database", "small_lists")
async def test_lists_change_nothing_but_the_time() -> None:
    """With exact=True the ranks are those that a look at all sections gives; without, nearly always."""
    await store(0, 600)
    before = {query: await db.search_documents(query, 10) for query in QUERIES}
    report = await db.refresh_search_index()
    assert report["lists"] > 20
    for query in QUERIES:
        exact = await db.search_documents(query, 10, exact=True)
        assert ranks(exact) == pytest.approx(ranks(await without_lists(query)), rel=1e-3)
        assert len(exact) == len(before[query])
        quick = await db.search_documents(query, 10)
        assert len(quick) == len(exact)
        assert sum(ranks(quick)) == pytest.approx(sum(ranks(exact)), rel=0.05)


@pytest.mark.usefixtures("database", "small_lists")
async def test_what_is_new_is_found_at_once_and_what_is_gone_is_not() -> None:
    """Documents that are stored, changed or deleted after the lists were made; also when they become segments."""
    await store(0, 300)
    await db.refresh_search_index()
    best = await db.insert_document("word1", "new", "word1 word1 word1 word1")
    found = await db.search_documents("word1", 1)
    assert found[0]["id"] == best["id"]
    await db.update_document_content("new", "# word1\n\nword1 word1 word1 word1 word1")
    assert (await db.search_documents("word1", 1))[0]["heading"] == "word1"
    assert (await db.search_sections("word1", 3, max_per_document=1))[0]["heading"] == "word1"
    for start in range(300, 540, 20):
        await store(start, start + 20)
        await db.refresh_search_index()
        assert (await db.search_documents("word1", 1))[0]["code"] == "new"
        exact = await db.search_documents("word0 word2", 20, exact=True)
        assert ranks(exact) == pytest.approx(ranks(await without_lists("word0 word2", 20)), rel=1e-3)
    segments = await db.execute_with_retry("SELECT count(*) AS count FROM document_head_segment")
    assert isinstance(segments, list)
    assert segments[0]["count"] < 8  # of 14
    await db.delete_document("new")
    assert (await db.search_documents("word1", 1))[0]["code"] != "new"
    assert len(await db.search_documents("word1", 50)) == 50


@pytest.mark.usefixtures("database", "small_lists")
async def test_lists_wait_for_those_who_write_sections_and_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed late, with ids that were taken early, is found."""
    monkeypatch.setattr(word_lists, "_PATIENCE", 0.3)
    await store(0, 200)
    async with db.get_db_transaction() as conn:
        await db.insert_document("late", "late", "word1 word1 word1 word1 word1", conn=conn)
        await store(200, 300)
        assert (await db.refresh_search_index())["lists"] == 0
    async with db.get_db_transaction() as conn:
        await conn.execute("CREATE TABLE elsewhere ()")
        assert (await db.refresh_search_index())["lists"] > 20
    assert (await db.search_documents("word1", 1))[0]["code"] == "late"


@pytest.mark.usefixtures("database", "small_lists")
async def test_what_the_lists_name_in_vain_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete lists, whose first sections are gone, are excluded, or do not hold the words side by side."""
    monkeypatch.setattr(word_lists, "_kept", lambda of, _: of)
    await store(0, 600)
    assert (await db.refresh_search_index())["lists"] > 20
    best = await db.search_documents("word0 word1", 100)
    await delete_documents([row["code"] for row in best[:60]])
    for query in ("word0 word1", "word0 word1 -word2", "word0-word1", '"word1 word0"', "word0", "word3 word399",
                  "+word0 +word1 word2", "+word1 word399"):  # fmt: skip
        expected = await without_lists(query, 20)
        assert len(await db.search_documents(query, 20)) == len(expected)
        assert ranks(await db.search_documents(query, 20, exact=True)) == pytest.approx(ranks(expected), rel=1e-3)


@pytest.mark.usefixtures("database", "small_lists")
async def test_a_worker_that_has_lost_its_claim_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was about to make belongs to the other one."""
    await store(0, 300)
    settled = word_lists._settled_id

    async def settle_for_long(patience: float) -> int | None:
        await db.execute_with_retry(
            "UPDATE document_head_state SET busy_until = clock_timestamp() + interval '1 hour' RETURNING 1"
        )
        return await settled(patience)

    monkeypatch.setattr(word_lists, "_settled_id", settle_for_long)
    assert (await db.refresh_search_index())["lists"] == 0
    monkeypatch.setattr(word_lists, "_settled_id", settled)
    assert (await db.refresh_search_index())["lists"] == 0  # the other one is still at it
    await db.execute_with_retry("UPDATE document_head_state SET busy_until = NULL RETURNING 1")
    assert (await db.refresh_search_index())["lists"] > 20


@pytest.mark.usefixtures("database", "small_lists")
async def test_a_filter_finds_what_fits_whether_that_is_much_or_little() -> None:
    """The best of all that fit, with lists and without."""
    await store(0, 600)
    for filled in (False, True):
        if filled:
            await db.refresh_search_index()
        for where, count in (({"metadata.fifth": 2}, 120), ({"metadata.hundredth": 7}, 6), ({"code": "c5"}, 1),
                             ({"code": {"$startswith": "c59"}}, 11), ({"metadata.fifth": 9}, 0)):  # fmt: skip
            found = await db.search_documents("word0 word1 word2", 200, where=where)
            everything = await db.search_documents("word0 word1 word2", 1_000, where=where)
            assert len(everything) <= count
            assert len(everything) >= count * 0.8
            assert ranks(found) == ranks(everything)
            codes = {row["code"] for row in everything}
            unfiltered = [row for row in await db.search_documents("word0 word1 word2", 1_000) if row["code"] in codes]
            assert [row["code"] for row in unfiltered] == [row["code"] for row in everything]


@pytest.mark.usefixtures("database")
async def test_what_the_lists_name_is_ranked_in_their_order() -> None:
    """Whatever plan PostgreSQL chooses when it knows the tables, and with constants of real collections."""
    await store(0, 3_000)
    await db.execute_with_retry("ANALYZE document, document_section")
    assert (await db.refresh_search_index())["lists"] > 5
    for where in ({"metadata.fifth": 2}, {"code": {"$startswith": "c"}}, None):
        for query in ("word1 word2", "+word1 +word2", "word1-word2", "word0"):
            expected = await without_lists(query, where=where)
            for exact in (True, False):
                assert ranks(await db.search_documents(query, 10, exact=exact, where=where)) == ranks(expected)


async def test_a_beginning_of_many_words_counts_like_a_word_that_is_often_there(database: Settings) -> None:
    """The more of them, the better, and never less than nothing."""
    words = ["asyncio", "async", "asyncpg", "asynchronous", "asyntax", "asynapsis", "asyndeton"]
    for number in (1, 2, 4, 7):
        await db.insert_document(f"n{number}", f"c{number}", " ".join(words[:number] + ["tea"] * (7 - number)))
    found = {row["code"]: row["rank"] for row in await db.search_documents("asyn*")}
    assert 0 < found["c1"] < found["c2"] <= found["c4"] * 1.1 and found["c7"] > found["c1"]


@pytest.mark.usefixtures("database", "small_lists")
async def test_many_may_refresh_while_others_write_and_search() -> None:
    """Nothing fails, and in the end all that is there is found."""
    await store(0, 200)

    async def write(start: int) -> None:
        for number in range(start, start + 100, 20):
            await store(number, number + 20)

    async def search() -> None:
        for _ in range(20):
            assert len(await db.search_documents("word0", 10)) == 10

    writers = [write(start) for start in range(200, 600, 100)]
    await asyncio.gather(*writers, search(), *(db.refresh_search_index() for _ in range(5)))
    await db.refresh_search_index()
    found = await db.search_documents("word0 word1 word2 word3", 1_000)
    assert len(found) > 590
    assert len({row["code"] for row in found}) == len(found)


@pytest.mark.usefixtures("database")
async def test_where_there_are_few_documents_there_are_no_lists() -> None:
    """A refresh then makes none."""
    await store(0, 50)
    assert (await db.refresh_search_index())["lists"] == 0
    assert await db.execute_with_retry("SELECT count(*) AS count FROM document_head_state") == [{"count": 0}]


@pytest.mark.usefixtures("database")
async def test_sections_of_one_document_are_found_each_by_itself() -> None:
    """As many as asked for, or so many of each document, with all that a pipeline needs."""
    text = "".join(f"# Part {number}\n\nwater {'water ' * number}\n\n" for number in range(5))
    await db.insert_document("Springs", "a", text, metadata={"k": [1]})
    await db.insert_document("Wells", "b", "water once")
    sections = await db.search_sections("water", 3)
    assert [section["code"] for section in sections] == ["a"] * 3
    assert list(sections[0]) == [
        "document_id", "code", "name", "metadata", "language", "source", "created_at", "updated_at", "position",
        "start", "heading", "text", "rank", "snippet",
    ]  # fmt: skip
    assert sections[0]["metadata"] == {"k": [1]}
    assert all(text[each["start"] :].startswith(each["text"]) for each in sections)
    assert "<mark>water</mark>" in sections[0]["snippet"]
    assert {each["code"] for each in await db.search_sections("water", max_per_document=1)} == {"a", "b"}
    assert len(await db.search_sections("water", max_per_document=2)) == 3
    assert await db.search_sections("water", 0) == []
    assert len(await db.search_sections("water", 100)) == 6
    assert await db.search_sections("") == []
    with pytest.raises(db.DocumentError):
        await db.search_sections("water", -1)


@pytest.mark.usefixtures("database")
async def test_a_document_with_very_many_sections_leaves_room_for_others() -> None:
    """However many of its sections are better than all others."""
    await db.insert_document("n", "long", "".join(f"# Water {n}\n\nwater water water\n\n" for n in range(2_000)))
    for number in range(20):
        await db.insert_document("n", f"c{number}", f"there is water in text number {number}, and more than that")
    assert len(await db.search_documents("water", 20)) == 20
