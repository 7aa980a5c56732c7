"""What a page is told of a model: the same numbers and pixels as the library's own functions give."""

import base64
import math
from typing import Any

import pytest
import torch
from cases.commands import SIZE, small_images
from torch import Tensor

from vlae_fast import VLAE, PixelCNN, evaluation
from vlae_fast.explore import Explorer
from vlae_fast.explore.asked import Asked
from vlae_fast.explore.pixels import bytes_of, from_base64, in_base64


def image_of(answer: dict[str, Any], channels: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return from_base64(answer["pixels"], *size, channels)


def test_pixels_go_there_and_back() -> None:
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    assert base64.b64decode(in_base64(image))[:3] == bytes(image[:, 0, 0].tolist())
    assert from_base64(in_base64(image), 4, 5, 3)[0].equal(image)
    assert bytes_of(torch.tensor([[[0.0, 0.5, 1.0, 2.0]]])).tolist() == [[[0, 128, 255, 255]]]


def test_dimensions_are_sorted_by_the_bits_that_evaluate_gives(explorer: Explorer) -> None:
    found = explorer.about(Asked({}))
    codes = evaluation.encode(explorer.model, explorer.images)
    bits = codes.kl.mean(0) / math.log(2)
    assert [d["dim"] for d in found["dims"]] == bits.argsort(descending=True).tolist()
    assert [d["bits"] for d in found["dims"]] == pytest.approx(bits.sort(descending=True).values.tolist())
    assert [d["carries"] for d in found["dims"]] == [d["bits"] >= 0.05 for d in found["dims"]]
    for d in found["dims"]:
        assert d["low"] < codes.z[:, d["dim"]].mean() < d["high"]
    assert (found["size"], found["channels"], found["levels"], found["plane"]) == ([8, 8], 1, 2, False)
    assert found["steps"] == explorer.sampler.steps and found["backend"] == explorer.sampler.backend


def test_a_draw_is_that_of_the_sampler(explorer: Explorer) -> None:
    z = torch.randn(4)
    answer = explorer.draw(Asked({"z": z.tolist(), "seed": 7}))
    noise = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(7))
    assert image_of(answer).equal((255 * explorer.sampler.sample(z[None], noise)).to(torch.uint8))
    assert answer["fits"] and answer["ms"] > 0
    assert answer["pixels"] == explorer.draw(Asked({"z": z.tolist(), "seed": 7}))["pixels"]
    others = {explorer.draw(Asked({"z": z.tolist(), "seed": seed}))["pixels"] for seed in range(8)}
    assert len(others) == 8


def test_a_mean_is_that_of_16_draws(explorer: Explorer) -> None:
    values = image_of(explorer.draw(Asked({"z": [0.0] * 4, "mean": True}))).unique().tolist()
    assert len(values) > 2 and set(values) <= {round(255 * k / 16) for k in range(17)}


def test_fixed_pixels_stay_and_say_whether_the_others_saw_them(explorer: Explorer) -> None:
    first, last = [[0, 255], [1, 0], [2, 255]], [[63, 255], [62, 0]]
    for fixed, fits in ((first, True), (last, False)):
        for seed in range(4):
            answer = explorer.draw(Asked({"z": [0.5] * 4, "seed": seed, "fixed": fixed}))
            pixels = image_of(answer).flatten().tolist()
            assert [pixels[at] for at, _ in fixed] == [value for _, value in fixed] and answer["fits"] == fits


@pytest.mark.parametrize("fixed", [[[0, 255], [1, 0]], [[63, 255], [40, 0]]], ids=["gibbs", "importance"])
def test_complete_keeps_the_fixed_pixels_and_gives_the_image_s_code(explorer: Explorer, fixed: list[list[int]]) -> None:
    answer = explorer.complete(Asked({"fixed": fixed, "seed": 3}))
    pixels = image_of(answer)
    assert [pixels.flatten()[at] for at, _ in fixed] == [value for _, value in fixed]
    assert answer["z"] == pytest.approx(explorer.model.encode(pixels / 255)[0][0].tolist(), abs=1e-5)


def test_encode_takes_a_row_or_an_image(explorer: Explorer) -> None:
    x = (small_images().test[5:6] >= 128).float()
    by_row = explorer.encode(Asked({"row": 5}))
    assert by_row["z"] == pytest.approx(explorer.model.encode(x)[0][0].tolist(), abs=1e-5)
    assert image_of(by_row).equal((255 * x).to(torch.uint8)) and by_row["label"] == 5 % 3
    by_image = explorer.encode(Asked({"image": in_base64(small_images().test[5])}))
    assert (by_image["z"], by_image["label"]) == (by_row["z"], None)


def test_choices_go_round_the_split(explorer: Explorer) -> None:
    rows = [image["row"] for image in explorer.choices(Asked({}))["images"]]
    assert sorted(rows) == list(range(12))
    turned = explorer.choices(Asked({"start": 5}))["images"]
    assert [image["row"] for image in turned] == rows[5:] + rows[:5]
    assert image_of(turned[0])[0].equal(small_images().test[rows[5]])


def test_the_prior(explorer: Explorer) -> None:
    expected = explorer.model.sample_prior(1, torch.Generator().manual_seed(2))[0].tolist()
    assert explorer.prior(Asked({"seed": 2})) == {"z": expected}


