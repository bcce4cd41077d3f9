"""What was measured, and the arithmetic of it: medians over rounds, ratios within a round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .load import Measure
from .peers import ASYNCPG_NO_RESET, OURS, PGBENCH


class Key(NamedTuple):
    """A work, at a number of callers, by a system."""

    work: str
    callers: int
    system: str


class Ratio(NamedTuple):
    """The median of the ratios of all rounds, the least and the greatest."""

    median: float
    low: float
    high: float


class MemoryRound(NamedTuple):
    """Peak memory with the small and with the tenfold input, in bytes."""

    small: int
    large: int


@dataclass
class Results:
    """All rounds of a run."""

    environment: dict[str, Any]
    plan: dict[str, Any]
    rounds: dict[Key, dict[int, Measure]] = field(default_factory=dict)  # by the number of the round
    memory: dict[str, list[MemoryRound]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # by system, why it took no part
    lost: dict[str, str] = field(default_factory=dict)  # by system, why it took part no longer
    failures: dict[Key, str] = field(default_factory=dict)

    def add(self, key: Key, number: int, measure: Measure) -> None:
        """Note what was measured in the round *number*."""
        self.rounds.setdefault(key, {})[number] = measure

    def speed(self, key: Key) -> float | None:
        """The median of the operations per second; None where nothing was measured or a round failed."""
        if key not in self.rounds or key in self.failures:
            return None
        return statistics.median(speeds_of(self.rounds[key]).values())

    def ratio(self, key: Key, others: Sequence[Key]) -> Ratio | None:
        """How many times faster *key* is than the fastest of *others* in its round; None where it cannot be told."""
        rivals = [speeds_of(self.rounds[other]) for other in others if self.speed(other) is not None]
        if self.speed(key) is None or not rivals:
            return None
        return ratio_of(
            speed / max(rival[number] for rival in rivals if number in rival)
            for number, speed in speeds_of(self.rounds[key]).items()
            if any(number in rival for rival in rivals)
        )

    def others(self, key: Key) -> list[Key]:
        """The same work by the systems in Python other than this package and asyncpg's pool, with or without reset."""
        own = (OURS.name, "asyncpg", ASYNCPG_NO_RESET.name, PGBENCH)
        return [other for other in self.rounds if other[:2] == key[:2] and other.system not in own]

    def as_json(self) -> str:
        """Everything, for a file."""
        return json.dumps(self._as_dict(), indent=1) + "\n"

    def _as_dict(self) -> dict[str, Any]:
        measures = [
            {
                **key._asdict(),
                "median_per_second": self.speed(key),
                "rounds": [{"round": number, **measure._asdict()} for number, measure in rounds.items()],
            }
            for key, rounds in self.rounds.items()
        ]
        return {
            "environment": self.environment,
            "plan": self.plan,
            "measures": measures,
            "memory": {work: [round_._asdict() for round_ in rounds] for work, rounds in self.memory.items()},
            "missing": self.missing,
            "lost": self.lost,
            "failures": [{**key._asdict(), "reason": reason} for key, reason in self.failures.items()],
        }


def speeds_of(rounds: dict[int, Measure]) -> dict[int, float]:
    """Operations per second, by round."""
    return {number: measure.operations / measure.seconds for number, measure in rounds.items()}


def ratio_of(ratios: Iterable[float]) -> Ratio | None:
    """Median and range; None of nothing."""
    values = list(ratios)
    return Ratio(statistics.median(values), min(values), max(values)) if values else None
