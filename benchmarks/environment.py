"""On what it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe_environment(
    settings: dict[str, str], file_system: str, distributions: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The machine, the server's *settings*, and the versions of the *distributions* of each system."""
    return {
        "cpu": _cpu(),
        "cores": count_cores(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "event_loop": "asyncio",
        "file_system": file_system,
        "server": settings,
        "packages": {name: _versions(names) for name, names in distributions.items()},
        "commit": _commit(),
    }


def count_cores() -> int:
    """The cores that this process, and what it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    found = {}
    for distribution in distributions:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "not installed"
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
