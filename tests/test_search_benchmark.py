"""The benchmark of search judges, generates and compares as it says; how fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from math import log2
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

from benchmarks.search.collection import CollectionError, make_collection, read_collection
from benchmarks.search.generated import make_sections, ranks_of, share_of, vocabulary
from benchmarks.search.metrics import Scores, average_precision, discounted_gain, recall, score_all
from benchmarks.search.plot import draw_plot
from benchmarks.search.queries import IN_FEW, KINDS, PHRASE, Query, make_queries
from benchmarks.search.results import OURS, TS_RANK, Key, Results, Times, times_of
from benchmarks.search.speed import count_same, deviation_of
from benchmarks.search.systems import Found, check_answer
from benchmarks.search.unspaced import LANGUAGES, make_texts, sample_words

ROOT = Path(__file__).parent.parent


def run_benchmark(directory: Path, *options: str) -> tuple[int, str, str]:
    """The exit code of `python -m benchmarks.search`, what it prints, and its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.search", "--quick", *options],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.timeout(300)  # two servers, five databases
def test_a_small_run_prints_tables_and_writes_json_and_svg(tmp_path: Path) -> None:
    """Whatever peers are installed; those that are not are named, and nothing is left behind."""
    write_collection(tmp_path / "small")
    code, output, errors = run_benchmark(
        tmp_path,
        *("--collection", "small", "--sections", "300", "--rounds", "1", "--queries", "3", "--unspaced", "40"),
        *("--written", "50", "--json", "r.json", "--svg", "r.svg"),
    )
    assert code == 0, output + errors
    assert all(len(line.rstrip()) <= 132 for line in output.splitlines())
    written = json.loads((tmp_path / "r.json").read_text())
    judged = {(each["collection"], each["system"]): each for each in written["quality"]}
    assert judged["small", "ours"]["ndcg"] == 1.0
    assert judged["small", "ours"]["unanswered"] == 0.0
    assert ("small", "bm25s") in judged or "bm25s, small" in written["missing"]
    assert {each["kind"] for each in written["speed"] if each["system"] == "ts_rank"} == set(KINDS)
    assert all(each["same"] == 1.0 for each in written["agreement"])
    assert [each["language"] for each in written["unspaced"]] == list(LANGUAGES)
    assert all(each["recall"] == each["precision"] == 1.0 for each in written["unspaced"])
    (upkeep,) = written["upkeep"]
    assert upkeep["sizes"]["plain"] > 0
    assert upkeep["writes"][0]["ours"] > 0
    assert written["failures"] == []
    assert ElementTree.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.svg", "small"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "writes"], "'writes' is none of quality"),
        (["--sections", "1000,none"], "'none' is no number greater than 0"),
        (["--collection", "nowhere"], "nowhere is not there"),
    ],
)
def test_a_wrong_option_is_explained(options: Sequence[str], message: str, tmp_path: Path) -> None:
    """Before anything is started."""
    code, _, errors = run_benchmark(tmp_path, *options)
    assert code == 2
    assert message in errors


# --- quality


def test_figures_are_those_computed_by_hand() -> None:
    """Degrees 2, 1 and 1; found are one of degree 1 at place 1, nothing at 2, the one of degree 2 at place 3."""
    judgements = {"a": 2, "b": 1, "c": 1, "x": 0, "y": -1}
    found = ["b", "x", "a", "y"]
    ideal = 2 + 1 / log2(3) + 1 / 2
    assert discounted_gain(found, judgements) == pytest.approx((1 + 2 / 2) / ideal)
    assert average_precision(found, judgements) == pytest.approx((1 / 1 + 2 / 3) / 3)
    assert recall(found, judgements) == pytest.approx(2 / 3)


