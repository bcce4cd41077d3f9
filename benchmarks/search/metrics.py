"""The usual figures of retrieval, as trec_eval defines them (https://trec.nist.gov/trec_eval/)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log2
from statistics import fmean
from typing import NamedTuple

DEPTH = 100  # results that are asked for
_TOP = 10  # of them, those that people look at

# the ids of documents, and to what degree they are relevant: not at all where it is 0 or less
Judgements = Mapping[str, int]


class Scores(NamedTuple):
    """Means over the queries, each from 0 to 1."""

    ndcg: float  # nDCG@10
    precision: float  # MAP@100
    recall: float  # recall@100
    unanswered: float  # the share of queries that nothing was found for
    queries: int


def score_all(answers: Mapping[str, Sequence[str]], judged: Mapping[str, Judgements]) -> Scores:
    """
    How good the *answers* are: for each query the ids of documents, best first.

    A query without a relevant document counts in nothing; one that is judged but not in *answers* was not answered.
    """
    relevant = {query: judgements for query, judgements in judged.items() if any(d > 0 for d in judgements.values())}
    pairs = [(list(answers.get(query, ()))[:DEPTH], judgements) for query, judgements in relevant.items()]
    if not pairs:
        return Scores(0.0, 0.0, 0.0, 0.0, 0)
    return Scores(
        fmean(discounted_gain(found[:_TOP], judgements) for found, judgements in pairs),
        fmean(average_precision(found, judgements) for found, judgements in pairs),
        fmean(recall(found, judgements) for found, judgements in pairs),
        fmean(not found for found, _ in pairs),
        len(pairs),
    )


def discounted_gain(found: Sequence[str], judgements: Judgements) -> float:
    """The degrees of *found*, each divided by log2(place + 1), of what the ideal order has in as many places as 10."""
    ideal = sorted((degree for degree in judgements.values() if degree > 0), reverse=True)[:_TOP]
    return _discounted(max(0, judgements.get(document, 0)) for document in found) / _discounted(ideal)


def _discounted(degrees: Iterable[int]) -> float:
    return sum(degree / log2(place + 1) for place, degree in enumerate(degrees, 1))


def average_precision(found: Sequence[str], judgements: Judgements) -> float:
    """The mean of the precision at the place of each relevant document; 0 for one that is not in *found*."""
    total, hits = 0.0, 0
    for place, document in enumerate(found, 1):
        if judgements.get(document, 0) > 0:
            hits += 1
            total += hits / place
    return total / sum(degree > 0 for degree in judgements.values())


def recall(found: Sequence[str], judgements: Judgements) -> float:
    """The share of the relevant documents that is in *found*."""
    relevant = {document for document, degree in judgements.items() if degree > 0}
    return len(relevant.intersection(found)) / len(relevant)
