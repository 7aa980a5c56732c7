"""A sampler's promises, held by decoders and programs that chance draws: VLAE_FAST_RANDOM_DECODERS says how many."""

import os
from collections.abc import Callable

import pytest
from cases.random_samplers import Ways, check, of_decoder, of_program
from cases.rows import require

COUNT = int(os.environ.get("VLAE_FAST_RANDOM_DECODERS", "60"))
TIES = 1e-3  # of the images at most: a threshold lies between two roundings of a parameter once in a million draws


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cpu", "torch"])
@pytest.mark.parametrize("ways", [of_decoder, of_program])
def test_same_image_and_same_bits_for_random_decoders(
    ways: Callable[[int, str], Ways], row: str, record_property: Callable[[str, object], None]
) -> None:
    """A failure names the seed, which alone gives the decoder, its weights and inputs."""
    require(row)
    differing = images = 0
    for seed in range(COUNT):
        try:
            drawn = ways(seed, row)
            differing += check(drawn)
        except Exception as error:
            raise AssertionError(f"{ways.__name__}({seed}, {row!r}): {error}") from error
        images += len(drawn.noise)
    record_property("images", images)
    record_property("differing", differing)
    assert differing <= TIES * images, f"{differing} of {images:,} images differ from the naive ones"
