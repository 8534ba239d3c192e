"""One endpoint against a real server that fails in every way a provider fails."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops_nb.cache import Cache, cached
from llmops_nb.core import Answer, ConfigurationError, ModelError
from llmops_nb.limits import Limiter, limited, retrying
from llmops_nb.models import Endpoint, ScriptedModel
from llmops_nb.providers import resolve
from llmops_nb.settings import load_settings
from loopback import Loopback, loopback, project


@pytest.fixture
def server(tmp_path: Path):
    with loopback(tmp_path / "log") as running:
        yield running


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def endpoint(server: Loopback, **more: object) -> Endpoint:
    return Endpoint("loop", server.url, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "code", "retryable", "status"),
    [
        ("429-always", "rate_limit", True, 429),
        ("500", "server", True, 500),
        ("auth", "auth", False, 401),
        ("half", "connection", True, None),
        ("empty", "connection", True, None),
        ("garbage", "bad_response", True, None),
        ("html", "bad_response", True, None),
        ("hang", "timeout", True, None),
    ],
)
def test_every_fault_is_a_model_error_with_its_facts(server: Loopback, fault: str, code: str, retryable: bool, status: int | None) -> None:
    with pytest.raises(ModelError) as caught:
        endpoint(server, timeout=0.5)(ask(f"fault:{fault}"))
    error = caught.value
    assert (error.code, error.retryable, error.status) == (code, retryable, status)
    assert "verysecret" not in str(error)


def test_a_key_is_read_at_the_call_and_stands_nowhere(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    model = endpoint(server, key="LOOP_KEY")
    with pytest.raises(ConfigurationError, match="LOOP_KEY, which is not set"):
        model(ask("?"))
    monkeypatch.setenv("LOOP_KEY", "sk-do-not-tell")
    assert model(ask("say <yes>")).text == "yes"
    assert "do-not-tell" not in repr(model) and "do-not-tell" not in str(vars(model))
    with pytest.raises(ModelError) as caught:
        model(ask("fault:auth"))
    assert "do-not-tell" not in str(caught.value)


def test_a_busy_provider_is_asked_again_and_obeyed(server: Loopback) -> None:
    waits: list[float] = []
    answer = retrying(endpoint(server), sleep=waits.append)(ask("fault:429 <fine>"))
    assert answer.text == "fine" and answer.usage.attempts == 2
    assert waits == [0.0]  # As the provider said


def test_retries_end(server: Loopback) -> None:
    with pytest.raises(ModelError):
        retrying(endpoint(server), retries=2, sleep=lambda s: None)(ask("fault:500"))
    assert len(server.requests()) == 3


def test_concurrency_goes_down_when_refused_and_up_again() -> None:
    limiter = Limiter(16)
    most, now, lock = 0, 0, threading.Lock()

    def provider(messages: object, **options: object) -> Answer:
        "Bears four calls at once."
        nonlocal most, now
        with lock:
            now += 1
            most, full = max(most, now), now > 4
        time.sleep(0.002)
        with lock:
            now -= 1
        if full:
            raise ModelError("Slow down.", code="rate_limit", retryable=True, retry_after=0.005)
        return Answer("ok")

    from llmops_nb.models import Wrapped

    model = retrying(limited(Wrapped(ScriptedModel([]), provider), limiter), retries=50, sleep=lambda s: time.sleep(min(s, 0.01)))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: model(ask(str(n))), range(300)))
    assert all(a.text == "ok" for a in answers)
    assert limiter.limit <= 10
    assert sum(a.usage.attempts > 1 for a in answers) < 150  # It has learnt: most calls went through at once


def test_equal_calls_at_one_moment_are_one_request(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.2) as server:
        model = cached(endpoint(server), Cache(tmp_path / "answers.sqlite"))
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: model(ask("say <same>")), range(16)))
        assert len(server.requests()) == 1
        assert {a.text for a in answers} == {"same"}
        assert sum(not a.usage.cached for a in answers) == 1
        assert model(ask("say <same>"), repeat=1).usage.cached is False


def test_an_error_is_not_remembered(tmp_path: Path, server: Loopback) -> None:
    model = cached(endpoint(server), Cache(tmp_path / "answers.sqlite"))
    for _ in range(2):
        with pytest.raises(ModelError):
            model(ask("fault:500"))
    assert len(server.requests()) == 2


def write_answers(path: str, first: int) -> int:
    cache = Cache(Path(path))
    for n in range(first, first + 50):
        cache.put(f"k{n}", Answer(str(n)))
    return len(cache)


def test_several_processes_share_one_cache(tmp_path: Path) -> None:
    import multiprocessing

    path = str(tmp_path / "answers.sqlite")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(write_answers, [(path, n * 50) for n in range(6)])
    cache = Cache(Path(path))
    assert len(cache) == 300
    assert cache.get("k299") == Answer("299")


def test_litellm_reaches_the_same_server_with_the_same_face(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm")
    monkeypatch.setenv("LOOP_KEY", "sk-do-not-tell")
    (tmp_path / "settings.ini").write_text(f"[llmops]\nretries = 0\n[model other]\nkind = litellm\nmodel = openai/tiny\nbase_url = {server.url}\nkey = LOOP_KEY\n")
    model = resolve("other", load_settings(tmp_path))
    answer = model(ask("say <hello>"), temperature=0, max_tokens=5)
    assert answer.text == "hello" and answer.usage.prompt_tokens == 2
    assert model(ask("say <hello>"), temperature=0, max_tokens=5).usage.cached
    for fault, code in (("429-always", "rate_limit"), ("500", "server"), ("auth", "auth")):
        with pytest.raises(ModelError) as caught:
            model(ask(f"fault:{fault}"))
        assert caught.value.code == code
        assert "do-not-tell" not in str(caught.value) and "verysecret" not in str(caught.value)


def test_a_model_of_the_settings_knows_its_price(server: Loopback, tmp_path: Path) -> None:
    project(tmp_path, server.url, 1)
    answer = resolve("loop", load_settings(tmp_path))(ask("one two three <four>"))
    assert answer.usage.cost == pytest.approx((4 * 1 + 1 * 2) / 1e6)


def test_keys_are_sent_in_the_order_they_were_written(server: Loopback) -> None:
    "A schema's properties are filled in by their order: reason first, then verdict."
    import msgspec

    from llmops_nb.models import request_body

    schema = {"type": "object", "properties": {"why": {"type": "string"}, "verdict": {"type": "string"}}}
    body = msgspec.json.encode(request_body("m", ask("?"), {"schema": schema}))
    assert body.index(b'"why"') < body.index(b'"verdict"')


def test_half_a_surrogate_pair_is_answered_like_any_text(server: Loopback, tmp_path: Path) -> None:
    from llmops_nb import load_app

    answer = load_app(project(tmp_path, server.url, 1))("say <yes> \ud83d")
    assert answer.text == "yes"
