"""Local models: real ones, asked, interrupted, crashed, contended."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops_nb import local
from llmops_nb.core import ConfigurationError, Model, ModelError
from llmops_nb.local import LocalModel, local_model
from llmops_nb.settings import load_settings
from llmops_nb.weights import CATALOGUE

pytestmark = pytest.mark.local
NAMES = ["smollm2-135m", "qwen2.5-coder-0.5b", pytest.param("qwen2.5-coder-1.5b", marks=pytest.mark.large)]
ASK = [{"role": "system", "content": "Answer in one short sentence."}, {"role": "user", "content": "What is a list in Python?"}]


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    made = local_model(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def small():
    made = local_model("smollm2-135m")
    yield made
    made.close()


def process(model):
    "The running process of a model."
    (found,) = [c.process for c in local._children.values() if c.setup.path == model.path and c.setup.context == model.context and c.process]
    return found


def gone(pid):
    "Whether a process has ended; one that waits to be buried has."
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if sys.platform == "linux" else ""
        os.kill(pid, 0)
        return state == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_answers_with_usage(model):
    answer = model(ASK, temperature=0, max_tokens=24)
    assert isinstance(model, Model) and answer.model == model.name and answer.messages == tuple(ASK)
    assert "list" in answer.text.lower()
    assert 20 < answer.usage.prompt_tokens < 60 and 1 < answer.usage.completion_tokens <= 24
    assert answer.usage.cached_tokens == 0 and answer.usage.latency > 0 and answer.finish in ("stop", "length")
    assert answer.usage.cost == 0


def test_same_text_twice_and_after_a_restart(model):
    questions = ["What is a list in Python?", "Is 7 prime? Explain."]
    first = [model(user(q), temperature=0, max_tokens=24, seed=1).text for q in questions]
    assert [model(user(q), temperature=0, max_tokens=24, seed=1).text for q in reversed(questions)][::-1] == first
    before = process(model).pid
    model.close()
    assert [model(user(q), temperature=0, max_tokens=24, seed=1).text for q in questions] == first
    assert process(model).pid != before
    assert first[0] != first[1]


def test_seed_decides_when_sampling(small):
    def say(seed):
        return small(user("Tell me a story about a dragon."), temperature=1.5, max_tokens=24, seed=seed).text

    assert say(1) == say(1) and len({say(seed) for seed in range(4)}) > 1


def test_limits_and_stops(small):
    limited = small(ASK, temperature=0, max_tokens=5)
    assert limited.finish == "length" and limited.usage.completion_tokens == 5
    full = small(ASK, temperature=0, max_tokens=24).text
    word = full.split()[2]
    assert small(ASK, temperature=0, max_tokens=24, stop=[word]).text == full.partition(word)[0]


def test_logprobs(model):
    answer = model(ASK, temperature=0, max_tokens=12, logprobs=True)
    assert len(answer.logprobs) == answer.usage.completion_tokens or len(answer.logprobs) == answer.usage.completion_tokens - 1
    assert "".join(token for token, _ in answer.logprobs) == answer.text
    assert all(value <= 0 for _, value in answer.logprobs)
    assert model(ASK, temperature=0, max_tokens=12).logprobs == ()


def test_schema_is_enforced(model):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}, "grade": {"enum": ["low", "high"]}, "number": {"type": "integer"}},
        "required": ["yes", "grade", "number"],
        "additionalProperties": False,
    }
    questions = ["Is a python a snake?", "Do not write JSON.", "How many legs has a cat?", "", "Is 7 prime?"]
    for question in questions:
        answer = model(user(question), temperature=0, max_tokens=400, schema=schema)  # White space is free, and small models love it
        assert set(answer.data) == {"yes", "grade", "number"}, answer.text
        assert isinstance(answer.data["yes"], bool) and answer.data["grade"] in ("low", "high") and isinstance(answer.data["number"], int)
        assert json.loads(answer.text) == answer.data


def test_a_schema_that_is_none(small):
    with pytest.raises(ModelError) as caught:
        small(ASK, schema={"type": "nonsense"})
    assert caught.value.code == "bad_request" and not caught.value.retryable


def test_prompt_longer_than_the_context():
    model = local_model("smollm2-135m", context=256)
    with pytest.raises(ModelError, match=r"The prompt has 5\d\d tokens, and local/smollm2-135m takes 256") as caught:
        model(user("word " * 500))
    assert caught.value.code == "too_long" and not caught.value.retryable
    assert model(user("word"), max_tokens=4).text  # It is alive
    answer = model(user("Count to one thousand."), temperature=0)  # The end of the context ends the answer
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= 257
    model.close()


def test_a_crash_is_an_error_of_the_call_and_no_other(small):
    expected = small(ASK, temperature=0, max_tokens=16).text
    victim = process(small)
    threading.Timer(0.3, victim.send_signal, [signal.SIGKILL]).start()
    with pytest.raises(ModelError, match=r"The process of local/smollm2-135m died while it answered \(signal 9\)\. The next call starts") as caught:
        for _ in range(50):
            small(user("Write a very long story about a dragon. " * 20), temperature=0, max_tokens=400)
    assert caught.value.code == "crash" and caught.value.retryable and caught.value.provider == small.name
    assert small(ASK, temperature=0, max_tokens=16).text == expected
    process(small).kill()  # Between two calls nobody is harmed
    time.sleep(0.1)
    assert small(ASK, temperature=0, max_tokens=16).text == expected


def test_weights_that_are_none(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(1000))
    model = LocalModel("broken", tmp_path / "x.gguf", "0" * 64)
    for _ in range(2):
        with pytest.raises(ModelError, match="could not be started .*Its last words: .*"):
            model(ASK)
    model = LocalModel("missing", tmp_path / "y.gguf", "0" * 64)
    with pytest.raises(ModelError, match="No such file"):
        model(ASK)


def test_a_start_that_takes_too_long(small):
    slow = LocalModel("slow", small.path, small.sha256, context=512, patience=0.01)
    with pytest.raises(ModelError, match=r"did not start within 0.01 s"):
        slow(ASK)
    assert not [c for c in local._children.values() if c.setup.name == "slow" and c.process]


def test_an_interrupted_call_leaves_a_model_that_answers(small):
    code = """
        import signal, sys, threading, os
        from llmops_nb.local import local_model
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Whatever the shell that started the tests had set
        model = local_model("smollm2-135m")
        ask = [{"role": "user", "content": "What is a list in Python?"}]
        first = model(ask, temperature=0, max_tokens=16).text
        before = model._child.process.pid
        threading.Timer(0.5, os.killpg, [os.getpgrp(), signal.SIGINT]).start()  # As Ctrl-C in a terminal
        try:
            while True:
                model(ask * 20, temperature=0, max_tokens=300)
        except KeyboardInterrupt:
            pass
        assert model(ask, temperature=0, max_tokens=16).text == first
        assert model._child.process.pid == before  # The interruption was not for the model
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


