"""A folder of Markdown files to ingest: made up and always the same, or somebody's own."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .operations import File
from .words import make_sentences

_FILES_PER_FOLDER = 100
_AVERAGE_SECTIONS = 5  # makes files of some 7.5 kB, as those of a documentation are


def write_corpus(folder: Path, number: int) -> None:
    """Write *number* Markdown files with front matter, headings, lists and code into folders below *folder*."""
    random = Random(1)
    sentences = make_sentences(random, 20_000)
    for index in range(number):
        path = folder / f"part-{index // _FILES_PER_FOLDER:03}" / f"page-{index:05}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_make_page(random, sentences, index), encoding="utf-8")


def find_files(folder: Path) -> list[Path]:
    """The Markdown files below *folder*, in order; no hidden ones, no links."""
    return sorted(
        path
        for path in folder.rglob("*.md")
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_corpus(folder: Path) -> list[File]:
    """The same files in memory, for those who are spared reading."""
    paths = find_files(folder)
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [
        File(str(path.relative_to(folder).with_suffix("")), path.stem, text)
        for path, text in zip(paths, texts, strict=True)
    ]


def _make_page(random: Random, sentences: list[str], index: int) -> str:
    title = random.choice(sentences).rstrip(".")
    front_matter = f"---\ntitle: {title}\ntags: [benchmark, part-{index // _FILES_PER_FOLDER}]\n---\n\n"
    sections = (_make_section(random, sentences) for _ in range(random.randint(1, 2 * _AVERAGE_SECTIONS - 1)))
    return f"{front_matter}# {title}\n\n" + "\n".join(sections)


def _make_section(random: Random, sentences: list[str]) -> str:
    paragraphs = "\n\n".join(" ".join(random.choices(sentences, k=random.randint(2, 8))) for _ in range(3))
    items = "\n".join(f"* {sentence}" for sentence in random.choices(sentences, k=3))
    code = f"```python\nprint({random.choice(sentences)!r})\n```"
    return f"## {random.choice(sentences)}\n\n{paragraphs}\n\n{items}\n\n{code}\n"
