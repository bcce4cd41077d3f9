"""Text that looks like language to an index: Zipf's law, stop words, sentences; the same in every run."""

from __future__ import annotations

from itertools import accumulate, product
from random import Random

RARE, MIDDLING, COMMON = "zanthoxylum", "quicksilver", "database"  # planted where they belong, in no sentence

_FUNCTION_WORDS = """
    the of and to a in is that it for was on are with as be this by from or an not at which but have they you were
    their can there all when we will more one about if up out so what time some could these two may then do any like
    now such than other how its our into only your over new also after used most where through before each must
"""
_SYLLABLES = "ba co de fi ga hu in jo ka le mo na or pe qua ri sa te ul ver wi ye zo sto pra cle tion ment ing al"
_VOCABULARY = 20_000


def make_vocabulary(random: Random) -> list[str]:
    """Words, the most frequent first: the little ones that English is full of, then made-up ones."""
    made_up = ["".join(syllables) for length in (2, 3) for syllables in product(_SYLLABLES.split(), repeat=length)]
    random.shuffle(made_up)
    return (_FUNCTION_WORDS.split() + made_up)[:_VOCABULARY]


def make_sentences(random: Random, number: int) -> list[str]:
    """Sentences of 6 to 18 words, in which the n-th word of the vocabulary is n times rarer than the first."""
    vocabulary = make_vocabulary(random)
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    lengths = [random.randint(6, 18) for _ in range(number)]
    words = iter(random.choices(vocabulary, cum_weights=weights, k=sum(lengths)))
    return [" ".join(next(words) for _ in range(length)).capitalize() + "." for length in lengths]