HOLDER = """
    import sys, time, os
    from llmops_nb import local
    from llmops_nb.local import local_model
    model = local_model(sys.argv[1], context=512)
    loading = sys.argv[2] == "loading"
    if loading:
        import threading
        threading.Thread(target=lambda: model([{"role": "user", "content": "Hi"}], max_tokens=4)).start()
        while not (found := [c.process for c in local._children.values() if c.process]):
            time.sleep(0.001)
        time.sleep(0.1)
    else:
        model([{"role": "user", "content": "Hi"}], max_tokens=4)
        found = [c.process for c in local._children.values()]
    print(found[0].pid, flush=True)
    if sys.argv[2] != "exit":
        time.sleep(60)
"""


@pytest.mark.parametrize("when", ["idle", "loading", "exit"])
def test_the_process_ends_with_its_parent(when):
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLDER), "smollm2-135m", when], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    if when != "exit":
        assert not gone(pid)
        parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < end, "the process outlived its parent"
        time.sleep(0.02)


def test_many_threads_get_their_own_answers(small):
    def ask(number):
        return small(user(f"Repeat exactly: number {number}"), temperature=0, max_tokens=12, schema={"const": f"number {number}"})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert [a.data for a in answers] == [f"number {n}" for n in range(16)]
    plain = [user(f"What is {n} plus {n}?") for n in range(6)]
    alone = [small(m, temperature=0, max_tokens=12).text for m in plain]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda m: small(m, temperature=0, max_tokens=12).text, plain)) == alone
    assert len([c for c in local._children.values() if c.process and c.setup.path == small.path and c.setup.context == 4096]) == 1


