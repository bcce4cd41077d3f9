"""
Collections of documents with queries and judgements: made up here, or in the layout of BEIR.

That is corpus.jsonl (_id, title, text), queries.jsonl (_id, text), and qrels.tsv or a folder qrels with test.tsv
(https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ..words import make_sentences, make_vocabulary

MADE_UP = "made up"
_JUDGEMENTS = ("qrels.tsv", "qrels/test.tsv", "test.tsv")  # the first that is there


@dataclass(frozen=True)
class Text:
    """A document."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """The title and the text, for those who make no difference."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Collection:
    """Documents, and by the ids of the queries what they ask and what is relevant to them, to what degree."""

    name: str
    documents: list[Text]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]

    @property
    def is_made_up(self) -> bool:
        """True where the words mean nothing."""
        return self.name == MADE_UP


class CollectionError(ValueError):
    """There is no collection at a place, or not one that can be read."""


def read_collection(path: Path) -> Collection:
    """The collection in the directory or tar archive *path*; raises `CollectionError` that says what is missing."""
    if not path.exists():
        raise CollectionError(f"{path} is not there")
    try:
        with _open(path) as read:
            documents = [
                Text(str(line["_id"]), line.get("title") or "", line.get("text") or "")
                for line in _json_lines(read("corpus.jsonl"))
            ]
            queries = {str(line["_id"]): str(line["text"]) for line in _json_lines(read("queries.jsonl"))}
            judged = _read_judgements(read(*_JUDGEMENTS))
    except (OSError, tarfile.TarError, UnicodeDecodeError, ValueError, KeyError, TypeError) as exc:
        if isinstance(exc, CollectionError):
            raise
        raise CollectionError(f"{path} is no collection in the layout of BEIR: {type(exc).__name__}: {exc}") from exc
    if not any(query in queries for query in judged):
        raise CollectionError(f"{path}: no query is judged")
    queries = {query: text for query, text in queries.items() if query in judged}
    return Collection(path.name.split(".")[0], documents, queries, {query: judged[query] for query in queries})


@contextmanager
def _open(path: Path) -> Iterator[Callable[..., str]]:
    """A function that reads the first of the named files that is there."""
    if path.is_dir():
        found = sorted(path.rglob("corpus.jsonl"))
        if not found:
            raise CollectionError(f"{path}: there is no corpus.jsonl below it")
        top = found[0].parent

        def read(*names: str) -> str:
            for name in names:
                if (top / name).is_file():
                    return (top / name).read_text(encoding="utf-8")
            raise CollectionError(f"{top}: there is no {names[0]}")

        yield read
        return
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}

        def read_member(*names: str) -> str:
            for name in names:
                for place, member in members.items():
                    if f"/{place}".endswith(f"/{name}") and (file := archive.extractfile(member)):
                        return file.read().decode()
            raise CollectionError(f"{path}: there is no {names[0]} in it")

        yield read_member


def _json_lines(text: str) -> Iterator[dict[str, str]]:
    return (json.loads(line) for line in text.split("\n") if line.strip())


def _read_judgements(text: str) -> dict[str, dict[str, int]]:
    """Lines of query, document, degree, below one of headings; TREC has a column more, before the document."""
    judged: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[-1].lstrip("-").isdigit():
            judged.setdefault(fields[0], {})[fields[-2]] = int(fields[-1])
    return judged


_TOPICS = 60
_DOCUMENTS_PER_TOPIC = 20
_WORDS_PER_TOPIC = 8
_SHARES = (0.0, 0.02, 0.06, 0.15)  # of a document's words that are of its topic
_QUERY = "what is known about {} and the {} of {} when they are {}"


def make_collection() -> Collection:
    """
    A small collection that is always the same: good for comparing and for watching changes, not for claims.

    Every topic has words of its own, frequent ones and rare ones, and each of its documents uses some of them, more or
    less often: who uses many often is relevant to degree 2, who uses them now and then to degree 1. A query asks in the
    words of a topic, between words that every text has; every third query has a word that is in no document.
    """
    random = Random(5)
    vocabulary = make_vocabulary(random)
    sentences = make_sentences(random, 5_000)
    documents: list[Text] = []
    queries: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    for topic in range(_TOPICS):
        frequent = random.sample(vocabulary[100:1_000], _WORDS_PER_TOPIC // 2)
        words = frequent + random.sample(vocabulary[1_000:], _WORDS_PER_TOPIC // 2)
        degrees = {}
        for number in range(_DOCUMENTS_PER_TOPIC):
            share = _SHARES[number % len(_SHARES)]
            document = _make_document(random, f"{topic}-{number}", sentences, words, share)
            documents.append(document)
            degrees[document.id] = 2 if share > 0.1 else int(share > 0.03)
        asked = random.sample(words, 4)
        queries[str(topic)] = _QUERY.format(*asked[:3], "nowhereelse" if topic % 3 == 0 else asked[3])
        judged[str(topic)] = degrees
    return Collection(MADE_UP, documents, queries, judged)


def _make_document(random: Random, name: str, sentences: list[str], words: list[str], share: float) -> Text:
    """Sentences in which each word is one of the *words* of a topic, by chance, with a probability of *share*."""
    known = random.sample(words, len(words) // 2 + 1)
    text = " ".join(random.choices(sentences, k=random.randint(3, 20)))
    mixed = " ".join(random.choice(known) if random.random() < share else word for word in text.split())
    return Text(name, random.choice(sentences).rstrip("."), mixed)
