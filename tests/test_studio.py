"""Talking to a ComfyUI, with one that says what the test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from studio.server import Server, StudioError
from studio.workflow import to_prompt

NODE_ERRORS = {
    "7": {
        "class_type": "ImagenGrid",
        "errors": [{"message": "Value smaller than min", "details": "columns"}],
        "dependent_outputs": ["8"],
    }
}


class Pretender:
    """An HTTP server that gives `answers[path]` = (status, JSON) and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict]] = {}
        self.received: list[tuple[str, dict]] = []
        self.http = HTTPServer(("127.0.0.1", 0), self.handler())
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def handler(self) -> Callable:
        answers, received = self.answers, self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                received.append((self.path, json.loads(self.rfile.read(size))))
                status, answer = answers.get(self.path, (200, {}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def pretender() -> Iterator[Pretender]:
    server = Pretender()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def client(pretender: Pretender) -> Server:
    """A Server that started nothing and talks to the pretender."""
    server = Server.__new__(Server)
    server.address, server.client_id = pretender.address, "test"
    return server


def test_a_saved_choice_is_followed_by_the_inputs_that_it_brings():
    encoding = [
        {"key": "auto", "inputs": {}},
        {"key": "re-encode", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}},
    ]
    brought = {"optional": {"encoding": ["COMFY_DYNAMICCOMBO_V3", {"options": encoding}]}}
    codecs = [{"key": "auto", "inputs": {}}, {"key": "h264", "inputs": brought}]
    declared = {
        "codec": ["COMFY_DYNAMICCOMBO_V3", {"options": codecs}],
        "name": ["STRING", {"default": "x"}],
    }
    info = {"SaveVideo": {"input": {"required": declared}}}

    def inputs(values: list) -> dict:
        saved = {"id": 1, "type": "SaveVideo", "widgets_values": values}
        return to_prompt({"nodes": [saved], "links": []}, info)["1"]["inputs"]

    assert inputs([]) == {"codec": "auto", "name": "x"}
    assert inputs(["h264"]) == {"codec": "h264", "codec.encoding": "auto", "name": "x"}
    assert inputs(["h264", "re-encode", 20.0, "film"]) == {
        "codec": "h264",
        "codec.encoding": "re-encode",
        "codec.encoding.crf": 20.0,
        "name": "film",
    }


def test_an_accepted_prompt_gives_its_id(pretender, client):
    pretender.answers["/api/prompt"] = (200, {"prompt_id": "a", "number": 1, "node_errors": {}})
    assert client.queue({"1": {}}) == "a"
    assert pretender.received == [("/api/prompt", {"prompt": {"1": {}}, "client_id": "test"})]


@pytest.mark.parametrize(
    ("status", "answer", "first"),
    [
        (400, {"error": {"message": "Prompt outputs failed validation"}}, "Prompt outputs failed"),
        (200, {"prompt_id": "a", "number": 1}, "Some outputs were refused"),
    ],
    ids=["all refused", "some refused"],
)
def test_a_refused_output_is_one_line_that_names_its_node(pretender, client, status, answer, first):
    pretender.answers["/api/prompt"] = (status, {**answer, "node_errors": NODE_ERRORS})
    with pytest.raises(StudioError, match=r"ImagenGrid: Value smaller than min \(columns\)") as e:
        client.queue({"7": {}})
    assert str(e.value).startswith(first) and "\n" not in str(e.value)


def test_what_comfyui_would_run_of_a_refused_prompt_is_taken_from_its_queue(pretender, client):
    answer = {"prompt_id": "a", "number": 1, "node_errors": NODE_ERRORS}
    pretender.answers["/api/prompt"] = (200, answer)
    with pytest.raises(StudioError):
        client.queue({"7": {}})
    assert pretender.received[-1] == ("/api/queue", {"delete": ["a"]})
