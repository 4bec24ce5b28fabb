#!/usr/bin/env python3
"""One file that sets up what it needs and runs it. Needs only Python 3.11 or newer.

    python3 run.py demo [--prompt TEXT]   a picture from a prompt, made in a real ComfyUI
    python3 run.py studio                 the same, and the GUI stays open
    python3 run.py test                   the tests; further arguments go to pytest
    python3 run.py test-all               the slow ones too
    python3 run.py check                  formatting, lint, types, known vulnerabilities

Everything goes into .venv and .comfyui beside this file; delete them to undo it. The first call
downloads about 3 GB (PyTorch is most of it) and needs 8 GB of disk; later calls start at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "imagen-setup.sha256"
EXTRAS = "audio,credentials,dev,export,medical,speech,studio,train"
NEEDED_GB = 8
AUDIT_SEC = 60
STARTER = ROOT / "example_workflows" / "01 Text to image.json"


def main() -> int:
    if sys.version_info < (3, 11):  # as constraints.txt; the library itself runs on 3.10
        print(f"Python {sys.version.split()[0]} is too old; this needs 3.11 or newer")
        return 1
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a picture from a prompt, made in a real ComfyUI")
    demo.add_argument("--prompt", help="what to draw (default: what the starter workflow says)")
    commands.add_parser("studio", help="the demo, with the GUI left open")
    commands.add_parser("test", help="run the tests")
    commands.add_parser("test-all", help="run the tests, the slow ones too")
    commands.add_parser("check", help="formatting, lint, types, known vulnerabilities")
    args, rest = parser.parse_known_args()
    if rest and not args.command.startswith("test"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        set_up()
        if args.command == "test":
            return test(rest)
        if args.command == "test-all":
            return test(["-m", "", *rest])
        if args.command == "check":
            return check()
        return show(getattr(args, "prompt", None), stay=args.command == "studio")
    except KeyboardInterrupt:
        return 1
    except (RuntimeError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


# -- setting up -----------------------------------------------------------------------------------


def set_up() -> None:
    """Make .venv as constraints.txt says; at once where that has been done."""
    wanted = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
    ).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    print(
        f"Setting up .venv: about 3 GB to download, {NEEDED_GB} GB of disk ({free_gb:.0f} GB free)."
    )
    if free_gb < NEEDED_GB and not PYTHON.is_file():
        raise RuntimeError(f"only {free_gb:.1f} GB of disk are free here; {NEEDED_GB} are needed")
    started = time.monotonic()
    if not PYTHON.is_file():
        make_venv()
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, "-c", "constraints.txt", "-e", f".[{EXTRAS}]"])
    STAMP.write_text(wanted)
    print(f"Set up in {time.monotonic() - started:.0f} s.")


def make_venv() -> None:
    """The venv module, or virtualenv where a distribution has split it off."""
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if made.returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    tools = ROOT / ".cache" / "virtualenv"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools]
    call([*pip, "--require-hashes", "--only-binary", ":all:", "-r", "bootstrap.txt"])
    call([sys.executable, "-m", "virtualenv", "--quiet", VENV], PYTHONPATH=str(tools))


def call(command: list, **environment: str) -> None:
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"this failed: {' '.join(command)}")


# -- commands -------------------------------------------------------------------------------------


def test(arguments: list[str]) -> int:
    """Threads that wait do not spin, which beside other work is many times faster."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    command = [str(PYTHON), "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def check() -> int:
    """Run every tool, so that one call shows all problems."""
    tools = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    tools.append(["mypy", "-p", "imagen_gan.nodes"])
    environment = {**os.environ, "MYPYPATH": str(linked_package().parent)}
    commands = [[str(PYTHON), "-m", *tool] for tool in tools]
    codes = [subprocess.run(line, cwd=ROOT, env=environment).returncode for line in commands]
    return max(*codes, audit())


def audit() -> int:
    """Whether a tested version has a known vulnerability; skipped where PyPI can't be asked."""
    command = [PYTHON, "-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    line = [str(part) for part in command]
    try:
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=AUDIT_SEC)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"pip-audit: skipped (no answer within {AUDIT_SEC} s)")
        return 0
    except ValueError:  # its output is no JSON
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        print(f"pip-audit: skipped ({reason[:150]})")
        return 0
    found = [(p, vulnerability) for p in packages for vulnerability in p.get("vulns", ())]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"pip-audit: {len(found)} known vulnerabilities in {len(packages)} packages")
    return bool(found)


def linked_package() -> Path:
    """A link to this folder with a name that Python can import, whatever a clone is called.

    The nodes import the library relatively; mypy follows that only inside a package.
    """
    from studio.host import link_folder

    package = ROOT / ".cache" / "types" / "imagen_gan"
    package.parent.mkdir(parents=True, exist_ok=True)
    if not (package / "nodes").is_dir():
        link_folder(ROOT, package)
    return package


def show(prompt_text: str | None, *, stay: bool) -> int:
    """Start ComfyUI with the pack in it and run the starter workflow."""
    from studio.host import find_host
    from studio.server import running
    from studio.workflow import load_workflow, set_input, to_prompt

    started = time.monotonic()
    with running(find_host(PYTHON)) as server:
        up = time.monotonic()
        prompt = to_prompt(load_workflow(STARTER), server.get("/object_info"))
        if prompt_text is not None:
            set_input(prompt, "ImagenTextToImage", "text", prompt_text)
        outputs = server.run(prompt)
        done = time.monotonic()
        images = [image for output in outputs.values() for image in output.get("images", [])]
        saved = [image for image in images if image["type"] == "output"]
        text = next(n["inputs"]["text"] for n in prompt.values() if "text" in n["inputs"])
        print(f'"{text}": {server.image_path(saved[0])}')
        print(f"ComfyUI was up after {up - started:.1f} s, the workflow took {done - up:.1f} s.")
        if stay:
            print(f"ComfyUI is open at {server.address} - Ctrl-C ends it.")
            print("Workflow > Browse Templates > imagen-gan has the examples.")
            webbrowser.open(server.address)
            server.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
