"""A process that holds one language model and serves it on a loopback port for as long as its parent lives.

It reads one line of JSON from standard input, says on one line of standard output where it listens, and ends when its
standard input does: however the parent dies, the pipe closes. A crash of the runtime ends this process and no other.
It is started by llmops_nb.local as a file, so it imports nothing of the library.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from typing import Any

BORROWED = "LLMOPS_BORROWED_OPENMP"  # Where the borrowed library is linked, for the process that begins again


def parameters(
    wanted: dict[str, Any],  # path, threads, context, key
) -> Any:
    "What the runtime is told. Whatever could make the same call give another text is fixed here."
    import xllamacpp

    found = xllamacpp.CommonParams()
    found.model.path = wanted["path"]
    found.n_ctx = wanted["context"]
    found.fit_params = False  # It would change the context to fit the machine
    found.n_gpu_layers = 0
    found.n_parallel = 1  # Calls in one batch change each other's text
    found.cpuparams.n_threads = found.cpuparams_batch.n_threads = wanted["threads"]
    found.cache_prompt = False  # A prompt half remembered gives other text than one read anew
    found.cache_ram_mib = 0
    found.ctx_shift = False
    found.hostnames = ["127.0.0.1"]
    found.port = 0
    found.api_keys = [wanted["key"]]
    found.n_threads_http = 2
    found.offline = True
    found.ui = False
    found.endpoint_slots = False
    found.verbosity = 1  # Errors
    return found


def borrow_openmp() -> None:
    "Small Linux images lack the library that the runtime's threads need. Other packages carry it under a longer name: begin again with that one."
    import ctypes
    import glob
    import tempfile

    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        found = [path for site in sys.path for path in glob.glob(f"{site}/*.libs/libgomp*.so*")]
        if found and BORROWED not in os.environ:
            directory = tempfile.mkdtemp()
            os.symlink(found[0], f"{directory}/libgomp.so.1")
            paths = os.pathsep.join(filter(None, [directory, os.environ.get("LD_LIBRARY_PATH")]))
            os.execve(sys.executable, [sys.executable, "-P", __file__], {**os.environ, "LD_LIBRARY_PATH": paths, BORROWED: directory})


def end_with_parent() -> None:
    "Have this process end when standard input does. The runtime loads for seconds in which no Python runs: there a signal does it."
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO, which ends a process
    threading.Thread(target=wait_for_end).start()


def wait_for_end() -> None:
    "Read standard input to its end, then stop at once."
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    "Serve until standard input ends."
    if sys.platform == "linux":
        borrow_openmp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # An interruption is meant for the parent
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or os._exit(0)
    answer = os.dup(1)
    os.dup2(2, 1)  # Whatever the runtime prints is not our answer
    end_with_parent()
    try:
        import xllamacpp

        if directory := os.environ.get(BORROWED):
            shutil.rmtree(directory, ignore_errors=True)  # It is loaded now
        server = xllamacpp.Server(parameters(json.loads(line)))
        os.write(answer, json.dumps({"address": server.listening_address}).encode() + b"\n")
    except Exception as error:
        advice = " Install it, on Debian and Ubuntu with: apt-get install libgomp1" if "libgomp" in str(error) else ""
        os.write(2, f"{type(error).__name__}: {error}.{advice}\n".encode())
        os._exit(1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