def test_means_are_over_the_queries_that_have_something_to_find() -> None:
    """One is answered perfectly, one not at all, one has no relevant document, one was not even asked."""
    judged = {"1": {"a": 1}, "2": {"a": 1}, "3": {"a": 0}, "4": {"b": 1}}
    scores = score_all({"1": ["a"], "2": [], "3": ["a"]}, judged)
    assert scores == pytest.approx((1 / 3, 1 / 3, 1 / 3, 2 / 3, 3))
    assert score_all({}, {"3": {"a": 0}}) == Scores(0, 0, 0, 0, 0)


def test_only_the_first_results_count() -> None:
    """nDCG looks at ten, the others at a hundred."""
    found = [f"x{number}" for number in range(99)] + ["a", "b"]
    scores = score_all({"1": found}, {"1": {"a": 1, "b": 1}})
    assert scores == pytest.approx((0.0, 1 / 100 / 2, 0.5, 0.0, 1))


def write_collection(folder: Path, qrels: str = "qrels.tsv") -> None:
    """Two documents and two queries, the second of which nobody has judged."""
    (folder / qrels).parent.mkdir(parents=True)
    documents = [{"_id": "d1", "title": "Tea", "text": "Green tea."}, {"_id": "d2", "title": "", "text": "Rye bread."}]
    queries = [{"_id": "q1", "text": "what is tea"}, {"_id": "q2", "text": "unjudged"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    (folder / qrels).write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")


@pytest.mark.parametrize("qrels", ["qrels.tsv", "qrels/test.tsv"])
def test_a_collection_is_read_from_a_directory_or_an_archive(qrels: str, tmp_path: Path) -> None:
    """In the layout of BEIR, also in a directory of the archive."""
    write_collection(tmp_path / "tea", qrels)
    with tarfile.open(tmp_path / "tea.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "tea", "inner")
    read = read_collection(tmp_path / "tea")
    assert read == read_collection(tmp_path / "tea.tar.xz")
    assert [document.whole for document in read.documents] == ["Tea Green tea.", "Rye bread."]
    assert read.queries == {"q1": "what is tea"}
    assert read.judged == {"q1": {"d1": 2, "d2": 0}}
    assert not read.is_made_up


def test_a_missing_part_of_a_collection_is_named(tmp_path: Path) -> None:
    """As is what is no collection at all."""
    write_collection(tmp_path / "tea")
    (tmp_path / "tea" / "qrels.tsv").unlink()
    with pytest.raises(CollectionError, match=r"there is no qrels\.tsv"):
        read_collection(tmp_path / "tea")
    (tmp_path / "file").write_text("nothing")
    with pytest.raises(CollectionError, match="no collection in the layout of BEIR"):
        read_collection(tmp_path / "file")


def test_the_made_up_collection_is_the_same_in_every_run() -> None:
    """It has relevant documents of both degrees for every query, and documents that are not relevant."""
    collection = make_collection()
    assert collection == make_collection()
    assert collection.is_made_up
    assert len({document.id for document in collection.documents}) == len(collection.documents)
    assert all({0, 1, 2} == set(judgements.values()) for judgements in collection.judged.values())


# --- generated collections


def test_sections_are_the_same_in_whatever_pieces_they_are_made() -> None:
    """Several processes make a part each."""
    whole = list(make_sections(range(490, 1_010)))
    assert whole == [*make_sections(range(490, 600)), *make_sections(range(600, 1_010))]
    assert len({section.code for section in whole}) == len({section.id for section in whole}) == 520
    assert whole != list(make_sections(range(490, 1_010), seed=1))
    assert whole[15].code.startswith("05/05/")


def test_words_are_as_frequent_as_they_should_be() -> None:
    """A word that is expected in 30 % of the sections is in about 30 %."""
    sections = [set(section.content.lower().replace(".", " ").split()) for section in make_sections(range(1_000))]
    for rank in (ranks_of(0.0, share)[0] for share in (0.4, 0.3, 0.1)):
        found = sum(vocabulary()[rank] in words for words in sections) / len(sections)
        assert found == pytest.approx(share_of(rank), abs=0.05)
    assert 130 < sum(map(len, sections)) / len(sections) < 150


def test_queries_ask_for_what_is_there() -> None:
    """The same for the same seed; phrases stand in a text, and parts are of the size that their name says."""
    for kind in KINDS:
        assert make_queries(kind, 3, 1) == make_queries(kind, 3, 1) != make_queries(kind, 3, 2)
    texts = [section.content.lower() for section in make_sections(range(100))]
    assert all(any(query.typed.strip('"') in text for text in texts) for query in make_queries(PHRASE, 20, 0))
    codes = [section.code for section in make_sections(range(20_000))]
    (query,) = make_queries(IN_FEW, 1, 0)
    assert sum(code.startswith(query.prefix) for code in codes) == 2


def test_wrong_answers_are_noticed() -> None:
    """A section without any of the words, or from another part."""
    query = Query(("tea", "rye"), prefix="00/")
    assert check_answer(query, []) == check_answer(query, [Found("00/1", "Green. Tea.", 1.0)]) == ""
    assert "not in its text" in check_answer(query, [Found("00/1", "Teapot", 1.0)])
    assert "codes begin with 00/" in check_answer(query, [Found("01/1", "tea", 1.0)])


def test_answers_are_compared_with_the_exact_ones() -> None:
    """Sections of the same score may take each other's place; a missing one counts."""
    exact = [Found("a", "", 3.0), Found("b", "", 2.0), Found("c", "", 2.0)]
    assert count_same([exact[0], Found("d", "", 2.0), Found("e", "", 1.0)], exact) == 2
    assert deviation_of([exact[0], Found("d", "", 2.0), Found("e", "", 1.5)], exact) == pytest.approx(0.25)
    assert deviation_of(exact, exact) == 0.0
    assert deviation_of(exact[:2], exact) == 1.0


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_without_spaces_hold_the_words_that_are_looked_for(language: str) -> None:
    """Pieces of 2 to 4 characters, without anything that is no letter of the language."""
    texts = make_texts(language, 20)
    assert texts == make_texts(language, 20)
    for word in sample_words(Random(1), texts, 50):
        assert 2 <= len(word) <= 4
        assert any(word in text for text in texts)
        assert word.isalpha() and not word.isascii()


# --- results


def test_times_are_percentiles_in_milliseconds() -> None:
    """The 95th of a hundred is the 95th."""
    assert times_of([number / 1000 for number in range(100, 0, -1)]) == Times(100, 50.5, 95.0)
    assert times_of([0.002]) == Times(1, 2.0, 2.0)


def make_results() -> Results:
    """Two rounds of one kind by two systems."""
    results = Results({"cores": 2, "server": {"server_version": "18.6"}}, {"rounds": 2})
    results.speed[Key(1_000, "phrase", OURS)] = [Times(5, 1.0, 2.0), Times(5, 3.0, 6.0)]
    results.speed[Key(1_000, "phrase", TS_RANK)] = [Times(5, 10.0, 11.0), Times(5, 15.0, 16.0)]
    return results


def test_ratios_are_taken_within_a_round() -> None:
    """10 times and 5 times; medians are over the rounds."""
    results = make_results()
    ratio = results.ratio(Key(1_000, "phrase", OURS), TS_RANK)
    assert ratio == (7.5, 5.0, 10.0)
    assert results.median(Key(1_000, "phrase", OURS)) == Times(10, 2.0, 4.0)
    assert results.ratio(Key(1_000, "phrase", OURS), "nobody") is None
    assert results.median(Key(2_000, "phrase", OURS)) is None


def test_a_plot_without_figures_says_so() -> None:
    """Also where nothing of it was measured it is a picture."""
    empty = ElementTree.fromstring(
        draw_plot(Results({"cores": 2, "server": {"server_version": "18.6"}}, {"rounds": 1}))
    )
    assert [text.text for text in empty.iter("{http://www.w3.org/2000/svg}text")].count("not measured") == 2
    drawn = ElementTree.fromstring(draw_plot(make_results()))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == 4  # two in the legend
