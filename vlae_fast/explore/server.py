"""The page and its requests over HTTP, by the server of Python's standard library.

Who may ask: only pages of this server's own address. A request must name in `Host` an address, not a name that
somebody else's DNS may point here; a POST must come from a page of that address (`Origin`) and be JSON. Beyond the
loopback every request of the model bears a token. A body may be as long as an image and its fixed pixels can be.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import json
import secrets
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .asked import Asked
from .explorer import Explorer

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/widgets.js": ("widgets.js", "text/javascript; charset=utf-8"),
}
_API: dict[str, Callable[[Explorer, Asked], dict[str, Any]]] = {
    "/api/model": Explorer.about,
    "/api/draw": Explorer.draw,
    "/api/complete": Explorer.complete,
    "/api/prior": Explorer.prior,
    "/api/encode": Explorer.encode,
    "/api/choices": Explorer.choices,
    "/api/plane": Explorer.plane,
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_SECONDS = 30  # that a connection may be silent
_DRAINED = 1 << 20  # bytes of a refused body that are read, so that the refusal is


class _RefusedError(Exception):
    """A request that is not answered; the message says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Listens on one address from the start, and serves an explorer's page there; see `serve`.

    Requests of the model are answered in turn, in one thread.

    Args:
        host: an address or a name of this machine. port: 0 takes any that is free.
        token: what requests must bear. None: a new one where host is not the loopback; "": none is asked for.

    ``.url`` is what a browser opens: the token stands behind its ``#``, which browsers keep to themselves.

    Raises:
        ValueError: no such address here; the port is taken, or may not be used.
    """

    daemon_threads = True
    explorer: Explorer

    def __init__(self, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        self._host = host
        family, address = _resolved(host, port)
        self.address_family = family
        self.loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        self.token = token if token is not None else "" if self.loopback else secrets.token_urlsafe(18)
        folder = Path(__file__).parent
        self.files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _PAGE.items()}
        # torch keeps a team of threads for each thread that calls it: one calls for all connections
        self._worker = ThreadPoolExecutor(1, "vlae-fast-explore")
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise _not_bound(error, host, port) from error

    def server_bind(self) -> None:
        """Without http.server's look-up of the machine's full name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self._host, self.server_address[1]

    def serve(self, explorer: Explorer) -> None:
        """Answers until Ctrl-C, or until another thread shuts it down."""
        self.explorer = explorer
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            pass

    @property
    def longest(self) -> int:
        """Bytes of the longest body: a code, and every pixel fixed."""
        channels, (height, width) = self.explorer.model.likelihood.channels, self.explorer.model.decoder.image_size
        return 4096 + 32 * self.explorer.model.latent_dim + height * width * (10 + 6 * channels)

    @property
    def url(self) -> str:
        host = self._host if self._host not in ("", "0.0.0.0", "::") else socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server_port}/" + (f"#token={self.token}" if self.token else "")

    def ask(self, method: Callable[[Explorer, Asked], dict[str, Any]], asked: Asked) -> dict[str, Any]:
        """The explorer's answer, by a method of it, to what a request asked."""
        return self._worker.submit(method, self.explorer, asked).result()

    def knows(self, host: str) -> bool:
        """True where a request's Host is an address that this server has, or the name it was given."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self._host.lower()) or (not self.loopback and name == socket.gethostname().lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback

    def handle_error(self, request: object, client_address: object) -> None:
        """http.server's, of the request of a client_address; but a browser that goes away is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def server_close(self) -> None:
        super().server_close()
        self._worker.shutdown(wait=False, cancel_futures=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vlae-fast", ""
    timeout = _SECONDS
    wbufsize = -1  # an answer is one write
    disable_nagle_algorithm = True
    _read = False  # whether this request's body has been read

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, found: Callable[[str], tuple[bytes, str]]) -> None:
        self._read = False
        try:
            hosts = self.headers.get_all("Host", [])
            if len(hosts) != 1 or not self.server.knows(hosts[0]):
                raise _RefusedError(
                    HTTPStatus.MISDIRECTED_REQUEST, f"Host: must be this server's address, got {', '.join(hosts)!r}"
                )
            body, kind = found(urlsplit(self.path).path)
            self._send(HTTPStatus.OK, body, kind)
        except _RefusedError as error:
            self._refuse(error.status, str(error))
        except (ValueError, TypeError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError:
            raise
        except Exception as error:
            traceback.print_exc()
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _get(self, path: str) -> tuple[bytes, str]:
        if path in _API:
            raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"{path}: must be asked for by POST")
        if path not in self.server.files:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"{path}: there is no such page")
        return self.server.files[path]

    def _post(self, path: str) -> tuple[bytes, str]:
        origins, host = self.headers.get_all("Origin", []), self.headers["Host"]
        if origins not in ([], [f"http://{host}"]):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN, f"Origin: must be http://{host} or absent, got {', '.join(origins)!r}"
            )
        if self.headers.get_content_type() != "application/json":
            got = self.headers.get("Content-Type", "none")
            raise _RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: must be application/json, got {got!r}"
            )
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if self.server.token and not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, "token: must be that of the address that was printed")
        if path not in _API:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"{path}: there is no such request")
        return json.dumps(self.server.ask(_API[path], Asked.of_json(self._body()))).encode(), "application/json"

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not lengths[0].isascii() or not lengths[0].isdigit() or len(lengths[0]) > 12:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length: must be given, as a number")
        if "Transfer-Encoding" in self.headers:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "Transfer-Encoding: must not be given")
        length, longest = int(lengths[0]), self.server.longest
        if length > longest:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: must have at most {longest} bytes, got {length}"
            )
        self._read = True
        return self.rfile.read(length)

    def _drain(self) -> None:
        """Reads what was not: closed before that, a connection may lose the answer."""
        length = self.headers.get("Content-Length", "") if hasattr(self, "headers") else ""
        left = 0 if self._read or not length.isdigit() else min(int(length[:12]), _DRAINED)
        while left > 0 and (got := self.rfile.read(min(left, 1 << 16))):
            left -= len(got)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """http.server's own refusals, in the form of ours."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._drain()
        self.request_version = self.protocol_version  # until a request is understood it is one that has no head
        self.close_connection = True  # what is left of its body would be taken for the next request
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a move is a request."""


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host: must be an address or a name of this machine, got {host!r}: {error}") from None
    return found[0], found[4]


def _not_bound(error: OSError, host: str, port: int) -> ValueError:
    if error.errno == errno.EADDRINUSE:
        return ValueError(f"port: must be free, got {port}, where another program listens; 0 takes any that is free")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ValueError(f"port: must be one that you may listen on, got {port}; 0 takes any that is free")
    return ValueError(f"host: must be an address of this machine, got {host!r}: {error.strerror}")
