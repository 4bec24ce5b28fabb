"""Reads thousands of damaged files and values, and checks what the library does with them.

    python tools/fuzz.py --cases 1000 --seed 1 [--target NAME] [--first I] [--json FILE]
    python tools/fuzz.py --seed 1 --target NAME --replay I

A case is a real file (or a good call) with mutations that its target, seed and number decide. It
passes if it is read, or refused by a ValueError or OSError with one clear message, within CPU_SEC
of processor time and MEMORY_MB of memory beyond what the loaded library takes; without writing
outside its folder, starting a program or opening a connection. Cases run in worker processes, so
that a crash is recorded with its case too. Needs Linux or macOS, and the extras of `run.py test`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (
    "checkpoint", "adapter", "pictures", "images", "webdataset", "dicom", "audio", "ratings",
    "exports", "clicks", "nodes",
)  # fmt: skip
CPU_SEC = 5  # of one case
MEMORY_MB = 1500  # of one case: a picture of the most pixels that are read takes 1100
STALLED_SEC = 300  # without any result; a case that waits uses no processor time
BATCH = 2000  # cases in one worker
MAX_MESSAGE = 1000  # characters
DONE = "done"
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}
CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "sqlite3.connect"}


# -- one case, inside a worker --------------------------------------------------------------------


class Sandbox:
    """Records writes outside `folder`, programs and connections, as Python reports them."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.broken: list[str] = []
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, args: tuple) -> None:
        if self.folder is None:
            return
        if event in PROGRAMS:
            self.broken.append(f"{event} {args[:1]}")
        elif event == "open" and isinstance(args[0], str | bytes):
            flags = args[2] if isinstance(args[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._check(args[0])
        elif event in CHANGES and args[1:][-1:] in ((), (-1,), (None,)):  # not below a dir_fd
            self._check(args[0])
        elif event == "os.rename":
            self._check(args[1])

    def _check(self, path: Any) -> None:
        assert self.folder is not None
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        inside = os.path.realpath(text).startswith(str(self.folder) + os.sep)
        if text and not inside and text not in (os.devnull, ":memory:"):
            self.broken.append(f"wrote {text}")


def peak_mb() -> float:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def outcome_of(case: Callable[[], None]) -> str:
    """ "read" or "refused", or else what was wrong, with its place."""
    try:
        case()
    except (ValueError, OSError) as error:
        message = str(error)
        is_short = len(message) <= MAX_MESSAGE or isinstance(error, OSError)  # it names the file
        if message.strip() and is_short:
            return "refused"
        return f"a message of {len(message)} characters: {_place(error)}: {message[:80]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}: {_place(error)}"
    return "read"


def _place(error: BaseException) -> str:
    """The last line of the library that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "imagen_model" in f.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def target_of(index: int, targets: list[str]) -> str:
    return targets[index % len(targets)]


def random_of(seed: int, target: str, index: int) -> Random:
    return Random(f"{seed}/{target}/{index}")


def builders() -> dict[str, Callable]:
    """The functions that prepare each target; importing them loads the library."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    files, rated, calls = (
        importlib.import_module(f"fuzzing.{name}") for name in ("files", "rated", "calls")
    )
    return {**files.FILES, **rated.RATED, "nodes": calls.nodes}


def work(args: argparse.Namespace) -> int:
    """A worker: cases from --first on, a line of JSON for each; ends early where a case took too
    much memory."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sandbox = Sandbox()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name).resolve()
        cases = {}
        build = builders()
        for target in dict.fromkeys(args.target):
            (root / target).mkdir()
            cases[target] = build[target](root / target)
            good = root / "good" / target
            good.mkdir(parents=True)
            cases[target](None, good)  # what is not changed is read
        base = peak_mb()
        faulthandler.register(signal.SIGPROF, chain=True)
        for index in range(args.first, args.first + args.cases):
            target = target_of(index, args.target)
            tell(case=index, target=target)
            folder = root / "work" / target
            folder.mkdir(parents=True)
            sandbox.folder = folder.parent
            signal.setitimer(signal.ITIMER_PROF, CPU_SEC)
            case = cases[target]
            rng = random_of(args.seed, target, index)
            outcome = outcome_of(lambda: case(rng, folder))  # noqa: B023
            signal.setitimer(signal.ITIMER_PROF, 0)
            sandbox.folder = None
            if sandbox.broken:
                outcome = "; ".join(sandbox.broken)
                sandbox.broken = []
            used = peak_mb() - base
            if used > MEMORY_MB:
                outcome = f"{used:.0f} MB of memory ({outcome})"
            tell(
                case=index,
                target=target,
                outcome=outcome,
                peak_mb=round(peak_mb()),
                base_mb=round(base),
            )
            shutil.rmtree(folder.parent)
            if used > MEMORY_MB:
                break
    tell(outcome=DONE)
    return 0


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


# -- the process that starts workers --------------------------------------------------------------


@dataclass
class Findings:
    """What the workers told."""

    counts: dict[str, Counter] = field(default_factory=dict)
    faults: list[dict] = field(default_factory=list)
    peak_mb: int = 0
    base_mb: int = 0  # of the loaded library

    def add(self, facts: dict) -> None:
        kind = facts["outcome"] if facts["outcome"] in ("read", "refused") else "faults"
        self.counts.setdefault(facts["target"], Counter())[kind] += 1
        self.peak_mb = max(self.peak_mb, facts.get("peak_mb", 0))
        self.base_mb = max(self.base_mb, facts.get("base_mb", 0))
        if kind == "faults":
            self.faults.append({key: facts[key] for key in ("target", "case", "outcome")})
            print(f"{facts['target']} {facts['case']}: {facts['outcome']}", flush=True)

    @property
    def total(self) -> int:
        return sum(sum(count.values()) for count in self.counts.values())


def run_worker(args: argparse.Namespace, first: int, cases: int, findings: Findings) -> int:
    """Cases from `first` on in one worker; returns the first case that is still to do."""
    options = ["--worker", "--seed", args.seed, "--first", first, "--cases", cases]
    for target in args.target:
        options += ["--target", target]
    command = [sys.executable, __file__, *map(str, options)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        tempfile.TemporaryDirectory(prefix="fuzz-") as scratch,  # also of a worker that crashed
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": scratch},
        ) as process,
    ):
        assert process.stdout is not None
        current: dict = {}
        timer = threading.Timer(STALLED_SEC, process.kill)
        timer.start()
        for line in process.stdout:
            timer.cancel()
            timer = threading.Timer(STALLED_SEC, process.kill)
            timer.start()
            facts = json.loads(line)
            if facts.get("outcome") == DONE:
                break
            if "outcome" in facts:
                findings.add(facts)
                first = facts["case"] + 1
            current = facts
        timer.cancel()
        code = process.wait()
        if code == 0:
            return first
        errors.seek(0)
        text = errors.read()
    if "outcome" in current or not current:  # it did not die in a case
        raise RuntimeError(f"a worker ended with {code} before a case: {text[-2000:]}")
    place = next((part for part in text.splitlines() if "imagen_model" in part), text[-300:])
    reason = f"over {CPU_SEC} s" if code == -signal.SIGPROF else f"ended with {code}"
    findings.add({**current, "outcome": f"{reason}: {place.strip()}"})
    return current["case"] + 1


def replay(args: argparse.Namespace) -> int:
    """One case in this process, with its traceback; its files stay."""
    (target,) = args.target
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (root / "real").mkdir()
    (root / "case").mkdir()
    case = builders()[target](root / "real")
    print(f"the files of case {args.replay} of {target}: {root / 'case'}", flush=True)
    faulthandler.register(signal.SIGPROF, chain=True)
    signal.setitimer(signal.ITIMER_PROF, CPU_SEC)
    case(random_of(args.seed, target, args.replay), root / "case")
    print("read")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000, help="default 1000")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default 0)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all, in turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings")
    parser.add_argument("--replay", type=int, metavar="I", help="run case I of one target here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.target = args.target or list(TARGETS)
    if args.worker:
        return work(args)
    if args.replay is not None:
        return replay(args)
    started, findings = time.monotonic(), Findings()
    first, end = args.first, args.first + args.cases
    with contextlib.suppress(KeyboardInterrupt):
        while first < end:
            first = run_worker(args, first, min(BATCH, end - first), findings)
            save(findings, time.monotonic() - started, args.json)
    report(findings, time.monotonic() - started)
    return bool(findings.faults)


def processor_sec() -> float:
    """Of the workers that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def save(findings: Findings, seconds: float, file: Path | None) -> None:
    """The findings so far, so that a long run can be ended at any time."""
    if file is not None:
        facts = {"cases": findings.total, **vars(findings)}
        facts |= {"seconds": round(seconds), "processor_sec": round(processor_sec())}
        file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def report(findings: Findings, seconds: float) -> None:
    for target, counts in findings.counts.items():
        print(f"{target:11}" + "".join(f"{n:8} {kind}" for kind, n in sorted(counts.items())))
    print(
        f"{findings.total} cases, {len(findings.faults)} faults, {seconds:.0f} s "
        f"({processor_sec():.0f} s of processor), peak {findings.peak_mb} MB "
        f"({findings.base_mb} MB of it the library)"
    )


if __name__ == "__main__":
    sys.exit(main())
