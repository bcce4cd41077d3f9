"""
`python -m benchmarks.install EXTRA`: what an extra of this project needs, or as much of it as can be had here.

Exit code 1 where something is missing; the benchmark runs without it, and names it.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def install(requirements: Sequence[str]) -> dict[str, str]:
    """Install all, or, where that fails, each that can be; the others, with pip's last words."""
    if not _run_pip(*requirements):
        return {}
    return {requirement: reason for requirement in requirements if (reason := _run_pip(requirement))}


def _run_pip(*requirements: str) -> str:
    """Why the *requirements* cannot be installed; nothing where they are."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def main(extra: str) -> int:
    """Install the requirements of *extra* and name those that cannot be."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    own = f"{project['name']}["  # the extras of this project are there already
    requirements = [each for each in project["optional-dependencies"][extra] if not each.startswith(own)]
    missing = install(requirements)
    for requirement, reason in missing.items():
        print(f"cannot be installed, and takes no part: {requirement} ({reason})", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
