"""`make docs`: the site is built without a warning, its links lead somewhere, and its reference explains every name."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import database
from database import contrib, exceptions, repository, testing

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """The places that a page has, where its links lead, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = {""}
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places.add(given.get("id") or "")
        if tag == "a":
            self.links.add(given.get("href") or "")
        self.loaded.add((given.get("href") if tag == "link" else given.get("src")) or "")


def build(directory: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-c",
        "docs",
        "-b",
        "html",
    ]
    run = subprocess.run(
        [*command, "-d", str(directory / "doctrees"), str(ROOT), str(directory / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def public_names() -> Iterator[str]:
    """Everything that users import, by the name that the reference has for it."""
    frameworks = [import_module(f"database.contrib.{each.name}") for each in pkgutil.iter_modules(contrib.__path__)]
    for module in (database, repository, testing, *frameworks):
        for name in getattr(module, "__all__", ()):  # what has none is for the others
            if type(getattr(module, name)).__name__ != "module" and name != "database_lifespan":
                yield f"{module.__name__}.{name}"
    for name, value in vars(exceptions).items():
        if isinstance(value, type) and issubclass(value, exceptions.DatabaseError):
            yield f"database.{name}"
    yield "database.database_lifespan"


def lost_links(pages: dict[Path, Page], site: Path) -> Iterator[str]:
    for path, page in pages.items():
        for link in page.links:
            target, place = urlsplit(link), unquote(urlsplit(link).fragment)
            if target.scheme:
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            if not file.is_file() or (file in pages and place not in pages[file].places):
                yield f"{path.relative_to(site)} links to {link}"


@pytest.mark.timeout(180)
def test_the_site_is_whole(tmp_path: Path) -> None:
    """No warning, no link that leads nowhere, nothing from other servers, and an entry for every public name."""
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'pgdatabase[docs]'")
    build(tmp_path)
    site = tmp_path / "site"
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}

    assert list(lost_links(pages, site)) == []
    assert [loaded for page in pages.values() for loaded in page.loaded if urlsplit(loaded).netloc] == []
    assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", "".join(p.read_text() for p in site.rglob("*.css")))
    assert (site / "searchindex.js").is_file()  # the search box needs no server

    sources = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert [path for path in sources if site / path.relative_to(ROOT).with_suffix(".html") not in pages] == []
    front = (site / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in sources if path.name != "README.md" and f"{path.stem}.html" not in front] == []

    entries = set().union(*(page.places for path, page in pages.items() if path.parent.name == "reference"))
    assert [name for name in public_names() if name not in entries] == []
