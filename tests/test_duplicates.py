"""Duplicates: nothing alike is missed, nothing else is reported, the same on every run, in bounded time."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from llmops_nb.core import ConfigurationError
from llmops_nb.duplicates import NEIGHBOURS, connected, duplicate_groups, duplicates_between, near_duplicates, normalised, shingles, similarity
from project import ROOT

WORDS = (ROOT / "LICENSE").read_text("utf-8").split()


def made(n: int, seed: int = 1) -> dict[str, str]:
    "Texts, and a slightly changed copy of each."
    rng = random.Random(seed)
    texts = {}
    for number in range(n):
        words = rng.choices(WORDS, k=rng.randint(6, 20))
        texts[f"t{number}"] = " ".join(words)
        for _ in range(rng.randint(0, 2)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts[f"c{number}"] = " ".join(words)
    return texts


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 1.0])
def test_every_alike_pair_is_found_and_no_other(threshold: float) -> None:
    texts = made(150)
    ids = list(texts)
    wanted = {(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :] if similarity(texts[a], texts[b]) >= threshold}
    found = near_duplicates(texts, threshold)
    assert len(wanted) > 20
    assert {(a, b) for a, b, _ in found} == wanted
    assert [s for *_, s in found] == sorted((s for *_, s in found), reverse=True)
    assert all(s == similarity(texts[a], texts[b]) for a, b, s in found)


def test_the_same_in_every_process() -> None:
    code = "import sys; sys.path.insert(0, 'tests'); from test_duplicates import made; from llmops_nb.duplicates import near_duplicates; print(near_duplicates(made(100), 0.5))"
    outputs = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True).stdout for seed in "12"}
    assert len(outputs) == 1 and "t1" in outputs.pop()


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Ｈｏｗ ｍａｎｙ?", "how many", True),
        ("it’s “so”.", "It's \"so\"", True),
        ("a\u00adb\ufeff c", "ab c", True),
        ("Straße", "STRASSE", True),
        ("e\u0301", "é", True),
        ("What does * do?", "What does ** do?", False),
        ("C", "C++", False),
        ("x != y", "x = y", False),
        ("1.5 or 15", "15 or 15", False),
    ],
)
def test_what_is_the_same_text(a: str, b: str, same: bool) -> None:
    assert (normalised(a) == normalised(b)) is same


def test_edges() -> None:
    assert near_duplicates({}) == [] and near_duplicates({"a": "x"}) == []
    assert near_duplicates({"a": "", "b": " \n", "c": "x"}) == [("a", "b", 1.0)]
    assert shingles("") == {""} and shingles("ab") == {"ab"}
    assert near_duplicates({"a": "日本語の文書はどこにありますか", "b": "日本語の文書はどこにあります?"}, 0.7)[0][:2] == ("a", "b")
    assert near_duplicates({"a": "x" * 500_000, "b": "x" * 499_999}) == [("a", "b", 1.0)]
    for threshold in (0, -1, 1.01, float("nan")):
        with pytest.raises(ConfigurationError, match="above 0"):
            near_duplicates({"a": "x", "b": "x"}, threshold)


def test_between_two_sets_reports_only_what_crosses() -> None:
    left, right = {"a": "How do I leave the debugger?", "b": "how do I leave the debugger"}, {"a": "How do I leave the debugger!", "z": "What is a tuple?"}
    assert duplicates_between(left, right) == [("a", "a", 1.0), ("b", "a", 1.0)]


def test_groups_hold_what_hangs_together() -> None:
    assert connected("abcdef", [("a", "b"), ("d", "c"), ("b", "d")]) == [("a", "b", "c", "d")]
    texts = {str(n): f"Is number {n} the same question as all the others of this long template?" for n in range(10 * NEIGHBOURS)}
    assert duplicate_groups(texts) == [tuple(texts)]
    copies = {str(n): "The same question" for n in range(NEIGHBOURS)}
    assert len(near_duplicates(copies)) == NEIGHBOURS * (NEIGHBOURS - 1) // 2


def test_the_work_grows_with_the_number_of_texts_not_with_its_square() -> None:
    texts = {str(n): f"What is the capital of country {n}?" for n in range(8000)}

    def seconds(n: int) -> float:
        start = time.process_time()
        assert len(near_duplicates(dict(list(texts.items())[:n]))) <= n * NEIGHBOURS
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 9 * seconds(2000)
