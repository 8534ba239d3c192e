"""Reads a git repository through the git program: a tree and its blobs, no working copy, no hooks, no prompts."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .core import ConfigurationError, DataError, MissingExtra
from .store import digest

QUIET = ["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0", "-c", "http.followRedirects=false"]
REF = re.compile(r"\w[\w./+@-]*")
REMOTE = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:(?!/?/)")


@dataclass(frozen=True)
class Blob:
    "A file of a commit."

    path: str  # From the root of the repository
    id: str  # Of its content
    size: int  # Bytes
    link: bool  # A symbolic link, or another repository


def is_remote(repository: str) -> bool:
    "Whether a text names a repository elsewhere; raises `ConfigurationError` for an address that would carry a password or run a program."
    if re.match(r"\w+://[^/@]*:[^/@]*@", repository):
        raise ConfigurationError("The address of the git repository carries a password, which would be written to files. Use git's credential helper, or ssh.")
    if re.match(r"-|\w+::", repository) or "://" in repository and not REMOTE.match(repository):
        raise ConfigurationError("git: a repository is a folder, or an address that begins with https://, http://, ssh://, git:// or file://.")
    return bool(REMOTE.match(repository))


def git(arguments: list[str], seconds: float, what: str) -> bytes:
    "What git prints; raises `DataError` with what it said, passwords and paths of ours left out."
    try:
        done = subprocess.run(["git", *QUIET, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, env=environment())
    except FileNotFoundError:
        raise MissingExtra("The program git is not installed. Install it, on Debian and Ubuntu with: apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{what} takes longer than {seconds:g} s. Raise `seconds`.") from None
    if done.returncode:
        said = re.sub(r"(\w+://)[^/@\s]*@", r"\1", done.stderr.decode("utf-8", "replace"))
        lines = [line for line in said.splitlines() if line.startswith(("fatal:", "error:"))] or said.splitlines()[-1:]
        raise DataError(f"{what} cannot be read: {' '.join(lines)[:300] or f'git ended with {done.returncode}'}")
    return done.stdout


def environment() -> dict[str, str]:
    "The environment without what steers git, and with what keeps it from asking."
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ssh = os.environ.get("GIT_SSH_COMMAND", "ssh") + " -oBatchMode=yes"
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true", "GIT_SSH_COMMAND": ssh, "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # fmt: skip


class Repository:
    "A commit of a repository, for reading."

    def __init__(
        self,
        address: str,  # A folder, or where to fetch from
        ref: str,  # Branch, tag or commit
        state: Path,  # Where a copy is kept when the repository is elsewhere
        seconds: float,  # For one command of git
    ):
        self.name = re.sub(r"\.git/?$", "", address.rstrip("/")).rpartition("/")[2] or address
        self._seconds, self._lock = seconds, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if not REF.fullmatch(ref):
            raise ConfigurationError(f"git: {ref!r} is not the name of a branch, a tag or a commit.")
        what = f"The git repository {self.name!r} at {ref!r}"
        if is_remote(address):
            self.folder = state / "git" / digest(address)[:16]
            self.commit = self._fetch(address, ref, what)
        else:
            self.folder = Path(address)
            if not self.folder.is_dir():
                raise DataError(f"There is no folder {self.folder.name!r} with a git repository. Check `git`.")
            self.commit = self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", what=what).decode().strip()

    def ask(self, *arguments: str, what: str) -> bytes:
        "What a command prints."
        return git(["-C", str(self.folder), *arguments], self._seconds, what)

    def _fetch(self, address: str, ref: str, what: str) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder.with_suffix(".lock"), timeout=self._seconds):
                self.ask("init", "--bare", "--quiet", what=what)
                self.ask("fetch", "--quiet", "--depth", "1", "--no-tags", "--force", "--no-recurse-submodules", "--", address, ref, what=what)
                commit = self.ask("rev-parse", "--verify", "FETCH_HEAD^{commit}", what=what).decode().strip()
                self.ask("update-ref", f"refs/seen/{commit}", commit, what=what)
                return commit
        except Timeout:
            raise DataError(f"{what} is being fetched by another program for longer than {self._seconds:g} s.") from None

    def blobs(self) -> Iterator[Blob | str]:
        "The files of the commit in the order of their paths; a path that is no UTF-8 comes as text that a person can read."
        listed = self.ask("ls-tree", "-r", "-l", "-z", "--full-tree", self.commit, what=f"The tree of {self.name!r}")
        for line in listed.split(b"\0"):
            if not line:
                continue
            facts, _, path = line.partition(b"\t")
            mode, kind, id, size = facts.decode().split()
            try:
                yield Blob(path.decode(), id, int(size) if size.isdecimal() else 0, mode == "120000" or kind != "blob")
            except UnicodeDecodeError:
                yield path.decode("utf-8", "backslashreplace")

    def read(self, id: str) -> bytes:
        "The content of a blob; one process of git answers for all."
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                command = ["git", *QUIET, "-C", str(self.folder), "cat-file", "--batch"]
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
            pipe_in: Any = self._process.stdin
            pipe_out: Any = self._process.stdout
            try:
                pipe_in.write(f"{id}\n".encode())
                pipe_in.flush()
                head = pipe_out.readline().split()
                if len(head) < 3:
                    raise OSError("it is missing")
                data: bytes = pipe_out.read(int(head[2]))
                pipe_out.read(1)
                return data
            except (OSError, ValueError) as error:
                self.close()
                raise DataError(f"The content {id[:12]} of the git repository {self.name!r} cannot be read: {error}.") from None
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        "End the process that reads."
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()
