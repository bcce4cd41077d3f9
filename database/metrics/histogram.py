"""
How long things took, in little memory: counts in buckets whose width grows with the time.

After HdrHistogram (https://hdrhistogram.org): 16 buckets for each doubling, so a percentile is at most 3 % off.
"""

from __future__ import annotations

from math import ceil
from typing import Any

_UNITS = 16_000_000  # a second; what is shorter than a microsecond is rounded
_BITS = 4  # 2 ** 4 buckets for each doubling


class Histogram:
    """Times in seconds: how many, their sum, the shortest, the longest, and their percentiles."""

    __slots__ = ("buckets", "count", "longest", "shortest", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.shortest = float("inf")
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one more time."""
        self.count += 1
        self.total += seconds
        if seconds < self.shortest:
            self.shortest = seconds
        if seconds > self.longest:
            self.longest = seconds
        units = int(seconds * _UNITS)
        shift = units.bit_length() - _BITS - 1
        bucket = (shift << _BITS) + (units >> shift) if shift > 0 else units
        buckets = self.buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Count all times of *other*, too."""
        self.count += other.count
        self.total += other.total
        self.shortest = min(self.shortest, other.shortest)
        self.longest = max(self.longest, other.longest)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def percentile(self, percent: float) -> float:
        """The time, in seconds, that *percent* of all times do not exceed, within 3 %; 0.0 where there are none."""
        rank = max(1, ceil(self.count * percent / 100))
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                begin, end = _bounds(bucket)
                return min(max((begin + end) / 2, self.shortest), self.longest)
        return 0.0

    def count_up_to(self, seconds: float) -> int:
        """How many times are not longer than *seconds*, give or take those of one bucket."""
        return sum(count for bucket, count in self.buckets.items() if _bounds(bucket)[0] < seconds)

    def as_ms(self) -> dict[str, Any]:
        """total_ms, min_ms, mean_ms, p50_ms, p95_ms, p99_ms, max_ms: milliseconds; all 0.0 where there are none."""
        values = {
            "total_ms": self.total,
            "min_ms": self.shortest if self.count else 0.0,
            "mean_ms": self.total / self.count if self.count else 0.0,
            "p50_ms": self.percentile(50),
            "p95_ms": self.percentile(95),
            "p99_ms": self.percentile(99),
            "max_ms": self.longest,
        }
        return {name: round(seconds * 1000, 4) for name, seconds in values.items()}


def _bounds(bucket: int) -> tuple[float, float]:
    """From how many seconds to how many *bucket* reaches."""
    shift = max(0, (bucket >> _BITS) - 1)
    begin = (bucket - (shift << _BITS)) << shift
    return begin / _UNITS, (begin + (1 << shift)) / _UNITS
