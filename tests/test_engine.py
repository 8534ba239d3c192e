"""Kernels from a warm process give what papermill's own engine gives, share nothing, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
import papermill
import pytest
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from llmops_nb import _engine_kernel, engine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork on this system")
SPEC = {"name": "python3", "display_name": "python3", "language": "python"}

# What cells may do; those with an exclamation mark raise
CELLS = [
    "x = 1",
    "import matplotlib.pyplot as plt\nimport numpy as np\nplt.plot([1, 3, 2]);",  # A figure in the cell that imports
    "import asyncio, json, logging, os, sys, warnings\nimport pandas as pd\nimport transformers\nimport tqdm.auto, tqdm.autonotebook",  # Two of them say something
    "print('out', x); print('err', file=sys.stderr); print('again')\nx * 2",
    "pd.DataFrame({'a': [1, x], 'b': ['x', 'y']})",
    "from IPython.display import HTML, JSON, SVG, Markdown, clear_output, display, update_display\nhandle = display(HTML('<b>1</b>'), display_id='one', metadata={'isolated': True})",
    "display(JSON({'a': 1}), Markdown('*m*'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>'), metadata={'m': 1})",
    "handle.update(HTML('<b>2</b>'))\nupdate_display('three', display_id='one')",
    "print('gone'); clear_output(); print('stays')",
    "for i in range(3):\n    clear_output(wait=True)\n    print(i)",
    "fig, axes = plt.subplots(1, 2)\naxes[0].plot([1, 2]); axes[1].hist([1, 2, 2]);\nfig",
    "%config InlineBackend.figure_format = 'svg'\n%config InlineBackend.print_figure_kwargs = {'metadata': {'Date': None}}\n"
    "plt.rcParams['svg.hashsalt'] = 'x'\nplt.plot([2, 1]); plt.show(); print('after')",
    "plt.get_backend(), plt.isinteractive(), plt.get_fignums(), {name: len(calls) for name, calls in get_ipython().events.callbacks.items()}",
    "!def inner(y):\n    return y / 0\ninner(x)",
    "!1 +",
    "!raise KeyboardInterrupt('k')",
    "!pd.DataFrame()['nope']",
    "!input('? ')",
    "!sys.exit(3)",
    "!raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
    "!import no_such_module",
    "async def later():\n    await asyncio.sleep(0.01)\n    return 5\nawait later()",
    "%%time\nsum(range(10))",
    "!!echo hello; echo bad >&2; exit 3",
    "said = !echo a b\nsaid, _exit_code",
    "%%bash\necho from bash\necho to err >&2",
    "%pwd",
    "%history -n 1-4",
    "%%capture got\nprint('hidden')",
    "got.stdout",
    "%%writefile made.py\nZ = 7",
    "import made\nmade.Z, made.__file__",
    "%run made.py\nZ",
    "import ipywidgets\nslider = ipywidgets.IntSlider(value=x, description='s')\nslider",
    "out = ipywidgets.Output()\nwith out:\n    print('inside'); display(HTML('<i>in</i>'))\nout",
    "for i in tqdm.auto.tqdm(range(3), desc='bar'):\n    pass",
    "seen = []\nbutton = ipywidgets.Button(description='b'); button.on_click(seen.append); button.click(); len(seen)",
    "warnings.warn('careful'); warnings.warn('old', DeprecationWarning)\nlogging.warning('logged'); logging.getLogger('transformers').warning('t')",
    "import subprocess\nos.write(1, b'raw\\n'); subprocess.run(['echo', 'child']).returncode",
    "import threading\nt = threading.Thread(target=lambda: print('from a thread')); t.start(); t.join()",
    "def boom():\n    raise ValueError('in a thread')\nt = threading.Thread(target=boom, name='b'); t.start(); t.join()",
    "[a.rsplit('/', 1)[-1] for a in sys.argv[:2]], os.getcwd(), __name__, str(get_ipython().__class__), sys.stdin.isatty(), hasattr(sys.modules['__main__'], '__file__')",
    "sys.path, sys.flags, sys.warnoptions, sys.getrecursionlimit()",
    "{k: v for k, v in os.environ.items() if k not in ('JPY_PARENT_PID', 'PYTEST_CURRENT_TEST')}",
    "import signal\n[signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)]",
    "[(f[0], str(f[1]), f[2].__name__, str(f[3]), f[4]) for f in warnings.filters]",
    "logging.getLogger().handlers, logging.getLogger().level, sorted(t.name for t in threading.enumerate() if 'Thread-' not in t.name), threading.active_count()",
    "np.geterr(), sorted((k, repr(v)) for k, v in plt.rcParams.items() if k != 'svg.hashsalt')",
    "import random\nrandom.seed(1); np.random.seed(1); random.random(), np.random.rand(2), np.random.default_rng(3).random()",
    "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n    r = pool.map(abs, [-1, -2])\nr",
    "a = np.arange(90000.0).reshape(300, 300); float((a @ a).sum())",
    "sorted(get_ipython().display_formatter.formatters['image/png'].type_printers, key=str), sorted(get_ipython().magics_manager.magics['cell'])",
    "class R:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n        return {'text/plain': 'p', 'application/x-y+json': {'z': 1}}, {'application/x-y+json': {'m': 2}}\nR()",
    "sys.stdout.write('w\\n'); sys.stdout.encoding, sys.stdout.isatty(), sys.__stdout__.name",
    "_, _i[:10], len(In), sorted(Out)[:3]",
    "print('no newline', end=''); print('\\rover')",
    "abs?",
    "%xmode Minimal",
    "!1/0",
]


def notebook(path: Path, *sources: str, spec: dict[str, str] = SPEC) -> Path:
    "A notebook file; a cell that begins with an exclamation mark may raise."
    cells = []
    for number, source in enumerate(sources):
        raises = source.startswith("!")
        cells.append(nbformat.v4.new_code_cell(source[raises:], id=f"c{number}", metadata={"tags": ["raises-exception"]} if raises else {}))
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def run(path: Path, name: str | None = "llmops", values: dict[str, Any] | None = None, **options: Any) -> Any:
    "The notebook executed beside itself."
    options = {"resources": {"metadata": {"path": str(path.parent)}}, "extra_arguments": ["--log-level=50"], "progress_bar": False, **options}
    return papermill.execute_notebook(path, path.with_suffix(".out.ipynb"), values, engine_name=name, **options)


def text(nb: Any, cell: int = -1) -> str:
    "The value or the stream that a cell ends with."
    last = nb.cells[cell].outputs[-1]
    return str(last["data"]["text/plain"] if "data" in last else last["text"])


def server() -> Any:
    "The only warm process there is."
    (only,) = _engine_kernel._warm.values()
    return only


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    engine.register()
    engine.close_servers()
    engine._said.clear()
    yield
    engine.close_servers()


def alive(pid: int) -> bool:
    "Whether a process runs; one that is dead and not collected does not."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int, seconds: float = 20.0) -> bool:
    "Whether processes end in time."
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


# The same outputs


def steady(value: Any) -> str:
    "JSON without what differs between any two runs: process ids, random ids, addresses, times."
    found = json.dumps(value, sort_keys=True)
    for pattern, instead in (
        (r"ipykernel_\d+", "ipykernel_N"),
        (r"0x[0-9a-f]+", "0x"),
        (r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "id"),
        (r"[\d.e+-]+ (ns|\\u00b5s|\\u03bcs|us|ms|s)\b", "time"),
        (r"Thread-\d+", "Thread-N"),
        (r"\d\d:\d\d&lt;\d\d:\d\d, +[\d.?]+it/s", "speed"),
        (r"0?\d:\d\d<?", "time"),
        (r"[\d.]+it/s", "speed"),
    ):
        found = re.sub(pattern, instead, found)
    return found


def outputs(cell: Any) -> list[Any]:
    "A cell's outputs; how often a stream was flushed is left to chance."
    found: list[Any] = []
    for output in cell.get("outputs", []):
        if found and output["output_type"] == "stream" and found[-1].get("name") == output["name"]:
            found[-1]["text"] += output["text"]
        else:
            found.append(dict(output))
    return found


def widgets(nb: Any) -> list[str]:
    "The states of all widgets, in an order that does not depend on their random ids."
    return sorted(steady(state) for state in nb.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = notebook(tmp_path_factory.mktemp("everything") / "all.ipynb", *CELLS)
    receive = AsyncZMQSocketChannel.get_msg

    async def patiently(self: Any, timeout: float | None = None) -> Any:
        while timeout is None:
            with contextlib.suppress(Empty):
                return await receive(self, 0.5)
        return await receive(self, timeout)

    with pytest.MonkeyPatch.context() as patch:  # Else nbclient now and then waits for ever in the cell with the output widget
        patch.setattr(AsyncZMQSocketChannel, "get_msg", patiently)
        return path, executed(path, "nbclient")


def executed(path: Path, name: str, **options: Any) -> Any:
    "All cells; the errors that papermill finds at the end are wanted."
    (path.parent / "made.py").unlink(missing_ok=True)
    with pytest.raises(papermill.PapermillExecutionError):
        run(path, name, {"x": 5}, **options)
    return nbformat.read(path.with_suffix(".out.ipynb"), 4)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["fork", "pool"])
def test_every_output_is_what_the_plain_engine_gives(everything: tuple[Path, Any], way: str) -> None:
    path, plain = everything
    warm = executed(path, "llmops", way=way)
    started = engine.started_of(warm)
    assert started and started.way == way and {"matplotlib.pyplot", "transformers", "pandas"} <= set(started.loaded), started
    assert len(plain.cells) == len(warm.cells) > len(CELLS)
    for old, new in zip(plain.cells, warm.cells, strict=True):
        assert steady(outputs(new)) == steady(outputs(old)), f"other outputs than plain from:\n{old.source}"
        assert new.get("execution_count") == old.get("execution_count")
        assert new.metadata.get("papermill", {}).get("exception") == old.metadata.get("papermill", {}).get("exception")
    assert warm.metadata.language_info == plain.metadata.language_info
    assert widgets(warm) == widgets(plain) and len(widgets(plain)) > 5
    by = {cell.source: cell.outputs for cell in warm.cells if cell.cell_type == "code"}  # The comparison is of something
    assert [o["output_type"] for o in by[CELLS[1]]] == ["display_data"] and "image/png" in by[CELLS[1]][0]["data"]
    assert any("PyTorch" in o.get("text", "") for o in by[CELLS[2]]), "what a module says when it is imported is said where the notebook imports it"


def test_an_error_ends_the_run_as_it_does_plainly(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "x = 1", "def f(y):\n    return 1 / y\nf(x)", "print('never')")
    found = []
    for name in ("nbclient", "llmops"):
        with pytest.raises(papermill.PapermillExecutionError) as error:
            run(path, name, {"x": 0})
        nb = nbformat.read(path.with_suffix(".out.ipynb"), 4)
        statuses = [cell.metadata.get("papermill", {}).get("status") for cell in nb.cells]
        found.append((error.value.ename, error.value.evalue, error.value.cell_index, steady(error.value.traceback), statuses, steady(outputs(nb.cells[-2]))))
    assert found[0] == found[1] and "ZeroDivisionError" in found[0]
    assert server().process.poll() is None


# Nothing is shared


def test_runs_share_nothing(tmp_path: Path) -> None:
    code = """
        import json, os, random, sys, warnings
        import matplotlib.pyplot as plt, numpy as np, pandas as pd
        state = {"module": getattr(json, "spoilt", None), "option": pd.get_option("display.max_rows"), "rc": plt.rcParams["lines.linewidth"], "figures": plt.get_fignums(),
                 "variable": os.environ.get("LEFT_BEHIND"), "cwd": os.getcwd(), "name": globals().get("name"), "path": "/left/behind" in sys.path, "class": hasattr(pd.DataFrame, "mine")}
        draws = [random.random(), float(np.random.rand()), float(np.random.default_rng().random()), str(os.getpid()), str(id(object()))]
        json.spoilt = name = 1; pd.set_option("display.max_rows", 3); plt.rcParams["lines.linewidth"] = 9; plt.figure(); pd.DataFrame.mine = 1
        os.environ["LEFT_BEHIND"] = "1"; os.chdir("/"); sys.path.append("/left/behind"); random.seed(0); np.random.seed(0); warnings.simplefilter("ignore")
        print(json.dumps([state, draws]))"""
    path = notebook(tmp_path / "n.ipynb", "x = 1", textwrap.dedent(code))
    runs = [json.loads(run(path, values={"x": x}).cells[-1].outputs[0]["text"]) for x in range(3)]
    assert runs[0][0] == runs[1][0] == runs[2][0] and runs[0][0]["cwd"] == str(tmp_path) and runs[0][0]["variable"] is None
    for drawn in list(zip(*(draws for _, draws in runs), strict=True))[:4]:
        assert len(set(drawn)) == 3, "random numbers and process ids differ between runs"
    assert len(_engine_kernel._warm) == 1


def test_an_edit_of_a_module_of_ones_own_is_seen(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "x = 1", "import pandas, mine\nmine.VALUE, pandas.__name__")
    for value in (1, 2):
        (tmp_path / "mine.py").write_text(f"VALUE = {value}\n" + "#" * value)  # Of another length: bytecode is compared by time and size
        nb = run(path)
        assert text(nb) == f"({value}, 'pandas')"
    assert engine.started_of(nb) == engine.Started("fork", "", ("pandas",))


def test_another_environment_gets_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = notebook(tmp_path / "n.ipynb", "x = 1", "import os, matplotlib\nos.environ.get('KIND'), matplotlib.get_configdir()")
    for kind in ("a", "b"):
        monkeypatch.setenv("KIND", kind)
        monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / kind))
        assert text(run(path)) == str((kind, str(tmp_path / kind)))
    assert len(_engine_kernel._warm) == 2


def test_a_process_is_made_anew_when_a_package_was_installed(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "import jinja2")
    run(path)
    before = server().process.pid
    run(path)
    assert server().process.pid == before
    server().said["places"] = dict.fromkeys(server().said["places"], 1)  # As if it had imported before the last installation
    run(path)
    assert server().process.pid != before and gone(before)


# What may go wrong


def test_a_crash_ends_one_run_and_no_other(tmp_path: Path) -> None:
    bad = notebook(tmp_path / "bad.ipynb", "x = 1", "import os, jinja2\nos.abort()")
    with pytest.raises(DeadKernelError):
        run(bad)
    pid = server().process.pid
    good = notebook(tmp_path / "good.ipynb", "import os, jinja2\nos.getppid()")
    assert text(run(good)) == str(pid)


def test_a_hanging_cell_is_ended_by_its_time_out(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "import os, subprocess\nopen('pid', 'w').write(f'{os.getpid()}')", "while True:\n    pass")
    with pytest.raises(CellTimeoutError):
        run(path, execution_timeout=1)
    assert gone(int((tmp_path / "pid").read_text())) and alive(server().process.pid)
    path = notebook(tmp_path / "n.ipynb", "import os, subprocess\nos.getppid()")
    assert text(run(path)) == str(server().process.pid)


def test_a_cell_is_interrupted_as_it_is_plainly(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "x = 1", "!import time\ntry:\n    time.sleep(30)\nfinally:\n    print('cleaned')", "x + 1")
    found = []
    for name in ("nbclient", "llmops"):
        with pytest.raises(papermill.PapermillExecutionError):
            run(path, name, execution_timeout=2, interrupt_on_timeout=True)
        nb = nbformat.read(path.with_suffix(".out.ipynb"), 4)
        found.append([steady(outputs(cell)) for cell in nb.cells])
    assert found[0] == found[1] and "KeyboardInterrupt" in found[0][-2] and '"2"' in found[0][-1]


def test_a_notebook_may_execute_notebooks(tmp_path: Path) -> None:
    inner = notebook(tmp_path / "inner.ipynb", "x = 1", "import jinja2\nx * 2")
    code = f"import papermill\nfrom llmops_nb import engine\nengine.register()\nnb = papermill.execute_notebook({str(inner)!r}, None, {{'x': 4}}, engine_name='llmops', progress_bar=False)\n"
    nb = run(notebook(tmp_path / "outer.ipynb", "x = 1", code + "nb.cells[-1].outputs[0].data['text/plain'], engine.started_of(nb).way"))
    assert text(nb) == "('8', 'fork')"


def test_a_kernel_ends_as_an_interpreter_does(tmp_path: Path) -> None:
    code = """
        import atexit, threading, time, subprocess, jinja2
        class Last:
            def __del__(self, write=lambda: open("deleted", "w").close()): write()
        last, unclosed = Last(), open("unclosed", "w")
        unclosed.write("text")
        atexit.register(lambda: open("exit", "w").close())
        threading.Thread(target=lambda: (time.sleep(0.3), open("thread", "w").close())).start()
        import ctypes; libc = ctypes.CDLL(None); libc.fdopen.restype = ctypes.c_void_p
        file = libc.fdopen(__import__("os").open("buffered", 65), b"w"); libc.fputs(b"c", ctypes.c_void_p(file))
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE) if warm else None  # As a local model is kept; a plain kernel waits for its zombie until it is killed
        print(child and child.pid)"""
    path = notebook(tmp_path / "n.ipynb", "warm = False", textwrap.dedent(code))
    for name in ("nbclient", "llmops"):
        nb = run(path, name, {"warm": name == "llmops"})
        assert name == "nbclient" or gone(int(text(nb)))
        for file, size in (("exit", 0), ("thread", 0), ("deleted", 0), ("unclosed", 4), ("buffered", 1)):
            assert (tmp_path / file).stat().st_size == size, (name, file)
            (tmp_path / file).unlink()


@pytest.mark.parametrize("killed", ["client", "server"])
def test_nothing_is_left_when_one_is_killed(tmp_path: Path, killed: str) -> None:
    command = "['sleep', '300']" if killed == "client" else "['cat']"  # The second ends by itself when its pipe does
    path = notebook(tmp_path / "n.ipynb", "x = 1", f"import os, subprocess, time, jinja2\nchild = subprocess.Popen({command}, stdin=subprocess.PIPE)\n"
                    "open('pids.tmp', 'w').write(f'{os.getppid()} {os.getpid()} {child.pid}'); os.rename('pids.tmp', 'pids')\ntime.sleep(300)")  # fmt: skip
    program = f"import papermill; from llmops_nb import engine; engine.register(); papermill.execute_notebook({str(path)!r}, None, engine_name='llmops', cwd={str(tmp_path)!r}, progress_bar=False)"
    client = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pids").exists():
            assert time.monotonic() < deadline and client.poll() is None
            time.sleep(0.05)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, pids))
        os.kill(client.pid if killed == "client" else pids[0], signal.SIGKILL)
        assert gone(*pids), "the server, the kernel and what it started"
        assert client.wait(30) != 0
    finally:
        client.kill()
        client.wait()


def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "import jinja2, os\nos.getppid()")
    first = text(run(path))
    os.kill(int(first), signal.SIGKILL)
    assert text(run(path)) != first


def test_nothing_piles_up(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "import os\nlen(os.listdir('/proc/self/fd'))")
    run(path)
    pid = server().process.pid
    before = [len(os.listdir(f"/proc/{which}/fd")) for which in ("self", pid)]
    opened = {text(run(path)) for _ in range(4)}
    assert [len(os.listdir(f"/proc/{which}/fd")) for which in ("self", pid)] == before
    assert len(opened) == 1 and not subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout.split()
    assert not server().busy()


def test_many_threads_may_run_at_once(tmp_path: Path) -> None:
    paths = []
    for number in range(6):
        (tmp_path / f"d{number % 2}").mkdir(exist_ok=True)
        paths.append(notebook(tmp_path / f"d{number % 2}" / f"n{number}.ipynb", "x = 1", "import os, jinja2, time\ntime.sleep(0.2)\nx, os.getcwd()"))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: text(run(paths[number], values={"x": number})), range(6)))
    assert found == [str((number, str(tmp_path / f"d{number % 2}"))) for number in range(6)]
    assert len(_engine_kernel._warm) == 2, "one for each directory"


def test_a_forked_client_starts_a_process_of_its_own(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "import os, jinja2\nos.getppid()")
    program = f"""
        import multiprocessing, papermill
        from llmops_nb import engine
        def run(queue=None):
            found = papermill.execute_notebook({str(path)!r}, None, engine_name="llmops", progress_bar=False).cells[-1].outputs[0].data["text/plain"]
            return queue.put(found) if queue else found
        engine.register(); first = run()
        context = multiprocessing.get_context("fork"); queue = context.Queue()
        child = context.Process(target=run, args=(queue,)); child.start(); other = queue.get(timeout=60); child.join()
        assert len({{first, other}}) == 2 and first == run(), (first, other)"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# What cannot be forked


