"""
The program, `python -m database` or `pgdatabase`; this file is what works without the extra `cli`, too.

The commands stand in commands.py, what they do at length in checks.py and demo.py, what they show in views.py, and how
they speak in terminal.py.
"""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich", "click")


def main() -> None:
    """Run the command that `sys.argv` names and exit with its code: 0, 1, 2, or 130 after Ctrl-C."""
    try:
        from .commands import app

        app()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(f"error: the commands need {missing}: pip install 'pgdatabase[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:  # before a command could take care of it
        sys.exit(130)
