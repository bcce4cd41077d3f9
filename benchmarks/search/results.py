"""What was measured, and the arithmetic of it: medians over rounds, ratios within a round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..results import Ratio, ratio_of
from .metrics import Scores

OURS, EXACT, BM25S, TS_RANK, RUM = "ours", "ours, exact", "bm25s", "ts_rank", "RUM"
VECTORS, HYBRID = "MiniLM", "ours + MiniLM"


class Key(NamedTuple):
    """A kind of query by a system, in a generated collection of so many sections."""

    sections: int
    kind: str
    system: str


class Times(NamedTuple):
    """Of the queries of a round, in milliseconds."""

    queries: int
    p50: float
    p95: float


class Agreement(NamedTuple):
    """How the ten best of `search_sections` compare with those of `exact=True`."""

    queries: int
    same: float  # the share of results that belong there
    deviation: float  # the greatest by which a score falls short of the one in its place, as a share of it


class Writes(NamedTuple):
    """Sections a second in a round."""

    ours: float
    plain: float


@dataclass
class Upkeep:
    """What it costs to be found in a collection of some size."""

    fill_seconds: float = 0.0
    refresh_seconds: float = 0.0  # the first time, after the collection was loaded
    again_seconds: float = 0.0  # after the sections of all rounds of writing
    again_sections: int = 0
    sizes: dict[str, int] = field(default_factory=dict)  # bytes by relation, tables with what they keep elsewhere
    writes: list[Writes] = field(default_factory=list)

    def size_of(self, table: str) -> int:
        """The bytes of the tables whose names begin with *table*, and of all their indexes."""
        return sum(size for name, size in self.sizes.items() if name.startswith(table))


class Unspaced(NamedTuple):
    """Words of 2 to 4 characters looked for in texts without spaces."""

    words: int
    sections: int
    recall: float
    precision: float
    times: Times


@dataclass
class Results:
    """All rounds of a run."""

    environment: dict[str, Any]
    plan: dict[str, Any]
    quality: dict[str, dict[str, Scores]] = field(default_factory=dict)  # by collection and system
    silent: dict[str, int] = field(default_factory=dict)  # queries that bm25s has an answer for, and we have none
    speed: dict[Key, list[Times]] = field(default_factory=dict)
    agreement: dict[tuple[int, str], Agreement] = field(default_factory=dict)  # by sections and kind
    upkeep: dict[int, Upkeep] = field(default_factory=dict)  # by sections
    unspaced: dict[str, Unspaced] = field(default_factory=dict)  # by language
    missing: dict[str, str] = field(default_factory=dict)  # by system, why it took no part
    failures: list[str] = field(default_factory=list)

    def median(self, key: Key) -> Times | None:
        """The medians of the rounds; None where nothing was measured."""
        rounds = self.speed.get(key)
        if not rounds:
            return None
        return Times(
            sum(times.queries for times in rounds),
            statistics.median(times.p50 for times in rounds),
            statistics.median(times.p95 for times in rounds),
        )

    def ratio(self, key: Key, other: str) -> Ratio | None:
        """How many times longer the system *other* takes for the same, by p50."""
        pairs = zip(self.speed.get(key, ()), self.speed.get(key._replace(system=other), ()), strict=False)
        return ratio_of(theirs.p50 / own.p50 for own, theirs in pairs)

    def write(self, path: Path) -> None:
        """Everything, as JSON."""
        path.write_text(json.dumps(self._as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _as_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "plan": self.plan,
            "quality": [
                {"collection": name, "system": system, **scores._asdict()}
                for name, systems in self.quality.items()
                for system, scores in systems.items()
            ],
            "unanswered_though_bm25s_answers": self.silent,
            "speed": [
                {**key._asdict(), "median": median._asdict(), "rounds": [times._asdict() for times in rounds]}
                for key, rounds in self.speed.items()
                if (median := self.median(key))
            ],
            "agreement": [
                {"sections": sections, "kind": kind, **agreement._asdict()}
                for (sections, kind), agreement in self.agreement.items()
            ],
            "upkeep": [
                {**vars(upkeep), "sections": sections, "writes": [writes._asdict() for writes in upkeep.writes]}
                for sections, upkeep in self.upkeep.items()
            ],
            "unspaced": [
                {"language": language, **found._asdict(), "times": found.times._asdict()}
                for language, found in self.unspaced.items()
            ],
            "missing": self.missing,
            "failures": self.failures,
        }


def times_of(seconds: Sequence[float]) -> Times:
    """The median and the 95th percentile, the least value that 95 of 100 do not exceed; of one and more *seconds*."""
    ordered = sorted(seconds)
    p95 = ordered[max(0, -(-95 * len(ordered) // 100) - 1)]
    return Times(len(ordered), statistics.median(ordered) * 1000, p95 * 1000)
