"""
Vectors of sections: what is embedded, what stays, what is retried, and how they are searched; against a real server.

The embedding function is a bag of words: each word has a dimension by its hash, so texts are near that share words.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, get_args

import pytest

import database as db
from database import Settings
from database.connect_db import Record
from database.document_batches import delete_documents, insert_documents
from database.search import word_lists
from database.search.hybrid import build_near_search
from database.search.ranking import search_with
from database.search.retrieval import Mode
from database.search.vectors import PROBE

from .extensions import skip_without_pgvector

DIMENSIONS = 48
MODES: tuple[Mode, ...] = ("vector", "hybrid")


def bag_of_words(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()):
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % dimensions] += 1
    return vector


class Embedding:
    """An embedding function that keeps a list of its calls; *refuses* says which texts it raises at."""

    def __init__(self, refuses: Callable[[str], bool] = lambda text: False, *, dimensions: int = DIMENSIONS) -> None:
        self.calls: list[list[str]] = []
        self._refuses = refuses
        self._dimensions = dimensions

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(texts)
        await asyncio.sleep(0)
        if any(self._refuses(text) for text in texts):
            raise RuntimeError("this is not for me")
        return [bag_of_words(text, self._dimensions) for text in texts]

    @property
    def texts(self) -> list[str]:
        """All texts that were embedded, without the sentence that tells models apart."""
        return [text for call in self.calls for text in call if text != PROBE]


@pytest.fixture
async def vectors(database: Settings) -> None:
    """A server with pgvector; the embedded one has it."""
    await skip_without_pgvector()


@pytest.fixture
async def garden(vectors: None) -> None:
    await db.insert_document("Tea", "kitchen/tea", "Green tea wants hot water, black tea boiling water.")
    await db.insert_document("Bread", "kitchen/bread", "Knead flour and water; the dough rests for an hour.")
    await db.insert_document("Roses", "garden/roses", "# Roses\n\nSoak them.\n\n## Care\n\nCut the roses in spring.")


def codes(found: list[dict[str, Any]]) -> list[str]:
    return [section["code"] for section in found]


async def set_in_database(name: str, value: str) -> None:
    """For all connections from now on."""
    async with db.get_db_connection() as conn:
        database = await conn.fetchval("SELECT quote_ident(current_database())")
        await conn.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    await db.close_connection_pool()


async def stored_vectors() -> int:
    rows = await db.execute_with_retry("SELECT count(*) AS count FROM section_vector WHERE embedding IS NOT NULL")
    assert isinstance(rows, list)
    return int(rows[0]["count"]) - 1  # that of the sentence that tells models apart


# --- what is embedded


@pytest.mark.usefixtures("garden")
async def test_sections_are_embedded_once_with_what_they_stand_under() -> None:
    """A second call asks for nothing."""
    embed = Embedding()
    report = await db.embed_missing(embed)
    assert sorted(embed.texts) == [
        "Bread\n\nKnead flour and water; the dough rests for an hour.",
        "Roses\n\n# Roses\n\nSoak them.",
        "Roses > Care\n\n## Care\n\nCut the roses in spring.",
        "Tea\n\nGreen tea wants hot water, black tea boiling water.",
    ]
    assert (report["embedded"], report["failed"], report["missing"], report["error"]) == (4, 0, 0, None)
    calls = len(embed.calls)
    assert (await db.embed_missing(embed))["embedded"] == 0
    assert len(embed.calls) == calls
    assert await db.list_missing_embeddings() == []


@pytest.mark.usefixtures("garden")
async def test_a_change_embeds_only_what_has_changed() -> None:
    """Of a document of two sections, one is changed; the other keeps its vector, as it does under another name."""
    await db.embed_missing(Embedding())
    await db.update_document_content("garden/roses", "# Roses\n\nSoak them.\n\n## Care\n\nCut them in autumn.")
    (missing,) = await db.list_missing_embeddings()
    assert (missing["code"], missing["position"], missing["heading"]) == ("garden/roses", 1, "Roses > Care")
    embed = Embedding()
    assert (await db.embed_missing(embed))["embedded"] == 1
    assert embed.texts == ["Roses > Care\n\n## Care\n\nCut them in autumn."]
    await db.upsert_document("Rosae", "garden/roses", "# Roses\n\nSoak them.\n\n## Care\n\nCut them in autumn.")
    assert await db.list_missing_embeddings() == []


@pytest.mark.usefixtures("garden")
async def test_text_that_moves_keeps_its_vector() -> None:
    """To another document, also where the first one is deleted before, or stays."""
    await db.embed_missing(Embedding())
    await db.delete_document("kitchen/tea")
    await db.insert_document("Green tea", "drinks/tea", "Green tea wants hot water, black tea boiling water.")
    await db.insert_document("Another", "garden/more", "Begun anew.\n\n# Roses\n\n## Care\n\nCut the roses in spring.")
    await db.update_document_content("garden/roses", "# Roses\n\nSoak them.")
    embed = Embedding()
    assert (await db.embed_missing(embed))["embedded"] == 2
    assert embed.texts.count("Another\n\nBegun anew.") == 1
    found = await db.search_sections("", 1, mode="vector", vector=bag_of_words("hot green tea"))
    assert codes(found) == ["drinks/tea"]


@pytest.mark.usefixtures("vectors")
async def test_one_text_in_many_places_is_embedded_once() -> None:
    """In many documents, and many times in one; every place is found, and none of the documents is named in it."""
    again = "# Note\n\nNothing to declare.\n\n"
    for number in range(5):
        await db.insert_document(f"n{number}", f"n{number}", again * 4 + f"# Last\n\nThe end, {number}.")
    embed = Embedding()
    report = await db.embed_missing(embed, batch_size=3)
    assert max(Counter(embed.texts).values()) == 1
    assert (report["embedded"], report["missing"]) == (6, 0)
    found = await db.search_sections(
        "", 100, mode="vector", vector=bag_of_words("Note\n\n# Note\n\nNothing to declare.")
    )
    assert [section["rank"] > 0.99 for section in found] == [True] * 20 + [False] * 5


@pytest.mark.usefixtures("vectors")
async def test_what_has_no_text_is_not_embedded() -> None:
    """Services refuse empty texts; nothing is missing there, and nothing is found."""
    await db.insert_document("empty", "empty", "")
    await db.insert_document("blank", "blank", " \n\n ")
    await db.insert_document("text", "text", "some text")
    embed = Embedding()
    report = await db.embed_missing(embed)
    assert embed.texts == ["text\n\nsome text"]
    assert (report["embedded"], report["missing"]) == (1, 0)
    assert codes(await db.search_sections("", mode="vector", vector=bag_of_words("some"))) == ["text"]


@pytest.mark.usefixtures("garden")
async def test_some_documents_first() -> None:
    """where= confines what is embedded, counted and listed."""
    report = await db.embed_missing(Embedding(), where={"code": "garden/roses"})
    assert (report["embedded"], report["missing"]) == (2, 0)
    assert codes(await db.list_missing_embeddings()) == ["kitchen/bread", "kitchen/tea"]
    assert codes(await db.list_missing_embeddings(where={"name": "Tea"})) == ["kitchen/tea"]
    assert codes(await db.list_missing_embeddings(1)) == ["kitchen/bread"]


@pytest.mark.usefixtures("garden")
async def test_vectors_that_nothing_has_are_swept() -> None:
    """By refresh_search_index(); what moved before keeps its own."""
    await db.embed_missing(Embedding())
    await db.delete_document("kitchen/tea")
    assert await stored_vectors() == 4
    await db.refresh_search_index()
    assert await stored_vectors() == 3
    assert (await db.embed_missing(Embedding()))["embedded"] == 0


# --- what fails


@pytest.mark.usefixtures("garden")
async def test_a_function_that_fails_loses_nothing() -> None:
    """It is asked for a short sentence, too, and then left alone; the next call does what is missing."""
    broken = Embedding(lambda text: True)
    report = await db.embed_missing(broken)
    assert (report["embedded"], report["missing"], report["error"]) == (0, 4, "RuntimeError: this is not for me")
    assert len(broken.calls) == 1
    assert len(await db.list_missing_embeddings()) == 4
    assert (await db.embed_missing(Embedding(), where={"code": "kitchen/tea"}))["embedded"] == 1
    report = await db.embed_missing(broken)
    assert (report["embedded"], report["missing"]) == (0, 3)
    assert len(broken.calls) == 2
    report = await db.embed_missing(Embedding())
    assert (report["embedded"], report["missing"], report["error"]) == (3, 0, None)


@pytest.mark.usefixtures("vectors")
async def test_a_text_that_is_refused_stops_no_other() -> None:
    """It stays missing, and is listed."""
    for number in range(30):
        await db.insert_document("n", f"n{number}", f"text of number {number}")
    picky = Embedding(lambda text: text in ("n\n\ntext of number 7", "n\n\ntext of number 8"))
    report = await db.embed_missing(picky, batch_size=20)
    assert (report["embedded"], report["failed"], report["missing"]) == (28, 2, 2)
    assert report["error"] == "RuntimeError: this is not for me"
    assert codes(await db.list_missing_embeddings()) == ["n7", "n8"]
    assert (await db.embed_missing(Embedding()))["missing"] == 0


@pytest.mark.usefixtures("garden")
async def test_a_function_that_hangs_is_cut_off() -> None:
    """After *timeout*, twice: once for the texts, once for a sentence; what it had is free again."""
    hanging = asyncio.Event()
    calls = 0

    async def embed(texts: list[str]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls > 1:
            await hanging.wait()
        return [bag_of_words(text) for text in texts]

    report = await db.embed_missing(embed, timeout=0.05)
    assert (report["embedded"], report["missing"], report["error"]) == (0, 4, "no answer within 0.05 s")
    assert calls == 3
    assert (await db.embed_missing(Embedding()))["embedded"] == 4


@pytest.mark.usefixtures("vectors")
async def test_a_slow_function_gets_smaller_batches() -> None:
    """What is too much for one call is done by several, and not tried again in that size."""
    for number in range(20):
        await db.insert_document("n", f"n{number}", f"text of number {number}")
    sizes: list[int] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        sizes.append(len(texts))
        if len(texts) > 3:
            await asyncio.Event().wait()
        return [bag_of_words(text) for text in texts]

    report = await db.embed_missing(embed, batch_size=8, timeout=0.5)
    assert (report["embedded"], report["failed"], report["missing"]) == (20, 0, 0)
    assert [size for size in sizes if size > 3] == [8, 4, 4]


@pytest.mark.usefixtures("garden")
async def test_a_cancelled_call_leaves_its_texts_to_others() -> None:
    """When its claim has run out."""
    await db.embed_missing(Embedding(), where={"code": "kitchen/tea"})
    asked = asyncio.Event()

    async def embed(texts: list[str]) -> list[list[float]]:
        if texts != [PROBE]:
            asked.set()
            await asyncio.Event().wait()
        return [bag_of_words(text) for text in texts]

    task = asyncio.create_task(db.embed_missing(embed))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await db.embed_missing(Embedding()))["missing"] == 3
    await db.execute_with_retry("UPDATE section_vector SET busy_until = 'now' WHERE busy_until IS NOT NULL")
    assert (await db.embed_missing(Embedding()))["missing"] == 0


@pytest.mark.usefixtures("garden")
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda texts: [], "0 vectors for 1 texts"),
        (lambda texts: [["x"] for _ in texts], "list of float"),
        (lambda texts: [[float("nan")] for _ in texts], "finite numbers"),
        (lambda texts: None, "TypeError"),
        (lambda texts: [[] for _ in texts], "at least one dimension"),
    ],
)
async def test_answers_that_are_no_vectors(answer: Callable[[list[str]], Any], complaint: str) -> None:
    """They count as failures of the function."""

    async def embed(texts: list[str]) -> Any:
        return answer(texts)

    report = await db.embed_missing(embed)
    assert report["missing"] == 4
    assert complaint in report["error"]


@pytest.mark.usefixtures("garden")
async def test_a_function_that_is_not_async() -> None:
    """The one mistake that is told at once."""
    wrong: Any = lambda texts: [bag_of_words(text) for text in texts]  # noqa: E731
    with pytest.raises(db.DocumentError, match="async function"):
        await db.embed_missing(wrong)


@pytest.mark.usefixtures("garden")
async def test_another_model_is_noticed() -> None:
    """By its dimensions, or because it answers a sentence otherwise; with the way out, and nothing stays claimed."""
    await db.embed_missing(Embedding(), where={"code": "kitchen/tea"})
    with pytest.raises(db.DocumentError, match=r"they have 48 dimensions, not 8; drop_section_vectors\(\)"):
        await db.embed_missing(Embedding(dimensions=8))

    async def reversed_words(texts: list[str]) -> list[list[float]]:
        return [bag_of_words(text[::-1]) for text in texts]

    with pytest.raises(db.DocumentError, match="another model: the same sentence lies"):
        await db.embed_missing(reversed_words)
    with pytest.raises(db.DocumentError, match="48 dimensions, not 8"):
        await db.init_section_vectors(8)
    assert await db.drop_section_vectors() is True
    assert await db.drop_section_vectors() is False
    assert (await db.embed_missing(reversed_words))["embedded"] == 4


@pytest.mark.usefixtures("vectors")
async def test_workers_share_the_work() -> None:
    """Each text is embedded once, whoever of them does it."""
    await insert_documents([{"name": "n", "code": f"n{n}", "content": f"text of number {n}"} for n in range(200)])
    embeds = [Embedding() for _ in range(4)]
    reports = await asyncio.gather(*[db.embed_missing(embed, batch_size=7) for embed in embeds])
    assert sum(report["embedded"] for report in reports) == 200
    assert max(Counter(text for embed in embeds for text in embed.texts).values()) == 1
    assert (await db.embed_missing(Embedding()))["missing"] == 0
    assert await stored_vectors() == 200


@pytest.mark.usefixtures("vectors")
async def test_writers_are_not_disturbed() -> None:
    """Documents are stored, changed and deleted while others embed; in the end every section has its vector."""

    async def write(number: int) -> None:
        for turn in range(15):
            await db.upsert_document("n", f"n{number}", f"# Number {number}\n\n{turn}\n\n# Again\n\n{turn % 3}")
        if number % 3 == 0:
            await db.delete_document(f"n{number}")

    async def embed_on() -> None:
        for _ in range(5):
            report = await db.embed_missing(Embedding(), batch_size=5)
            assert report["error"] is None

    await asyncio.gather(*[write(number) for number in range(12)], embed_on(), embed_on())
    await db.embed_missing(Embedding())
    assert await db.list_missing_embeddings() == []


# --- ingestion


@pytest.mark.usefixtures("vectors")
async def test_ingestion_embeds_what_it_stores(tmp_path: Path) -> None:
    """With counts in its result; a function that fails changes nothing but those."""
    for number in range(3):
        (tmp_path / f"{number}.md").write_text(f"# Number {number}\n\nabout {number}\n")
    broken = Embedding(lambda text: True)
    result = await db.ingest_directory(tmp_path, "a", embed=broken)
    assert (result["inserted"], result["embedded"], result["missing"]) == (3, 0, 3)
    assert result["embedding_error"] == "RuntimeError: this is not for me"
    result = await db.ingest_directory(tmp_path, "a", embed=Embedding())
    assert (result["unchanged"], result["embedded"], result["missing"], result["embedding_error"]) == (3, 3, 0, None)
    (tmp_path / "3.md").write_text("# Number 3\n\nanother\n")
    configs = [{"path": tmp_path / "3.md", "code": "b"}]
    assert "embedded" not in await db.ingest_files_batch(configs)
    assert "embedded" not in await db.ingest_files_batch(configs, dry_run=True, embed=Embedding())
    assert (await db.ingest_files_batch(configs, embed=Embedding()))["embedded"] == 1
    (tmp_path / "3.md").write_text("# Number 3\n\nyet another\n")
    document = await db.read_and_insert_md_file(tmp_path / "3.md", "b", embed=Embedding())
    assert (document["status"], document["embedded"], document["missing"]) == ("updated", 1, 0)
    result = await db.ingest_directory(tmp_path, "c", embed=Embedding(dimensions=3))
    assert (result["inserted"], result["missing"]) == (4, 0)  # the same texts as before


@pytest.mark.usefixtures("garden")
async def test_ingestion_with_another_model_stores_the_texts(tmp_path: Path) -> None:
    """What is wrong stands in the result, for the texts are stored."""
    await db.embed_missing(Embedding())
    (tmp_path / "new.md").write_text("# New\n\nsomething\n")
    result = await db.ingest_directory(tmp_path, embed=Embedding(dimensions=3))
    assert (result["inserted"], result["embedded"], result["missing"]) == (1, 0, None)
    assert "another model" in result["embedding_error"]
    assert codes(await db.list_missing_embeddings()) == ["new"]
    async with db.get_db_transaction() as conn:
        (tmp_path / "more.md").write_text("# More\n\nof it\n")
        result = await db.ingest_directory(tmp_path, embed=Embedding(dimensions=3), conn=conn)
        assert (result["inserted"], result["embedded"]) == (1, 0)
        result = await db.ingest_directory(tmp_path, embed=Embedding(), conn=conn)
        assert (result["unchanged"], result["embedded"], result["missing"]) == (2, 2, 0)
    assert await db.list_missing_embeddings() == []


# --- search


def cosine(one: list[float], other: list[float]) -> float:
    return sumprod(one, other) / sqrt(sumprod(one, one) * sumprod(other, other))


def sumprod(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


@pytest.mark.usefixtures("garden")
async def test_every_mode_finds_what_is_near() -> None:
    """Rank: the score of the words, the cosine, the sum over the places; all else is the same."""
    embed = Embedding()
    await db.embed_missing(embed)
    question = "dough of flour"
    text, vector, both = [
        await db.search_sections(question, mode=mode, embed=embed, where={"code": {"$startswith": "kitchen/"}})
        for mode in get_args(Mode)
    ]
    assert codes(text) == ["kitchen/bread"]
    assert codes(vector) == codes(both) == ["kitchen/bread", "kitchen/tea"]
    expected = cosine(bag_of_words(question), bag_of_words(f"Bread {vector[0]['text']}"))
    assert vector[0]["rank"] == pytest.approx(expected, abs=1e-3)
    assert [section["rank"] for section in both] == pytest.approx([1 / 61 + 1 / 61, 1 / 62])
    for found in (vector[0], both[0]):
        assert found["snippet"] == "Knead <mark>flour</mark> and water; the <mark>dough</mark> rests for an hour."
        assert {**found, "rank": 0} == {**text[0], "rank": 0}
    assert vector[1]["snippet"] == "Green tea wants hot water, black tea boiling water."


@pytest.mark.usefixtures("garden")
async def test_what_must_and_must_not_occur_holds_in_every_mode() -> None:
    """Also for sections that are near."""
    await db.embed_missing(Embedding())
    near = bag_of_words("hot water, boiling water, tea")
    for mode in MODES:
        assert "kitchen/tea" in codes(await db.search_sections("water", mode=mode, vector=near))
        for question, expected in (
            ("water -tea", {"kitchen/bread", "garden/roses"}),
            ("+dough water", {"kitchen/bread"}),
            ('"black tea" water', {"kitchen/tea"}),
            ("-tea", {"kitchen/bread", "garden/roses"}),
        ):
            found = await db.search_sections(question, mode=mode, vector=near)
            assert set(codes(found)) == expected


@pytest.mark.usefixtures("garden")
async def test_questions_without_words_or_vectors() -> None:
    """Words alone, a vector alone, nothing at all."""
    embed = Embedding()
    await db.embed_missing(embed)
    calls = len(embed.calls)
    for mode in MODES:
        assert await db.search_sections(" ", mode=mode, embed=embed) == []
        assert await db.search_sections("tea", 0, mode=mode, vector=[1.0] * DIMENSIONS) == []
        assert len(await db.search_sections("tea", 2**40, mode=mode, vector=[1.0] * DIMENSIONS)) == 4
        found = await db.search_sections("", mode=mode, vector=bag_of_words("tea"))
        assert codes(found)[0] == "kitchen/tea"
        assert len(found) == 4
    assert len(embed.calls) == calls
    nowhere = [0.0] * DIMENSIONS
    assert await db.search_sections("tea", mode="vector", vector=nowhere) == []
    assert codes(await db.search_sections("tea", mode="hybrid", vector=nowhere)) == ["kitchen/tea"]


@pytest.mark.usefixtures("garden")
async def test_wrong_questions() -> None:
    """Each says what would be right."""
    with pytest.raises(db.DocumentError, match="no section has a vector"):
        await db.search_sections("tea", mode="vector", vector=[1.0])
    await db.embed_missing(Embedding())
    for arguments, complaint in (
        ({"mode": "vector"}, "needs embed="),
        ({"mode": "vector", "embed": Embedding(), "vector": [1.0]}, "needs embed="),
        ({"mode": "words"}, "mode is one of text, vector, hybrid"),
        ({"mode": "vector", "vector": [1.0, 2.0]}, "48 dimensions, not 2"),
        ({"mode": "vector", "vector": "x"}, "needs a list of float"),
        ({"mode": "vector", "embed": Embedding(dimensions=2)}, "48 dimensions, not 2"),
        ({"mode": "hybrid", "embed": Embedding(lambda text: True)}, "the embedding function failed: RuntimeError"),
        ({"mode": "hybrid", "vector": [1.0] * DIMENSIONS, "language": "klingon"}, "language="),
        ({"mode": "hybrid", "vector": [1.0] * DIMENSIONS, "limit": -1}, "limit"),
    ):
        with pytest.raises(db.DocumentError, match=complaint):
            await db.search_sections("tea", **arguments)
    with pytest.raises(db.DocumentError, match="1 to 4,000 dimensions"):
        await db.init_section_vectors(4001)


async def store_many(count: int) -> None:
    """Documents of a few words each; one in a thousand is rare, one in three in the group a."""
    words = [f"word{number}" for number in range(300)]
    chance = random.Random(7)
    await insert_documents(
        [
            {
                "name": f"n{number}",
                "code": f"n{number:05}",
                "content": " ".join(chance.choices(words, k=12)),
                "metadata": {"rare": number % 1000 == 0, "group": "abc"[number % 3]},
                "language": "german" if number % 500 == 0 else "english",
            }
            for number in range(count)
        ]
    )
    await db.embed_missing(Embedding(), batch_size=500)
    await db.execute_with_retry("ANALYZE")


@pytest.mark.usefixtures("vectors")
async def test_filters_starve_nothing() -> None:
    """One document in a thousand fits: all of them are found, in the right order; also through the index alone."""
    await store_many(5_000)
    near = bag_of_words("word1 word2 word3")
    for mode in MODES:
        for where, count in ((None, 5_000), ({"metadata.rare": True}, 5), ({"metadata.group": "a"}, 1_667)):
            found = await db.search_sections("word1", 10, mode=mode, vector=near, where=where)
            assert len(found) == min(10, count)
        found = await db.search_sections("", 10, mode=mode, vector=near, language="de")
        assert len(found) == 10
        assert {section["language"] for section in found} == {"german"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("database.search.statement._FEW", -1)
        build_near_search.cache_clear()
        for memory in ("4MB", "64kB"):  # of which the scan of an index takes no more
            await set_in_database("work_mem", memory)
            for limit, where, count in ((10, {"metadata.rare": True}, 5), (60, {"metadata.group": "b"}, 60)):
                found = await db.search_sections("", limit, mode="vector", vector=near, where=where)
                exact = await db.search_sections("", limit, mode="vector", vector=near, where=where, exact=True)
                assert len(found) == len(exact) == count
                assert [section["rank"] for section in exact] == sorted((s["rank"] for s in exact), reverse=True)
                assert sum(s["rank"] for s in found) == pytest.approx(sum(s["rank"] for s in exact), rel=0.05)
    build_near_search.cache_clear()


@pytest.mark.usefixtures("vectors")
async def test_hybrid_finds_what_each_half_finds() -> None:
    """The first of each half is among the first of both; the filter holds in both halves."""
    await store_many(2_000)
    near = bag_of_words("word40 word41 word42 word43")
    for where in (None, {"metadata.group": "c"}):
        text = await db.search_sections("word5 word6", 10, where=where)
        vector = await db.search_sections("word5 word6", 10, mode="vector", vector=near, where=where)
        both = await db.search_sections("word5 word6", 20, mode="hybrid", vector=near, where=where)
        assert set(codes(text)[:5]) | set(codes(vector)[:5]) <= set(codes(both))
        assert [section["rank"] for section in both] == sorted((s["rank"] for s in both), reverse=True)
        if where:
            assert {section["metadata"]["group"] for section in both} == {"c"}


@pytest.mark.usefixtures("vectors")
async def test_one_document_does_not_fill_the_list() -> None:
    """max_per_document= holds, and the list is full nevertheless."""
    long = "".join(f"# Part {number}\n\ntea tea number {number}\n\n" for number in range(150))
    await db.insert_document("Long", "long", long)
    for number in range(8):
        await db.insert_document("Short", f"short{number}", f"some tea and {number} other things")
    await db.embed_missing(Embedding())
    for mode in MODES:
        found = await db.search_sections(
            "tea", 9, mode=mode, vector=bag_of_words("tea tea part number"), max_per_document=1
        )
        assert len(set(codes(found))) == len(found) == 9


@pytest.mark.usefixtures("garden")
async def test_settings_stay_those_of_the_session() -> None:
    """In a transaction of the caller, too; and nothing is left on a connection of the pool."""
    await db.embed_missing(Embedding())
    names = "hnsw.iterative_scan", "hnsw.ef_search", "hnsw.max_scan_tuples"
    ask = "SELECT current_setting($1, true)"
    async with db.get_db_transaction() as conn:
        await conn.execute("SET LOCAL hnsw.ef_search = 77")
        await db.search_sections("tea", mode="hybrid", vector=bag_of_words("tea"), conn=conn)
        assert [await conn.fetchval(ask, name) for name in names] == ["off", "77", "20000"]
        await db.search_sections("tea", mode="vector", vector=bag_of_words("tea"), conn=conn)
        assert [await conn.fetchval(ask, name) for name in names] == ["off", "77", "20000"]
    async with db.get_db_connection() as conn:
        await db.search_sections("tea", mode="hybrid", vector=bag_of_words("tea"), conn=conn)
        assert [await conn.fetchval(ask, name) for name in names] == ["off", "40", "20000"]


@pytest.mark.usefixtures("garden")
async def test_statements_stay_prepared() -> None:
    """Also the longest, of more than the 15 kB from which on asyncpg would forget them."""
    where = {"$or": [{"code": {"$startswith": f"beginning{number}"}} for number in range(30)]}
    await db.embed_missing(Embedding())
    async with db.get_db_connection() as conn:
        for _ in range(2):
            await db.search_sections("tea", mode="hybrid", vector=bag_of_words("tea"), where=where, conn=conn)
        lengths = await conn.fetch("SELECT length(statement) AS length FROM pg_prepared_statements WHERE NOT from_sql")
        assert max(row["length"] for row in lengths) > 15 * 1024


@pytest.mark.usefixtures("garden")
async def test_the_index_is_used_where_there_are_many() -> None:
    """The plan of a search among many vectors scans the index, and not all of them."""
    await db.init_section_vectors(DIMENSIONS)
    await store_many(6_000)
    for mode in ("force_custom_plan", "force_generic_plan"):
        plan = await explain_near_search(mode)
        assert "section_vector_embedding_index" in plan
        assert "Order By: (embedding <=> (InitPlan" in plan  # and not the text of a parameter, read for every row


async def explain_near_search(mode: str) -> str:
    """The plan of a search, with the values of its parameters or without."""
    seen: list[tuple[str, Any]] = []

    async def keep(sql: str, arguments: Any, conn: Any) -> list[Record]:
        seen.append((sql, arguments))
        return await search_with(sql, arguments, conn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("database.search.hybrid.search_with", keep)
        await db.search_sections("", mode="vector", vector=bag_of_words("word1 word2"))
    sql, arguments = seen[0]
    async with db.get_db_connection() as conn:
        await conn.execute(f"SET plan_cache_mode = {mode}")
        return "\n".join([row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *arguments)])


# --- without pgvector


Work = Callable[[], Awaitable[object]]


@pytest.fixture
async def without_pgvector(database: Settings) -> None:
    """A database whose server finds no extension to install: it has none, or is told to look elsewhere for them."""
    async with db.get_db_connection() as conn:
        if not await conn.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"):
            return
        if await conn.fetchval("SELECT current_setting('server_version_num')::integer") < 180000:
            pytest.skip("this server has pgvector, and cannot be told to look elsewhere")
    await set_in_database("extension_control_path", "/nowhere")


@pytest.mark.usefixtures("without_pgvector")
async def test_without_pgvector_the_error_names_it(tmp_path: Path) -> None:
    """And how to install it; texts are searched as ever, and nothing is ingested that was to be embedded."""
    await db.insert_document("Tea", "tea", "green tea")
    (tmp_path / "new.md").write_text("# New\n\nsomething\n")
    calls: list[Work] = [
        lambda: db.embed_missing(Embedding()),
        lambda: db.list_missing_embeddings(),
        lambda: db.init_section_vectors(3),
        lambda: db.search_sections("tea", mode="hybrid", vector=[1.0]),
        lambda: db.ingest_directory(tmp_path, embed=Embedding()),
        lambda: db.ingest_files_batch([{"path": tmp_path / "new.md", "code": "new"}], embed=Embedding()),
        lambda: db.read_and_insert_md_file(tmp_path / "new.md", "new", embed=Embedding()),
    ]
    for call in calls:
        with pytest.raises(db.SchemaError, match=r"extension vector \(pgvector\).*postgresql-\d+-pgvector"):
            await call()
    assert codes(await db.search_sections("tea")) == ["tea"]
    assert (await db.refresh_search_index())["sections"] == 1
    assert await db.get_document_count() == 1


@pytest.mark.usefixtures("garden")
async def test_a_user_who_may_not_create_the_table() -> None:
    """Hears who may, and how."""
    async with db.get_db_connection() as conn:
        await conn.execute("DROP ROLE IF EXISTS reader_of_vectors; CREATE ROLE reader_of_vectors LOGIN PASSWORD 'x'")
        await conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader_of_vectors")
    try:
        async with db.get_db_connection() as conn:
            await conn.execute("SET ROLE reader_of_vectors")
            with pytest.raises(
                db.SchemaError, match=r"CREATE EXTENSION IF NOT EXISTS vector, and init_section_vectors"
            ):
                await db.init_section_vectors(DIMENSIONS, conn=conn)
    finally:
        async with db.get_db_connection() as conn:
            await conn.execute("DROP OWNED BY reader_of_vectors; DROP ROLE reader_of_vectors")


@pytest.mark.usefixtures("vectors")
async def test_the_extension_may_be_anywhere() -> None:
    """In a schema that is not on the search path."""
    async with db.get_db_connection() as conn:
        await conn.execute('CREATE SCHEMA "Ext ra"; CREATE EXTENSION vector SCHEMA "Ext ra"')
    await db.insert_document("Tea", "tea", "green tea")
    embed = Embedding()
    assert (await db.embed_missing(embed))["embedded"] == 1
    for mode in MODES:
        assert codes(await db.search_sections("tea", mode=mode, embed=embed)) == ["tea"]


@pytest.mark.usefixtures("garden")
async def test_many_processes_make_the_table_at_once() -> None:
    """One makes it, the others find it."""
    await asyncio.gather(*[db.init_section_vectors(DIMENSIONS) for _ in range(8)])
    await delete_documents(["kitchen/tea"])
    assert (await db.embed_missing(Embedding()))["embedded"] == 3


@pytest.mark.usefixtures("vectors")
async def test_hybrid_finds_a_phrase_that_the_lists_of_common_words_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of letters that are everywhere, side by side only in a few long sections."""
    monkeypatch.setattr(word_lists, "SECTIONS_FROM", 200)

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        return [[1.0, 0.0] for _ in texts]

    apart = [f"日本 本語 {number}" for number in range(2_500)]
    together = [f"日本語 {' '.join(map(str, range(number, number + 90)))}" for number in range(20)]
    await insert_documents(
        [{"name": "n", "code": str(number), "content": text, "language": "simple"}
         for number, text in enumerate(together + apart)]
    )  # fmt: skip
    assert (await db.refresh_search_index())["lists"] > 1
    await db.embed_missing(embed)
    found = await db.search_sections("日本語", 10, mode="hybrid", embed=embed)
    assert sum(int(section["code"]) < 20 for section in found) >= 5
