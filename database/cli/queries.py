"""What to search for in a folder that nobody has looked at: queries made of the words of its titles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_SHORTEST = 4  # letters; shorter words are mostly of the kind that says nothing
_TOO_COMMON = 0.3  # of the titles
_TRIED = 20
_EMPTY = frozenset({
    "about", "after", "also", "before", "between", "could", "does", "from", "have", "here", "into", "just", "like",
    "more", "most", "only", "other", "over", "page", "some", "than", "that", "their", "them", "then", "there", "these",
    "they", "this", "those", "through", "using", "very", "what", "when", "where", "which", "while", "with", "without",
    "would", "your",
})  # fmt: skip
_WORD = r"[^\W\d_]+"
# What stands between the two words is one space: the phrase finds it, and it reads like a topic.
_NEIGHBOURS = re.compile(rf"(?=\b({_WORD}) ({_WORD})\b)")


def derive_queries(titles: Sequence[str]) -> Iterator[str]:
    """
    Queries that should find something where documents have these *titles*, the best first.

    Topics of two words: as alternatives, as a phrase, with a word that must not occur; after those, single words.
    Nothing where no title has a word.
    """
    lowered = list(dict.fromkeys(title.strip().lower() for title in titles))
    topics = _find_topics(lowered)
    if topics:
        yield " ".join(topics[0])
    if len(topics) > 1:
        yield f'"{" ".join(topics[1])}"'
    if len(topics) > 2:
        yield f"{' '.join(topics[2])} -{topics[0][0]}"
    yield from (" ".join(topic) for topic in topics[2:_TRIED])
    used = {word for topic in topics[:_TRIED] for word in topic}
    words = Counter(word for title in lowered for word in set(re.findall(_WORD, title)))
    candidates = [word for word in words if word not in used and word not in _EMPTY]
    yield from sorted(candidates, key=lambda word: (-min(len(word), _SHORTEST), -words[word], word))[:_TRIED]


def _find_topics(titles: Sequence[str]) -> list[tuple[str, str]]:
    """
    Pairs of words side by side, no word twice.

    First those that are a whole title: they name what a document is about. Among these, and among the others, those
    whose words occur in many titles, so that there is something to rank.
    """
    spread = Counter(word for title in titles for word in set(re.findall(_WORD, title)))
    most = max(3, _TOO_COMMON * len(titles))
    whole = set(titles)
    pairs = {
        pair
        for title in titles
        for pair in _NEIGHBOURS.findall(title)
        if all(len(word) >= _SHORTEST and word not in _EMPTY and spread[word] <= most for word in pair)
    }
    topics: list[tuple[str, str]] = []
    used: set[str] = set()
    for pair in sorted(pairs, key=lambda pair: (" ".join(pair) not in whole, -min(spread[w] for w in pair), pair)):
        if used.isdisjoint(pair):
            topics.append(pair)
            used.update(pair)
    return topics
