"""Embedder and re-ranker: checked against plain onnxruntime and tokenizers, one text at a time."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmops_nb.core import ConfigurationError, DataError
from llmops_nb.embedders import OnnxEmbedder, OnnxReranker, cached_embedder, embedder, reranker
from llmops_nb.settings import load_settings
from llmops_nb.weights import ensure

TEXTS = [
    "The while statement is used for repeated execution.",
    "",
    "naïve café 東京 🐍 \u0000 \ud800",
    "How do I repeat a statement as long as a condition holds? " * 3,
    "word " * 2000,
    "[CLS] not a special token [SEP]",
    "a",
]
# First six values, computed once with onnxruntime 1.32 and tokenizers 0.23 alone
KNOWN = {
    "The while statement is used for repeated execution.": [-0.0306, -0.0361, -0.0283, -0.0151, -0.0179, -0.0183],
    "": [0.0421, 0.0071, 0.0191, -0.0477, -0.0217, 0.0701],
    "Imaginary literals are described by the following lexical definitions.": [-0.0082, -0.0111, 0.0449, 0.0176, -0.0529, -0.0072],
}
QUERY = "Does a while loop have an else clause?"
RELEVANT = "The while statement may have an else clause, which is executed when the condition is false."
IRRELEVANT = "Imaginary literals are described by the following lexical definitions."


@pytest.fixture(scope="module")
def embed():
    return embedder()


@pytest.fixture(scope="module")
def rerank():
    return reranker()


def reference(name, *texts, max_tokens=512):
    "The network's output for one text or pair, with nothing of ours."
    import onnxruntime
    from tokenizers import Tokenizer

    directory = ensure(name, load_settings().weights)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    encoded = tokenizer.encode(*[t.encode("utf-8", "replace").decode() for t in texts])
    feed = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {k: np.array([v], np.int64) for k, v in feed.items()})[0][0]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_vectors_are_those_of_the_network(embed):
    vectors = embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert cosine(vector, reference("bge-small-en-v1.5", text)[0]) >= 0.9999


def test_known_values(embed):
    "Stored numbers: other weights, another pooling or another tokenizer would not give them. Processors differ a little."
    for text, values in KNOWN.items():
        assert np.allclose(embed([text])[0][:6], values, atol=0.01)


def test_a_vector_depends_on_its_text_alone(embed):
    texts = [t * n for n in (1, 3, 9) for t in TEXTS[:4]]
    together, reversed_ = embed(texts), embed(texts[::-1])[::-1]
    alone = np.concatenate([embed([t]) for t in texts])
    assert (together == alone).all() and (together == reversed_).all()
    other = OnnxEmbedder(ensure("bge-small-en-v1.5", load_settings().weights), "x", threads=7)
    assert (other(texts) == alone).all() and other.digest == embed.digest


def test_paraphrases_are_nearer_than_strangers(embed):
    pairs = [
        ("How do I repeat a statement?", "The while statement is used for repeated execution."),
        ("He bought a car yesterday.", "Yesterday he purchased an automobile."),
        ("The function returns nothing.", "This routine has no return value."),
    ]
    left, right = embed([a for a, _ in pairs]), embed([b for _, b in pairs])
    similar = left @ right.T
    assert min(similar.diagonal()) > max(similar[~np.eye(3, dtype=bool)])


def test_digest_follows_the_recipe(embed):
    directory = ensure("bge-small-en-v1.5", load_settings().weights)
    others = [OnnxEmbedder(directory, "bge", max_tokens=128), OnnxEmbedder(directory, "bge", prefix="query: ")]
    assert len({embed.digest, *(o.digest for o in others)}) == 3
    assert cosine(others[1](["x"])[0], embed(["query: x"])[0]) > 0.99999
    assert cosine(others[0]([TEXTS[4]])[0], reference("bge-small-en-v1.5", TEXTS[4], max_tokens=128)[0]) > 0.9999
    with pytest.raises(ConfigurationError, match="8 to 512"):
        OnnxEmbedder(directory, "bge", max_tokens=4096)


def test_empty_list_and_no_list(embed):
    assert embed([]).shape == (0, 384)
    with pytest.raises(DataError, match="list of texts"):
        embed("text")


def test_scores_are_those_of_the_network(rerank):
    texts = [RELEVANT, IRRELEVANT, "", "word " * 2000, TEXTS[2]]
    scores = rerank(QUERY, texts)
    assert all(isinstance(s, float) for s in scores)
    for text, score in zip(texts, scores, strict=True):
        assert abs(score - reference("ms-marco-minilm-l-12", QUERY, text)[0]) < 1e-3
    assert rerank(QUERY, texts[::-1])[::-1] == scores and [rerank(QUERY, [t])[0] for t in texts] == scores
    assert rerank(QUERY, []) == []
    assert len(rerank("long " * 3000, [RELEVANT])) == 1


def test_relevant_comes_first(rerank):
    relevant, irrelevant = rerank(QUERY, [RELEVANT, IRRELEVANT])
    assert 5 < relevant < 12 and -13 < irrelevant < -8


def test_threads_at_once(embed, rerank):
    expected, scores = embed(TEXTS), rerank(QUERY, TEXTS)
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda _: embed(TEXTS), range(8)))
        ranked = list(pool.map(lambda _: rerank(QUERY, TEXTS), range(4)))
    assert all((v == expected).all() for v in vectors) and all(r == scores for r in ranked)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_after_a_fork(embed):
    expected = embed(TEXTS[:3])
    child = os.fork()
    if not child:
        os._exit(0 if (embed(TEXTS[:3]) == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_said_and_no_framework_loaded():
    code = "import sys; from llmops_nb.embedders import embedder; embedder()(['a', 'b']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Counting:
    "Vectors from a seed; counts what it is asked for."

    def __init__(self, digest="d"):
        self.name, self.digest, self.asked, self.lock = "counting", digest, [], threading.Lock()

    def __call__(self, texts):
        with self.lock:
            self.asked += texts
        return np.array([np.random.default_rng(len(t)).standard_normal(8) for t in texts], np.float32).reshape(len(texts), 8)


def test_cached_computes_once(tmp_path):
    inner, path = Counting(), tmp_path / "deep" / "vectors.sqlite"
    texts = ["", "a", "bb", "a", "ccc\ud800"]
    first = cached_embedder(inner, path)(texts)
    assert (first == inner(texts)).all()
    inner.asked.clear()
    again = cached_embedder(inner, path)
    assert (again(texts) == first).all() and again([]).shape == (0, 8) and inner.asked == []
    assert (again(["new", *texts])[1:] == first).all() and inner.asked == ["new"]
    other = Counting("another digest")
    cached_embedder(other, path)(["a"])
    assert other.asked == ["a"]  # Never the vector of another model
    assert (again.name, again.digest) == ("counting", "d")


def test_cached_keeps_what_came_before_an_interruption(tmp_path):
    class Breaking(Counting):
        def __call__(self, texts):
            if "t150" in texts:
                raise KeyboardInterrupt
            return super().__call__(texts)

    texts = [f"t{n}" for n in range(200)]
    with pytest.raises(KeyboardInterrupt):
        cached_embedder(Breaking(), tmp_path / "v.sqlite")(texts)
    inner = Counting()
    assert cached_embedder(inner, tmp_path / "v.sqlite")(texts).shape == (200, 8)
    assert len(inner.asked) == 200 - 128


def test_cached_in_several_processes(tmp_path):
    code = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import test_embedders as t
        embed = t.cached_embedder(t.Counting(), Path(sys.argv[2]))
        for start in range(0, 400, 40):
            texts = ["x" * n for n in range(start, start + 60)]
            assert (embed(texts) == t.Counting()(texts)).all()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__), str(tmp_path / "v.sqlite")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0)] * 6


def test_cached_in_several_threads(tmp_path):
    inner = Counting()
    embed = cached_embedder(inner, tmp_path / "v.sqlite")
    texts = ["x" * n for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert all((v == Counting()(texts)).all() for v in pool.map(lambda _: embed(texts), range(16)))


def test_cached_with_a_file_that_cannot_be_used(tmp_path, caplog):
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(DataError, match="cannot be read .*Delete the file"):
        cached_embedder(Counting(), damaged)(["a"])
    embed = cached_embedder(Counting(), tmp_path / "directory")
    (tmp_path / "directory").mkdir()
    assert embed(["a"]).shape == (1, 8)  # Slower, not wrong
    assert "cannot be remembered in directory" in caplog.text


def test_names():
    with pytest.raises(ConfigurationError, match="No embedder named 'bge'. Known: 'bge-small-en-v1.5'"):
        embedder("bge")
    with pytest.raises(ConfigurationError, match="No re-ranker named 'bge-small-en-v1.5'"):
        reranker("bge-small-en-v1.5")
    assert isinstance(reranker(), OnnxReranker)