def test_latency_does_not_count_the_wait(small):
    def ask(_):
        start = time.perf_counter()
        answer = small(ASK, temperature=0, max_tokens=24)
        return answer.usage.latency, time.perf_counter() - start

    with ThreadPoolExecutor(8) as pool:
        measured = list(pool.map(ask, range(8)))
    assert sum(latency for latency, _ in measured) < 1.5 * max(waited for _, waited in measured)


def test_two_models_share_a_process(small):
    again = local_model("local/smollm2-135m")
    assert again.digest == small.digest and again == small
    small(ASK, max_tokens=2)
    before = process(small).pid
    again(ASK, max_tokens=2)
    assert process(again).pid == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_after_a_fork(small):
    expected = small(ASK, temperature=0, max_tokens=16).text
    pid = process(small).pid
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            same = small(ASK, temperature=0, max_tokens=16).text == expected and process(small).pid != pid
            os.write(writer, b"1" if same else b"0")
            local._end_all()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and os.read(reader, 1) == b"1"
    assert process(small).pid == pid and small(ASK, temperature=0, max_tokens=16).text == expected


def test_only_the_key_opens_it(small):
    import urllib3

    small(ASK, max_tokens=2)
    (child,) = [c for c in local._children.values() if c.process and c.setup.path == small.path and c.setup.context == 4096]
    body = json.dumps({"messages": ASK, "max_tokens": 2}).encode()
    for headers in ({}, {"authorization": "Bearer none"}):
        assert urllib3.request("POST", f"{child.address}/v1/chat/completions", body=body, headers=headers, retries=False).status == 401
    assert child.address.startswith("http://127.0.0.1:")
    assert child.key not in repr(small) and child.key not in " ".join(child.process.args)


def test_digest_follows_whatever_changes_the_text(small):
    others = [local_model("smollm2-135m", load_settings(threads=3)), local_model("smollm2-135m", context=1024), local_model("qwen2.5-coder-0.5b")]
    assert len({small.digest, *(o.digest for o in others)}) == 4
    assert small.facts["weights"] == CATALOGUE["smollm2-135m"].files[0].sha256
    assert small.facts["cache_prompt"] is False and small.facts["threads"] == load_settings().threads
    assert small.facts["runtime"].startswith("xllamacpp 20")
    json.dumps(small.facts)


def test_names_and_options(small):
    with pytest.raises(ConfigurationError, match="No local model named 'bge-small-en-v1.5'. Known: 'qwen2.5-coder-0.5b', 'qwen2.5-coder-1.5b', 'smollm2-135m'"):
        local_model("bge-small-en-v1.5")
    with pytest.raises(ConfigurationError, match="Did you mean 'temperature'"):
        small(ASK, temprature=0)
    with pytest.raises(ConfigurationError, match="threads = 0"):
        LocalModel("x", small.path, small.sha256, threads=0)


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of small Linux images")
def test_a_machine_without_openmp(small, tmp_path):
    "The child finds no such library, as it thinks, and begins again with the one that faiss carries."
    program = local._child_file()
    code = f"import ctypes, runpy\ndef missing(*_): raise OSError\nctypes.CDLL = missing\nrunpy.run_path({program!r}, run_name='__main__')"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)})
    child.stdin.write(json.dumps({"path": str(small.path), "threads": 1, "context": 256, "key": "k"}).encode() + b"\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["address"].startswith("http://127.0.0.1:")
    loaded = Path(f"/proc/{child.pid}/maps").read_text()
    assert ".libs/libgomp-" in loaded and "/libgomp.so.1" not in loaded
    assert list(tmp_path.iterdir()) == []  # The link is gone
    child.stdin.close()
    child.wait(5)


def test_the_parent_never_loads_the_runtime():
    code = """
        import sys
        from llmops_nb.local import local_model
        model = local_model("smollm2-135m")
        model([{"role": "user", "content": "Hi"}], max_tokens=2)
        assert "xllamacpp" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
