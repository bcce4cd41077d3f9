"""Cutting texts into sections, and the sections of stored documents, against a real server."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import database as db
from database import Settings
from database.document_batches import delete_documents, insert_documents, upsert_documents
from database.search.sections import LONGEST, cut_sections, key_of, passage_of

TEXT = "intro\n\n# One\n\nfirst\n\n## Two\n\nsecond\n\n# Three\n\nthird\n"


def cut(text: str) -> list[tuple[str, str]]:
    """(headings, text) of each section."""
    data = text.encode()
    return [(each.headings, data[each.start : each.start + each.length].decode()) for each in cut_sections(data)]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("", [("", "")]),
        ("plain", [("", "plain")]),
        (TEXT, [("", "intro\n\n"), ("One", "# One\n\nfirst\n\n"), ("One > Two", "## Two\n\nsecond\n\n"),
                ("Three", "# Three\n\nthird\n")]),
        ("# One\n\n## Two\n\ntext", [("One > Two", "# One\n\n## Two\n\ntext")]),
        ("---\ntitle: x\n---\n# One\ntext", [("One", "---\ntitle: x\n---\n# One\ntext")]),
        ("\ufeff# One\ntext", [("One", "\ufeff# One\ntext")]),
        ("Title\n=====\na\n\nSub\n---\nb", [("Title", "Title\n=====\na\n\n"), ("Title > Sub", "Sub\n---\nb")]),
        ("# A `b` *c* { #d } ##\nx\n## [E](f)\r\ny", [("A b c", "# A `b` *c* { #d } ##\nx\n"),
                                                    ("A b c > E", "## [E](f)\r\ny")]),
        ("a\n```\n# code\n````\n# One\nb", [("", "a\n```\n# code\n````\n"), ("One", "# One\nb")]),
        ("a\n~~~\n# code", [("", "a\n~~~\n# code")]),
        ("- item\n---\n| a |\n|---|\n\n---\n#hashtag", [("", "- item\n---\n| a |\n|---|\n\n---\n#hashtag")]),
        ("# One\na\n### Deep\nb\n## Two\nc", [("One", "# One\na\n"), ("One > Deep", "### Deep\nb\n"),
                                            ("One > Two", "## Two\nc")]),
    ],
)  # fmt: skip
def test_markdown_is_cut_at_its_headings(text: str, sections: list[tuple[str, str]]) -> None:
    """Each heading begins a section under its path; what is no heading, or has nothing under it, does not."""
    assert cut(text) == sections


def test_the_passage_of_a_section_is_what_people_read() -> None:
    """Without what is shown beside it: its headings and front matter."""
    front = "---\ntitle: x\n---\n"
    assert passage_of(front + "# One\n\n## Two\n\ntext # three\n", is_first=True) == "text # three"
    assert passage_of(front + "text", is_first=False) == front + "text"
    assert passage_of("# One\n", is_first=False) == "# One"
    assert passage_of("#!/bin/sh\ntext", is_first=True) == "#!/bin/sh\ntext"
    assert passage_of("", is_first=True) == ""


@pytest.mark.parametrize("unit", ["word " * 30 + "\n\n", "A sentence of it. ", "word ", "x", "字", "ab\n", "字。"])
def test_long_texts_are_cut_by_size(unit: str) -> None:
    """At the end of a paragraph, else of a line, a sentence, a word; no character is torn apart."""
    text = unit * (20_000 // len(unit.encode()))
    pieces = [piece for _, piece in cut(text)]
    assert "".join(pieces) == text
    assert all(500 < len(piece.encode()) <= LONGEST for piece in pieces[:-1])
    assert all(piece.endswith(unit[-1]) for piece in pieces)


@given(st.text(st.sampled_from("#`~-=.> \t\r\n\ufeffaé字🎉"), max_size=300), st.integers(1, 60))
def test_all_sections_together_are_the_text(text: str, times: int) -> None:
    """Byte for byte, in order, without a gap, none too long, each with a key of its own."""
    data = (text * times).encode()
    sections = cut_sections(data)
    assert b"".join(data[each.start : each.start + each.length] for each in sections) == data
    assert [each.start for each in sections] == [0, *(each.start + each.length for each in sections[:-1])]
    assert all(each.length <= LONGEST for each in sections)
    assert len({each.key for each in sections}) == len(sections)


def test_a_change_leaves_most_sections_as_they_are() -> None:
    """A sentence more at the beginning of a long text without headings changes a few sections, not all behind it."""
    words = random.Random(1)
    paragraphs = [
        " ".join("abcdefgh"[: words.randint(1, 8)] for _ in range(words.randint(20, 150))) for _ in range(400)
    ]
    before = {each.key for each in cut_sections("\n\n".join(paragraphs).encode())}
    paragraphs[3] += " One sentence more."
    after = {each.key for each in cut_sections("\n\n".join(paragraphs).encode())}
    assert len(before) > 50
    assert len(after - before) < 12


def test_a_key_does_not_depend_on_the_space_around_a_text() -> None:
    """Which changes with what stands before and behind; it is the one that `key_of` has for the text alone."""
    first, _ = cut_sections(b"# Tea\n\nhot\n\n\n# Bread\n\nwarm")
    (alone,) = cut_sections(b"# Tea\n\nhot")
    (indented,) = cut_sections(b"\n\n# Tea\n\nhot\n")
    assert first.key == alone.key == indented.key == key_of("Tea", "# Tea\n\nhot\n").hex


# --- stored


_SECTIONS = """
    SELECT section.id, section.headings, section.search::text AS search,
           section_text(document_bytes(content), section_starts[place],
                        coalesce(section_starts[place + 1], octet_length(content)) - section_starts[place]) AS text
      FROM document
     CROSS JOIN LATERAL unnest(section_keys) WITH ORDINALITY AS kept (key, place)
      JOIN document_section AS section ON section.document_id = document.id AND section.key = kept.key
     WHERE code = $1
     ORDER BY place
