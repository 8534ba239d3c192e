"""A Python process that has imported what notebooks need and becomes their kernel, by a fork for each or once itself.

It reads a plan (one line of JSON: what to import), imports, and says what it has. As a fork server it then takes one
request a run over a Unix socket, forks, and the child becomes an ordinary ipykernel; it ends with its client, and its
kernels with it. As a spare (where there is no fork) it waits for one request on standard input and becomes the kernel.
It is started by llmops_nb.engine as a file, so it imports nothing of the library.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import signal
import site
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PLAN = "LLMOPS_SPARE"  # Variable with the file that tells a spare what to import
FIGURES = "matplotlib_inline.backend_inline"  # Configures itself by the shell that it finds
HARMLESS = {"jemalloc_bg_thd"}  # Threads of C libraries that stop and start them around a fork by themselves
STARTED = ("runpy", "psutil", "ipykernel.subshell_manager", "zmq.asyncio", "tornado.platform.asyncio", "sqlite3", "faulthandler", "IPython.core.completerlib",
           "IPython.core.debugger", "IPython.core.oinspect", "IPython.extensions.storemagic")  # What a kernel imports while it starts  # fmt: skip
PATIENCE = 10.0  # Seconds a thread that was started by an import may still live


class Stream(io.TextIOBase):
    "sys.stdout or sys.stderr while modules are imported; what keeps it writes to the kernel's own stream afterwards."

    def __init__(
        self,
        name: str,  # "stdout" or "stderr"
        said: list[tuple[Any, ...]],  # Where to put what is written before there is a kernel
    ) -> None:
        self.stream_name, self.said, self.kernel = name, said, None

    def write(
        self,
        text: str,  # To say
    ) -> int:
        "Keep the text, or hand it to the kernel's stream."
        if self.kernel is not None:
            return int(self.kernel.write(text))
        self.said.append((self.stream_name, text))
        return len(text)

    def flush(self) -> None:
        "As the kernel's stream does."
        if self.kernel is not None:
            self.kernel.flush()

    def isatty(self) -> bool:
        "No terminal, like the stream of a kernel."
        return False

    def writable(self) -> bool:
        "Always."
        return True

    def fileno(self) -> int:
        "The file behind it."
        return int(self.kernel.fileno()) if self.kernel is not None else {"stdout": 1, "stderr": 2}[self.stream_name]

    encoding = "UTF-8"
    errors = None
    name = "<stream>"


class Later:
    "The shell that a module asks for while it is imported: every call is written down, and made when there is one."

    def __init__(self, calls: list[Any], path: tuple[str, ...] = ()) -> None:
        self.__dict__.update(_calls=calls, _path=path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(self._calls, (*self._path, name))

    def __setattr__(self, name: str, value: Any) -> None:
        self._calls.append((self._path, "=", (name, value), {}))

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._calls.append((self._path, "()", args, options))
        return None

    def real(
        self,
        shell: Any,  # That there is now
    ) -> Any:
        "What it stands for."
        for name in self._path:
            shell = getattr(shell, name)
        return shell

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        if self._path:
            return Later
        from ipykernel.zmqshell import ZMQInteractiveShell

        return ZMQInteractiveShell


def call_now(
    shell: Any,  # That there is now
    calls: list[Any],  # Written down by `Later`
) -> None:
    "Make the calls that modules wanted to make when they were imported."

    def found(value: Any) -> Any:
        return value.real(shell) if type(value) is Later else value

    for path, kind, args, options in calls:
        target = Later(calls, path).real(shell)
        given = [found(value) for value in args]
        if kind == "=":
            setattr(target, *given)
        else:
            target(*given, **{name: found(value) for name, value in options.items()})


class Echo(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Modules that said something when they were imported say it again where the notebook imports them."

    def __init__(self) -> None:
        self.kept: dict[str, tuple[ModuleType, list[tuple[Any, ...]]]] = {}

    def keep(
        self,
        name: str,  # Of an imported module
        said: list[tuple[Any, ...]],  # Text and warnings
    ) -> None:
        "Put a module aside until it is imported again."
        module = sys.modules.pop(name)
        parent, _, child = name.rpartition(".")
        if parent and getattr(sys.modules.get(parent), child, None) is module:
            delattr(sys.modules[parent], child)
        self.kept[name] = (module, said)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        "A module that was put aside."
        return importlib.util.spec_from_loader(name, self) if name in self.kept else None

    def create_module(self, spec: Any) -> ModuleType:
        "The module itself, with what the import system is about to overwrite."
        module, _ = self.kept[spec.name]
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        "Say what was said."
        spec = module.__spec__
        module.__spec__ = spec.loader_state if spec else None
        _, said = self.kept.pop(spec.name if spec else module.__name__)
        for kind, *what in said:
            if kind == "warning":
                message, category, file, line = what
                name = next((n for n, m in list(sys.modules.items()) if getattr(m, "__dict__", {}).get("__file__") == file), None)
                warnings.warn_explicit(message, category, file, line, module=name)
            else:
                getattr(sys, kind).write(what[0])


@contextlib.contextmanager
def raw_output(said: list[tuple[Any, ...]]) -> Iterator[None]:
    "Catch what C code writes to the file descriptors 1 and 2 for the time of a `with`."
    before = {number: os.dup(number) for number in (1, 2)}
    files = {number: tempfile.TemporaryFile() for number in (1, 2)}
    try:
        for number, file in files.items():
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, file in files.items():
            os.dup2(before[number], number)
            os.close(before[number])
            file.seek(0)
            if text := file.read().decode("utf-8", "replace"):
                said.append(("stdout" if number == 1 else "stderr", text))
            file.close()


def roots() -> tuple[str, ...]:
    "Where installed packages and the standard library are: what lies elsewhere is somebody's work and may change between two runs."
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += site.getsitepackages() if hasattr(site, "getsitepackages") else []
    found += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return tuple(sorted({os.path.realpath(path) + os.sep for path in found}))


def installed(
    module: Any,  # A module or its spec
    places: tuple[str, ...],  # From `roots`
) -> bool:
    "Whether a module is part of an installed package or of Python."
    file = module.__dict__.get("__file__") or module.__dict__.get("origin")
    if file is None and (around := module.__dict__.get("submodule_search_locations")):
        file = os.path.join(next(iter(around)), "")
    if not isinstance(file, str) or file in ("built-in", "frozen", "namespace"):
        return True
    return (real_directory(os.path.dirname(file)) + os.sep).startswith(places)


@functools.cache
def real_directory(path: str) -> str:
    "Where a directory is, links followed."
    return os.path.realpath(path)


def threads() -> list[str]:
    "The names of this process's other threads, those apart that may live through a fork."
    found = []
    for number in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{number}/comm") as file:
            if int(number) != os.getpid() and (name := file.read().strip()) not in HARMLESS:
                found.append(name)
    return found


def lonely(patience: float) -> bool:
    "Whether no other thread is left; a fork lets BLAS end its own, others are given some seconds."
    deadline = time.monotonic() + patience
    while threads():
        child = forked()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        if not threads():
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def forked() -> int:
    "os.fork, without the warning about threads that were looked at already."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Preload:
    "What is imported ahead, and how it went."

    def __init__(self) -> None:
        self.places = roots()
        self.loaded: list[str] = []
        self.left: dict[str, str] = {}  # Name → why it is left to the run
        self.calls: list[Any] = []  # To the shell that was not there
        self.echo = Echo()
        self.said: dict[str, list[tuple[Any, ...]]] = {}  # What modules said, by name
        self.streams: list[Stream] = []
        self.before: set[str] = set()
        self.given = dict(os.environ)  # What the run has anyway; an import may change it
        self.filters = list(warnings.filters)

    def kernel(self) -> None:
        "Import what every kernel imports, and be it, so that modules find what they look for."
        import ipykernel.kernelapp

        quiet = "PYDEVD_DISABLE_FILE_VALIDATION"
        os.environ[quiet] = before = os.environ.get(quiet, "1")

        with contextlib.suppress(ImportError):
            import ipykernel.debugger  # noqa: F401
        if quiet not in self.given and os.environ.get(quiet) == before:
            del os.environ[quiet]
        for name in STARTED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        self.kernelapp = ipykernel.kernelapp
        self.before = set(sys.modules)

    def step(self, kind: str, *what: Any) -> str:
        "One step of the plan; the name of a module that makes it impossible to go on, or nothing."
        if kind not in ("import", "learned"):
            variable, value = what
            os.environ[variable] = self.given[variable] = os.environ.get(variable, value) if kind == "default" else value
            return ""
        name, attributes = what
        if kind == "learned" and name in sys.modules:
            return ""
        top = name.partition(".")[0]
        if top == FIGURES.partition(".")[0]:
            self.left[name] = "it sets figures up for the shell of a kernel"
            return ""
        spec = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top]
        if spec is None:
            return ""  # The run may find it beside the notebook, or say that it is missing
        if not installed(spec, self.places):
            self.left[name] = "it is no installed package and may change between two runs"
            return ""
        spoilt = self.bring(name, attributes)
        if kind == "learned" and name in self.said:
            self.left[name] = "it says something when it is imported, and it is not known whether the run would let it"
            return str(name)
        return spoilt

    def spec(self, name: str) -> Any:
        "Where an imported module came from."
        module = self.echo.kept[name][0] if name in self.echo.kept else sys.modules.get(name)
        return getattr(module, "__dict__", {}).get("__spec__")

    def bring(self, name: str, attributes: list[str]) -> str:
        "Import one module as a cell would; its name when the process is spoilt by it."
        said: list[tuple[Any, ...]] = []
        seen = set(sys.modules)
        try:
            with self.as_cell(said):
                module = importlib.import_module(name)
                for attribute in attributes:
                    if not hasattr(module, attribute) and importlib.util.find_spec(f"{name}.{attribute}"):
                        importlib.import_module(f"{name}.{attribute}")
        except BaseException as error:  # An import is anybody's code
            if isinstance(error, ModuleNotFoundError) and set(sys.modules) == seen:
                return ""
            self.left[name] = f"its import raised {type(error).__name__}: {error}"
            return name
        if FIGURES in sys.modules:
            self.left[name] = "it sets figures up for the shell of a kernel"
            return name
        foreign = [other for other in set(sys.modules) - seen - {"__mp_main__"} if not installed(sys.modules[other], self.places)]
        if foreign:
            self.left[name] = f"it imports {min(foreign)}, which is no installed package and may change between two runs"
            return name
        if said:
            self.said.setdefault(name, []).extend(said)
        self.loaded.append(name)
        return ""

    @contextlib.contextmanager
    def as_cell(self, said: list[tuple[Any, ...]]) -> Iterator[None]:
        "What modules see while they are imported: a shell, streams that are no terminal, and every warning kept."
        import builtins

        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display

        shell = Later(self.calls)
        config: Any = InteractiveShell.config
        shell.__dict__["config"] = config.klass({"IPKernelApp": {"connection_file": ""}})
        warn = warnings.showwarning
        filter_ = ("always", None, Warning, None, 0)
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = streams = Stream("stdout", said), Stream("stderr", said)
        self.streams += streams
        builtins.__dict__.update(get_ipython=lambda: shell, display=display)
        InteractiveShell._instance = shell  # type: ignore[assignment]
        warnings.showwarning = lambda message, category, file, line, *rest: said.append(("warning", message, category, file, line))
        warnings.filters.insert(0, filter_)  # type: ignore[attr-defined]
        warnings._filters_mutated()  # type: ignore[attr-defined]
        try:
            with raw_output(said):
                yield
        finally:
            if filter_ in warnings.filters:
                warnings.filters.remove(filter_)  # type: ignore[attr-defined]
            warnings._filters_mutated()  # type: ignore[attr-defined]
            warnings.showwarning = warn
            InteractiveShell._instance = None
            del builtins.get_ipython, builtins.display  # type: ignore[attr-defined]
            sys.stdout, sys.stderr = before

    def run(
        self,
        plan: dict[str, Any],  # steps, left, fork
    ) -> dict[str, Any]:  # What to tell the client
        "Everything of a plan."
        started = time.perf_counter()
        self.left = dict(plan["left"])
        self.kernel()
        self.step("default", "MPLBACKEND", "module://matplotlib_inline.backend_inline")
        suspect, filters = "", list(warnings.filters)
        if plan["fork"] and not lonely(PATIENCE):
            return {"unable": f"Python itself runs threads here ({', '.join(threads())})"}
        for kind, *what in plan["steps"]:
            if kind in ("import", "learned") and what[0] in self.left or kind == "learned" and {what[0].partition(".")[0], "*"} & set(self.left):
                continue
            if spoilt := self.step(kind, *what):
                return {"again": spoilt, "why": self.left[spoilt], "left": self.left}
            if kind == "learned" and not suspect and not lonely(1.0):
                return {"again": what[0], "why": "its import starts threads"}
            if kind == "import" and plan["fork"] and not suspect and not lonely(0.0):
                suspect = what[0]
        if suspect and not lonely(PATIENCE):
            return {"again": suspect, "why": f"its import starts threads ({', '.join(sorted(set(threads())))}), and a process with threads cannot be forked"}
        self.filters = [one for one in warnings.filters if one not in filters]
        for name in sorted(self.said, key=lambda name: -name.count(".")):  # A package after what is in it
            self.echo.keep(name, self.said[name])
        tops = {name.partition(".")[0] for name in {*sys.modules, *self.echo.kept} - self.before}
        names = {name for name in tops if (spec := self.spec(name)) and "-packages" + os.sep in str(spec.origin)}  # IPython looks beside the notebook before these
        seen = {path: os.stat(path).st_mtime_ns for path in self.places if os.path.isdir(path)}
        return {"loaded": self.loaded, "left": self.left, "names": sorted(names), "places": seen, "seconds": round(time.perf_counter() - started, 3)}

    def become(
        self,
        request: dict[str, Any],  # argv, env, cwd, parent
        tell: Any = None,  # Called with what the client is to know
    ) -> None:
        "Be the kernel of one run until it is shut down."
        changed = {name: value for name, value in os.environ.items() if self.given.get(name) != value}
        gone = set(self.given) - set(os.environ)
        os.environ.clear()
        os.environ.update({name: value for name, value in request["env"].items() if name not in gone} | changed)
        os.chdir(request["cwd"])
        sys.argv = [str(importlib.util.find_spec("ipykernel_launcher").origin), *request["argv"]]  # type: ignore[union-attr]
        for name in ("numpy.random", "torch.random"):  # Python's own generator does it by itself
            if name in sys.modules:
                sys.modules[name].seed()
        sys.meta_path.insert(0, self.echo)
        handle = {"parent_handle": request["parent"]} if "parent" in request else {}
        app: Any = self.kernelapp.IPKernelApp.instance(**handle)
        app.initialize(request["argv"])
        if "__mp_main__" in sys.modules:
            sys.modules["__mp_main__"] = sys.modules["__main__"]
        added = [one for one in warnings.filters if one in self.filters]
        warnings.filters[:] = [*added, *(one for one in warnings.filters if one not in added)]  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]
        for stream in self.streams:
            stream.kernel = getattr(sys, stream.stream_name)
        call_now(app.shell, self.calls)
        if tell:
            tell({"bound": True})
        without_zombies(app.kernel)
        ours = {*sys.modules, *self.echo.kept}
        environment = dict(os.environ)
        app.start()
        if tell:
            tell(self.imported(ours, environment))
        self.finish(ours)

    def imported(self, ours: set[str], environment: dict[str, str]) -> dict[str, Any]:
        "Installed modules that the run imported by itself, so that the next one need not, and what it set in the environment: they might have read it."
        changed = {name: value for name, value in os.environ.items() if environment.get(name) != value and self.given.get(name) != value}
        names = [name for name, module in sys.modules.items() if name not in ours and isinstance(module, ModuleType) and "__file__" in module.__dict__]
        return {"imported": [name for name in names if installed(sys.modules[name], self.places)], "changed": changed}

    def finish(self, ours: set[str]) -> None:
        "End as an interpreter does (threads joined, exit functions called, the run's own objects deleted), without freeing what was imported ahead."
        import atexit
        import gc
        import threading

        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for name in [name for name in sys.modules if name == "__main__" or name not in ours]:
            with contextlib.suppress(Exception):
                sys.modules[name].__dict__.clear()
        gc.collect()
        for thing in gc.get_objects():
            with contextlib.suppress(Exception):  # A weak proxy may refuse even to tell its class
                if isinstance(thing, io.IOBase) and not thing.closed:
                    thing.flush()
        with contextlib.suppress(Exception):
            import ctypes

            ctypes.CDLL(None).fflush(None)
        os._exit(0)


class Server:
    "Forks a kernel a request, tells how each ended, and ends with its client."

    def __init__(self, control: Any, preload: Preload) -> None:
        self.control, self.preload = control, preload
        self.runs: dict[int, Any] = {}  # Process id → the socket that tells its client

    def serve(self) -> None:
        "Until the client is gone; returns in a child that was its run's kernel."
        import gc
        import select

        gc.collect()
        gc.freeze()
        wake, woken = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self.control, wake, *filter(None, self.runs.values())], [], [])
            if wake in ready:
                os.read(wake, 1024)
                self.reap()
            for pid, run in list(self.runs.items()):
                if run and run in ready and pid in self.runs:
                    self.kill(pid)  # Its client gave it up
                    run.close()
                    self.runs[pid] = None
            if self.control in ready and self.request((wake, woken)):
                return

    def reap(self) -> None:
        "Tell how kernels ended."
        while self.runs:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if run := self.runs.pop(pid, None):
                with contextlib.suppress(OSError):
                    run.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
                run.close()

    def kill(self, pid: int) -> None:
        "End a kernel and what it started."
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)

    def request(self, ours: tuple[int, int]) -> bool:
        "Fork for one request; true in the child, once it has been the kernel."
        import socket

        mark, fds, _, _ = socket.recv_fds(self.control, 1, 4)
        if not mark or len(fds) != 4:  # The client is gone
            for pid in list(self.runs):
                self.kill(pid)
            os._exit(0)
        with open(fds.pop(), "rb") as file:
            request = json.load(file)
        run = socket.socket(fileno=fds[0])
        pid = forked()
        if pid:
            self.runs[pid] = run
            os.close(fds[1])
            os.close(fds[2])
            with contextlib.suppress(OSError):
                run.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            return False
        self.child(request, run, fds, ours)
        return True

    def child(self, request: dict[str, Any], run: Any, fds: list[int], ours: tuple[int, int]) -> None:
        "The new process: alone, with the streams of its client, then the kernel."
        server = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        die_with_parent(server)
        for other in filter(None, (self.control, *self.runs.values())):
            other.close()
        for number in ours:
            os.close(number)
        for place, number in enumerate(fds[1:], 1):
            os.dup2(number, place)
            os.close(number)
        def tell(what: dict[str, Any]) -> None:
            with contextlib.suppress(OSError):
                run.sendall(json.dumps(what).encode() + b"\n")

        self.preload.become(request | {"parent": server}, tell)


def without_zombies(
    kernel: Any,  # Of ipykernel
) -> None:
    "A kernel that shuts down ends its children and waits for them, but a child that nobody asks for stays a zombie and is waited for in vain."
    if children := getattr(kernel, "_process_children", None):
        kernel._process_children = lambda: [child for child in children() if child.status() != "zombie"]


def die_with_parent(server: int) -> None:
    "Ask the system to end this process when the server ends, however it ends."
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def main() -> None:
    "Be a fork server on the descriptor that is named, or a spare when none is."
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]
    for name in ("__file__", "__cached__"):  # The main module of a kernel has none, and some packages look
        globals().pop(name, None)
    preload = Preload()
    if len(sys.argv) > 1:
        import socket

        control = socket.socket(fileno=int(sys.argv[1]))
        with control.makefile("r", encoding="utf-8", buffering=1) as file:
            plan = json.loads(file.readline())
        said = preload.run(plan)
        control.sendall(json.dumps(said).encode() + b"\n")
        if "loaded" in said:
            Server(control, preload).serve()
        return
    with open(os.environ.pop(PLAN), encoding="utf-8") as file:
        plan = json.load(file)
    preload.given.pop(PLAN)
    said = preload.run(plan)
    with open(plan["report"], "w", encoding="utf-8") as file:
        json.dump(said if "loaded" in said else plan | {"left": said["left"]}, file)
    if "again" in said and sys.platform != "win32":
        os.environ.update(preload.given | {PLAN: plan["report"]})
        os.execv(sys.executable, sys.orig_argv)
    if line := sys.stdin.readline():
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        request = json.loads(line)
        if sys.platform == "win32":  # The handles that it was started with, which ipykernel has read
            request["env"] |= {name: value for name, value in preload.given.items() if name in ("JPY_PARENT_PID", "JPY_INTERRUPT_EVENT", "IPY_INTERRUPT_EVENT")}
        else:
            request["parent"] = os.getppid()
        preload.become(request)

if __name__ == "__main__":
    main()
