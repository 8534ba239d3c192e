"""The client's side of the warm process: start it, ask it for a kernel, and be a kernel manager for nbclient.

Only this module knows jupyter_client; it does not know papermill.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

PROGRAM = str(Path(__file__).with_name("_engine_server.py"))
CHANGING = {"JPY_PARENT_PID", "JPY_SESSION_NAME", "PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "PYTEST_CURRENT_TEST"}  # Variables that may differ between two runs of one server
OURS = {"TOKENIZERS_PARALLELISM": "false", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}  # What this library sets before it imports
BATCH = 3  # Runs after which a notebook is worth a second warm process
MANY = 30  # Modules a run must have imported itself for a new warm process to be worth its start
SERVERS = 3  # Warm processes a client keeps; the one that was used longest ago ends


class Unable(Exception):
    "A kernel cannot be had this way; the text says why."


@dataclass(frozen=True)
class Wanted:
    "What a warm process must be like; runs that want the same share it."

    python: tuple[str, ...]  # The interpreter and its options, from the kernel's specification
    steps: tuple[tuple[Any, ...], ...]  # ("import", module, attributes) or ("environment", name, value)
    env: tuple[tuple[str, str], ...]  # Environment, but for what changes with every run
    cwd: str  # Working directory: some packages read a file there when they are imported


@dataclass
class Forked:
    "A kernel that was forked by a server; looks like a subprocess.Popen."

    run: socket.socket  # From the server: its process id, whether it listens, how it ended
    pid: int = 0  # Of the kernel; also of its process group
    bound: bool = False  # Whether it listens
    imported: list[str] = field(default_factory=list)  # Installed modules that it had to import itself
    changed: dict[str, str] = field(default_factory=dict)  # Variables that it set
    returncode: int | None = None  # How it ended
    stdin = stdout = stderr = None
    _text: bytes = field(default=b"", repr=False)

    def read(
        self,
        seconds: float,  # To wait for something to read
    ) -> None:
        "Take in what the server says."
        if self.returncode is not None or not select.select([self.run], [], [], seconds)[0]:
            return
        try:
            part = self.run.recv(4096)
        except OSError:
            part = b""
        *lines, self._text = (self._text + part).split(b"\n")
        for line in lines:
            for name, value in json.loads(line).items():
                setattr(self, {"code": "returncode"}.get(name, name), value)
        if not part and self.returncode is None:
            self.returncode = -signal.SIGKILL  # The server died, and its kernels with it
        if self.returncode is not None:
            self.run.close()

    def poll(self) -> int | None:
        "How it ended, or None while it lives."
        self.read(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        "Wait until it has ended."
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.returncode) is None:
            self.read(1.0 if deadline is None else max(0.0, deadline - time.monotonic()))
            if deadline and time.monotonic() > deadline and self.returncode is None:
                raise subprocess.TimeoutExpired("kernel", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        "To it alone."
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        "End it at once."
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        "Ask it to end."
        self.send_signal(signal.SIGTERM)


class Warm:
    "A fork server, started when it is first needed."

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.lock = threading.Lock()  # One at a time starts it or speaks to it
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.said: dict[str, Any] = {}  # What it loaded, what it left to the runs, and why
        self.left: dict[str, str] = {}  # Known to spoil it
        self.used = 0.0  # When it was last asked
        self.kernels: list[Forked] = []  # That may still live

    def start(self, patience: float) -> None:
        "Start it unless it runs; modules that spoil it are left out one by one. Raises `Unable`."
        while not (self.process and self.process.poll() is None and self.fresh()):
            self.close()
            said = self._begin(patience)
            if "again" in said and len(self.left) < 16:
                self.left[said["again"]] = said["why"]
                if any(step[:2] == ("learned", said["again"]) for step in self.wanted.steps):  # Nobody asked for it: its package is left out, and all that was learned when this goes on
                    self.left["*" if len(self.left) > 5 else said["again"].partition(".")[0]] = said["why"]
                self.close()
                continue
            if "loaded" not in said:
                self.close()
                raise Unable(str(said.get("unable") or said.get("why")))
            self.said = said

    def _begin(self, patience: float) -> dict[str, Any]:
        "A new process, and what it says of itself."
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as errors:
            command = [*self.wanted.python, PROGRAM, str(theirs.fileno())]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=dict(self.wanted.env), cwd=self.wanted.cwd, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
            self.control = ours
            try:
                ours.settimeout(patience)
                plan = {"steps": self.wanted.steps, "left": self.left, "fork": True}
                line = b""
                ours.sendall(json.dumps(plan).encode() + b"\n")
                while not line.endswith(b"\n") and (part := ours.recv(65536)):
                    line += part
                ours.settimeout(None)
            except ConnectionError:
                line = b""
            except TimeoutError:
                self.close()
                raise Unable(f"the imports took longer than {patience:g} s") from None
            except BaseException:
                self.close()
                raise
            if not line:
                errors.seek(0)
                words = errors.read()[-500:].decode("utf-8", "replace").split()
                self.close()
                raise Unable(f"the server ended while it imported{': ' if words else ''}{' '.join(words)}")
        return dict(json.loads(line))

    def fresh(self) -> bool:
        "Whether no package was installed or removed since it imported."
        return all(os.path.isdir(path) and os.stat(path).st_mtime_ns == when for path, when in self.said.get("places", {}).items())

    def fork(self, argv: list[str], env: Mapping[str, str], patience: float) -> Forked:
        "A kernel for one run. Raises `Unable`."
        beside = {name.partition(".")[0] for name in os.listdir(self.wanted.cwd) if name.endswith((".py", ".so")) or os.path.exists(os.path.join(self.wanted.cwd, name, "__init__.py"))}
        with self.lock:
            for last in (False, True):
                self.start(patience)
                if hidden := sorted(beside & set(self.said["names"])):
                    raise Unable(f"{hidden[0]} beside the notebook would be imported instead of the installed package")
                try:
                    return self._ask(argv, env)
                except OSError as error:  # It was killed a moment ago
                    self.close()
                    if last:
                        raise Unable(f"the server died ({error})") from error
        raise AssertionError

    def _ask(self, argv: list[str], env: Mapping[str, str]) -> Forked:
        "Send one request, with the streams of this process."
        ours, theirs = socket.socketpair()
        with open(os.devnull, "wb") as null, tempfile.TemporaryFile() as request:  # A file, so that what goes over the socket is whole or not there
            request.write(json.dumps({"argv": argv, "env": dict(env), "cwd": self.wanted.cwd}).encode())
            request.seek(0)
            streams = [number if _open(number) else null.fileno() for number in (1, 2)]
            assert self.control is not None
            socket.send_fds(self.control, [b"k"], [theirs.fileno(), *streams, request.fileno()])
        theirs.close()
        self.used = time.monotonic()
        forked = Forked(ours)
        self.kernels = [*(kernel for kernel in self.kernels if kernel.returncode is None), forked]
        while not forked.pid and forked.returncode is None:
            forked.read(30.0)
        if not forked.pid:
            raise OSError("no answer")
        return forked

    def busy(self) -> bool:
        "Whether it is being spoken to, or kernels of it live."
        return self.lock.locked() or any(kernel.returncode is None for kernel in self.kernels)

    def close(self) -> None:
        "End it, and the kernels that it still has."
        if self.control:
            self.control.close()
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2 if self.said else 0)
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        self.control, self.process, self.said = None, None, {}


class Spare:
    "A process that has imported and waits to become one kernel."

    def __init__(self, wanted: Wanted) -> None:
        from jupyter_client.launcher import launch_kernel

        handle, self.report = tempfile.mkstemp(suffix=".json")
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"steps": wanted.steps, "left": {}, "fork": False, "report": self.report}, file)
        env = {**dict(wanted.env), "LLMOPS_SPARE": self.report}
        process: Any = launch_kernel([*wanted.python, PROGRAM], stdin=subprocess.PIPE, env=env, cwd=wanted.cwd)
        self.process = process

    def become(self, argv: list[str], env: Mapping[str, str], cwd: str) -> Any:
        "The process, as the kernel of one run."
        request = {"argv": argv, "env": dict(env), "cwd": cwd}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.close()
        except OSError as error:
            raise Unable("the process ended while it imported") from error
        return self.process

    def said(self) -> dict[str, Any]:
        "What it loaded and what it left to the run, once it knows."
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(Path(self.report).read_text("utf-8")))
        return {}

    def close(self) -> None:
        "End it, if nobody used it."
        if self.process.poll() is None and not self.process.stdin.closed:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
        Path(self.report).unlink(missing_ok=True)


def _open(number: int) -> bool:
    "Whether a file descriptor is in use."
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


_warm: dict[Wanted, Warm] = {}
_spares: dict[Wanted, list[Spare]] = {}
_learned: dict[tuple[Any, str], tuple[tuple[Any, ...], ...]] = {}  # Steps and directory of a notebook → what its first run imported besides
_counted: dict[tuple[Any, str], int] = {}  # How many runs imported many modules themselves
_guard = threading.Lock()


def warm(
    wanted: Wanted,  # What it must be like
) -> Warm:
    "The one server like this; the one that was used longest ago makes room, unless kernels of it live."
    with _guard:
        if wanted not in _warm:
            for server in sorted(_warm.values(), key=lambda server: server.used)[: max(0, len(_warm) - SERVERS + 1)]:
                if not server.busy():
                    del _warm[server.wanted]
                    server.close()
            _warm[wanted] = Warm(wanted)
        return _warm[wanted]


def spare(
    wanted: Wanted,  # What it must be like
) -> Spare:
    "A process that has imported, or is about to. From the second run on, the next one starts at once: one run alone needs no other."
    with _guard:
        again = wanted in _spares
        waiting = [one for one in _spares.pop(wanted, []) if one.process.poll() is None]
        one = waiting.pop(0) if waiting else Spare(wanted)
        for other in list(_spares)[: max(0, len(_spares) - SERVERS + 1)]:
            for old in _spares.pop(other):
                old.close()
        _spares[wanted] = [Spare(wanted)] if again and not waiting else waiting
        return one


def close_all() -> None:
    "End every warm process of this one."
    with _guard:
        for server in _warm.values():
            server.close()
        for one in (one for waiting in _spares.values() for one in waiting):
            one.close()
        _warm.clear()
        _spares.clear()
        _learned.clear()
        _counted.clear()


def _forget() -> None:
    "In a forked process: what its parent started is not its own."
    global _guard
    _guard = threading.Lock()
    for server in _warm.values():
        if server.control:
            server.control.close()
        if server.process:
            server.process.returncode = 0  # Not ours to wait for
    for one in (one for waiting in _spares.values() for one in waiting):
        one.process.stdin.close()
        one.process.returncode = 0
    _warm.clear()
    _spares.clear()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@dataclass
class Choice:
    "How one run is to get its kernel, and how it did."

    steps: tuple[tuple[Any, ...], ...]  # What to import ahead
    way: str  # "fork", "pool" or "plain"
    reason: str = ""  # Why it is not the way that was asked for
    loaded: tuple[str, ...] = ()  # Imported before the run began
    left: dict[str, str] = field(default_factory=dict)  # Module → why the run imports it itself
    learn: bool = True  # Whether the next run may find imported what this one imports itself
    cwd: str = ""  # Of the run
    process: Forked | Spare | None = None  # The kernel


def wanted_by(
    command: list[str],  # That would start the kernel
    choice: Choice,  # With the steps
    env: Mapping[str, str],  # Of the run
    cwd: str,  # Of the run
) -> tuple[Wanted, list[str]]:  # And the kernel's own arguments
    "What a warm process for a kernel must be like. Raises `Unable` for a kernel that is not Python's own."
    if "ipykernel_launcher" not in command or command[command.index("ipykernel_launcher") - 1] != "-m":
        raise Unable(f"its kernel is started by {Path(command[0]).name} in a way of its own, not by ipykernel")
    at = command.index("ipykernel_launcher")
    python = tuple(command[: at - 1])
    kept = tuple(sorted((name, value) for name, value in env.items() if name not in CHANGING and not name.startswith("LLMOPS_")))  # This library reads its own when it is called
    learned = _learned.get((choice.steps, cwd), ()) if choice.learn and choice.way == "fork" else ()
    return Wanted(python, (*choice.steps, *learned), kept, cwd), command[at + 1 :]


def process_for(
    command: list[str],  # That would start the kernel
    choice: Choice,  # How to start it; told how it went
    env: Mapping[str, str],  # Of the run
    cwd: str,  # Of the run
    patience: float,  # Seconds that imports may take
) -> Any:  # Like subprocess.Popen; None when the kernel has to be started the plain way
    "A kernel that need not import what is imported already."
    try:
        choice.cwd = cwd
        wanted, argv = wanted_by(command, choice, env, cwd)
        if choice.way == "pool":
            choice.process = one = spare(wanted)
            return one.become(argv, env, cwd)
        server = warm(wanted)
        choice.process = forked = server.fork(argv, env, patience)
    except Unable as reason:
        choice.reason, choice.way = str(reason), "plain"
        return None
    named = {step[1] for step in choice.steps}
    choice.loaded = tuple(dict.fromkeys(name if name in named else name.partition(".")[0] for name in server.said["loaded"]))
    choice.left = {name: why for name, why in server.said["left"].items() if name in named}
    return forked


def settle(
    choice: Choice,  # Of a run that has ended
) -> None:
    "Find out what a spare had imported, and what a forked kernel had to import itself."
    if isinstance(choice.process, Spare):
        said = choice.process.said()
        choice.loaded, choice.left = tuple(said.get("loaded", ())), dict(said.get("left", {}))
        choice.process.close()
    elif choice.process and choice.learn and len(choice.process.imported) >= MANY and choice.process.changed.items() <= OURS.items():
        key = (choice.steps, choice.cwd)
        _counted[key] = _counted.get(key, 0) + 1
        if _counted[key] < BATCH:
            choice.process = None
            return
        variables = tuple(("environment", *pair) for pair in OURS.items()) if choice.process.changed else ()
        _learned.setdefault(key, (*variables, *(("learned", name, ()) for name in choice.process.imported)))
    choice.process = None


@functools.cache
def manager_class() -> Any:
    "The class of kernel managers that nbclient is given; made when it is needed, since it is made of an optional package."
    from jupyter_client.asynchronous.client import AsyncKernelClient
    from jupyter_client.channels import AsyncZMQSocketChannel
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning.local_provisioner import LocalProvisioner

    class Provisioner(LocalProvisioner):
        "Starts a kernel from a warm process, or as ever."

        choice: Choice
        patience = 120.0
        process: Any = None

        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            if self.choice.way != "plain":
                cwd = os.path.abspath(options.get("cwd") or os.getcwd())
                env = {**options.get("env", os.environ), "JPY_PARENT_PID": str(os.getpid())}
                self.process = process_for(cmd, self.choice, env, cwd, self.patience)
                if isinstance(self.process, Forked):
                    while not self.process.bound and self.process.poll() is None:
                        await asyncio.sleep(0.002)
            if self.choice.way == "plain":
                return await super().launch_kernel(cmd, **options)
            self.pid = self.pgid = self.process.pid
            self.cwd = options.get("cwd", os.getcwd())
            return self.connection_info

        async def send_signal(self, signum: int) -> None:
            if self.process and self.process.poll() is None:
                await super().send_signal(signum)

    class Channel(AsyncZMQSocketChannel):
        "Looks again twice a second: a message that came while another was sent (as nbclient does for an output widget) wakes nobody."

        async def get_msg(self, timeout: float | None = None) -> Any:  # type: ignore[override]
            while timeout is None:
                with contextlib.suppress(Empty):
                    return await super().get_msg(timeout=0.5)
            return await super().get_msg(timeout=timeout)

    class Client(AsyncKernelClient):
        "Waits for a kernel as long as it takes, and no longer."

        shell_channel_class: Any = Channel
        iopub_channel_class: Any = Channel

        async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
            deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
            while True:
                asked = self.kernel_info()
                with contextlib.suppress(Empty):
                    reply = await self.shell_channel.get_msg(timeout=1)
                    while reply["msg_type"] != "kernel_info_reply":
                        reply = await self.shell_channel.get_msg(timeout=1)
                    while True:  # What it published until then belongs to no cell
                        said = await self.iopub_channel.get_msg(timeout=0.2)
                        if said["parent_header"].get("msg_id") == asked and said["content"].get("execution_state") == "idle":
                            self._handle_kernel_info_reply(reply)
                            return
                if not await self._async_is_alive():
                    raise RuntimeError("Kernel died before replying to kernel_info")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kernel didn't respond in {timeout} seconds")

        wait_for_ready = _async_wait_for_ready

    class Manager(AsyncKernelManager):
        "A kernel manager whose kernels come from a warm process where they can."

        choice: Choice
        patience: float

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.place = tempfile.mkdtemp(prefix="llmops-")
            if sys.platform != "win32" and len(self.place) < 80:  # A Unix socket has no port to be taken by another
                self.transport, self.ip = "ipc", os.path.join(self.place, "k")
            self.connection_file = os.path.join(self.place, "kernel.json")
            self.client_factory = Client

        async def _async_pre_start_kernel(self, **options: Any) -> Any:
            if self.provisioner is None:
                self.kernel_id = self.kernel_id or str(uuid.uuid4())
                if self.kernel_spec and "provisioner_name" in self.kernel_spec.metadata.get("kernel_provisioner", {}):
                    self.choice.way, self.choice.reason = "plain", "its kernel has a provisioner of its own"
                else:
                    self.provisioner = Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
                    self.provisioner.choice, self.provisioner.patience = self.choice, self.patience
            return await super()._async_pre_start_kernel(**options)

        async def _async_wait(self, pollinterval: float = 0.1) -> None:
            await super()._async_wait(pollinterval=0.005)

        async def _async_cleanup_resources(self, restart: bool = False) -> None:
            await super()._async_cleanup_resources(restart=restart)
            if not restart:
                shutil.rmtree(self.place, ignore_errors=True)

        cleanup_resources = _async_cleanup_resources

    return Manager


def manager_for(
    choice: Choice,  # How the kernel of a run is to be had; told how it was
    patience: float,  # Seconds that imports may take
) -> Any:
    "A class of kernel managers for one run, as nbclient wants one."
    return type("Manager", (manager_class(),), {"choice": choice, "patience": patience})