"""
_STRAY = """
    SELECT count(*)
      FROM document_section AS section
      LEFT JOIN document ON document.id = document_id AND key = ANY (section_keys)
     WHERE document.id IS NULL
"""
_MISSING = """
    SELECT count(*)
      FROM document
     CROSS JOIN LATERAL unnest(section_keys) AS kept (key)
     WHERE NOT EXISTS (SELECT FROM document_section AS s WHERE s.document_id = document.id AND s.key = kept.key)
"""
_UNCUT = (
    "SELECT count(*) FROM document WHERE indexed_state IS DISTINCT FROM document_state(language, name, content_hash)"
)


async def fetch(query: str, *args: Any) -> list[dict[str, Any]]:
    rows = await db.execute_with_retry(query, *args)
    assert isinstance(rows, list)
    return rows


async def check_sections() -> None:
    """Every document is cut, every section that it has is stored once, and no other."""
    for query in (_STRAY, _MISSING, _UNCUT):
        assert await fetch(query) == [{"count": 0}]
    (row,) = await fetch("SELECT (SELECT coalesce(sum(cardinality(section_keys)), 0) FROM document) AS kept, "
                         "(SELECT count(*) FROM document_section) AS stored")  # fmt: skip
    assert row["kept"] == row["stored"]


@pytest.mark.parametrize("write", ["insert", "upsert", "upsert_many", "copy", "update"])
async def test_every_way_to_store_a_document_stores_its_sections(write: str, database: Settings) -> None:
    """Their texts make up the content, whatever the way, and the name is among the words of each."""
    if write == "insert":
        await db.insert_document("Näme", "c", TEXT)
    elif write == "upsert":
        await db.upsert_document("Näme", "c", TEXT)
    elif write == "upsert_many":
        await upsert_documents([{"name": "Näme", "code": "c", "content": TEXT}])
    elif write == "copy":
        await insert_documents([{"name": "Näme", "code": "c", "content": TEXT}])
    else:
        await db.insert_document("Näme", "c", "something else")
        assert await db.update_document_content("c", TEXT)
    sections = await fetch(_SECTIONS, "c")
    assert "".join(section["text"] for section in sections) == TEXT
    assert [section["headings"] for section in sections] == ["", "One", "One > Two", "Three"]
    assert all("'näme':1A" in section["search"] for section in sections)
    await check_sections()
    assert await db.delete_document("c") is True
    assert await fetch("SELECT count(*) FROM document_section") == [{"count": 0}]


@pytest.mark.parametrize("write", ["upsert", "upsert_many", "update"])
async def test_a_change_rewrites_only_the_sections_that_changed(write: str, database: Settings) -> None:
    """The rows of the others stay as they are, also where they have moved."""
    await db.insert_document("n", "c", TEXT)
    before = {section["headings"]: section["id"] for section in await fetch(_SECTIONS, "c")}
    changed = TEXT.replace("first", "a first text that is longer")
    if write == "upsert":
        assert (await db.upsert_document("n", "c", changed))["status"] == "updated"
    elif write == "upsert_many":
        await upsert_documents([{"name": "n", "code": "c", "content": changed}])
    else:
        await db.update_document_content("c", changed)
    sections = await fetch(_SECTIONS, "c")
    after = {section["headings"]: section["id"] for section in sections}
    assert {name for name in before if before[name] != after[name]} == {"One"}
    assert "".join(section["text"] for section in sections) == changed
    await check_sections()


async def test_a_new_name_or_language_rewrites_all_sections_and_metadata_none(database: Settings) -> None:
    """The name is a part of each; metadata of none."""
    await db.insert_document("n", "c", TEXT)
    ids = [section["id"] for section in await fetch(_SECTIONS, "c")]
    await db.upsert_document("n", "c", TEXT, metadata={"a": 1})
    assert [section["id"] for section in await fetch(_SECTIONS, "c")] == ids
    await db.upsert_document("renamed", "c", TEXT)
    sections = await fetch(_SECTIONS, "c")
    assert not {section["id"] for section in sections} & set(ids)
    assert all("'renam'" in section["search"] for section in sections)
    await db.upsert_document("renamed", "c", TEXT, language="simple")
    assert all("'renamed'" in section["search"] for section in await fetch(_SECTIONS, "c"))
    await check_sections()


async def test_what_many_write_at_once_is_consistent(database: Settings) -> None:
    """Upserts, updates and deletions of the same documents from many tasks leave each with its own sections."""

    def text(number: int) -> str:
        return "\n\n".join(f"# H{part}\n\ntext {number % (part + 1)}" for part in range(6))

    async def write(number: int) -> None:
        code = f"c{number % 5}"
        if number % 7 == 0:
            await delete_documents([code])
        elif number % 3 == 0:
            await db.update_document_content(code, text(number))
        elif number % 3 == 1:
            await db.upsert_document(f"n{number % 2}", code, text(number))
        else:
            await upsert_documents([{"name": "n", "code": f"c{n}", "content": text(number + n)} for n in range(5)])

    await asyncio.gather(*(write(number) for number in range(150)))
    assert await fetch(_MISSING) == [{"count": 0}]
    assert await fetch(_UNCUT) == [{"count": 0}]
    await db.refresh_search_index()
    await check_sections()


async def test_documents_that_came_by_plain_sql_are_cut_by_a_refresh(database: Settings) -> None:
    """New ones, and those whose content or name was changed; once, and by several workers at once."""
    await db.insert_document("n", "changed", "old")
    await db.insert_document("n", "renamed", "text")
    async with db.get_db_connection() as conn:
        await conn.execute("INSERT INTO document (code, name, content) SELECT n, n, n || ' word' "
                           "FROM unnest(ARRAY['a', 'b', 'c']) AS n")  # fmt: skip
        await conn.execute("UPDATE document SET content = 'new ö' WHERE code = 'changed'")
        await conn.execute("UPDATE document SET name = 'bridge' WHERE code = 'renamed'")
        await conn.execute("DELETE FROM document WHERE code = 'c'")
    reports = await asyncio.gather(*(db.refresh_search_index() for _ in range(4)))
    assert sum(report["documents"] for report in reports) == 4
    await check_sections()
    assert [found["code"] for found in await db.search_documents("new")] == ["changed"]
    assert [found["code"] for found in await db.search_documents("bridge")] == ["renamed"]
    assert (await db.refresh_search_index())["documents"] == 0


async def test_a_refresh_waits_for_nobody(database: Settings) -> None:
    """A document that somebody else is writing is left to the next time."""
    async with db.get_db_connection() as conn:
        await conn.execute("INSERT INTO document (code, name, content) VALUES ('a', 'a', 'word'), ('b', 'b', 'word')")
    async with db.get_db_transaction() as conn:
        await conn.execute("UPDATE document SET metadata = '{}' WHERE code = 'a'")
        assert (await asyncio.wait_for(db.refresh_search_index(), 30))["documents"] == 1
    assert (await db.refresh_search_index())["documents"] == 1
    await check_sections()


async def test_sections_of_a_document_that_changed_meanwhile_are_no_error(database: Settings) -> None:
    """Until the next refresh, the old words are found, with no text that would be a wrong one."""
    await db.insert_document("n", "c", "ä" * 10 + " wordless")
    async with db.get_db_connection() as conn:
        await conn.execute("UPDATE document SET content = 'é'")
    (found,) = await db.search_documents("wordless")
    assert (found["code"], found["snippet"]) == ("c", "")
    assert (await db.search_sections("wordless"))[0]["text"] == ""


async def test_documents_from_before_there_were_sections_are_cut(empty_database: Settings) -> None:
    """The migration of a database in use: the documents stay as they are, and are found."""
    from database.schema import apply_migration

    await apply_migration("0001")
    async with db.get_db_connection() as conn:
        await conn.execute("INSERT INTO document (code, name, content) SELECT n, 'name', 'word ' || n "
                           "FROM generate_series(1, 200) AS n")  # fmt: skip
    await db.init_document_table()
    assert len(await db.search_documents("word", limit=500)) == 200
    await check_sections()


async def test_a_range_of_a_long_document_comes_back(database: Settings) -> None:
    """Also where the content is so long that it is kept a second time, for ranges."""
    text = "".join(f"# Heading {n}\n\nçontent {n} äöü\n\n" for n in range(12_000))
    await db.insert_document("n", "c", text)
    assert (await fetch("SELECT content_bytes IS NOT NULL AS kept FROM document")) == [{"kept": True}]
    (section,) = await db.search_sections("11777", 1)
    assert section["text"] == "# Heading 11777\n\nçontent 11777 äöü\n\n"
    assert section["position"] == 11_777
    assert section["heading"] == "Heading 11777"
    assert text.encode()[section["start"] :].decode().startswith(section["text"])
