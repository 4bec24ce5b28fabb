"""What a caption leaves open stands in z."""

from pathlib import Path

import pytest
import torch

from imagen_model.data.captions import CaptionSampler, SampledCaptions
from imagen_model.data.dataset import InMemoryDataset
from imagen_model.data.item import Item
from imagen_model.training.latent_codes import LIMIT, NUM_CODES, LatentCodes

Z_DIM = 40
COUNT = 64


@pytest.fixture(scope="module")
def codes() -> LatentCodes:
    """Random pictures; half of them have little red and share the keyword "night"."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 4, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[: COUNT // 2, 0] //= 2
    samples = [
        Item(Path(str(i)), f"picture {i}", ("night",) if i < COUNT // 2 else ())
        for i in range(COUNT)
    ]
    return LatentCodes(InMemoryDataset(samples, pixels), CaptionSampler(samples, ()), Z_DIM)


def written(codes: LatentCodes, index: torch.Tensor, *, text: int, is_open: bool) -> torch.Tensor:
    draw = SampledCaptions(
        None, torch.full_like(index, text), torch.full_like(index, is_open).bool()
    )
    return codes.write(torch.full((len(index), Z_DIM), 9.0), index, draw)


def test_a_caption_of_its_own_leaves_the_noise_alone(codes):
    z = written(codes, torch.arange(5), text=0, is_open=False)
    assert (z == 9).all()


def test_open_pictures_get_their_code_in_the_last_numbers_of_z(codes):
    z = written(codes, torch.arange(COUNT), text=-1, is_open=True)
    assert (z[:, :-NUM_CODES] == 9).all()
    code = z[:, -NUM_CODES:]
    assert code.abs().max() <= LIMIT
    assert len(torch.unique(code, dim=0)) == COUNT
    assert code.mean(dim=0).abs().max() < 0.2
    assert (code.std(dim=0) - 1).abs().max() < 0.2


def test_codes_are_standard_among_the_pictures_of_a_keyword(codes):
    night = torch.arange(COUNT // 2)
    text = 2 * COUNT  # after the captions, with article and without
    code = written(codes, night, text=text, is_open=True)[:, -NUM_CODES:]
    raw = codes.codes[night]
    assert raw.std(dim=0).min() < 0.5  # they are alike among all pictures
    assert code.mean(dim=0).abs().max() < 0.1
    assert (code.std(dim=0) - 1).abs().max() < 0.2
