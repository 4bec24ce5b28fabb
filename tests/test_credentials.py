"""Content Credentials: signed with a key made here, read back, and not to be forged."""

from __future__ import annotations

import datetime
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_model.cli import main
from imagen_model.storage.credentials import CHUNK, Signer, read_credentials
from imagen_model.storage.images import save_png
from imagen_model.storage.provenance import png_info, read_facts

pytest.importorskip("c2pa", reason="Content Credentials need the extra credentials (c2pa-python)")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


class Pair(NamedTuple):
    chain: Path
    key: Path


def _pem(key: ec.EllipticCurvePrivateKey, *, password: bytes | None = None, sec1: bool = False):
    lock = serialization.BestAvailableEncryption(password) if password else None
    form = serialization.PrivateFormat
    return key.private_bytes(
        PEM,
        form.TraditionalOpenSSL if sec1 else form.PKCS8,
        lock or serialization.NoEncryption(),
    )


def _certificate(name: str, key, issuer: str, issuer_key, *, is_root: bool) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A studio"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    today = datetime.datetime.now(datetime.timezone.utc)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage
            ),
            critical=True,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_root:
        mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        built = built.add_extension(mail, critical=False)
    return built.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A folder: a signer's chain and key, and what goes wrong with such files."""
    folder = tmp_path_factory.mktemp("keys")
    root, own, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root_pem = _certificate("root", root, "root", root, is_root=True).public_bytes(PEM)
    own_pem = _certificate("A signer", own, "root", root, is_root=False).public_bytes(PEM)
    for name, content in {
        "chain.pem": own_pem + root_pem,
        "root.pem": root_pem,
        "sign.key": _pem(own),
        "sec1.key": _pem(own, sec1=True),
        "other.key": _pem(other),
        "locked.key": _pem(own, password=b"secret"),
        "curve.key": _pem(ec.generate_private_key(ec.SECP256K1())),
        "root.key": _pem(root),
        "text.pem": b"no certificate",
    }.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def pair(keys) -> Pair:
    return Pair(keys / "chain.pem", keys / "sign.key")


def test_sample_signs_every_file_and_info_shows_it(tiny_checkpoint, pair, tmp_path, capsys):
    out = tmp_path / "generated"
    ask = ["--prompt", "a snail", "--num", "2", "--out", str(out), "--credentials", *map(str, pair)]
    assert main(["sample", "--model", str(tiny_checkpoint), *ask]) == 0
    files = sorted(out.iterdir())
    assert len(files) == 2
    for path in files:
        capsys.readouterr()
        assert main(["info", str(path)]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["imagen"]["prompt"] == "a snail"
        credentials = shown["credentials"]
        assert credentials["state"] == "valid"
        assert credentials["signer"] == "A signer" and credentials["issuer"] == "A studio"
        assert credentials["kind"] == "trainedAlgorithmicMedia"
        assert credentials["made_by"].startswith("imagen-gan ")


def test_signing_changes_no_pixel_and_no_fact(pair, tmp_path):
    picture = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    facts = {"seed": 3}
    save_png(picture, tmp_path / "plain.png", facts)
    save_png(picture, tmp_path / "signed.png", facts, signer=Signer(*pair))
    with Image.open(tmp_path / "plain.png") as a, Image.open(tmp_path / "signed.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert read_facts(tmp_path / "plain.png") == {"imagen": facts}
    assert read_facts(tmp_path / "signed.png")["imagen"] == facts


@pytest.mark.parametrize("what", [b"IDAT", b'"seed"'])
def test_another_pixel_or_another_fact_is_seen(pair, tmp_path, what):
    path = tmp_path / "signed.png"
    save_png(torch.zeros(3, 8, 8), path, {"seed": 3}, signer=Signer(*pair))
    changed = bytearray(path.read_bytes())
    changed[changed.index(what) + 5] ^= 1
    path.write_bytes(changed)
    found = read_credentials(path)
    assert found["state"] == "invalid"
    assert any("hash" in problem for problem in found["problems"])


def test_saved_again_by_another_program_nothing_is_left(pair, tmp_path):
    path = tmp_path / "signed.png"
    save_png(torch.zeros(3, 8, 8), path, {"seed": 3}, signer=Signer(*pair))
    with Image.open(path) as image:
        image.convert("RGB").save(path)
    with pytest.raises(ValueError, match="does not say how it was made"):
        read_facts(path)


def test_a_key_in_openssl_s_older_form_signs_too(keys):
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG")
    signed = Signer(keys / "chain.pem", keys / "sec1.key").sign(buffer.getvalue(), title="a")
    assert len(signed) > len(buffer.getvalue())


@pytest.mark.parametrize(
    ("chain", "key", "line"),
    [
        ("none.pem", "sign.key", "none.pem cannot be read"),
        ("chain.pem", "none.key", "none.key cannot be read"),
        ("chain.pem", "chain.pem", "chain.pem is not a private key in PEM form"),
        ("chain.pem", "locked.key", "locked with a password"),
        ("chain.pem", "curve.key", "a key that C2PA doesn't take"),
        ("chain.pem", "other.key", "cannot sign Content Credentials"),
        ("root.pem", "root.key", "cannot sign Content Credentials"),
        ("text.pem", "sign.key", "cannot sign Content Credentials"),
    ],
)
def test_files_that_cannot_sign_are_one_line_before_anything_is_generated(
    keys, tmp_path, capsys, chain, key, line
):
    out = tmp_path / "a.png"
    ask = ["--model", "no such model", "--out", str(out)]
    assert main(["sample", *ask, "--credentials", str(keys / chain), str(keys / key)]) == 1
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not out.exists()


def test_without_the_library_facts_are_told_and_signing_says_what_to_install(
    pair, tmp_path, monkeypatch
):
    path = tmp_path / "signed.png"
    save_png(torch.zeros(3, 8, 8), path, {"seed": 3}, signer=Signer(*pair))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = read_facts(path)
    assert found["imagen"] == {"seed": 3} and found["credentials"]["state"] == "unread"
    assert r"imagen-gan[credentials]" in found["credentials"]["problems"][0]
    with pytest.raises(ValueError, match=r"imagen-gan\[credentials\]"):
        Signer(*pair)


def test_credentials_that_are_damaged_are_told_beside_the_facts(tmp_path):
    path = tmp_path / "signed.png"
    info = png_info({"seed": 3})
    info.add(CHUNK, b"no credentials")
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    found = read_facts(path)
    assert found["imagen"] == {"seed": 3} and found["credentials"]["state"] == "unread"
    assert "cannot be read" in found["credentials"]["problems"][0]
