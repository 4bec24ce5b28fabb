"""The wheel and the source archive: complete, licensed, and usable alone; and what is bundled or
downloaded has a known hash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import run
from imagen_model.data.prepare.emoji import LOCK, NAMES, STYLES
from imagen_model.storage.files import WEIGHTS_DIR, sha256_of

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {"LICENSE-APACHE-2.0.txt", "SCOWL-Copyright.txt", "NOTICE.md"}  # licences and notices
PINNED = re.compile(r"^(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}$")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built without the network."""
    pytest.importorskip("hatchling", reason="python3 run.py test installs it")
    out = tmp_path_factory.mktemp("dist")
    for target in ("wheel", "sdist"):
        command = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            target,
            "--directory",
            out,
        ]
        done = subprocess.run([str(w) for w in command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(archives: Path) -> Path:
    (path,) = archives.glob("*.whl")
    return path


def test_the_wheel_names_its_licences_and_holds_their_texts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(about).decode()
    assert "License-Expression: MIT AND Apache-2.0 AND LicenseRef-SCOWL" in metadata
    folder = about.removesuffix("METADATA") + "licenses/"
    texts = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    inside = {f"imagen_model/weights/{name}" for name in ("LICENSE-APACHE-2.0.txt", "NOTICE.md")}
    inside |= {
        f"imagen_model/weights/words/{name}" for name in ("SCOWL-Copyright.txt", "NOTICE.md")
    }
    assert texts == {"LICENSE", "THIRD_PARTY.md", *inside}
    assert not [name for name in names if not name.startswith(("imagen_model", "imagen_gan"))]


def test_the_wheel_alone_draws_a_picture(wheel, tmp_path):
    """Unpacked as pip does it, outside of the repository; -I hides the current folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, 'site'); import imagen_model as im; "
        "from imagen_model.cli import main; print(im.__file__); "
        "sys.exit(main(['sample', '--prompt', 'a red apple', '--out', 'apple.png']))"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(Path("site", "imagen_model")) in done.stdout.splitlines()[0]
    assert (tmp_path / "apple.png").stat().st_size > 1000


def test_the_source_archive_holds_what_builds_it(archives):
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE", "THIRD_PARTY.md", "SECURITY.md", "pyproject.toml", "tests/conftest.py",
        "imagen_model/weights/lite0.safetensors", "imagen_model/data/prepare/npm/package-lock.json",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith((".venv", ".comfyui"))]


def test_every_bundled_file_is_listed_with_its_hash():
    """Where this fails after a change of weights: put the file's sha256 into THIRD_PARTY.md."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w./-]+)` \|.*\| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    bundled = {
        path.relative_to(WEIGHTS_DIR).as_posix(): sha256_of(path)
        for path in WEIGHTS_DIR.rglob("*")
        if path.is_file() and path.name not in TEXTS and path.suffix != ".sha256"
    }
    assert listed == bundled


def test_every_npm_package_has_its_hash_and_the_version_that_the_code_names():
    packages = json.loads((LOCK / "package-lock.json").read_text())["packages"]
    wanted = {source.package: source.version for source in (*STYLES.values(), NAMES)}
    assert packages.pop("")["dependencies"] == wanted
    assert json.loads((LOCK / "package.json").read_text())["dependencies"] == wanted
    for name, facts in packages.items():
        assert facts["integrity"].startswith("sha512-"), name


@pytest.mark.parametrize("name", ["bootstrap.txt", ".github/comfy-cli.txt"])
def test_every_pinned_package_has_its_hash(name):
    lines = (ROOT / name).read_text().splitlines()
    packages = [PINNED.match(line) for line in lines if not line.startswith("#")]
    assert packages and all(packages)


def test_the_bootstrap_has_the_tested_versions():
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for line in (ROOT / "bootstrap.txt").read_text().splitlines()[1:]:
        name, version = PINNED.match(line).groups()
        assert tested[name] == version


def test_workflows_run_no_action_of_others():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert "uses:" not in path.read_text(encoding="utf-8"), path


# -- the audit of `run.py check` ------------------------------------------------------------------


def audited(monkeypatch, stdout: str, stderr: str = "") -> int:
    def answer(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout, stderr)

    monkeypatch.setattr(run.subprocess, "run", answer)
    return run.audit()


def test_an_audit_without_an_answer_is_skipped_in_one_line(monkeypatch, capsys):
    assert audited(monkeypatch, "", "Traceback\nConnectionError: no network\n") == 0
    assert capsys.readouterr().out == "pip-audit: skipped (ConnectionError: no network)\n"


def test_a_known_vulnerability_fails_the_check_and_is_named(monkeypatch, capsys):
    vulnerability = {"id": "PYSEC-1", "fix_versions": ["2.1"]}
    packages = [{"name": "a", "version": "2.0", "vulns": [vulnerability]}]
    packages.append({"name": "b", "version": "1.0", "vulns": []})
    assert audited(monkeypatch, json.dumps({"dependencies": packages})) == 1
    assert "a 2.0: PYSEC-1, fixed in 2.1\n" in capsys.readouterr().out
