"""The front door and the floors of the house."""

from __future__ import annotations

import subprocess
import sys

import database


def test_everything_public_is_exported_in_order() -> None:
    """`__all__` is sorted, complete and true."""
    assert list(database.__all__) == sorted(database.__all__)
    for name in database.__all__:
        assert getattr(database, name) is not None
    public = {name for name in vars(database) if not name.startswith("_")}
    modules = {name for name in public if type(vars(database)[name]).__name__ == "module"} - {"embedded", "repository"}
    assert public - modules == set(database.__all__)


def test_the_extras_are_not_imported_by_the_package() -> None:
    """`import database` needs the core alone: no typer, rich, fastapi, psutil and the like comes along."""
    program = "import sys, database; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for extra in (
        "typer",
        "rich",
        "fastapi",
        "starlette",
        "psutil",
        "yaml",
        "platformdirs",
        "opentelemetry",
        "prometheus_client",
        "celery",
    ):
        assert f"'{extra}'" not in loaded
