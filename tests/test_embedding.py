"""Embedding as a job: checked, remembered, resumed after SIGKILL, and the same through a server, LiteLLM and the local network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llmops_nb.budgets import Budget, Limits, spending
from llmops_nb.core import BudgetError, ConfigurationError, DataError, ModelError
from llmops_nb.embedders import missing_vectors
from llmops_nb.embedding import HostedEmbedder, VectorModel, embed_all, embedding_bar, open_embedder
from llmops_nb.settings import ModelSpec, Settings, load_settings
from loopback import Loopback, loopback


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Loopback]:
    with loopback(tmp_path / "log") as running:
        yield running


def settings(server: Loopback, tmp_path: Path, **more: object) -> Settings:
    spec = ModelSpec("openai", server.url, "letters", input_price=2.0, **more)  # type: ignore[arg-type]
    through = ModelSpec("litellm", server.url, "openai/letters", key="LOOP_KEY", input_price=2.0)
    return Settings(state=tmp_path / "state", models={"letters": spec, "through": through})


def asked(tmp_path: Path) -> list[list[str]]:
    log = tmp_path / "log"
    return [json.loads(line)[1] for line in log.read_text().splitlines()] if log.exists() else []


def letters(texts: list[str]) -> np.ndarray:
    rows = np.array([[1.0 + text.lower().count(letter) for letter in "etaoinsh"] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["letters", "through"])
def test_a_hosted_embedder_gives_unit_vectors_in_order_and_once(name: str, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOP_KEY", "sk-loop")
    texts = [f"text number {n} " + "e" * (n % 7) for n in range(300)]
    embed = open_embedder(name, settings(server, tmp_path))
    assert missing_vectors(embed, texts) == 300
    rows = embed_all(embed, texts)
    assert np.allclose(rows, letters(texts), atol=1e-6)
    assert sorted(len(request) for request in asked(tmp_path)) == [44, 64, 64, 64, 64]
    again = open_embedder(name, settings(server, tmp_path))
    assert missing_vectors(again, [*texts, "a new one"]) == 1
    assert (embed_all(again, texts) == rows).all() and len(asked(tmp_path)) == 5


def test_one_digest_a_model(server: Loopback, tmp_path: Path) -> None:
    made = [VectorModel("a", ModelSpec("openai", server.url, model)) for model in ("one", "two")]
    assert made[0].digest != made[1].digest
    assert made[0].digest == VectorModel("b", ModelSpec("openai", server.url, "one", timeout=5)).digest


def test_what_it_costs_is_known_and_bounded(server: Loopback, tmp_path: Path) -> None:
    embed = open_embedder("letters", settings(server, tmp_path))
    embed(["one two three", "four"])
    hosted = embed.embedder
    assert isinstance(hosted, HostedEmbedder)
    assert (hosted.usage.prompt_tokens, hosted.usage.cost, hosted.usage.attempts) == (4, pytest.approx(8e-6), 1)
    with spending(Budget(tmp_path / "budget.sqlite", Limits(calls=2))), pytest.raises(BudgetError):
        embed([f"text {n}" for n in range(64 * 3)])
    assert len(asked(tmp_path)) == 3  # One before the budget, two in it


def test_faults_of_a_server(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = open_embedder("letters", settings(server, tmp_path))
    assert embed(["fault:429 once"]).shape == (1, 8)
    with pytest.raises(ModelError, match="401") as refused:
        embed(["fault:auth"])
    assert "verysecret" not in str(refused.value)
    bare = HostedEmbedder(VectorModel("letters", ModelSpec("openai", server.url, "letters")))
    for fault, says in (("fault:short", "not 2 vectors"), ("fault:zero", "without a direction")):
        with pytest.raises(ModelError, match=says):
            bare([fault, "b"])
    with pytest.raises(DataError, match="list of texts"):
        bare("text")
    monkeypatch.delenv("LOOP_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="LOOP_KEY, which is not set"):
        open_embedder("through", settings(server, tmp_path))(["a"])
    assert bare(["", "\ud800"]).shape == (2, 8)


def test_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No embedder named 'bgr'. Known: 'bge-small-en-v1.5'.*settings.ini"):
        open_embedder("bgr", Settings(state=tmp_path))


class Broken:
    name, digest = "broken", "b"

    def __init__(self, rows: object):
        self.rows = rows

    def __call__(self, texts: object) -> object:
        return self.rows


@pytest.mark.parametrize("rows", [[[1.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [float("nan"), 0.0]], [[0.0, 0.0], [1.0, 0.0]], [1.0, 0.0]])
def test_vectors_that_would_rank_wrongly_are_refused(rows: object) -> None:
    with pytest.raises(ConfigurationError, match="one row a text|length is not 1"):
        embed_all(Broken(rows), ["a", "b"])


def test_a_killed_job_goes_on_where_it_stopped(server: Loopback, tmp_path: Path) -> None:
    "Blocks that were written are not asked for again; at most the block under way is."
    code = f"""
from pathlib import Path
from llmops_nb.embedders import missing_vectors
from llmops_nb.embedding import HostedEmbedder, VectorModel, embed_all
from llmops_nb.embedders import cached_embedder
from llmops_nb.settings import ModelSpec
import time
class Slow(HostedEmbedder):
    def __call__(self, texts):
        time.sleep(0.05)
        return super().__call__(texts)
hosted = Slow(VectorModel("letters", ModelSpec("openai", {server.url!r}, "letters")), batch=10, at_once=1)
embed_all(cached_embedder(hosted, Path({str(tmp_path / "v.sqlite")!r}), hosted.block), [f"text {{n:03}}" for n in range(400)])
"""
    job = subprocess.Popen([sys.executable, "-c", code])
    while len(asked(tmp_path)) < 12 and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = len(asked(tmp_path))
    assert before < 40
    subprocess.run([sys.executable, "-c", code], check=True)
    assert 40 <= len(asked(tmp_path)) <= 41


def test_the_bar_tells_done_and_cost(server: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    plain = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: plain(**{**options, "delay": 0, "mininterval": 0}))
    embed = open_embedder("letters", settings(server, tmp_path))
    with embedding_bar("handbook", embed) as shown:
        embed_all(embed, [f"text {n}" for n in range(600)], shown)
    told = capsys.readouterr().err
    assert "embedding handbook" in told and "512/600" in told and "$0.00" in told


def test_what_is_beyond_the_window_is_not_read(tmp_path: Path) -> None:
    "The embedder says how many tokens it reads, and that is true to the token."
    embed = open_embedder("bge-small-en-v1.5", replace(load_settings(), state=tmp_path))
    assert embed.window == 510 and embed.count is not None
    words = ["word"] * 510
    assert embed.count(" ".join(words)) == 510
    at, over, other = embed([" ".join(words), " ".join([*words, "other"]), " ".join([*words[:-1], "other"])])
    assert (at == over).all() and not (at == other).all()
