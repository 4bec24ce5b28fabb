"""Start a ComfyUI, wait until it answers, talk to it, stop it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .host import ROOT, Host, StudioError, base_directory

START_SEC = 180.0
EXAMPLE_INPUTS = ROOT / "example_workflows" / "inputs"  # what example workflows load


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running ComfyUI at `address`, with its log and its base directory."""

    def __init__(
        self,
        host: Host,
        *,
        base: Path | None = None,
        cpu: bool | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """`arguments` are further ones for ComfyUI's main.py."""
        self.base = base_directory(base) if base else base_directory()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.client_id = uuid.uuid4().hex
        self.log = self.base / "user" / "studio.log"
        shutil.copytree(EXAMPLE_INPUTS, self.base / "input", dirs_exist_ok=True)
        command = [
            str(host.python), "main.py", "--listen", "127.0.0.1", "--port", str(self.port),
            "--base-directory", str(self.base), "--disable-api-nodes", "--disable-auto-launch",
            "--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}",
            *arguments,
        ]  # fmt: skip
        if not has_cuda(host.python) if cpu is None else cpu:
            command.append("--cpu")
        self._output = self.log.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            command, cwd=host.directory, stdout=self._output, stderr=subprocess.STDOUT
        )

    def wait_until_up(self) -> None:
        """Return once it answers; StudioError with the last line of its log if it never does."""
        deadline = time.monotonic() + START_SEC
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StudioError(f"ComfyUI ended while starting: {self._last_line()}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.25)
        raise StudioError(f"ComfyUI did not answer in {START_SEC:.0f} s; see {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it printed nothing'} (see {self.log})"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()

    # -- its API ----------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self.address + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise StudioError(refusal(json.loads(error.read()))) from None

    def queue(self, prompt: dict) -> str:
        """Send a prompt in API format; returns its id, or raises with what ComfyUI refused.

        That includes prompts of which it refused some outputs: it would run the others silently.
        """
        body = {"prompt": prompt, "client_id": self.client_id}
        answer = self.post("/api/prompt", body)
        if answer["node_errors"]:
            self.post("/api/queue", {"delete": [answer["prompt_id"]]})
            raise StudioError(refusal(answer))
        return answer["prompt_id"]

    def wait_for(self, prompt_id: str, *, timeout_sec: float = 600.0) -> dict:
        """The history entry of a finished prompt; StudioError with the node's message if the prompt
        failed or was interrupted."""
        deadline = time.monotonic() + timeout_sec
        while time.monotonic() < deadline:
            entry = self.get(f"/api/history/{prompt_id}").get(prompt_id)
            if entry and entry["status"]["completed"] is not None:
                messages = dict(entry["status"]["messages"])
                if "execution_error" in messages:
                    error = messages["execution_error"]
                    raise StudioError(f"{error['node_type']}: {error['exception_message'].strip()}")
                if "execution_interrupted" in messages:
                    raise StudioError(
                        f"{messages['execution_interrupted']['node_type']}: interrupted"
                    )
                return entry
            if self.process.poll() is not None:
                raise StudioError(f"ComfyUI ended while working: {self._last_line()}")
            time.sleep(0.1)
        raise StudioError(f"no result after {timeout_sec:.0f} s; see {self.log}")

    def run(self, prompt: dict) -> dict[str, dict]:
        """Queue, wait, and return what each output node showed."""
        return self.wait_for(self.queue(prompt))["outputs"]

    def image_path(self, image: dict) -> Path:
        """The file of an image entry of an output."""
        return self.base / image["type"] / image["subfolder"] / image["filename"]


def refusal(answer: dict) -> str:
    """What /api/prompt refused, the whole prompt or some of its outputs, in one line."""
    parts = [answer["error"]["message"] if "error" in answer else "Some outputs were refused"]
    for node in answer.get("node_errors", {}).values():
        parts += [f"{node['class_type']}: {e['message']} ({e['details']})" for e in node["errors"]]
    return "; ".join(parts)


def has_cuda(python: Path) -> bool:
    """Whether that Python's torch sees a GPU (of CUDA or Apple)."""
    code = (
        "import torch, sys; "
        "sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    )
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


@contextlib.contextmanager
def running(host: Host, **options: Any) -> Iterator[Server]:
    """A server that is up inside the block and stopped after it."""
    server = Server(host, **options)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()
