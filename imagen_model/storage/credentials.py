"""Content Credentials (C2PA 2): a signature in the file over its pixels and its record of what made
it (provenance.py), which others can check.

The key stays on this machine and nothing is asked of the network: there is no time stamp, and no
list of trusted signers. Needs the extra `credentials` (c2pa-python).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..version import __version__

CHUNK = b"caBX"  # of a PNG that holds credentials
MISSING = "Content Credentials need c2pa-python: pip install 'imagen-gan[credentials]'"
GENERATOR = "imagen-gan"
# IPTC's word for pictures that a trained model drew
DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class Signer:
    """Signs PNG files with a certificate chain (PEM, the signer's own first) and its key.

    ValueError, in one line, for files that cannot sign: one is signed for a try.
    """

    def __init__(self, certificates: Path, key: Path) -> None:
        self._c2pa = _library()
        self._chain = _bytes_of(certificates)
        self._algorithm, self._key = _private_key(key)
        buffer = io.BytesIO()
        Image.new("L", (1, 1)).save(buffer, "PNG")
        try:
            self.sign(buffer.getvalue(), title="a try")
        except self._c2pa.C2paError as error:
            raise ValueError(
                f"{certificates} with {key} cannot sign Content Credentials ({error}); "
                "docs/credentials.md has the commands that make a pair"
            ) from None

    def sign(self, png: bytes, *, title: str) -> bytes:
        """The same PNG with credentials: drawn by a model, with this software."""
        agent = {"name": GENERATOR, "version": __version__}
        action = {"action": "c2pa.created", "digitalSourceType": DRAWN, "softwareAgent": agent}
        manifest = {
            "claim_generator_info": [agent],
            "title": title,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        info = self._c2pa.C2paSignerInfo(self._algorithm, self._chain, self._key, None)
        with (
            self._c2pa.Signer.from_info(info) as signer,
            self._c2pa.Builder(json.dumps(manifest), _context(self._c2pa)) as builder,
        ):
            signed = io.BytesIO()
            builder.sign(signer, "image/png", io.BytesIO(png), signed)
        return signed.getvalue()


def read_credentials(path: Path) -> dict[str, Any]:
    """What the credentials of a file say: `state` (valid, trusted or invalid), `signer`, `issuer`,
    `made_by`, `kind` (IPTC's digital source type), and `problems` in C2PA's words.

    ValueError where the library is missing or the credentials are past reading.
    """
    c2pa = _library()
    try:
        with c2pa.Reader(path, context=_context(c2pa)) as reader:
            state, found = reader.get_validation_state(), json.loads(reader.json())
    except c2pa.C2paError as error:
        raise ValueError(f"{path} has Content Credentials that cannot be read ({error})") from None
    manifest = found["manifests"][found["active_manifest"]]
    signature = manifest.get("signature_info", {})
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    kinds = [a["digitalSourceType"].rsplit("/", 1)[-1] for a in actions if "digitalSourceType" in a]
    makers = manifest.get("claim_generator_info", [])
    return {
        "state": str(state).lower(),
        "signer": signature.get("common_name"),
        "issuer": signature.get("issuer"),
        "made_by": " ".join(makers[0].get(k, "") for k in ("name", "version")) if makers else None,
        "kind": kinds[0] if kinds else None,
        "problems": [problem["explanation"] for problem in found.get("validation_status", [])],
    }


def _library():
    try:
        import c2pa
    except ImportError:
        raise ValueError(MISSING) from None
    return c2pa


def _context(c2pa):
    return c2pa.Context(c2pa.Settings.from_dict(SETTINGS))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None


def _private_key(path: Path) -> tuple[str, bytes]:
    """C2PA's name of the key's algorithm, and the key in the one form (PKCS #8) that is signed
    with."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    pem = _bytes_of(path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(f"{path} is locked with a password; expected a key without one") from None
    except ValueError:
        raise ValueError(f"{path} is no private key in PEM form") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        algorithm = CURVES[key.curve.name]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        raise ValueError(f"{path} holds a key that C2PA doesn't take; expected EC P-256 or Ed25519")
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return algorithm, key.private_bytes(serialization.Encoding.PEM, *form)