def test_another_kernel_is_started_plainly_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "own"
    spec.mkdir(parents=True)
    code = "from ipykernel.kernelapp import main; main()"
    (spec / "kernel.json").write_text(json.dumps({"argv": [sys.executable, "-c", code, "-f", "{connection_file}"], "display_name": "own", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = notebook(tmp_path / "n.ipynb", "x = 1", "x + 1", spec={"name": "own", "display_name": "own", "language": "python"})
    for _ in range(2):
        nb = run(path)
        assert text(nb) == "2"
        started = engine.started_of(nb)
        assert started and started.way == "plain" and "a way of its own" in started.reason
    assert capsys.readouterr().err.count("executed the plain way") == 1, "said once"


def test_a_file_with_the_name_of_a_package_means_the_file(tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("WHO = 'the file'")
    nb = run(notebook(tmp_path / "n.ipynb", "import jinja2\njinja2.WHO"))
    assert text(nb) == "'the file'" and "jinja2 beside the notebook" in str(engine.started_of(nb))


def test_imports_that_take_too_long_are_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine_kernel, "PROGRAM", str(tmp_path / "slow.py"))
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    choice = _engine_kernel.Choice((), "fork")
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "x"]
    assert _engine_kernel.process_for(command, choice, dict(os.environ), str(tmp_path), 0.5) is None
    assert (choice.way, choice.reason) == ("plain", "the imports took longer than 0.5 s")
    (tmp_path / "slow.py").write_text("raise SystemExit('no room')")
    assert _engine_kernel.process_for(command, choice, dict(os.environ), str(tmp_path), 30) is None
    assert choice.reason == "the server ended while it imported: no room"


PACKAGES = {
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
    "brief": "import threading, time\nthreading.Thread(target=time.sleep, args=(0.2,)).start()\n",
    "raising": "raise RuntimeError('not here')\n",
    "pulling": "import own_work\n",
    "telling": "import os, sys, warnings\nprint('hello')\nwarnings.warn('old', UserWarning)\nos.write(2, b'raw')\nSEEN = os.environ.get('FLAG')\nos.environ['SET_BY'] = 'import'\n",
    "asking": "import IPython\nip = IPython.get_ipython()\nSHELL = type(ip).__name__, ip.__class__.__name__\nip.events.register('post_execute', lambda: print('hook'))\n",
    "quiet": "",
}


@pytest.mark.parametrize("way", ["fork", "pool"])
def test_modules_that_may_not_be_imported_ahead_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    site, own = tmp_path / "site-packages", tmp_path / "own"
    for place, name, code in [*((site, name, code) for name, code in PACKAGES.items()), (own, "own_work", "VALUE = 1")]:
        place.mkdir(exist_ok=True)
        (place / f"{name}.py").write_text(code)
    program = Path(_engine_kernel.PROGRAM).read_text("utf-8").replace("return tuple(sorted(", f"found.append({str(site)!r})\n    return tuple(sorted(")
    (tmp_path / "server.py").write_text(program.replace("PATIENCE = 10.0", "PATIENCE = 1.0"))
    monkeypatch.setattr(_engine_kernel, "PROGRAM", str(tmp_path / "server.py"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(own), os.environ.get("PYTHONPATH", "")]))
    path = notebook(tmp_path / "n.ipynb", "import os\nos.environ['FLAG'] = 'set'", "import threaded, brief, pulling, quiet, own_work", "!import raising",
                    "import telling\ntelling.SEEN, os.environ['SET_BY']", "import warnings; warnings.simplefilter('ignore')", "import asking\nasking.SHELL")  # fmt: skip
    with pytest.raises(papermill.PapermillExecutionError):
        run(path, way=way)
    nb = nbformat.read(path.with_suffix(".out.ipynb"), 4)
    started = engine.started_of(nb)
    assert started and started.way == way, started
    assert {"raising": "its import raised RuntimeError: not here", "own_work": "it is no installed package and may change between two runs"}.items() <= started.left.items()
    assert "imports own_work" in started.left["pulling"]
    assert ("starts threads" in started.left.get("threaded", "")) == (way == "fork")
    assert {"brief", "telling", "asking", "quiet", "os"} <= set(started.loaded)
    by = {cell.source: cell.outputs for cell in nb.cells if cell.cell_type == "code"}
    said = by["import telling\ntelling.SEEN, os.environ['SET_BY']"]
    assert said[-2]["data"]["text/plain"] == "('set', 'import')" and said[-1]["text"] == "hook\n"
    assert [o["text"] for o in said if o.get("name") == "stdout"][0] == "hello\n"
    assert any("UserWarning: old" in o.get("text", "") and "raw" in o["text"] for o in said)
    assert by["import asking\nasking.SHELL"][0]["data"]["text/plain"] == "('Later', 'ZMQInteractiveShell')"


@pytest.mark.parametrize(
    ("cells", "steps"),
    [
        (["import a.b as c, d\nfrom e.f import g, h\nfrom . import i\nfrom __future__ import annotations\nfrom j import *"], [("a.b",), ("d",), ("e.f", "g", "h"), ("j",)]),
        (["try:\n    import a\nexcept ImportError:\n    import b\nif 0:\n    import c\nwith x:\n    import d\nfor i in y:\n    import e\nelse:\n    import f"], [("a",), ("b",), ("c",), ("d",), ("e",), ("f",)]),
        (["def f():\n    import a\nclass B:\n    import c\nimport d"], [("d",)]),
        (["%matplotlib inline\n!ls\nx = !ls\ny = %who_ls\na?\n?b\nimport c"], [("c",)]),
        (["%%time\nimport a", "%%bash\nimport b", "%%html\n<b>import c</b>"], [("a",)]),
        (["import a\nthis is no Python\nimport b"], [("a",), ("b",)]),
        (["await f()\nimport a; import b"], [("a",), ("b",)]),
        (["os.environ['X'] = '1'\nimport a", "os.environ.setdefault('Y', '2')", "os.environ.update({'Z': '3'})\nimport b"], ["X=1", ("a",), "Y?2", "Z=3", ("b",)]),
        (["%env X=1 2\n%set_env Y 3\n%env\n%env Z\nimport a"], ["X=1 2", "Y=3", ("a",)]),
        (["if os.environ.get('X') or os.environ['Y']:\n    import a"], [("a",)]),
        (["os.environ['X'] = key\nimport a"], []),
        (["os.environ |= more\nimport a"], []),
        (["os.environ.pop('X')\nimport a"], []),
        (["from dotenv import load_dotenv\nload_dotenv()\nimport a"], [("dotenv", "load_dotenv")]),
        (["%env X={y}\nimport a"], []),
        (["", "\x00", "import a"], [("a",)]),
    ],
)
def test_imports_are_read_and_nothing_is_run(cells: list[str], steps: list[Any]) -> None:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("import z"), *map(nbformat.v4.new_code_cell, cells)])
    found = engine.ahead_of(nb)
    kinds = {"environment": "=", "default": "?"}
    assert [(step[1], *step[2]) if step[0] == "import" else f"{step[1]}{kinds[step[0]]}{step[2]}" for step in found.steps] == steps
    assert list(found.left) == ([] if ("a",) in steps or not cells[-1].endswith("import a") else ["a"])


