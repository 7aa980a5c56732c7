"""The page over HTTP: who may ask, how much, what is answered; how it ends."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases.commands import SIZE, call, small_images, trained

from vlae_fast import data
from vlae_fast.explore import Explorer, Server
from vlae_fast.explore.asked import Asked

Post = Callable[..., tuple[int, Any]]


def get(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_brings_all_that_it_needs(server: Server) -> None:
    status, headers, page = get(server, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    files = set(re.findall(rb'(?:src|href)="(?!data:)([^"]+)"', page))
    assert files == {b"page.css", b"page.js"}
    texts = {name: get(server, f"/{name}")[2] for name in ("page.css", "page.js", "widgets.js")}
    assert all(texts.values()) and set(re.findall(rb'from "\./([^"]+)"', texts["page.js"])) == {b"widgets.js"}
    assert not re.search(rb"https?://", page + b"".join(texts.values()))  # nothing from elsewhere
    assert not re.search(rb"<(?:script|[^>]+ style=)[^>]*>[^<\s]", page)


def test_a_request_is_answered_as_the_explorer_does(post: Post, explorer: Explorer) -> None:
    assert post("/api/model") == (200, explorer.about(Asked({})))
    z = {"z": [0.1] * 4, "seed": 5}
    status, found = post("/api/draw", z)
    assert status == 200 and found["pixels"] == explorer.draw(Asked(z))["pixels"]


def test_a_connection_is_kept(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    ports = set()
    for _ in range(3):
        connection.request("POST", "/api/prior", "{}", {"Content-Type": "application/json"})
        assert connection.getresponse().read()
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:8000", "127.0.0.2:1"])
def test_the_loopback_by_any_of_its_names(post: Post, host: str) -> None:
    assert post("/api/prior", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "[::1", "", None]
)
def test_a_name_that_is_not_this_server_s_is_refused(server: Server, post: Post, host: str | None) -> None:
    """A stranger's page whose name its DNS points to the loopback."""
    status, found = post("/api/prior", Host=host, Origin=f"http://{host}")
    assert status == 421 and found["error"].startswith("Host: must be this server's address, got ")
    if host:
        assert get(server, "/", Host=host)[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_another_page_may_not_ask(post: Post, origin: str) -> None:
    status, found = post("/api/prior", Origin=origin)
    assert status == 403 and found["error"].startswith("Origin: must be http://127.0.0.1:")
    assert post("/api/prior", Origin=None)[0] == 200  # no browser, which always says where it comes from


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_only_json_which_a_form_cannot_send(post: Post, kind: str | None) -> None:
    status, found = post("/api/prior", Content_Type=kind)
    assert status == 415 and found["error"].startswith("Content-Type: must be application/json, got ")


def test_a_long_body_is_refused_unread(server: Server, post: Post) -> None:
    status, found = post("/api/draw", body=b" " * (server.longest + 1))
    assert (status, found["error"]) == (
        413, f"body: must have at most {server.longest} bytes, got {server.longest + 1}"
    )  # fmt: skip
    assert post("/api/prior", body=b"{}" + b" " * (server.longest - 2))[0] == 200
    every = [[at, 255] for at in range(64)]
    assert post("/api/draw", {"z": [-0.12345678901234567] * 4, "seed": 2**53 - 1, "fixed": every})[0] == 200


@pytest.mark.parametrize("length", [None, "-1", "x", "1" * 30, "²"])
def test_a_body_of_no_length_is_refused(server: Server, length: str | None) -> None:
    head = "POST /api/prior HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += "" if length is None else f"Content-Length: {length}\r\n"
    assert b" 411 " in raw(server, head.encode() + b"\r\n")
    chunked = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    assert b" 411 " in raw(server, chunked)


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(1 << 16):
            answer += more
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/9.0\r\n\r\n", 505), (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
     (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
     (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421)],
)  # fmt: skip
def test_what_is_no_request_gets_json_too(server: Server, request_: bytes, status: int) -> None:
    answer = raw(server, request_)
    assert f" {status} ".encode() in answer.split(b"\r\n")[0] and b'{"error": "' in answer


