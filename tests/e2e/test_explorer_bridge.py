"""The explorer's bridge on a real server: JSON in, lines of JSON out, and whom it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from headstream.client import Client, TopLogits
from headstream.server.explorer.methods import passed_methods
from server_process import Server, running_server, save_tiny_model

GENERATE = "headstream.v1.LogitsService/Generate"
SCORE = "headstream.v1.LogitsService/Score"
TEXT = "The chicken"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    checkpoint = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    with running_server(checkpoint, "--explorer", "--dtype", "float32") as server:
        yield server


class Reply:
    """One answer of the admin port, read to its end."""

    def __init__(self, server: Server, method: str, path: str, body: str | None, **headers: str):
        connection = http.client.HTTPConnection(server.admin, timeout=30)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        self.status, self.headers = response.status, response.headers
        self.body = response.read()
        connection.close()

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def post(server: Server, method: str, request: object, **headers: str) -> Reply:
    headers = {"content_type": "application/json"} | headers
    return Reply(server, "POST", f"/explorer/api/{method}", json.dumps(request), **headers)


def generate(tokens: int) -> dict[str, Any]:
    stop = {"maxNewTokens": tokens, "ignoreEos": True}
    return {"prompt": {"text": TEXT}, "stop": stop}


def calls(server: Server, method: str, code: str) -> float:
    values = server.metrics()
    return sum(
        value
        for key, value in values.items()
        if key[0] == "requests_total" and set(key[1:]) == {method, code}
    )


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_stream_has_the_numbers_of_the_client(running: Server) -> None:
    request = generate(5) | {"logits": {"mode": "LOGITS_MODE_TOP_K", "topK": 3}}
    reply = post(running, GENERATE, request)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    steps = [line["step"] for line in reply.lines if "step" in line]
    with Client(running.address) as client:
        stream = client.generate(
            TEXT, max_new_tokens=5, ignore_eos=True, logits="top", top_logits=3
        )
        wanted = list(stream)
    assert [step["tokenId"] for step in steps] == [step.token_id for step in wanted]
    for step, ours in zip(steps, wanted, strict=True):
        assert isinstance(ours.logits, TopLogits)
        values = np.frombuffer(b64decode(step["logits"]["values"]["data"]), np.float32)
        np.testing.assert_array_equal(values, ours.logits.values)
        assert step["logprob"] == pytest.approx(ours.logprob, abs=1e-6)


def test_lines_come_while_the_model_works(running: Server) -> None:
    """The first line is there long before the last token is."""
    connection = http.client.HTTPConnection(running.admin, timeout=30)
    headers = {"Content-Type": "application/json"}
    path = f"/explorer/api/{GENERATE}"
    connection.request("POST", path, json.dumps(generate(1900)), headers)
    response = connection.getresponse()
    assert "start" in json.loads(response.readline())
    assert "step" in json.loads(response.readline())
    assert running.metrics()["sequences_running", "tiny"] == 1
    response.close()
    until(lambda: running.metrics()["sequences_running", "tiny"] == 0, seconds=5)


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_browser_that_leaves_cancels_its_call(running: Server, how: str) -> None:
    before = calls(running, GENERATE, "CANCELLED")
    host, _, port = running.admin.rpartition(":")
    body = json.dumps(generate(1900))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /explorer/api/{GENERATE} HTTP/1.1\r\nHost: {running.admin}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        if how == "resets":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    until(lambda: calls(running, GENERATE, "CANCELLED") == before + 1, seconds=5)


def test_errors_are_told_as_the_server_says_them(running: Server) -> None:
    reply = post(running, GENERATE, {"prompt": {"text": "x"}, "stop": {"maxNewTokens": 1000000}})
    [line] = reply.lines
    assert reply.status == 400
    assert line["error"]["code"] == 3
    assert line["error"]["message"].startswith("stop.max_new_tokens: ")
    reasons = [detail.get("reason") for detail in line["error"]["details"]]
    assert "INVALID_FIELD" in reasons


def test_a_model_that_is_not_served_is_not_found(running: Server) -> None:
    reply = post(running, GENERATE, generate(4) | {"model": "absent"})
    assert (reply.status, reply.lines[-1]["error"]["code"]) == (404, 5)


@pytest.mark.parametrize(
    ("body", "says"),
    [("{", "JSON"), ('{"wrong": 1}', "wrong"), ('{"prompt": 3}', "prompt"), ("\xff", "JSON")],
)
def test_a_body_that_is_not_the_request_is_refused(running: Server, body: str, says: str) -> None:
    path = f"/explorer/api/{GENERATE}"
    reply = Reply(running, "POST", path, body, content_type="application/json")
    assert reply.status == 400
    assert says in reply.lines[0]["error"]["message"]


@pytest.mark.parametrize(
    "method",
    ["headstream.v1.LogitsService/Decode", "grpc.health.v1.Health/Check", "nonsense", ""],
)
def test_other_methods_are_not_passed_on(running: Server, method: str) -> None:
    reply = post(running, method, {})
    assert (reply.status, reply.lines[0]["error"]["code"]) == (501, 12)


def test_no_reply_has_a_field_that_an_error_could_be_taken_for() -> None:
    for method in passed_methods().values():
        assert "error" not in method.response.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example"},
        {"host": "rebound.example:9090"},
        {"host": "127.0.0.1.example"},
        {"host": "192.0.2.7"},
        {"host": ""},
        {"origin": "http://other.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_are_refused(running: Server, headers: dict[str, str]) -> None:
    before = calls(running, SCORE, "OK")
    request = {"inputs": [{"text": TEXT}]}
    reply = post(running, SCORE, request, **headers)
    assert (reply.status, reply.lines[0]["error"]["code"]) == (403, 7)
    assert calls(running, SCORE, "OK") == before
    own = {"origin": f"http://{running.admin}", "sec_fetch_site": "same-origin"}
    assert post(running, SCORE, request, **own).status == 200  # the same request, by the page
    assert calls(running, SCORE, "OK") == before + 1


def test_a_form_of_another_site_cannot_call(running: Server) -> None:
    """Without the type a browser asks first, and nothing here allows it."""
    reply = post(running, SCORE, {"inputs": [{"text": TEXT}]}, content_type="text/plain")
    assert reply.status == 400
    path = f"/explorer/api/{SCORE}"
    asked = Reply(running, "OPTIONS", path, None, access_control_request_method="POST")
    assert asked.status == 405
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]


def test_the_page_is_fenced_in(running: Server) -> None:
    page = Reply(running, "GET", "/explorer/", None)
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert Reply(running, "GET", "/explorer", None).headers["location"] == "/explorer/"
    head = Reply(running, "HEAD", "/explorer/", None)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(page.body)
    for path in ("/explorer/../config.py", "/explorer/%2e%2e/config.py", "/explorer/assets/"):
        assert Reply(running, "GET", path, None).status == 404


def test_a_body_over_the_limit_is_not_read(running: Server) -> None:
    path = f"/explorer/api/{SCORE}"
    headers = {"content_type": "application/json", "content_length": str(1 << 40)}
    reply = Reply(running, "POST", path, None, **headers)
    assert (reply.status, reply.lines[0]["error"]["code"]) == (429, 8)


def test_an_error_after_the_first_line_is_the_last_line(running: Server) -> None:
    connection = http.client.HTTPConnection(running.admin, timeout=30)
    headers = {"Content-Type": "application/json"}
    path = f"/explorer/api/{GENERATE}"
    connection.request("POST", path, json.dumps(generate(1900)), headers)
    response = connection.getresponse()
    assert "start" in json.loads(response.readline())
    [engine] = running.engines()
    engine.kill()
    *_, last = response.read().splitlines()
    assert json.loads(last)["error"]["code"] == 10  # ABORTED: output had begun
    connection.close()


def test_it_is_off_unless_asked_for(tmp_path: Any) -> None:
    with running_server(save_tiny_model(tmp_path)) as server:
        assert Reply(server, "GET", "/explorer/", None).status == 404
        assert post(server, SCORE, {"inputs": [{"text": TEXT}]}).status == 405
        assert Reply(server, "GET", "/livez", None).status == 200
