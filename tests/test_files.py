"""Hashes, atomic writes, and int8 weights."""

import pytest
import torch
import torch.nn.functional as F

from imagen_model.storage.files import checked_sha256, sha256_of, write_atomically
from imagen_model.storage.int8 import dequantized, quantized


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # the test vector of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


def test_a_bundled_file_is_checked_against_its_hash(tmp_path):
    good, bad, bare = (tmp_path / name for name in ("good", "bad", "bare"))
    for path in (good, bad, bare):
        path.write_bytes(b"weights")
    for path in (good, bad):
        (tmp_path / f"{path.name}.sha256").write_text(sha256_of(path) + "\n")
    bad.write_bytes(b"wEights")
    assert checked_sha256(good) == sha256_of(good)
    with pytest.raises(ValueError, match="bad is damaged"):
        checked_sha256(bad)
    with pytest.raises(ValueError, match="bare is missing"):
        checked_sha256(bare)
    with pytest.raises(ValueError, match="none is missing"):
        checked_sha256(tmp_path / "none")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_int8_rows_come_back_within_half_a_step(generator):
    weight = torch.randn(64, 32, 3, 3, generator=generator)
    weight *= torch.logspace(-3, 3, 64).view(64, 1, 1, 1)  # every row has its own scale
    weight[5] = 0
    state = {"conv.weight": weight, "conv.bias": torch.randn(64, generator=generator)}
    stored = quantized(state)
    assert stored["conv.weight"].dtype == torch.int8
    assert stored["conv.bias"].dtype == torch.float16
    back = dequantized(stored)
    assert back.keys() == state.keys()
    assert all(tensor.dtype == torch.float32 for tensor in back.values())
    step = weight.flatten(1).abs().amax(dim=1) / 127
    error = (back["conv.weight"] - weight).flatten(1).abs().amax(dim=1)
    assert (error <= 0.6 * step + 1e-6).all()  # a half, and the fp16 rounding of the scale
    assert (back["conv.weight"][5] == 0).all()
    rows = [r for r in range(64) if r != 5]
    cosine = F.cosine_similarity(back["conv.weight"].flatten(1), weight.flatten(1))[rows]
    assert cosine.min() > 0.999


def test_tensors_that_are_not_int8_only_change_type():
    state = {"a": torch.tensor([0.5, 2.0], dtype=torch.float16), "b": torch.tensor(3.0)}
    back = dequantized(state)
    assert back["a"].tolist() == [0.5, 2.0]
    assert back["b"].item() == 3.0
