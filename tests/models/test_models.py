"""The VLAE: flow, prior, loss, causality, and the corrected mathematics."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune

import vlae_fast as vf
from vlae_fast.masks import MASK_TYPES
from vlae_fast.models.flow import standard_normal_log_prob
from vlae_fast.models.vlae import loss_terms


def random_flow(dim: int = 5, std: float = 0.3, **kwargs) -> vf.AutoregressiveFlow:
    flow = vf.AutoregressiveFlow(dim, 16, **kwargs).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=std)
    return flow


def small_vlae(**kwargs) -> vf.VLAE:
    return vf.VLAE(
        **{"latent_dim": 4, "hidden_dim": 8, "n_layers": 2, "image_size": (6, 5), "flow_hidden": 16, **kwargs}
    )


@pytest.mark.parametrize("transform", ["affine", "mean-only"])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_flow_log_det_is_that_of_the_jacobian(transform: str, n_steps: int) -> None:
    flow = random_flow(transform=transform, n_steps=n_steps)
    z = torch.randn(4, 5, dtype=torch.float64)
    _, log_det = flow(z)
    for b in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], z[b])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[b], rtol=0, atol=1e-10)


@pytest.mark.parametrize("transform", ["affine", "mean-only"])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_flow_of_inverse_is_eps(transform: str, n_steps: int) -> None:
    flow = random_flow(transform=transform, n_steps=n_steps)
    eps = torch.randn(7, 5, dtype=torch.float64)
    z, log_det = flow.inverse(eps)
    back, forward_log_det = flow(z)
    torch.testing.assert_close(back, eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(log_det, forward_log_det, rtol=0, atol=1e-11)


def test_inverse_takes_every_step_of_a_flow() -> None:
    flow = random_flow(n_steps=3)
    eps = torch.randn(7, 5, dtype=torch.float64)
    expected = flow.inverse(eps)[0]
    flow.steps[1] = torch.compile(flow.steps[1], backend="eager")
    assert flow.inverse(eps)[0].equal(expected)
    flow.steps[0].activation = "tanh"
    with pytest.raises(ValueError, match="steps must have the same activation, got relu, tanh"):
        flow.inverse(eps)


def test_log_prior_is_a_density() -> None:
    """log p(z) against the brute-force change of variables, and its integral over a 2-D plane."""
    model = small_vlae(latent_dim=2).double()
    model.prior = random_flow(dim=2, std=0.15, activation="tanh")
    z = torch.randn(6, 2, dtype=torch.float64)
    eps = model.prior(z)[0]
    for b in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v: model.prior(v[None])[0][0], z[b])
        brute = -0.5 * (eps[b] ** 2).sum() - math.log(2 * math.pi) + jacobian.det().abs().log()
        torch.testing.assert_close(model.log_prior(z)[b], brute, rtol=0, atol=1e-5)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        total = model.log_prior(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 1e-3


def test_prior_samples_come_from_the_flow() -> None:
    """With a flow that moves z away from the origin, draws are away from it, and the flow brings them back to eps."""
    model = small_vlae()
    with torch.no_grad():
        for p in model.prior.parameters():
            p.normal_(std=0.2)
        model.prior.steps[0].layers[-1].bias[:4] = 5.0
    z = model.sample_prior(2000, torch.Generator().manual_seed(1))
    assert z.mean(0).abs().min() > 3
    eps = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.prior(z)[0], eps, rtol=1e-4, atol=1e-4)


def test_loss_is_the_negative_elbo() -> None:
    model = small_vlae()
    x = (torch.rand(3, 1, 6, 5) < 0.5).float()
    out = model(x)
    assert out._fields == ("logits", "mu", "logvar", "z", "log_pz")
    q = torch.distributions.Normal(out.mu, torch.exp(0.5 * out.logvar))
    log_px = torch.distributions.Bernoulli(logits=out.logits).log_prob(x).sum((1, 2, 3))
    expected = -(log_px + out.log_pz - q.log_prob(out.z).sum(1)).sum()
    torch.testing.assert_close(vf.loss_function(out.logits, x, out.mu, out.logvar, out.z, out.log_pz), expected)


def test_kl_of_equal_distributions_is_zero() -> None:
    z = torch.randn(50, 4)
    zeros = torch.zeros(50, 4)
    terms = loss_terms(torch.zeros(50, 1, 2, 2), torch.zeros(50, 1, 2, 2), zeros, zeros, z, standard_normal_log_prob(z))
    torch.testing.assert_close(terms.kl, torch.zeros(50), rtol=0, atol=1e-5)
    torch.testing.assert_close(terms.reconstruction, torch.full((50,), 4 * math.log(2)))


@pytest.mark.parametrize(
    "kwargs", [{}, {"residual": True}, {"n_layers": 0}, {"input_dim": 2}, {"initial_kernel": 3, "kernel_size": 5}]
)
def test_decoder_is_exactly_causal(kwargs: dict) -> None:
    """Every pixel's logits have exactly zero gradient to itself and all later pixels."""
    options = {"input_dim": 1, "latent_dim": 3, "hidden_dim": 6, "n_layers": 2, "image_size": (4, 5), **kwargs}
    decoder, channels = vf.PixelCNNDecoder(**options), options["input_dim"]
    x, z = torch.rand(1, channels, 4, 5), torch.randn(1, 3)
    jacobian = torch.autograd.functional.jacobian(lambda v: decoder(v, z)[0].flatten(1), x)  # [C, P, 1, C, H, W]
    jacobian = jacobian.squeeze(2).flatten(-2)  # [C, P, C, P]
    for p in range(20):
        assert (jacobian[:, p, :, p:] == 0).all()
    assert (jacobian[:, 1:, :, 0] != 0).any()


