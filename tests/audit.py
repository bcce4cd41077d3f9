"""
`python -m tests.audit`: whether a known vulnerability is in what is installed; part of `make check`.

Ends with code 1 where there is one, and says in one line how much could be looked up: nothing without the index.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_LIMIT = 180.0  # seconds


def audit() -> list[dict[str, Any]] | None:
    """What pip-audit says of each package, None where it could not ask anybody."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner=off", "--format=json"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return packages


def main() -> int:
    """Print the verdict; the exit code."""
    packages = audit()
    known = [package for package in packages or () if "skip_reason" not in package]
    if not known:
        print("pip-audit: not audited, the index of vulnerabilities cannot be reached from here")
        return 0
    bad = [package for package in known if package["vulns"]]
    for package in bad:
        ids = ", ".join(vulnerability["id"] for vulnerability in package["vulns"])
        print(f"pip-audit: {package['name']} {package['version']}: {ids}")
    unknown = len(packages or ()) - len(known)
    print(f"pip-audit: {len(bad)} of {len(known)} packages have known vulnerabilities; {unknown} are not known there")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
