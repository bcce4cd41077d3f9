"""
`python -m tests.lowest`: the lower bounds of pyproject.toml as constraints for pip; `make test-lowest` installs those.

Of what the package needs; what only its tests and benchmarks need is theirs.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"
_BOUND = re.compile(r"([\w.-]+)>=([\w.]+)")
_NOT_OURS = ("all", "bench", "dev", "docs")


def constraints() -> list[str]:
    """A line for each dependency, such as "asyncpg==0.32"."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = [own for name, own in project["optional-dependencies"].items() if name not in _NOT_OURS]
    bounds = [_BOUND.match(each) for some in (project["dependencies"], *extras) for each in some]
    return sorted(f"{bound[1]}=={bound[2]}" for bound in bounds if bound is not None)


if __name__ == "__main__":
    print("\n".join(constraints()))