@pytest.mark.parametrize("mask_type", MASK_TYPES)
@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (1, 3)])
def test_masked_layer_is_exactly_causal(mask_type: str, image_channels: int, dilation: tuple[int, int]) -> None:
    """One layer's Jacobian is zero at exactly the inputs that its mask hides, at every position and border."""
    layer, (dy, dx) = vf.MaskedConv2d(mask_type, 3, 6, 3, image_channels=image_channels, dilation=dilation), dilation
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0], torch.randn(1, 3, 4, 4)).squeeze(3)
    mask = vf.masks.conv_mask(mask_type, layer.weight.shape, image_channels=image_channels)
    for i in range(4):
        for j in range(4):
            seen = torch.zeros(6, 3, 4 + 2 * dy, 4 + 2 * dx, dtype=torch.bool)
            seen[:, :, i : i + 2 * dy + 1 : dy, j : j + 2 * dx + 1 : dx] = mask
            assert (jacobian[:, i, j] != 0).equal(seen[:, :, dy : 4 + dy, dx : 4 + dx])


def test_tutorial_calls() -> None:
    model = small_vlae()
    x = (torch.rand(3, 1, 6, 5) < 0.5).float()
    mu, logvar = model.encoder(x)
    z = model.reparameterize(mu, logvar)
    z_map = z[:, :, None, None].expand(-1, -1, 6, 5)
    h = model.initial_conv(x)
    for layer in model.decoder_layers:
        h = layer(h, z_map)
    torch.testing.assert_close(model.final_conv(h), model.decoder(x, z))
    images = model.sample(5, generator=torch.Generator().manual_seed(0))
    assert images.shape == (5, 1, 6, 5) and set(images.unique().tolist()) <= {0.0, 1.0}
    assert images.equal(model.sample(5, generator=torch.Generator().manual_seed(0)))
    assert model.sample(0).shape == (0, 1, 6, 5)
    rebuilt = vf.VLAE(**model.config)
    assert rebuilt.load_state_dict(model.state_dict()).missing_keys == []


def test_z_map_that_varies_is_used() -> None:
    layer = vf.GatedMaskedConv2d("B", 2, 3, 3, cond_channels=4)
    x, cond = torch.randn(2, 2, 5, 5), torch.randn(2, 4)
    flat = layer(x, cond)
    torch.testing.assert_close(layer(x, cond[:, :, None, None].expand(-1, -1, 5, 5)), flat)
    torch.testing.assert_close(layer(x, cond[:, :, None, None].repeat(1, 1, 5, 5)), flat)
    varied = cond[:, :, None, None].repeat(1, 1, 5, 5)
    varied[:, :, 2, 2] += 1
    changed = (layer(x, varied) - flat).abs().amax((0, 1)) > 1e-4
    assert changed[2, 2] and changed.sum() == 1


def test_standard_prior_without_flow() -> None:
    model = small_vlae(use_flow=False)
    z = torch.randn(4, 4)
    torch.testing.assert_close(model.log_prior(z), torch.distributions.Normal(0, 1).log_prob(z).sum(1))