def test_figures_are_set_up_by_the_kernel_that_shows_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import matplotlib.pyplot as plt")
    path = notebook(tmp_path / "n.ipynb", "from matplotlib_inline.backend_inline import set_matplotlib_formats\nset_matplotlib_formats('svg')", "import mine\nmine.plt.plot([1, 2]); mine.plt.show()")
    for _ in range(4):  # The last is forked with pyplot imported
        nb = run(path)
        assert "image/svg+xml" in nb.cells[-1].outputs[0]["data"]
    started = engine.started_of(nb)
    assert started and "matplotlib" in started.loaded and "matplotlib_inline.backend_inline" in started.left


def test_what_modules_of_ones_own_import_is_imported_ahead_from_the_fourth_run_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import pandas\nVALUE = pandas.__name__")
    path = notebook(tmp_path / "n.ipynb", "import mine, sys\nmine.VALUE")
    ahead = []
    for _ in range(5):
        started = engine.started_of(run(path))
        assert started and started.way == "fork"
        ahead.append("pandas" in started.loaded)
        assert "mine" not in started.loaded
    assert ahead == [False, False, False, True, True] and len(_engine_kernel._warm) == 2
    (tmp_path / "mine.py").write_text("import os\nos.environ['SET'] = '1'\nimport pandas\nVALUE = 1")
    engine.close_servers()
    assert not any("pandas" in str(engine.started_of(run(path))) for _ in range(4)), "a module may read what was set before its import"
