"""
What the package has told its callers about writes, to be compared with what the tables hold.

Every write has a token of its own, which stands in the row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .outcome import Outcome


class Ledger:
    """
    The writes of one kind: *stored* were acknowledged, *refused* raised an error that says that nothing was stored,
    *unknown* raised `OutcomeUnknownError` or were cut short.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.stored: set[str] = set()
        self.refused: set[str] = set()
        self.unknown: set[str] = set()

    def check(self, found: Mapping[str, int] | Iterable[str], outcome: Outcome) -> None:
        """
        Note in *outcome* what is lost, twice, or there although it was refused.

        *found*: how often each token is in the table, or every token as often as it is there.
        """
        there = Counter(found)
        lost = [token for token in self.stored if there[token] == 0]
        twice = [token for token in (*self.stored, *self.refused, *self.unknown) if there[token] > 1]
        ghosts = [token for token in self.refused if there[token] == 1]
        strangers = there.keys() - self.stored - self.refused - self.unknown
        outcome.count("acknowledged", len(self.stored))
        outcome.count("said to be unknown", len(self.unknown))
        outcome.count("of those done", sum(there[token] > 0 for token in self.unknown))
        outcome.count("lost", len(lost))
        outcome.count("twice", len(twice))
        for name, tokens in (
            ("lost", lost), ("stored twice", twice), ("stored although refused", ghosts),
            ("stored and never told", strangers),
        ):  # fmt: skip
            if tokens:
                outcome.breaks(f"{self.kind}: {len(tokens)} {name}, such as {min(tokens)}")