def test_layer_state_dict_is_that_of_a_plain_conv() -> None:
    layer = vf.MaskedConv2d("A", 2, 3, 5)
    assert list(layer.state_dict()) == ["weight", "bias"]
    mask = vf.masks.conv_mask("A", layer.weight.shape)
    plain = {"weight": torch.randn(3, 2, 5, 5), "bias": torch.randn(3), "mask": mask.float()}
    layer.load_state_dict(plain)
    assert layer.weight.equal(plain["weight"])
    for broadcast in (mask[:1, :1], mask[0, 0]):  # one mask for all channels, as many write it
        layer.load_state_dict({**plain, "mask": broadcast.float()})
    for wrong in (torch.ones(3, 2, 5, 5), torch.ones(1, 1, 5, 5), mask[:2], torch.ones(3, 3)):
        with pytest.raises(ValueError, match="mask must be the mask of type A, got another"):
            layer.load_state_dict({**plain, "mask": wrong})


@pytest.mark.parametrize("dilation", [2, (1, 3)])
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_dilated_layers_compute_a_dilated_convolution(mask_type: str, dilation: int | tuple[int, int]) -> None:
    layer = vf.MaskedConv2d(mask_type, 2, 4, 5, activation="elu", dilation=dilation, weight_norm=True).double()
    torch.nn.init.uniform_(layer.gain, 0.5, 2)
    plain = torch.nn.Conv2d(2, 4, 5, padding="same", dilation=dilation).double()
    plain.load_state_dict({"weight": layer.live_weight(), "bias": layer.bias})
    x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.nn.functional.elu(plain(x)))
    vf.MaskedConv2d(mask_type, 2, 4, 5, weight_norm=True).load_state_dict(layer.state_dict())
    gated = vf.GatedMaskedConv2d(mask_type, 2, 3, 5, dilation=dilation)
    same_padding = vf.masks.same_padding((5, 5), gated.dilation)
    assert vf.MaskedConv2d(mask_type, 2, 6, 5, padding=same_padding, dilation=dilation).padding == gated.padding
    assert f"dilation={gated.dilation}" in repr(gated)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: vf.MaskedConv2d("A", 1, 8, 4), r"MaskedConv2d: kernel_size must be odd and positive, got \(4, 4\)"),
        (
            lambda: vf.MaskedConv2d("A", 1, 8, 3, padding=0),
            r"padding must be dilation \* .kernel_size.*= 1, got 0",
        ),
        (lambda: vf.MaskedConv2d("A", 1, 8, 3, padding=1, dilation=2), "// 2. = 2, got 1"),
        (lambda: vf.MaskedConv2d("A", 1, 8, 3, padding=(2, 2), dilation=(2, 3)), r"= \(2, 3\), got \(2, 2\)"),
        (
            lambda: vf.GatedMaskedConv2d("B", 1, 8, 3, dilation=0),
            "GatedMaskedConv2d: dilation must be an int of 1 to 32768 or a pair of them, got 0",
        ),
        (
            lambda: vf.GatedMaskedConv2d("B", 2, 3, 3, cond_channels=4)(torch.zeros(1, 2, 5, 5)),
            "cond must be given.*got None",
        ),
        (
            lambda: vf.GatedMaskedConv2d("B", 2, 3, 3)(torch.zeros(1, 2, 5, 5), torch.zeros(1, 3)),
            "cond must be None where",
        ),
        (
            lambda: vf.GatedMaskedConv2d("B", 2, 3, 3, cond_channels=4)(torch.zeros(1, 2, 5, 5), torch.zeros(1, 5)),
            r"cond must be \[B, 4\] or \[B, 4, H, W\], got \(1, 5\)",
        ),
        (lambda: small_vlae(image_size=(5,)), r"VLAE: image_size must be \(H, W\), both positive, got \(5,\)"),
        (lambda: small_vlae(image_size=5), r"VLAE: image_size must be two integers from 1 to 4,096, got 5"),
        (lambda: small_vlae(n_layers="2"), r"VLAE: n_layers must be an integer from 0 to 1,024, got '2'"),
        (lambda: small_vlae(use_flow="no"), r"VLAE: use_flow must be True or False, got 'no'"),
        (lambda: small_vlae(backend="abacus"), "VLAE: backend must be one of auto.*got 'abacus'"),
        (lambda: small_vlae().sample(-1), "VLAE: n must not be negative, got -1"),
        (lambda: vf.PixelCNNDecoder(image_size=(0, 5)), "PixelCNNDecoder: image_size must be"),
        (lambda: vf.PixelCNNDecoder(latent_dim=0, z_channels=3), "z_channels must be 0 where latent_dim is 0, got 3"),
        (lambda: vf.MADE(3, 8, 6, activation="gelu"), "MADE: activation must be one of relu, .*, got 'gelu'"),
        (lambda: vf.PixelCNNDecoder(hidden_dim=0), "PixelCNNDecoder: hidden_dim must be at least 1, got 0"),
        (lambda: vf.PixelCNNDecoder(z_channels=-1), "z_channels must be at least 0, got -1"),
        (lambda: vf.VLAE(latent_dim=-1), "VLAE: latent_dim must be at least 0, got -1"),
        (lambda: small_vlae()(torch.zeros(2, 1, 5, 5)), r"ConvEncoder: x must be \[B, 1, 6, 5\], got \(2, 1, 5, 5\)"),
        (
            lambda: small_vlae().decoder(torch.zeros(2, 1, 6, 5), torch.zeros(2, 3)),
            r"z must be \[B, 4\] or .*got \(2, 3\)",
        ),
        (lambda: small_vlae().decoder(torch.zeros(2, 2, 6, 5), torch.zeros(2, 4)), r"x must be \[B, 1, 6, 5\], got"),
        (
            lambda: vf.AutoregressiveFlow(4, 8, transform="cubic"),
            "transform must be one of affine, mean-only, got 'cubic'",
        ),
        (lambda: vf.AutoregressiveFlow(4, 8)(torch.zeros(2, 3)), r"z must be \[B, 4\], got \(2, 3\)"),
        (lambda: vf.AutoregressiveFlow(4, 8).inverse(torch.zeros(2, 3)), r"eps must be \[B, 4\], got \(2, 3\)"),
    ],
)
def test_errors(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_materialised_from_the_meta_device() -> None:
    """to_empty and load_state_dict give the same model: the degrees are in no state_dict and are written again."""
    model = small_vlae()
    with torch.device("meta"):
        other = small_vlae()
    other = other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    z = torch.randn(3, 4)
    assert other.log_prior(z).equal(model.log_prior(z))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("how", [nn.utils.weight_norm, lambda m: prune.random_unstructured(m, "weight", 0.2)])
def test_weights_that_hooks_compute_are_never_those_of_an_earlier_step(how: Any) -> None:
    """The inverse of a flow and a sampler read weights; a hook computes them when a layer's forward is called."""
    torch.manual_seed(0)
    flow, decoder = vf.AutoregressiveFlow(5, 32), vf.PixelCNNDecoder(1, 0, 8, 1, image_size=(6, 6))
    modules = [m for m in (*flow.modules(), *decoder.modules()) if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for m in modules:
            m.weight.add_(0.05 * torch.randn_like(m.weight))
            how(m)
        for p in (*flow.parameters(), *decoder.parameters()):
            p.add_(0.05 * torch.randn_like(p))  # an optimizer's step
        z, noise = torch.randn(6, 5), torch.rand(2, 1, 6, 6)
        x, _ = flow.inverse(z)
        torch.testing.assert_close(flow(x)[0], z, atol=1e-5, rtol=0)
        for p in decoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
        sampler = vf.PixelCNNSampler(decoder)
        assert sampler.sample(None, noise).equal(vf.naive_sample(decoder, None, noise))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_averaged_model_keeps_its_order(use_buffers: bool) -> None:
    """Degrees that were averaged as buffers let outputs see themselves."""
    flow = vf.AutoregressiveFlow(5, 16)
    averaged = torch.optim.swa_utils.AveragedModel(flow, use_buffers=use_buffers)
    for step in range(3):
        with torch.no_grad():
            for p in flow.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) * p[0].numel() ** -0.5)
        averaged.update_parameters(flow)
    z = torch.randn(1, 5)
    eps, log_det = averaged(z)
    jacobian = torch.autograd.functional.jacobian(lambda v: averaged(v)[0], z)[0, :, 0]
    assert jacobian.slogdet().logabsdet == pytest.approx(log_det.item(), abs=1e-4)
    torch.testing.assert_close(averaged.module.inverse(eps)[0], z, atol=1e-4, rtol=0)
    assert not list(flow.buffers())


def test_building_under_a_fake_tensor_mode() -> None:
    with FakeTensorMode():
        flow = vf.AutoregressiveFlow(4, 8)
        eps, log_det = flow(torch.zeros(3, 4))
    assert eps.shape == (3, 4) and log_det.shape == (3,)
