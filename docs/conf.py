"""
The site of the documentation: `make docs` builds it with Sphinx from the Markdown pages and the docstrings.

The pages are those that GitHub shows, links and all; what only the site has (the navigation, links from the names of
functions to the reference) is added here. The reference's pages say which names are together; the docstrings, plain
prose with backticks as in Markdown, say the rest.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

from docutils import nodes
from pygments.lexers.sql import PostgresLexer
from sphinx import addnodes
from sphinx.application import Sphinx

import database
from database import Pool, Settings, contrib, embedded, repository, testing

ROOT = Path(__file__).parent.parent

project = "pgdatabase"
author = "the pgdatabase authors"
copyright = author  # noqa: A001 (the name that Sphinx reads)
version = release = database.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/reference/*.rst"]
myst_heading_anchors = 3  # as on GitHub
autodoc_typehints = "none"  # signatures are shown as they stand in the source, see `show_signature`
autodoc_default_options = {"member-order": "bysource"}
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 110
nitpicky = False
language = "en"

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("copy.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2b5d8a", "color-brand-content": "#1f6bb0"},
    "dark_css_variables": {"color-brand-primary": "#8ec1ef", "color-brand-content": "#6db3f2"},
}

NAVIGATION = {
    "Start": ["docs/quick_start", "docs/how_to", "docs/configuration", "docs/command_line"],
    "Guides": [
        *("docs/documents", "docs/search", "docs/chat_history", "docs/ingestion", "docs/repository", "docs/schema"),
        *("docs/connections", "docs/batching", "docs/errors", "docs/fastapi", "docs/celery", "docs/testing"),
        *("docs/metrics", "docs/backup", "docs/security", "docs/embedded_server"),
    ],
    "Reference": ["docs/reference/index"],
    "The project": [
        *("docs/design", "docs/reliability", "docs/benchmarks", "docs/search_benchmark", "MIGRATION_GUIDE"),
        *("CHANGELOG", "CONTRIBUTING"),
    ],
}


def add_navigation(_: Sphinx, docname: str, source: list[str]) -> None:
    """
    Put the tree of pages below the README, where GitHub does not show it; pages that it does not name are guides.

    Below the list of the reference's pages come the names that they have.
    """
    if docname == "docs/reference/index":
        source[0] += "".join(list_names(page) for page in re.findall(r"<(\w+)>", source[0]))
    if docname != root_doc:
        return
    pages = {
        path.relative_to(ROOT).with_suffix("").as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    }
    groups = {caption: [page for page in some if page in pages | {"docs/reference/index"}]
              for caption, some in NAVIGATION.items()}  # fmt: skip
    groups["Guides"] += sorted(pages - {root_doc}.union(*groups.values()))
    for caption, some in groups.items():
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *some, "```", ""])


def list_names(page: str) -> str:
    """A link to a *page* of the reference, and to each name on it."""
    text = (ROOT / "docs" / "reference" / f"{page}.rst").read_text(encoding="utf-8")
    links, module = [], ""
    for directive, name in re.findall(
        r"^\.\. (currentmodule|autofunction|autoclass|autoexception|autodata):: (\S+)", text, re.MULTILINE
    ):
        if directive == "currentmodule":
            module = name
        else:
            links.append(f":py:obj:`{name.rpartition('.')[2]} <{name if '.' in name else f'{module}.{name}'}>`")
    title = text.partition("\n")[0].removeprefix("Reference: ")
    return f"\n:doc:`{title[0].upper() + title[1:]} <{page}>`\n    {' · '.join(links)}\n"


# --- names that become links


def public_names() -> dict[str, str]:
    """Where the reference explains a name: "insert" in `database.repository`."""
    found: dict[str, str] = {}
    modules = [import_module(f"database.contrib.{each.name}") for each in pkgutil.iter_modules(contrib.__path__)]
    frameworks = [module for module in modules if hasattr(module, "__all__")]
    for module in (database, repository, testing, embedded, *frameworks):
        for name in getattr(module, "__all__", ("start", "stop", "shut_down", "status")):
            if not inspect.ismodule(getattr(module, name)):
                found.setdefault(name, f"{module.__name__}.{name}")
    return found


NAMES = public_names()
_CALL = re.compile(r"(?:(?P<module>db|repository|testing|embedded)\.)?(?P<name>[A-Za-z_]\w+)(?:\(.*\))?", re.DOTALL)
# of these, too, pages speak that mean a connection's, or a word of SQL
_ELSEWHERE = frozenset(set(repository.__all__) | {"start", "stop", "status"})


def target_of(code: str, page: str) -> str | None:
    """The name in the reference that inline *code* of a *page* or of a module's docstring speaks of, None if none."""
    match = _CALL.fullmatch(code)
    target = NAMES.get(match["name"]) if match else None
    if match is None or target is None or (code == match["name"] and code in _ELSEWHERE and not is_about(target, page)):
        return None
    return target


def is_about(target: str, page: str) -> bool:
    """True where a *page*, or the docstring of a name, is about the module that the *target* is in."""
    module = target.rpartition(".")[0].rpartition(".")[2]
    return page in (root_doc, f"docs/{module}") or page.startswith(f"database.{module}")


