"""Where documents come from: real folders, repositories, servers and databases, and what is wrong with them."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.server
import itertools
import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import made_files as made
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_nb import _sources_web, sources
from llmops_nb.core import ConfigurationError, DataError, Document
from llmops_nb.sources import Entry, FileSource, FolderSource, GitSource, SqlSource, TableSource, WebSource, open_source, read_entry


def reasons(entries: list[Entry]) -> dict[str, str]:
    "Why entries cannot be read, by id."
    found = {}
    for entry in entries:
        try:
            entry.read()
        except DataError as error:
            found[entry.id] = str(error)
    return found


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    for path, text in {"b.md": "# B\n", "a/c.md": "# C\n", "a/d.txt": "d", ".hidden/e.md": "# E\n", ".git/f.md": "# F\n", "a-z.md": "# Z\n"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_folder_is_listed_in_order_without_what_is_hidden(folder: Path) -> None:
    assert [entry.id for entry in FolderSource("docs", folder).entries()] == ["a/c.md", "a/d.txt", "a-z.md", "b.md"]
    assert [entry.id for entry in FolderSource("docs", folder, "**/*.md", hidden=True).entries()] == [".hidden/e.md", "a/c.md", "a-z.md", "b.md"]
    assert [entry.id for entry in FolderSource("docs", folder, ["*.md", "**/*.txt"], "b*").entries()] == ["a/d.txt", "a-z.md"]


def test_a_fingerprint_changes_with_the_file_and_only_then(folder: Path) -> None:
    def marks() -> dict[str, str]:
        return {entry.id: entry.fingerprint for entry in FolderSource("docs", folder).entries()}

    before = marks()
    assert marks() == before and all(before.values())
    status = (folder / "b.md").stat()
    (folder / "b.md").write_text("# X\n")
    os.utime(folder / "b.md", ns=(status.st_atime_ns, status.st_mtime_ns))  # As long as before, and as old
    assert [id for id, mark in marks().items() if mark != before[id]] == ["b.md"]


def test_links_are_not_followed_out_or_around(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    (folder / "out.md").symlink_to(tmp_path / "secret.md")
    (folder / "in.md").symlink_to(folder / "b.md")
    (folder / "loop").symlink_to(folder)
    (folder / "self.md").symlink_to(folder / "self.md")
    (folder / "nowhere.md").symlink_to("missing.md")
    (folder / "away").symlink_to(tmp_path)
    found = list(FolderSource("docs", folder).entries())
    why = reasons(found)
    assert {id: reason for id, reason in why.items()}.keys() == {"out.md", "loop", "self.md", "nowhere.md", "away"}
    assert "out of the folder" in why["out.md"] and "link to a folder" in why["loop"] and "link to a folder" in why["away"]
    assert next(entry for entry in found if entry.id == "in.md").read() == b"# B\n"


def test_a_file_that_becomes_a_link_after_it_was_listed_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    found = {entry.id: entry for entry in FolderSource("docs", folder).entries()}
    (folder / "b.md").unlink()
    (folder / "b.md").symlink_to(tmp_path / "secret.md")
    assert "out of the folder" in reasons(list(found.values()))["b.md"]


def test_pipes_large_and_locked_files_are_refused_and_the_rest_goes_on(folder: Path) -> None:
    os.mkfifo(folder / "pipe.md")
    with open(folder / "large.md", "wb") as file:
        file.truncate(500_000_000)
    (folder / "locked.md").write_text("x")
    (folder / "locked.md").chmod(0)
    began = time.perf_counter()
    why = reasons(list(FolderSource("docs", folder, limit=1_000_000).entries()))
    assert time.perf_counter() - began < 2
    assert "pipe" in why["pipe.md"] and "500,000,000 bytes; the limit" in why["large.md"]
    assert ("cannot be read" in why.get("locked.md", "")) == (os.geteuid() != 0)
    assert not {"a/c.md", "b.md"} & why.keys()


def test_a_folder_that_may_not_be_listed_and_names_that_are_no_text(folder: Path) -> None:
    if os.geteuid() != 0:
        (folder / "a").chmod(0)
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.md"))).write_text("x")
    (folder / "line\nbreak.md").write_text("x")
    why = reasons(list(FolderSource("docs", folder).entries()))
    if os.geteuid() != 0:
        assert "cannot be listed" in why["a"]
        (folder / "a").chmod(0o755)
    assert "no text" in why[r"\xff.md"] and "no text" in why[r"line\x0abreak.md"]
    for id in why:
        id.encode()


def test_there_must_be_a_folder_and_a_pattern(folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(FolderSource("x", folder / "none").entries())
    with pytest.raises(ConfigurationError, match="cannot be used"):
        list(FolderSource("x", folder, "[z-a].md").entries())


@given(st.lists(st.sampled_from(["a", "b.md", "c d", "x.py"]), min_size=1, max_size=4).map("/".join))
def test_patterns_mean_what_they_do_elsewhere(path: str) -> None:
    from pathlib import PurePosixPath

    depth, name = path.count("/"), PurePosixPath(path).name
    assert sources._chooser("**/*", ())(path) and sources._chooser("**", ())(path)
    assert sources._chooser("*", ())(path) == (depth == 0)
    assert sources._chooser("**/*.md", ())(path) == name.endswith(".md") == sources._chooser(["*.md", "*/**/*.md"], ())(path)
    assert sources._chooser("a/*", ())(path) == (depth == 1 and path.startswith("a/"))
    assert sources._chooser("**/[!a-w].??", ())(path) == (name == "x.py")


def test_files_are_read_from_anywhere(folder: Path) -> None:
    found = list(FileSource("some", ["b.md", "a/d.txt", "none.md", "b.md"], folder).entries())
    assert [entry.id for entry in found] == ["b.md", "a/d.txt", "none.md", "b.md (again, 2)"]
    why = reasons(found)
    assert why.keys() == {"none.md", "b.md (again, 2)"} and "cannot be read" in why["none.md"]


def test_a_document_carries_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(made.REPORT)
    entry = next(FolderSource("reports", tmp_path).entries())
    document, notes = read_entry(entry, "reports")
    assert document.id == "report.pdf" and document.title == "Leave" and notes == ()
    assert document.metadata["source"] == "reports" and document.metadata["format"] == "pdf" and document.metadata["uri"] == (tmp_path / "report.pdf").resolve().as_uri()
    assert document.metadata["modified"] == pytest.approx(time.time(), abs=60) and len(document.metadata["pages"]) == 2
    json.dumps(document.metadata)


# Git


def run_git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_GLOBAL": "/dev/null"}
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "wiki"
    (root / "guide").mkdir(parents=True)
    run_git(root, "init", "--quiet", "--initial-branch=main")
    (root / "guide" / "leave.md").write_text("# Leave\n")
    (root / "guide" / "größe.md").write_text("# Size\n")
    (root / "a.py").write_text("x = 1\n")
    (root / "link.md").symlink_to("guide/leave.md")
    (root / "large.md").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    run_git(root, "add", "-A")
    run_git(root, "commit", "--quiet", "-m", "one")
    run_git(root, "tag", "v1")
    return root


@pytest.mark.parametrize("remote", [False, True])
def test_a_repository_is_read_at_a_commit(repository: Path, tmp_path: Path, remote: bool) -> None:
    address, state = (repository.as_uri() if remote else str(repository)), tmp_path / "state"
    (repository / "guide" / "leave.md").write_text("# Not committed\n")
    source = GitSource("wiki", address, glob="**/*.md", state=state)
    first = {entry.id: entry for entry in source.entries()}
    assert list(first) == ["guide/größe.md", "guide/leave.md", "large.md", "link.md"]
    assert first["guide/leave.md"].read() == b"# Leave\n" and first["guide/leave.md"].size == 8
    why = reasons(list(first.values()))
    assert why.keys() == {"large.md", "link.md"} and "Git LFS" in why["large.md"] and "link" in why["link.md"]
    assert first["guide/leave.md"].metadata["commit"] == run_git(repository, "rev-parse", "HEAD")
    run_git(repository, "commit", "--quiet", "-a", "-m", "two")
    second = {entry.id: entry for entry in source.entries()}
    assert [id for id in second if second[id].fingerprint != first[id].fingerprint] == ["guide/leave.md"]
    assert second["guide/leave.md"].uri == first["guide/leave.md"].uri and first["guide/leave.md"].read() == b"# Leave\n"
    old = {entry.id: entry for entry in GitSource("wiki", address, "v1", state=state).entries()}
    assert old["guide/leave.md"].fingerprint == first["guide/leave.md"].fingerprint


def test_a_temporary_copy_lives_as_long_as_its_entries(repository: Path) -> None:
    entries = list(GitSource("wiki", repository.as_uri(), glob="a.py").entries())
    assert entries[0].read() == b"x = 1\n"


def test_no_hook_and_no_variable_of_git_has_a_say(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hook in ("post-checkout", "reference-transaction", "post-update"):
        (repository / ".git" / "hooks").mkdir(exist_ok=True)
        (repository / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (repository / ".git" / "hooks" / hook).chmod(0o755)
    run_git(repository, "config", "core.fsmonitor", f"touch {tmp_path}/ran")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    for address in (str(repository), repository.as_uri()):
        assert len([entry.read() for entry in GitSource("wiki", address, glob="a.py", state=tmp_path / "state").entries()]) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("address", ["https://ann:s3cret@example.org/x.git", "ext::sh -c id", "--upload-pack=id", "ftp://example.org/x"])
def test_addresses_that_run_programs_or_carry_passwords_are_refused(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        list(GitSource("x", address).entries())
    assert "s3cret" not in str(caught.value)


def test_what_git_says_is_told_without_secrets(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nobody'"):
        list(GitSource("x", str(repository), "nobody").entries())
    for ref in ("--all", "a:b", ""):
        with pytest.raises(ConfigurationError, match="not the name"):
            list(GitSource("x", str(repository), ref).entries())
    with pytest.raises(DataError, match="cannot be read"):
        list(GitSource("x", (tmp_path / "none").as_uri()).entries())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a git repository|cannot be read"):
        list(GitSource("x", str(tmp_path / "empty")).entries())
    with pytest.raises(DataError, match="cannot be read") as caught:
        list(GitSource("x", "http://ann@127.0.0.1:9/x.git").entries())
    assert "ann@" not in str(caught.value)


# The web


@dataclass
class Site:
    "A server with pages; a page is (status, headers, body) or a function that writes to the connection."

    pages: dict[str, Any]
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@contextlib.contextmanager
def serving(pages: Mapping[str, Any], certificate: tuple[str, str] | None = None) -> Iterator[Site]:
    site = Site(dict(pages))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.command, self.path))
            page = site.pages.get(self.path, (404, {}, b"no"))
            if callable(page):
                with contextlib.suppress(OSError):
                    page(self.wfile)
                return
            status, headers, body = page
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        site.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield site
        server.shutdown()


def page(body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {name.replace("_", "-"): value for name, value in headers.items()}, body


def names(monkeypatch: pytest.MonkeyPatch, table: dict[str, str]) -> list[str]:
    "Make names resolve to addresses; which were asked for."
    real, asked = socket.getaddrinfo, []

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        return real(table.get(host, host), *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_pages_of_a_list_with_their_marks() -> None:
    pages = {"/a.html": page(made.PAGE.encode(), ETag='"1"'), "/b.md": page(b"# B\n", Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT"), "/c.txt": page(b"c"), "/gone": (410, {}, b"")}
    with serving(pages) as site:
        source = WebSource("web", [site.url(path) for path in ("/a.html", "/b.md", "/c.txt", "/gone", "/b.md")], allow_private=True)
        found = list(source.entries())
        assert [entry.id for entry in found] == [site.url(path) for path in ("/a.html", "/b.md", "/c.txt", "/gone", "/b.md (again, 2)")]
        assert {method for method, path in site.asked if path != "/robots.txt"} == {"HEAD"}
        assert [entry.fingerprint for entry in found[:3]] == ['etag "1"', "date Wed, 21 Oct 2015 07:28:00 GMT 4", ""]
        assert found[1].modified == datetime.datetime(2015, 10, 21, 7, 28, tzinfo=datetime.UTC).timestamp()
        document, _ = read_entry(found[0], "web")
        assert document.title == "Leave" and document.metadata["uri"] == site.url("/a.html")
        assert "server says 410" in reasons(found)[site.url("/gone")]


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known_in_every_dress(address: str) -> None:
    assert not _sources_web.is_open(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_open_addresses_are_let_through(address: str) -> None:
    assert _sources_web.is_open(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_nothing_private_is_asked(host: str) -> None:
    with serving({}) as site:
        found = list(WebSource("x", [site.url("/secret", host)], robots=False).entries())
        assert list(reasons(found)) and site.asked == []
        assert "not on the open internet" in next(iter(reasons(found).values())) or "not known" in next(iter(reasons(found).values())) or "not an address" in next(iter(reasons(found).values()))


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    "wiki.test stands for the open internet: it may be asked, and where it leads may not."
    with serving({"/secret": page(b"secret")}) as inside:
        leads = {f"/{n}": (302, {"Location": to}, b"") for n, to in enumerate([inside.url("/secret"), "http://169.254.169.254/latest", f"//127.0.0.1:{inside.port}/secret", "http://inner.test/", "file:///etc/passwd"])}
        with serving({**leads, "/round": (302, {"Location": "/round"}, b""), "/near": (301, {"Location": "/page"}, b""), "/page": page(b"hello")}) as site:
            names(monkeypatch, {"wiki.test": "127.0.0.1", "inner.test": "10.0.0.7"})
            source = WebSource("wiki", [site.url(path, "wiki.test") for path in (*leads, "/round", "/near")], allow_private=["wiki.test"], robots=False, seconds=5)
            found = list(source.entries())
            why = list(reasons(found).values())
            assert len(why) == 6 and sum("not on the open internet" in reason for reason in why) == 4
            assert "http://" in why[4] and "redirects more than" in why[5]
            assert found[-1].read() == b"hello"
        assert inside.asked == []


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    "A name that resolves to something else the second time gains nothing: there is no second time."
    with serving({"/a": page(b"hello")}) as site:
        asked = names(monkeypatch, {"wiki.test": "127.0.0.1"})
        web = _sources_web.Web(private=["wiki.test"], robots=False)
        assert web.fetch(site.url("/a", "wiki.test")).body == b"hello"
        assert asked == ["wiki.test", "127.0.0.1"]


def test_one_private_address_among_many_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*entry, ("93.184.216.34", 80)), (*entry, ("10.0.0.1", 80))])
    with pytest.raises(DataError, match="10.0.0.1"):
        _sources_web.Web(robots=False).fetch("http://both.test/")


def endless(wfile: Any) -> None:
    wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        wfile.write(b"x" * 65536)


def slow_body(wfile: Any) -> None:
    wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        wfile.write(b"x")
        wfile.flush()
        time.sleep(0.02)


def slow_head(wfile: Any) -> None:
    wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while True:
        wfile.write(b"x")
        wfile.flush()
        time.sleep(0.02)


def silent(wfile: Any) -> None:
    time.sleep(3)


def cut(wfile: Any) -> None:
    wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nhello")


BOMB = gzip.compress(bytes(30_000_000))


def test_size_and_time_are_limited() -> None:
    cases: dict[str, tuple[Any, str]] = {
        "/endless": (endless, "more than 1,000,000 bytes"),
        "/declared": ((200, {"Content-Length": "5000000"}, b""), "has 5,000,000 bytes"),
        "/bomb": ((200, {"Content-Encoding": "gzip"}, BOMB), "more than 1,000,000 bytes"),
        "/slow": (slow_body, "within 0.5 s"),
        "/head": (slow_head, "within 0.5 s"),
        "/silent": (silent, "within 0.5 s"),
        "/cut": (cut, "cut off|cannot be reached"),
    }
    with serving({path: case[0] for path, case in cases.items()}) as site:
        web = _sources_web.Web(True, seconds=0.5, limit=1_000_000, robots=False)
        for path, (_, reason) in cases.items():
            began = time.perf_counter()
            with pytest.raises(DataError, match=reason):
                web.fetch(site.url(path))
            assert time.perf_counter() - began < 2.5, path


def test_robots_are_obeyed_unless_told_otherwise() -> None:
    pages = {"/robots.txt": page(b"User-agent: *\nDisallow: /private\n"), "/private/a": page(b"secret"), "/b": page(b"open")}
    with serving(pages) as site:
        both = [site.url("/private/a"), site.url("/b")]
        assert list(reasons(list(WebSource("x", both, allow_private=True).entries()))) == both[:1]
        assert ("GET", "/private/a") not in site.asked and ("HEAD", "/private/a") not in site.asked
        assert reasons(list(WebSource("x", both, allow_private=True, robots=False).entries())) == {}
    with serving({"/robots.txt": (503, {}, b""), "/b": page(b"open")}) as site:
        assert "robots.txt cannot be read" in reasons(list(WebSource("x", [site.url("/b")], allow_private=True).entries()))[site.url("/b")]


def test_what_is_no_address_is_refused() -> None:
    urls = ["file:///etc/passwd", "ftp://example.org/", "http://ann:s3cret@example.org/", "http://", "javascript:alert(1)", "gopher://127.0.0.1:70/_x"]
    why = reasons(list(WebSource("x", urls, robots=False).entries()))
    assert len(why) == len(urls) and "s3cret" not in "".join(why.values())


def test_an_encoding_that_only_the_header_names() -> None:
    text = "<html><body><p>Grüße aus Köln, wo es schön ist.</p></body></html>"
    with serving({"/a.html": page(text.encode("cp1252"), Content_Type="text/html; charset=windows-1252")}) as site:
        entry = next(WebSource("x", [site.url("/a.html")], allow_private=True).entries())
        assert "Grüße aus Köln" in read_entry(entry)[0].text


def test_a_sitemap_with_an_index_an_archive_and_dates() -> None:
    with serving({}) as site:
        urls = "".join(f"<url><loc>{site.url(f'/docs/{n}.md')}</loc><lastmod>2024-05-0{n}</lastmod></url>" for n in (1, 2))
        more = f"<urlset><url><loc>{site.url('/docs/3.md')}</loc></url><url><loc>{site.url('/shop/4.md')}</loc></url></urlset>"
        index = "".join(f"<sitemap><loc>{site.url(path)}</loc></sitemap>" for path in ("/one.xml", "/two.xml.gz", "/none.xml", "/laughs.xml"))
        site.pages |= {
            "/sitemap.xml": page(f'<?xml version="1.0"?><sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{index}</sitemapindex>'.encode()),
            "/one.xml": page(f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'.encode()),
            "/two.xml.gz": page(gzip.compress(more.encode())),
            "/laughs.xml": page(b'<!DOCTYPE x [<!ENTITY a "b">]><urlset><url><loc>&a;</loc></url></urlset>'),
            **{f"/docs/{n}.md": page(f"# Page {n}\n".encode()) for n in (1, 2, 3)},
        }
        source = WebSource("site", sitemap=site.url("/sitemap.xml"), glob="docs/**", allow_private=True)
        found = list(source.entries())
        assert [entry.id for entry in found] == [site.url(path) for path in ("/docs/1.md", "/docs/2.md", "/docs/3.md", "/none.xml", "/laughs.xml")]
        assert found[0].fingerprint == "lastmod 2024-05-01" and ("HEAD", "/docs/1.md") not in site.asked and ("HEAD", "/docs/3.md") in site.asked
        assert read_entry(found[1])[0].title == "Page 2"
        why = reasons(found)
        assert "404" in why[site.url("/none.xml")] and "entities" in why[site.url("/laughs.xml")]
        few = list(WebSource("site", sitemap=site.url("/sitemap.xml"), allow_private=True, most=2).entries())
        assert "more than" in " ".join(reasons(few).values()) and len(few) <= 4


def test_a_sitemap_that_is_none() -> None:
    with serving({"/bomb.gz": page(gzip.compress(bytes(5_000_000))), "/a.xml": page(b"<urlset>"), "/loop.xml": page(b"")}) as site:
        site.pages["/loop.xml"] = page(f"<sitemapindex><sitemap><loc>{site.url('/loop.xml')}</loc></sitemap></sitemapindex>".encode())
        for path, reason in (("/bomb.gz", "unpacks to more"), ("/a.xml", "not XML"), ("/none", "404")):
            with pytest.raises(DataError, match=reason):
                list(WebSource("x", sitemap=site.url(path), allow_private=True, limit=1_000_000).entries())
        assert "nested more than" in " ".join(reasons(list(WebSource("x", sitemap=site.url("/loop.xml"), allow_private=True).entries())).values())


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_https_is_checked_against_the_name_and_not_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=wiki.test", "-addext", "subjectAltName=DNS:wiki.test"]
    subprocess.run(command, check=True, capture_output=True)
    with serving({"/a": page(b"hello")}, (certificate, key)) as site:
        names(monkeypatch, {"wiki.test": "127.0.0.1", "other.test": "127.0.0.1"})
        web = _sources_web.Web(True, robots=False)
        with pytest.raises(DataError, match="certificate|CERTIFICATE"):
            web.fetch(f"https://wiki.test:{site.port}/a")
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert web.fetch(f"https://wiki.test:{site.port}/a").body == b"hello"
        with pytest.raises(DataError, match="(?i)certificate|hostname"):
            web.fetch(f"https://other.test:{site.port}/a")


# Tables


ROWS = [{"id": "a", "text": "Twenty days.", "title": "Leave", "year": 2024}, {"id": "b", "text": "By train.", "title": "Travel", "year": 2025}]


def table(kind: str, tmp_path: Path) -> Any:
    frame = pd.DataFrame(ROWS)
    path = tmp_path / f"faq.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "parquet":
        frame.to_parquet(path)
    return frame if kind == "frame" else path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame"])
def test_rows_are_documents(kind: str, tmp_path: Path) -> None:
    found = list(TableSource("faq", table(kind, tmp_path), title="title").entries())
    assert [entry.id for entry in found] == ["a", "b"]
    document, _ = read_entry(found[1], "faq")
    assert (document.text, document.title, document.metadata["year"], document.metadata["source"]) == ("By train.", "Travel", "2025" if kind == "csv" else 2025, "faq")
    again = list(TableSource("faq", table(kind, tmp_path), title="title").entries())
    assert [entry.fingerprint for entry in again] == [entry.fingerprint for entry in found] and len({entry.fingerprint for entry in found}) == 2


def test_columns_are_chosen_and_missing_ones_named(tmp_path: Path) -> None:
    path = table("csv", tmp_path)
    assert next(TableSource("faq", path, columns=["year"]).entries()).metadata == {"year": "2024"}
    for named in ({"id": "key"}, {"text": "body"}, {"title": "head"}, {"columns": ["team"]}):
        with pytest.raises(ConfigurationError, match="Known: 'id', 'text', 'title', 'year'"):
            list(TableSource("faq", path, **named).entries())


def test_broken_rows_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1, "text": "one"}\nnot json\n[1]\n{"id": 2}\n{"text": "no id"}\n{"id": 1, "text": "twice"}\n' + b'{"id": 4, "text": "\xff"}\n' + b"[" * 100_000 + b'\n{"id": 3, "text": "three"}\n')
    found = list(TableSource("a", tmp_path / "a.jsonl").entries())
    why = reasons(found)
    assert len(found) == 9 and [entry.id for entry in found if entry.id not in why] == ["1", "3"]
    (tmp_path / "b.csv").write_text('id,text\n1,one\n2,two,three\n,nobody\n3,\n4,"open\n')
    found = list(TableSource("b", tmp_path / "b.csv").entries())
    why = reasons(found)
    assert [entry.id for entry in found if entry.id not in why] == ["1"] and "3 cells" in why["b.csv:3"] and "not CSV" in " ".join(why.values())


def test_tables_in_other_encodings_and_with_other_marks(tmp_path: Path) -> None:
    text = "id;text\r\n1;Grüße aus Köln und Umgebung, wo es im Frühling schön ist\r\n2;Übergrößen für Männer\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "a.csv").write_bytes(text.encode(encoding))
        assert [entry.read().text for entry in TableSource("a", tmp_path / "a.csv").entries()][1] == "Übergrößen für Männer"  # type: ignore[union-attr]


def test_tables_that_are_none(tmp_path: Path) -> None:
    for name, data, reason in (("a.parquet", b"PAR1nothing", "Parquet"), ("a.csv", b"", "empty"), ("a.csv", bytes(range(256)) * 9, "text"), ("b.csv", b"id,id\n", "two columns")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=reason):
            list(TableSource("a", tmp_path / name).entries())
    with pytest.raises(DataError, match="no table"):
        list(TableSource("a", tmp_path / "none.csv").entries())
    with pytest.raises(ConfigurationError, match="'.csv'"):
        list(TableSource("a", tmp_path / "a.xml").entries())


def test_cells_become_what_json_has() -> None:
    frame = pd.DataFrame(
        {"id": [1], "text": ["x"], "when": [pd.Timestamp("2024-05-01T12:00:00Z")], "none": [float("nan")], "nat": [pd.NaT], "tags": [["a", "b"]], "big": [2**60], "ok": [True], "raw": [b"ab"]}
    )
    entry = next(TableSource("a", frame, modified="when").entries())
    assert entry.metadata == {"tags": ["a", "b"], "big": 2**60, "ok": True, "raw": "2 bytes"}
    assert entry.modified == datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC).timestamp()
    json.dumps(dict(entry.metadata))


def test_a_large_table_is_read_in_parts(tmp_path: Path) -> None:
    import tracemalloc

    with open(tmp_path / "large.jsonl", "w") as file:
        for number in range(8_000):
            file.write(json.dumps({"id": number, "text": "word " * 200}) + "\n")
    tracemalloc.start()
    assert sum(1 for _ in TableSource("a", tmp_path / "large.jsonl").entries()) == 8_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


# Databases


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "faq.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table faq (id integer, body text, head text, changed text)")
        connection.executemany("insert into faq values (?, ?, ?, ?)", [(n, f"Text {n} at 12:30", f"Title {n}", "2024-05-01") for n in range(2500)])
        connection.commit()
    monkeypatch.setenv("FAQ_DB", f"sqlite:///{path}")
    return path


def test_a_query_is_streamed_into_documents(database: Path) -> None:
    source = SqlSource("faq", sql="-- all of it\nselect id, body as text, head, changed, '12:30' as tag from faq order by id", url_env="FAQ_DB", title="head", modified="changed")
    found = list(source.entries())
    assert len(found) == 2500 and read_entry(found[7])[0] == Document("7", "Text 7 at 12:30", "Title 7", {"tag": "12:30", "source": "", "uri": "faq#7", "modified": found[7].modified})
    assert found[0].modified == datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC).timestamp()
    assert len(list(itertools.islice(source.entries(), 3))) == 3


@pytest.mark.parametrize("sql", ["delete from faq", "with x as (select 1) delete from faq", "select 1; delete from faq", "/* select */ drop table faq", "", "insert into faq select * from faq"])
def test_a_query_writes_nothing(database: Path, sql: str) -> None:
    with pytest.raises((ConfigurationError, DataError)):
        list(SqlSource("faq", sql=sql, url_env="FAQ_DB").entries())
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("select count(*) from faq").fetchone() == (2500,)


def test_errors_of_databases_hold_no_secrets(monkeypatch: pytest.MonkeyPatch, database: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such column") as caught:
        list(SqlSource("faq", sql="select none_such from faq", url_env="FAQ_DB").entries())
    assert str(database) not in str(caught.value)
    with pytest.raises(ConfigurationError, match="FAQ_NONE is not set"):
        list(SqlSource("faq", sql="select 1", url_env="FAQ_NONE").entries())
    for address in ("postgresql+psycopg://annabel:s3cret@127.0.0.1:9/x", "nonsense s3cret", "oracle://annabel:s3cret@h/x", f"sqlite:///{tmp_path}/s3cret.db"):
        monkeypatch.setenv("FAQ_DB", address)
        with pytest.raises((DataError, ConfigurationError), match="FAQ_DB") as caught:
            list(SqlSource("faq", sql="select 1", url_env="FAQ_DB").entries())
        assert "s3cret" not in str(caught.value) and "annabel" not in str(caught.value)
    assert not (tmp_path / "s3cret.db").exists()


# From a plan


@pytest.mark.parametrize(
    "spec, kind",
    [
        ({"folder": "docs", "glob": "**/*.md"}, FolderSource),
        ({"files": ["a.md"]}, FileSource),
        ({"git": "wiki", "ref": "main"}, GitSource),
        ({"git": "https://example.org/wiki.git", "exclude": ["a/**"]}, GitSource),
        ({"urls": ["https://example.org/"], "allow_private": ["wiki.example"]}, WebSource),
        ({"sitemap": "https://example.org/sitemap.xml", "robots": False}, WebSource),
        ({"table": "faq.csv", "title": "head", "columns": ["team"]}, TableSource),
        ({"table": pd.DataFrame(ROWS)}, TableSource),
        ({"sql": "select 1", "url_env": "X"}, SqlSource),
    ],
)
def test_a_plan_names_sources(spec: dict[str, Any], kind: type, tmp_path: Path) -> None:
    source = open_source({**spec, "name": "mine"}, tmp_path)
    assert type(source) is kind and source.name == "mine" and open_source(spec, tmp_path).name


@pytest.mark.parametrize(
    "spec, reason",
    [
        ({}, "has none"),
        ({"folder": "a", "git": "b"}, "'folder' and 'git'"),
        ({"folder": "a", "globb": "*"}, "Did you mean 'glob'"),
        ({"folder": ""}, "must be text"),
        ({"folder": 7}, "must be text"),
        ({"urls": "https://example.org"}, "must be a list"),
        ({"folder": "a", "limit": "much"}, "limit"),
        ({"folder": "a", "hidden": "yes"}, "hidden"),
        ({"sql": "select 1", "table": "a.csv"}, "'table' and 'sql'"),
        ({"git": "https://ann:s3cret@example.org/x"}, "password"),
        ({"table": None}, "must be"),
        ({"folder": "a", "glob": "[z-a]"}, "cannot be used"),
    ],
)
def test_a_plan_that_cannot_be_says_what_is_known(spec: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        open_source(spec, tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_plan_reads_a_real_folder_table_and_repository(folder: Path, repository: Path, tmp_path: Path) -> None:
    table("csv", tmp_path)
    counts: list[Callable[[], int]] = []
    for spec in ({"folder": "docs"}, {"files": ["docs/b.md"]}, {"git": "wiki", "glob": "*.py"}, {"table": "faq.csv"}):
        source = open_source(spec, tmp_path)
        counts.append(lambda source=source: len([read_entry(entry, source.name) for entry in source.entries()]))
    assert [count() for count in counts] == [4, 1, 1, 2]
