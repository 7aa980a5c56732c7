"""What a sampler must not take for the decoder, or do in silence: narrower dtypes, maps of other layers, autocast."""

import pytest
import torch
from cases.rows import require
from torch import nn

import vlae_fast as vf
from vlae_fast.backends import table

SMALL = {"image_size": (8, 8)}


class Louder(vf.PixelCNNDecoder):
    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        return 1.3 * super().forward(x, z)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_roundings_of_bfloat16_excuse_no_other_forward(backend: str) -> None:
    require(backend)
    with pytest.raises(ValueError, match=r"decoder\.forward must be"):
        vf.PixelCNNSampler(Louder(1, 4, 16, 2, **SMALL), backend, dtype=torch.bfloat16)


class Adapted(nn.Linear):
    """A linear layer to which training adds."""

    added = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.added


def test_a_map_with_layers_of_another_class_is_followed() -> None:
    require("cpu")
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, 4, 16, 2, **SMALL)
    own = Adapted(4, 256)
    own.load_state_dict(decoder.code_map.hidden.state_dict())
    decoder.code_map.hidden = own
    sampler = vf.PixelCNNSampler(decoder, "cpu")
    own.added = 1.0
    sampler.refresh()
    x, z = torch.rand(3, 1, 8, 8).round(), torch.randn(3, 4)
    torch.testing.assert_close(sampler.params_of(x, z), decoder(x, z), rtol=1e-4, atol=1e-4)
    decoder.code_map.hidden = nn.Sequential(nn.Linear(4, 256), nn.Identity())
    torch.testing.assert_close(vf.PixelCNNSampler(decoder, "cpu").params_of(x, z), decoder(x, z), rtol=1e-4, atol=1e-4)


def test_auto_takes_no_pixel_loop_for_a_narrow_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "not built because no C++ compiler was found"
    rows = [row._replace(absent=lambda: why) if row.name in ("cpu", "triton") else row for row in table.TABLE]
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    decoder = vf.PixelCNNDecoder(1, 4, 16, 2, **SMALL)
    with pytest.raises(RuntimeError, match=r"cpu: not built.*; torch: holds a plan.*; reference: would take hundreds"):
        vf.PixelCNNSampler(decoder, dtype=torch.bfloat16)
    assert vf.PixelCNNSampler(decoder, "reference", dtype=torch.bfloat16).backend == "reference"


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_steps_inside_autocast_are_those_outside(backend: str) -> None:
    require(backend)
    torch.manual_seed(0)
    sampler = vf.PixelCNNSampler(vf.PixelCNNDecoder(1, 4, 16, 2, **SMALL), backend)
    z, noise = torch.randn(5, 4), torch.rand(5, 1, 8, 8)
    expected = sampler.sample_with_logits(z, noise)
    with torch.autocast("cpu"), sampler.start(z) as run:
        for step in run:
            step.put(step.draw(noise))
        assert run.images.equal(expected.images) and run.logits.equal(expected.logits)