def test_paths(server: Server, post: Post) -> None:
    for path in ("/../server.py", "/server.py", "/page.html", "/api/nothing"):
        assert get(server, path)[0] == 404
    assert get(server, "/api/model")[0] == 405 and post("/api/refresh")[0] == 404
    assert post("/")[0] == 404


def test_errors_are_json_and_the_server_goes_on(
    post: Post, explorer: Explorer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert post("/api/draw", {"z": [1]}) == (400, {"error": "z: must be a list of 4 numbers, got 1 of them"})
    assert post("/api/draw", body=b"{")[1]["error"].startswith("body: must be JSON: ")

    def fail(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(explorer.sampler, "propose", fail)
    assert post("/api/draw", {"z": [1.0] * 4}) == (500, {"error": "KeyError: 'a fault of ours'"})
    monkeypatch.undo()
    assert "a fault of ours" in capfd.readouterr().err
    assert post("/api/draw", {"z": [1.0] * 4})[0] == 200


def test_beyond_the_loopback_a_token_is_asked_for(explorer: Explorer, serve: Callable[..., Server], post: Post) -> None:
    server = serve(explorer, "0.0.0.0")
    assert not server.loopback and server.url.endswith(f"/#token={server.token}") and len(server.token) >= 22
    for given in (None, "Bearer ", "Bearer x", server.token, f"Bearer {server.token[:-1]}"):
        status, found = post("/api/model", to=server, Authorization=given)
        assert (status, found["error"]) == (401, "token: must be that of the address that was printed")
    assert post("/api/model", to=server, Authorization=f"Bearer {server.token}")[0] == 200
    named = {"Host": f"10.1.2.3:{server.server_port}", "Authorization": f"Bearer {server.token}"}
    assert post("/api/model", to=server, Origin=None, **named)[0] == 200
    assert (
        post("/api/model", to=server, Origin=None, Host="evil.example", Authorization=named["Authorization"])[0] == 421
    )
    assert get(server, "/")[0] == 200  # the page itself is this package's, and says nothing of the model


def test_no_token_on_the_loopback_unless_asked_for(
    explorer: Explorer, serve: Callable[..., Server], server: Server
) -> None:
    assert server.token == "" and "#" not in server.url
    assert Server("127.0.0.1", 0, "secret").url.endswith("#token=secret")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_of_ipv6(explorer: Explorer, serve: Callable[..., Server]) -> None:
    try:
        server = serve(explorer, "::1")
    except ValueError as error:
        pytest.skip(str(error))
    assert server.loopback and server.url == f"http://[::1]:{server.server_port}/"
    connection = http.client.HTTPConnection("::1", server.server_port, timeout=30)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200


def test_an_address_that_cannot_be_had(server: Server) -> None:
    taken = server.server_port
    with pytest.raises(
        ValueError, match=f"port: must be free, got {taken}, where another program listens; 0 takes any"
    ):
        Server("127.0.0.1", taken)
    with pytest.raises(ValueError, match=r"host: must be an address (or a name )?of this machine, got '192\.0\.2\.1'"):
        Server("192.0.2.1")
    with pytest.raises(ValueError, match=r"host: must be an address or a name .*'nowhere\.invalid'"):
        Server("nowhere.invalid")


def test_the_command_refuses_before_it_loads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("vlae_fast.commands.explore.open_run", load)
    result = call("explore", "--port", server.server_port)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: --port: must be free, got {server.server_port}, where another program")
    assert result.stderr.count("\n") == 1


COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs ignore it
    "import vlae_fast.data as d, cases.commands as c; d.load = c.small_images; "
    "from vlae_fast.__main__ import main; main()"
)


def test_ctrl_c_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", small_images)
    folder = trained(tmp_path, latent_dim=4)
    tests = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "explore", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": tests},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/  \(Ctrl-C ends it\)\n", line)
    assert found, line
    idle = socket.create_connection(("127.0.0.1", int(found[1])))  # a browser that keeps its connection
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    connection.request("POST", "/api/model", "{}", {"Content-Type": "application/json"})
    assert f'"size": [{SIZE[0]}, {SIZE[1]}]'.encode() in connection.getresponse().read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    idle.close()
    assert (process.returncode, out, err) == (0, "ended\n", "")
