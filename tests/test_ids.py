"""Keys made by the client."""

from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import pytest

from database import ids


def test_ids_are_valid_and_sort_in_the_order_in_which_they_were_made() -> None:
    """Version 7, variant 1, the time in front; strictly growing, also thousands within a millisecond."""
    before = time.time_ns() // 1_000_000
    made = [ids.uuid7() for _ in range(20_000)]
    after = time.time_ns() // 1_000_000
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {(each.version, each.variant) for each in made} == {(7, "specified in RFC 4122")}
    assert all(before <= each.int >> 80 <= after + 10 for each in made)


def test_ids_grow_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps an hour back does not make new keys sort before older ones."""
    first = ids.uuid7()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
    assert first < ids.uuid7() < ids.uuid7()


def test_threads_never_make_the_same_id() -> None:
    """Eight threads, no id twice."""
    made: list[UUID] = []

    def make() -> None:
        made.extend(ids.uuid7() for _ in range(2_000))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


def test_text_that_is_no_uuid() -> None:
    """Is None; what is one, in any of its spellings, is the same key."""
    key = uuid4()
    assert ids.as_uuid(str(key)) == ids.as_uuid(key.hex) == ids.as_uuid(f"{{{key}}}") == key
    for text in ("", "x", "123", "\0" * 32, str(key)[:-1]):
        assert ids.as_uuid(text) is None