def test_refresh_takes_the_weights_as_they_are() -> None:
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=4, initial_kernel=3)
    explorer = Explorer(model, small_images())
    before = explorer.draw(Asked({"z": [0.0, 0.0]}))["pixels"]
    with torch.no_grad():
        model.final_conv.bias += 100.0
    assert explorer.draw(Asked({"z": [0.0, 0.0]}))["pixels"] == before
    explorer.refresh()
    assert image_of(explorer.draw(Asked({"z": [0.0, 0.0]}))).eq(255).all()


def test_a_plane_of_a_code_of_two_dimensions(explorer: Explorer) -> None:
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=4, initial_kernel=3)
    found = Explorer(model, small_images()).plane(Asked({}))
    assert found["size"] == [96, 96] and image_of(found, 1, (96, 96)).unique().tolist() == [0, 255]
    assert found["low"][0] < found["high"][0] and found["low"][1] < found["high"][1]
    with pytest.raises(ValueError, match="plane: the model must have 2 latent dimensions, got 4"):
        explorer.plane(Asked({}))


KINDS: dict[str, dict[str, Any]] = {
    "conditional": {"n_classes": 3},
    "mlp": {"decoder": "mlp"},
    "grey": {"likelihood": "categorical", "levels": 256},
    "density": {"likelihood": "gaussian"},
    "iaf": {"posterior": "iaf"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_models(kind: str) -> None:
    options = {"image_size": SIZE, "flow_hidden": 4, **KINDS[kind]}
    model = VLAE(1, 2, 4, 1, **options)
    explorer = Explorer(model, small_images(binarization="none" if model.likelihood.levels > 2 else None))
    about = explorer.about(Asked({}))
    fixed = [[0, 200], [1, 3]]
    kept = [255, 0] if about["levels"] == 2 else [200, 3]
    for answer in (explorer.draw(Asked({"z": [1.0, 0.0], "label": 0, "fixed": fixed})),
                   explorer.complete(Asked({"label": 0, "fixed": fixed}))):  # fmt: skip
        assert image_of(answer).flatten()[:2].tolist() == kept
    assert len(explorer.encode(Asked({"row": 1}))["z"]) == 2 and explorer.plane(Asked({}))["size"] == [96, 96]
    assert explorer.draw(Asked({"z": [1.0, 0.0], "mean": True}))["pixels"]


def test_a_model_without_a_code() -> None:
    explorer = Explorer(PixelCNN(1, 4, 1, image_size=SIZE), small_images())
    assert explorer.about(Asked({}))["dims"] == [] and explorer.about(Asked({}))["z"] == []
    answer = explorer.draw(Asked({"z": [], "fixed": [[3, 255]]}))
    assert image_of(answer).flatten()[3] == 255
    assert explorer.complete(Asked({"fixed": [[3, 255]]}))["z"] == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("draw", {}, r"z: must be a list of 4 numbers, got 0 of them"),
    ("draw", {"z": [0, 0, 0, "a"]}, r"z: must be numbers from -1000 to 1000, got 'a'"),
    ("draw", {"z": [0, 0, 0, 1e9]}, r"z: must be numbers from -1000 to 1000, got 1000000000.0"),
    ("draw", {"z": [0, 0, 0, True]}, r"z: must be numbers"),
    ("draw", {"z": "0000"}, r"z: must be a list of 4 numbers, got '0000'"),
    ("draw", {"z": [0] * 4, "temperature": 0}, r"temperature: must be a number from 0.001 to 1000, got 0"),
    ("draw", {"z": [0] * 4, "seed": -1}, r"seed: must be a whole number from 0 to"),
    ("draw", {"z": [0] * 4, "seed": 0.5}, r"seed: must be a whole number"),
    ("draw", {"z": [0] * 4, "mean": 1}, r"mean: must be true or false, got 1"),
    ("draw", {"z": [0] * 4, "mean": True, "fixed": [[0, 0]]}, r"mean: must be false where pixels are fixed"),
    ("draw", {"z": [0] * 4, "fixed": [[64, 0]]}, r"fixed: must be .* \[pixel below 64, 1 of 0\.\.255\], got \[64, 0\]"),
    ("draw", {"z": [0] * 4, "fixed": [[0, 256]]}, r"fixed: must be a list"),
    ("draw", {"z": [0] * 4, "fixed": [[0]]}, r"fixed: must be a list"),
    ("draw", {"z": [0] * 4, "fixed": [[0, 1.5]]}, r"fixed: must be a list"),
    ("draw", {"z": [0] * 4, "fixed": 3}, r"fixed: must be a list"),
    ("complete", {}, r"fixed: must have a pixel, got none"),
    ("encode", {"row": 12}, r"row: must be a whole number from 0 to 11, got 12"),
    ("encode", {}, r"image: must be bytes in base64, got None"),
    ("encode", {"image": "AAAA"}, r"image: must be 64 bytes in base64, got 3"),
    ("encode", {"image": "?"}, r"image: "),
]


@pytest.mark.parametrize(("what", "values", "message"), WRONG)
def test_wrong_values_are_named(explorer: Explorer, what: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(explorer, what)(Asked(values))


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"z": NaN}', b"[" * 100_000, b"\xff", b"1" * 5000])
def test_a_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(ValueError, match="body: must be "):
        Asked.of_json(body)
