"""A sampler's check of its decoder: the same function, within what roundings explain, channel by channel."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models import make_decoder, make_likelihood


class Ruled(nn.Module):
    """Four levels, of which the last is ruled out by a logit of -1e9; `wrong` is what forward adds to the others."""

    input_dim, image_size = 1, (6, 7)

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.likelihood, self.wrong = make_likelihood("categorical", 1, levels=4), wrong
        self.first, self.last = vf.MaskedConv2d("A", 1, 8, 3, activation="elu"), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.last.bias[3] = -1e9

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        logits: Tensor = self.last(self.first(x))
        return logits + torch.tensor([self.wrong, 0, 0, 0]).view(4, 1, 1)

    def write_program(self, program: Any) -> None:
        hidden = program.conv(self.first, 0)
        program.add([(hidden, self.last.weight, ((0, 0),))], self.last.bias)


def test_a_class_that_is_ruled_out_excuses_no_other() -> None:
    torch.manual_seed(0)
    assert vf.PixelCNNSampler(Ruled(0.0)).sample(None).shape == (1, 1, 6, 7)
    for wrong in (1.0, 1e-3):
        with pytest.raises(ValueError, match=r"decoder\.forward must be .* got logits that differ by "):
            vf.PixelCNNSampler(Ruled(wrong))


@pytest.mark.parametrize("gain", [1.5, 5, 15])
@pytest.mark.parametrize("kind", ["gated", "two-stack", "resnet"])
def test_large_weights_are_no_reason_to_refuse(kind: str, gain: float) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        decoder = make_decoder(
            kind, input_dim=1, latent_dim=2, hidden_dim=16, n_layers=3, image_size=(10, 12), kernel_size=5
        )
        for p in decoder.parameters():
            nn.init.normal_(p, std=gain * p[0].numel() ** -0.5 if p.dim() > 1 else 0.3)
        vf.PixelCNNSampler(decoder)


def test_nan_is_no_agreement() -> None:
    with pytest.raises(ValueError, match="got logits that differ by nan"):
        vf.PixelCNNSampler(Ruled(float("nan")))
