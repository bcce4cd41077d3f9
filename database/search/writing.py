"""
Documents and their sections in one statement: what the statements of document.py have in common.

Whoever writes sections holds the lock on their document, and has written the document in the same transaction: so the
sections that a statement sees are those of the version of the document that it sees, and where that is not the newest
version any more (`xmin`), it leaves the document alone and is to be repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .sections import Section


def section_arrays(sections: Sequence[Section]) -> tuple[str, str, str]:
    """The keys, the starts and the headings of *sections*, each an array as PostgreSQL writes it."""
    return (
        "{" + ",".join([section.key for section in sections]) + "}",
        "{" + ",".join([str(section.start) for section in sections]) + "}",
        headings_array(sections),
    )


def headings_array(sections: Sequence[Section]) -> str:
    """The headings of *sections*, an array as PostgreSQL writes it."""
    return "{" + ",".join([_quoted(section.headings) for section in sections]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_UUID, _INTEGER = 2950, 23  # types in PostgreSQL's catalog


def binary_arrays(sections: Sequence[Section]) -> tuple[bytes, bytes]:
    """The keys and the starts of *sections*, each an array in PostgreSQL's binary format."""
    head = struct.Struct(">5i")
    count = len(sections)
    keys = b"".join([b"\0\0\0\x10" + bytes.fromhex(section.key) for section in sections])
    starts = b"".join([b"\0\0\0\4" + section.start.to_bytes(4, "big") for section in sections])
    return head.pack(1, 0, _UUID, count, 1) + keys, head.pack(1, 0, _INTEGER, count, 1) + starts


def state_of(language: str, name: str, content_hash: bytes) -> str:
    """As document_state() in the server."""
    return f"{content_hash.hex()} {language} {name[:1000]}"


def insert_sections(source: str) -> str:
    """
    The INSERT of the sections of the documents of *source*, open for a WHERE.

    That is a FROM item with id, language, name, bytes, section_keys, section_starts and section_headings. *source* is
    read once, and in the order in which it comes. What is written is section_tsvector(), spelled out: for
    sections, which are never too long, that takes two thirds of the time.
    """
    return f"""
        INSERT INTO document_section (document_id, key, language, headings, search)
        SELECT whole.id, piece.key, whole.language, piece.headings,
               whole.title || setweight(to_tsvector(whole.configuration, section_words(piece.headings)), 'B')
                   || to_tsvector(whole.configuration, section_words(section_text(
                          whole.bytes, piece.start,
                          coalesce(whole.section_starts[piece.number + 1], octet_length(whole.bytes)) - piece.start)))
          FROM (SELECT source.*, language::regconfig AS configuration,
                       setweight(to_tsvector(language::regconfig, section_words(left(name, 1000))), 'A') AS title
                  FROM {source} AS source
                OFFSET 0) AS whole
         CROSS JOIN LATERAL unnest(whole.section_keys, whole.section_starts, whole.section_headings)
               WITH ORDINALITY AS piece (key, start, headings, number)
    """


_ADDED = insert_sections("""
    (SELECT written.id, changed.language, changed.name, document_bytes(changed.content) AS bytes,
            changed.section_keys, changed.section_starts, changed.section_headings
       FROM written
       JOIN changed USING (code)
      WHERE changed.recut
     OFFSET 0)
""")
# Common table expressions that bring the sections of existing documents up to date. `changed` has code, old_id (NULL
# for a new document), language and name as they will be, content, the arrays of sections as text, `recut` and
# `same_title`; `written` has id and code of those that were written.
REPLACE_SECTIONS = f"""
    known AS MATERIALIZED (
        SELECT section.id, section.document_id, section.key
          FROM changed
          JOIN document_section AS section ON section.document_id = changed.old_id
         WHERE changed.recut
    ),
    kept AS MATERIALIZED (
        SELECT known.id, known.document_id, known.key
          FROM changed
         CROSS JOIN LATERAL unnest(changed.section_keys) AS piece (key)
          JOIN known ON known.document_id = changed.old_id AND known.key = piece.key
         WHERE changed.same_title
    ),
    gone AS (
        DELETE FROM document_section
         WHERE id IN (SELECT known.id
                        FROM known
                        JOIN written ON written.id = known.document_id
                       WHERE NOT EXISTS (SELECT FROM kept WHERE kept.id = known.id))
    ),
    added AS ({_ADDED}
         WHERE NOT EXISTS (SELECT FROM kept WHERE kept.document_id = whole.id AND kept.key = piece.key)
    )
"""
