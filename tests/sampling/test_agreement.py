"""A sampler's check of its decoder: the same function, within what roundings explain, channel by channel."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlae_fast as vf
from vlae_fast.models import make_decoder, make_likelihood
from vlae_fast.sampling import agreement
from vlae_fast.sampling.agreement import scales


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


def test_scales_are_those_of_a_group_without_what_was_put_there() -> None:
    values = torch.tensor([[1.0, -3, 2, 1e9], [0, 5, 0, -1e9], [-1e9, -1e9, -1e9, 2], [3, 3, 3, 0]])
    same = torch.tensor([[False] * 4, [True, False, True, True], [True, True, True, False], [True] * 4])
    expected = torch.tensor([[3.0, 3, 3, 1e9], [5, 5, 5, 1e9], [1e9, 1e9, 1e9, 2], [3, 3, 3, 3]]).double()
    assert scales(values, same).equal(expected)


class Turning(nn.Module):
    """A decoder whose `end` is given its logits, times the number of the call if it turns; one pixel may be fixed."""

    def __init__(self, end: Callable[[Tensor], Tensor], turns: bool, out: int) -> None:
        super().__init__()
        self.end, self.turns = end, turns
        self.calls = [count(1)]  # shared by all copies
        self.first, self.last = vf.MaskedConv2d("A", 1, 8, 3), nn.Conv2d(8, out, 1)
        fixed = torch.zeros(5, 6)
        fixed[0, 1] = 1
        self.register_buffer("fixed", fixed)

    def __deepcopy__(self, memo: Any) -> "Turning":
        copied = Turning(self.end, self.turns, self.last.out_channels)
        copied.load_state_dict(self.state_dict())
        copied.calls = self.calls
        return copied

    def forward(self, x: Tensor) -> Tensor:
        logits = self.last(self.first(x).relu())
        return self.end(self, logits * next(self.calls[0]) if self.turns else logits)


def added(value: float) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, v: v + value * net.fixed


ENDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "logit of -1e9": (added(-1e9), 1),
    "logit of -1e4": (added(-1e4), 1),
    "filled": (lambda net, v: v.masked_fill(net.fixed > 0, -1e9), 1),
    "most filled": (lambda net, v: v.masked_fill(net.fixed.roll(1) == 0, -1e9), 1),
    "probability of 0": (lambda net, v: v.sigmoid() * (1 - net.fixed), 1),
    "probability of 1": (lambda net, v: v.sigmoid() * (1 - net.fixed) + net.fixed, 1),
    "softmax": (lambda net, v: added(-1e4)(net, v).softmax(1), 4),
    "a level ruled out": (lambda net, v: (v - 1e4 * torch.eye(4)[3].view(4, 1, 1)).log_softmax(1), 4),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_wrong_forward_beside_a_fixed_pixel_or_level_is_refused(name: str) -> None:
    end, out = ENDS[name]
    torch.manual_seed(0)
    likelihood = make_likelihood("categorical", 1, levels=4) if out == 4 else None
    vf.fast_sampler(Turning(end, False, out), (1, 5, 6), likelihood=likelihood)
    with pytest.raises(ValueError, match=r"decoder\.forward must be what its program computes, .* that differ by "):
        vf.fast_sampler(Turning(end, True, out), (1, 5, 6), likelihood=likelihood)


def test_what_a_device_without_float64_computes_is_compared_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    elsewhere = torch.device("cpu", 0)  # another device than that of the tensors, which have no index
    monkeypatch.setattr(agreement, "device_of_float64", lambda device: asked.append(device) or elsewhere)
    monkeypatch.setattr(agreement, "_NEAR", 0)
    torch.manual_seed(0)
    decoder = vf.PixelCNNDecoder(1, 3, 8, 2, z_channels=4, image_size=(5, 6))
    vf.PixelCNNSampler(decoder)
    assert asked == [torch.device("cpu")]
    forward = decoder.forward
    decoder.forward = lambda x, z=None: forward(x, z) + 0.01  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="got logits that differ by"):
        vf.PixelCNNSampler(decoder)
