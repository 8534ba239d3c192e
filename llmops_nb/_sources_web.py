"""Fetches what an address leads to, and nothing that it should not lead to.

An address may name a machine inside the network that trusts us, at once, behind a redirect, or by a name that resolves
to it when nobody looks. So every hop is resolved once, what it resolves to is checked, and the connection goes to
exactly that; proxies of the environment are not used. Size and time are limited, robots.txt is asked.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import re
import socket
import threading
import time
import urllib.parse
import urllib.robotparser
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from .core import DataError

AGENT = "llmops_nb"
HOPS = 5  # Redirects followed at most


@dataclass(frozen=True)
class Reply:
    "What a server said."

    url: str  # Where it was in the end
    status: int  # As in HTTP
    headers: Mapping[str, str]  # With names in lower case
    body: bytes  # Decompressed


@dataclass(frozen=True)
class Web:
    "Fetches within limits."

    private: bool | Sequence[str] = False  # Hosts that may be inside: none, all, or these by name
    seconds: float = 30.0  # For one address, redirects included
    limit: int = 50_000_000  # Bytes of one reply, decompressed
    robots: bool = True  # Whether robots.txt is obeyed
    _rules: dict[str, urllib.robotparser.RobotFileParser | str] = field(default_factory=dict, repr=False, compare=False)

    def fetch(
        self,
        url: str,  # http or https
        method: str = "GET",  # Or "HEAD"
    ) -> Reply:
        "What is at an address; raises `DataError` with the reason when it is not to be had, or not allowed to be."
        until, first = time.monotonic() + self.seconds, url
        for _ in range(HOPS + 1):
            self.check_robots(url, until)
            reply = self.once(url, method, until)
            if reply.status not in (301, 302, 303, 307, 308) or "location" not in reply.headers:
                return reply
            url = urllib.parse.urljoin(url, reply.headers["location"])
        raise DataError(f"{first} redirects more than {HOPS} times.")

    def once(self, url: str, method: str, until: float) -> Reply:
        "One request, redirects not followed."
        parts = checked_url(url)
        https = parts.scheme == "https"
        port = parts.port or (443 if https else 80)
        host = str(parts.host).strip("[]").partition("%")[0]
        headers = {"Host": parts.netloc or host, "User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        problem: Exception | None = None
        for address in self.addresses(host, port, url)[:3]:
            left = until - time.monotonic()
            if left <= 0:
                break
            timeout = urllib3.Timeout(connect=min(10.0, left), read=left)
            connection = HTTPSConnection(address, port, timeout=timeout.connect_timeout, server_hostname=host) if https else HTTPConnection(address, port, timeout=timeout.connect_timeout)
            try:
                return self.talk(connection, method, parts.request_uri, headers, until, url)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                problem = error
            finally:
                connection.close()
        late = time.monotonic() >= until
        raise DataError(f"{url} does not answer within {self.seconds:g} s." if late else f"{url} cannot be reached: {reason(problem)}.") from None

    def talk(self, connection: HTTPConnection, method: str, path: str, headers: Mapping[str, str], until: float, url: str) -> Reply:
        "Ask, and read the answer until it ends, is too long or too late."
        connection.connect()
        held: Any = connection.sock

        def stop() -> None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(until - time.monotonic(), 0.01), stop)
        timer.daemon = True
        timer.start()
        try:
            held.settimeout(max(until - time.monotonic(), 0.01))
            connection.request(method, path, headers=headers, preload_content=False)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.headers.items()}
            body = b""
            declared = found.get("content-length", "")
            if method == "GET" and declared.isdecimal() and int(declared) > self.limit:
                raise DataError(f"{url} has {int(declared):,} bytes; the limit is {self.limit:,}.")
            while method == "GET" and response.status < 300 and (piece := response.read1(1 << 16, decode_content=True)):
                body += piece
                if len(body) > self.limit:
                    raise DataError(f"{url} has more than {self.limit:,} bytes, which is the limit.")
            if method == "GET" and response.status < 300 and declared.isdecimal() and not found.get("content-encoding") and len(body) < int(declared):
                raise DataError(f"{url} was cut off: {len(body):,} of {int(declared):,} bytes came. Try again.")
            if time.monotonic() >= until:
                raise TimeoutError
            return Reply(url, response.status, found, body)
        finally:
            timer.cancel()

    def addresses(self, host: str, port: int, url: str) -> list[str]:
        "What a host resolves to; raises `DataError` when any of it is not on the open internet and the source does not say that it may."
        try:
            found = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError):
            raise DataError(f"{url}: the host {host!r} is not known. Check the address, and whether this machine has a network.") from None
        allowed = self.private if isinstance(self.private, bool) else host.lower() in [name.lower() for name in self.private]
        inside = [address for address in found if not is_open(address)]
        if inside and not allowed:
            raise DataError(f"{url} leads to {inside[0]}, which is not on the open internet, and is not asked. If it may be, name the host: allow_private: [{host}].")
        return found

    def check_robots(self, url: str, until: float) -> None:
        "Raise `DataError` when the server's robots.txt keeps us out, or cannot be read for a fault of the server."
        if not self.robots:
            return
        parts = checked_url(url)
        home = f"{parts.scheme}://{parts.netloc}"
        if home not in self._rules:
            self._rules[home] = self.rules(home, until)
        rules = self._rules[home]
        if isinstance(rules, str):
            raise DataError(f"{url} is not asked: {rules}")
        if not rules.can_fetch(AGENT, url):
            raise DataError(f"{url} is not asked: the server's robots.txt keeps programs out. If you have leave, write robots: false.")

    def rules(self, home: str, until: float) -> urllib.robotparser.RobotFileParser | str:
        parser = urllib.robotparser.RobotFileParser()
        url = f"{home}/robots.txt"
        try:
            for _ in range(HOPS + 1):
                reply = self.once(url, "GET", until)
                if reply.status not in (301, 302, 303, 307, 308) or "location" not in reply.headers:
                    break
                url = urllib.parse.urljoin(url, reply.headers["location"])
        except DataError as error:
            return f"its robots.txt cannot be read. {error}"
        if reply.status >= 500:
            return f"its robots.txt cannot be read: the server says {reply.status}."
        parser.parse(reply.body.decode("utf-8", "replace").splitlines() if reply.status < 300 else [])
        return parser


def reason(error: Exception | None) -> str:
    "An error of the network in a few words, without addresses of objects."
    said = re.sub(r"<[^>]*>:? ?", "", str(error or "no address answers"))
    return (said.split("(_ssl")[0].strip(" .") or type(error).__name__)[:200]


def checked_url(url: str) -> urllib3.util.Url:
    "The parts of an address; raises `DataError` for one that is not http or https, or that carries a password."
    try:
        parts = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        raise DataError(f"{url!r} is not an address.") from None
    if parts.auth:
        raise DataError(f"The address of {parts.host} carries a user name or a password, which would be written to files. Leave it out.")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise DataError(f"{url!r} is not an address that begins with http:// or https://.")
    return parts


def is_open(address: str) -> bool:
    "Whether an IP address is on the open internet, also when it is wrapped in another."
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = [ip.ipv4_mapped, ip.sixtofour, ip.teredo[1] if ip.teredo else None]
        translated = ip in ipaddress.ip_network("64:ff9b::/96")
        if translated or int(ip) >> 32 == 0:
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not is_open(str(inner)) for inner in wrapped):
            return False
        if ip.ipv4_mapped or translated:
            return True
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def http_date(text: str) -> float | None:
    "The seconds since 1970 of a date as HTTP writes it; None when it is none."
    with contextlib.suppress(ValueError, TypeError):
        return email.utils.parsedate_to_datetime(text).timestamp()
    return None


def in_utf8(reply: Reply) -> bytes:
    "The body of a reply; text in another encoding that only the header names is told by a mark."
    charset = re.search(r"charset=\"?([\w.:-]+)", reply.headers.get("content-type", ""), re.I)
    if charset and charset[1].lower().replace("_", "-") not in ("utf-8", "utf8"):
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            return b"\xef\xbb\xbf" + reply.body.decode(charset[1]).encode()
    return reply.body


def sitemap_entries(
    web: Web,  # What fetches
    url: str,  # Of a sitemap, or of an index of sitemaps
    most: int,  # Addresses at most
    depth: int = 0,  # Indexes above this one
) -> Iterator[tuple[str, str, str]]:  # Address, when it was changed as the sitemap has it, and why it cannot be read
    "The addresses of a sitemap; raises `DataError` when the first cannot be read, names later ones with the reason."
    left = most
    try:
        kind, found = sitemap(web, url)
    except DataError as error:
        if depth == 0:
            raise
        yield url, "", str(error)
        return
    for place, changed in found:
        inner: Iterator[tuple[str, str, str]] = iter([(place, changed, "")])
        if kind == "sitemapindex":
            inner = sitemap_entries(web, place, left, depth + 1) if depth < 3 else iter([(place, "", "Sitemaps are nested more than 3 deep here.")])
        for entry in inner:
            if left <= 0:
                yield url, "", f"{url} names more than {most:,} addresses. Raise `most` to read them all."
                return
            left -= 1
            yield entry


def sitemap(web: Web, url: str) -> tuple[str, list[tuple[str, str]]]:
    "What kind of sitemap it is, and the addresses in it with their dates."
    import xml.etree.ElementTree as tree

    reply = web.fetch(url)
    if reply.status >= 300:
        raise DataError(f"The sitemap {url} cannot be had: the server says {reply.status}.")
    data = reply.body
    if data.startswith(b"\x1f\x8b"):
        packed = zlib.decompressobj(31)
        try:
            data = packed.decompress(data, web.limit)
        except zlib.error as error:
            raise DataError(f"The sitemap {url} is damaged: {error}.") from None
        if packed.unconsumed_tail:
            raise DataError(f"The sitemap {url} unpacks to more than {web.limit:,} bytes, which is the limit.")
    if b"<" not in data[:200]:
        return "urlset", [(line.strip(), "") for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", data.replace(b"\0", b""), re.I):
        raise DataError(f"The sitemap {url} declares XML entities, as attacks do. It is not read.")
    try:
        root = tree.fromstring(data)
    except tree.ParseError as error:
        raise DataError(f"The sitemap {url} is not XML: {error}.") from None
    pairs = [({child.tag.rpartition("}")[2]: (child.text or "").strip() for child in entry}) for entry in root]
    return root.tag.rpartition("}")[2], [(pair["loc"], pair.get("lastmod", "")) for pair in pairs if pair.get("loc")]
