"""A small model on a page."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases.commands import SIZE, small_images

from vlae_fast import VLAE
from vlae_fast.explore import Explorer, Server


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    torch.manual_seed(0)
    model = VLAE(1, 4, 8, 1, image_size=SIZE, flow_hidden=8, initial_kernel=3)
    return Explorer(model, small_images(), name="a small one")


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Server]]:
    """Serves an explorer until the tests of the module are over."""
    servers = []

    def start(explorer: Explorer, *arguments: Any) -> Server:
        server = Server(*arguments)
        threading.Thread(target=server.serve, args=(explorer,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def server(explorer: Explorer, serve: Callable[..., Server]) -> Server:
    return serve(explorer)


@pytest.fixture
def post(server: Server) -> Callable[..., tuple[int, Any]]:
    """Asks for something as the page does; gives status and answer. A header that is None is left out."""

    def ask(path: str, values: Any = None, to: Server = server, body: bytes | None = None, **headers: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", to.server_port, timeout=30)
        host = f"127.0.0.1:{to.server_port}"
        own: dict[str, Any] = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(values or {}).encode() if body is None else body
        connection.putrequest("POST", path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **own}.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    return ask