def link_names(app: Sphinx, tree: nodes.document) -> None:
    """Make links of the names of public functions that a Markdown page has in backticks."""
    page = app.env.current_document.docname
    for paragraph in list(tree.findall(nodes.paragraph)):
        if paragraph.astext().startswith("alias of Annotated["):  # which autodoc adds, and which nobody wants to know
            paragraph.parent.remove(paragraph)
    for literal in list(tree.findall(nodes.literal)):
        if isinstance(literal.parent, (nodes.reference, nodes.title, addnodes.pending_xref)) or page == "CHANGELOG":
            continue
        if page.startswith("docs/reference/") or (target := target_of(literal.astext(), page)) is None:
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True, refdoc=page
        )
        literal.replace_self(link)
        link += literal


def find_type(app: Sphinx, _: Any, node: addnodes.pending_xref, text: nodes.Element) -> nodes.Node | None:
    """Where a signature speaks of `Connection`, the reference's entry of that name, in whichever module it is."""
    target = NAMES.get(node["reftarget"].rpartition(".")[2]) or TYPES.get(node["reftarget"])
    if node.get("refdomain") != "py" or target is None:
        return None
    domain = app.env.domains.python_domain
    return domain.resolve_xref(app.env, node["refdoc"], app.builder, "obj", target, node, text)


# types that signatures name and nobody imports; the reference explains them where they are used
TYPES = {
    "Where": "database.repository.Where",
    "Names": "database.repository.Names",
    "Isolation": "database.Isolation",
    "Embed": "database.Embed",
    "ColumnOptions": "database.tables.ColumnOptions",
}


# --- docstrings and signatures


def read_markdown(_: Sphinx, what: str, name: str, obj: object, __: object, lines: list[str]) -> None:
    """Docstrings are Markdown of a plain kind: prose, code in backticks or indented, lists."""
    converted: list[str] = []
    for paragraph in re.split(r"\n{2,}", "\n".join(lines).strip("\n")):
        if paragraph.startswith("    "):
            converted += ["::", "", *paragraph.split("\n"), ""]
        else:
            paragraph = re.sub(r"(?m)^([^\s-].*)\n(- )", r"\1\n\n\2", paragraph)
            converted += [*"".join(convert_inline(paragraph, name)).split("\n"), ""]
    lines[:] = converted
    if obj is Settings:
        lines += list_settings()


def convert_inline(text: str, name: str) -> Iterator[str]:
    """Code that is a public name as a link to it, other code as code, and the rest so that it means itself."""
    for number, piece in enumerate(re.split(r"(?<!`)`([^`]+)`(?!`)", text)):
        if number % 2 == 0:
            # a letter right behind code would keep it from ending there
            piece = re.sub(r"\bdocs/(\w+)\.md\b", r":doc:`/docs/\1`", piece)
            piece = re.sub(r"(\w_)(?!\w)", lambda match: match[1][:-1] + r"\_", piece.replace("\\", r"\\"))
            yield (r"\ " if number and piece[:1].isalnum() else "") + piece
        elif (target := target_of(piece, name)) is not None and target != name:
            yield f":py:obj:`{piece} <{target}>`"
        else:
            yield f"``{piece}``"


def list_settings() -> list[str]:
    """A table of the fields of `Settings`."""
    rows = ["", ".. list-table::", "   :header-rows: 1", "", "   * - Field", "     - Default", "     - Variables"]
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variables = getattr(alias, "choices", [alias])
        shown = "" if field.default is None else f"``{field.default}``"
        rows += [f"   * - ``{name}``", f"     - {shown}", "     - " + ", ".join(f"``{each}``" for each in variables)]
    return rows


class _AsWritten(str):
    """An annotation that a signature shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def show_signature(
    _: Sphinx, what: str, name: str, obj: Any, options: object, shown: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Signatures as they stand in the source, where `Connection | None` is short and says it."""
    if what not in ("function", "method"):
        return ("", "") if what == "exception" or obj in (Pool, Settings) else (shown, returned)  # made by others
    signature, scope = inspect.signature(obj), inspect.unwrap(obj).__globals__
    parameters = [
        each.replace(annotation=_as_written(each.annotation, scope))
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    result = str(_as_written(signature.return_annotation, scope))
    if (item := re.fullmatch(r"AsyncIterator\[(.*)\]", result)) and not inspect.isasyncgenfunction(obj):
        result = f"AbstractAsyncContextManager[{item[1]}]"
    if (item := re.fullmatch(r"Iterator\[(.*)\]", result)) and not inspect.isgeneratorfunction(obj):
        result = f"AbstractContextManager[{item[1]}]"
    return str(inspect.Signature(parameters)), result


def _as_written(annotation: Any, scope: dict[str, Any]) -> Any:
    """*annotation* as the source has it; names of types that the reference does not explain are spelled out."""
    if annotation is inspect.Parameter.empty:
        return annotation

    def spell_out(word: re.Match[str]) -> str:
        value = scope.get(word[0])
        if word[0] in NAMES or word[0] in TYPES or get_origin(value) is None:
            return "AbstractAsyncContextManager[Connection]" if word[0] == "_Acquisition" else word[0]
        return re.sub(r"\b(?:typing|collections\.abc|database(?:\.\w+)*)\.", "", repr(value))

    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _AsWritten(re.sub(r"[\w.]+", spell_out, text))


# --- the whole


def make_front_page(app: Sphinx, exception: Exception | None) -> None:
    """The README is the page of the site's address, too."""
    if exception is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_lexer("sql", PostgresLexer)
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", find_type)
    app.connect("autodoc-process-docstring", read_markdown)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("build-finished", make_front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
