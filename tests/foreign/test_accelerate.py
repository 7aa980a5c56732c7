import copy
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from cases.foreign import CroppedConv, DataMaskedConv, Gated, ProductMaskedConv, ProductMaskedLinear, made_masks
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import vlae_fast as vf
from vlae_fast.foreign.swap import Swap, swap_of

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")

LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "data, A": (lambda: DataMaskedConv("A", 1, 6, 7, padding=3), "masked_conv A 7x7"),
    "data, B, without bias": (lambda: DataMaskedConv("B", 4, 6, 3, padding="same", bias=False), "masked_conv B 3x3"),
    "product, A": (lambda: ProductMaskedConv("A", 2, 4, 5, padding=2), "masked_conv A 5x5"),
    "RGB in thirds, A": (lambda: ProductMaskedConv("A", 3, 6, 3, padding=1, thirds=True), "masked_conv B 3x3"),
    "RGB in turn, B": (
        lambda: ProductMaskedConv("B", 3, 3, 3, padding=1, thirds=True),
        "masked_conv B of 3 image channels 3x3",
    ),
    "data, dilated": (
        lambda: DataMaskedConv("A", 2, 6, 5, padding="same", dilation=2),
        "masked_conv A 5x5 dilated 2x2",
    ),
    "RGB in turn, dilated": (
        lambda: ProductMaskedConv("B", 3, 3, 3, padding=(1, 3), dilation=(1, 3), thirds=True),
        "masked_conv B of 3 image channels 3x3 dilated 1x3",
    ),
    "vertical, padded": (lambda: CroppedConv(3, 4, (2, 3)), "masked_conv vertical_B 3x3"),
    "horizontal, padded": (lambda: CroppedConv(3, 4, (1, 2)), "masked_conv horizontal_B 3x3"),
    "horizontal, shifted": (lambda: CroppedConv(3, 4, (1, 1), right=True), "masked_conv horizontal_A 3x3"),
    "weight_norm, product": (
        lambda: weight_norm(ProductMaskedConv("B", 4, 6, 3, padding=1)),
        "masked_conv B 3x3",
    ),
    "parametrized weight_norm, product": (
        lambda: parametrizations.weight_norm(ProductMaskedConv("B", 4, 6, 3, padding=1)),
        "masked_conv B 3x3",
    ),
    "pruned to a mask": (
        lambda: prune.custom_from_mask(
            nn.Conv2d(2, 4, 3, padding=1), "weight", vf.masks.conv_mask("B", (4, 2, 3, 3)).float()
        ),
        "masked_conv B 3x3",
    ),
    "linear, sorted": (lambda: ProductMaskedLinear(torch.ones(6, 5).tril()), "masked_linear by degrees"),
    "linear, to be sorted": (lambda: ProductMaskedLinear(made_masks(5, 12)[1]), "masked_linear by degrees"),
    "linear, any": (lambda: ProductMaskedLinear(torch.eye(6, 5) + torch.eye(6, 5).roll(2, 0)), "masked_linear by adj"),
}


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients of every parameter and of x."""
    x = x.detach().requires_grad_()
    out = model(x)
    out.square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    model.zero_grad()
    return [out.detach(), x.grad, *grads]


def inputs(layer: nn.Module) -> Tensor:
    return (
        torch.randn(3, layer.in_features) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 9, 8)
    )


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_recognised_and_compute_the_same(name: str) -> None:
    make, what = LAYERS[name]
    layer = make()
    x, parameters = inputs(layer), list(layer.parameters())
    values = [p.detach().clone() for p in parameters]
    keys = list(layer.state_dict())
    report = vf.accelerate(layer)
    assert report.replaced == [""] and report.rows[0].now.startswith(what), str(report)
    live = layer.mask if isinstance(layer, DataMaskedConv) and report.rows[0].why else torch.ones(())
    for a, b, v in zip(layer.parameters(), parameters, values, strict=True):
        assert a is b and a.equal(v * live if a.shape == live.shape else v)
    assert list(layer.state_dict()) == keys
    got = outputs(layer, x)
    report.undo()
    expected = outputs(layer, x)
    all_live = report.rows[0].why != "dead weights now have gradient 0"
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if not all_live and i == 2:
            b = b * layer.mask
        torch.testing.assert_close(a, b)


class Ahead(ProductMaskedConv):
    def __init__(self) -> None:
        super().__init__("B", 2, 2, 3, padding=1)
        self.mask[:, :, 2, 2] = 1


class Scaled(ProductMaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Squared(ProductMaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + (y.abs() > 3) * y


class Counting(ProductMaskedConv):
    def __init__(self) -> None:
        super().__init__("B", 2, 2, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Conditional(ProductMaskedConv):
    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return super().forward(x)


class Noisy(ProductMaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


class Clamped(ProductMaskedConv):
    """As many do for half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-65504, 65504)


class ClampedLinear(ProductMaskedLinear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-65504, 65504)


class Penalised(ProductMaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        self.penalty = self.weight.abs().sum()
        return super().forward(x)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "plain": (lambda: nn.Conv2d(2, 2, 3, padding=1), "none of its weights is dead"),
    "weight-normed and not masked": (lambda: weight_norm(nn.Conv2d(2, 2, 3, padding=1)), "reads ahead"),
    "no mask on linear": (lambda: ProductMaskedLinear(torch.ones(2, 2)), "none of its weights is dead"),
    "reads ahead": (Ahead, "reads ahead"),
    "strided": (lambda: ProductMaskedConv("B", 2, 2, 3, padding=1, stride=2), r"stride must be \(1, 1\)"),
    "reflecting": (lambda: ProductMaskedConv("B", 2, 2, 3, padding=1, padding_mode="reflect"), "padding_mode"),
    "not padded": (lambda: ProductMaskedConv("B", 2, 2, 3), "not one of its size"),
    "scaled": (lambda: Scaled("B", 2, 2, 3, padding=1), "no convolution by its weight"),
    "not linear": (lambda: Squared("B", 2, 2, 3, padding=1), "the output differs"),
    "clamped": (lambda: Clamped("B", 2, 2, 3, padding=1), "the output differs"),
    "clamped, linear": (lambda: ClampedLinear(torch.ones(2, 2).tril()), "the output differs"),
    "with a by-product": (lambda: Penalised("B", 2, 2, 3, padding=1), "writes to penalty"),
    "stateful": (Counting, "writes to calls"),
    "two arguments": (lambda: Conditional("B", 2, 2, 3, padding=1), "more than one argument"),
    "random": (lambda: Noisy("B", 2, 2, 3, padding=1), "differs"),
    "1x1": (lambda: ProductMaskedConv("B", 2, 2, 1), "nothing to save"),
    "ours": (lambda: vf.MaskedConv2d("B", 2, 2, 3), "of vlae_fast already"),
    "on meta": (lambda: ProductMaskedConv("B", 2, 2, 3, padding=1).to("meta"), "no values yet"),
    "weight_norm, data": (
        lambda: weight_norm(DataMaskedConv("B", 2, 2, 3, padding=1)),
        "gradient of weight_[gv] differs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_same_is_left_alone(name: str) -> None:
    make, why = REFUSED[name]
    model = nn.Sequential(make())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = vf.accelerate(model)
    assert report.replaced == [] and swap_of(model[0], Swap) is None
    assert list(report.left_alone) == ["0"]
    assert re.search(why, report.left_alone["0"])
    assert before.keys() == model.state_dict().keys()
    assert all(v.is_meta or v.equal(before[k]) for k, v in model.state_dict().items())


def plain_pixelcnn() -> nn.Sequential:
    return nn.Sequential(
        DataMaskedConv("A", 1, 8, 7, padding=3),
        nn.ReLU(),
        ProductMaskedConv("B", 8, 8, 3, padding=1),
        nn.Conv2d(8, 1, 1),
    )


FUSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "gate": (Gated, "masked_conv B 3x3 and gate in one pass"),
    "relu": (lambda conv: nn.Sequential(conv, nn.ReLU()), "masked_conv B 3x3 and relu in one pass"),
    "elu": (lambda conv: nn.Sequential(nn.Identity(), conv, nn.ELU()), "masked_conv B 3x3 and elu in one pass"),
}


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("make_conv", [ProductMaskedConv, DataMaskedConv])
@pytest.mark.parametrize("name", FUSED)
def test_a_module_that_is_an_activation_of_a_convolution_runs_in_one_pass(name: str, make_conv: type) -> None:
    around, what = FUSED[name]
    model = nn.Sequential(around(make_conv("B", 4, 4, 3, padding=1)), nn.Conv2d(2 if name == "gate" else 4, 1, 1))
    x, plain = torch.randn(2, 4, 6, 5), copy.deepcopy(model)
    report = vf.accelerate(model)
    assert next(row for row in report.rows if row.path == "0").now.startswith(what)
    assert len(report.replaced) == 2
    got, expected = outputs(model, x), outputs(plain, x)
    mask = next(m for m in model.modules() if hasattr(m, "mask")).mask
    expected[2] = expected[2] * mask
    torch.testing.assert_close(got, expected)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(outputs(torch.compile(copied, fullgraph=True, backend="aot_eager"), x), expected)
    report.undo()
    assert swap_of(model[0], Swap) is None


def test_hooks_inside_of_what_runs_in_one_pass_fire() -> None:
    model, fired, x = Gated(ProductMaskedConv("B", 4, 4, 3, padding=1)), [], torch.randn(2, 4, 6, 5)
    expected = model(x)
    assert vf.accelerate(model).replaced == ["conv", ""]
    torch.testing.assert_close(model(x), expected)
    handle = model.conv.register_forward_hook(lambda *_: fired.append("conv"))
    torch.testing.assert_close(model(x), expected)
    assert fired == ["conv"]
    handle.remove()
    model(x)
    assert fired == ["conv"]


def test_hooks_of_all_modules_fire_inside_of_what_runs_in_one_pass() -> None:
    model, fired = Gated(ProductMaskedConv("B", 4, 4, 3, padding=1)), []
    vf.accelerate(model)
    with nn.modules.module.register_module_forward_hook(lambda module, *_: fired.append(module)):
        model(torch.randn(2, 4, 6, 5))
    assert fired == [model.conv, model]


@pytest.mark.parametrize(
    "around",
    [
        lambda conv: Gated(conv, swapped=True),
        lambda conv: nn.Sequential(conv, nn.ELU(0.5)),
        lambda conv: nn.Sequential(conv, nn.BatchNorm2d(4)),
        lambda conv: nn.Sequential(conv, nn.Dropout(0.5), nn.ReLU()),
    ],
    ids=["halves swapped", "ELU of another slope", "batch norm", "dropout"],
)
def test_other_modules_around_a_convolution_keep_their_forward(around: Callable[[nn.Module], nn.Module]) -> None:
    model = around(ProductMaskedConv("B", 4, 4, 3, padding=1))
    assert vf.accelerate(model).replaced == ["conv" if isinstance(model, Gated) else "0"]
    assert swap_of(model, Swap) is None


def test_report_is_a_table() -> None:
    report = vf.accelerate(plain_pixelcnn(), backend="reference")
    assert str(report).splitlines() == [
        "module  what it was                   what it is now",
        "0       DataMaskedConv(1, 8, 7x7)     masked_conv A 7x7, reference; dead weights now have gradient 0",
        "2       ProductMaskedConv(8, 8, 3x3)  masked_conv B 3x3, reference",
        "3       Conv2d(8, 1, 1x1)             left alone: a plain layer: none of its weights is dead",
        "2 of 3 replaced",
    ]


def test_hooks_fire_and_undo_restores() -> None:
    model, fired = plain_pixelcnn(), []
    model[2].register_forward_hook(lambda *_: fired.append("after"))
    report = vf.accelerate(model)
    assert not fired
    model[2].register_forward_pre_hook(lambda *_: fired.append("before"))
    model(torch.rand(1, 1, 5, 5))
    assert fired == ["before", "after"]
    assert swap_of(model[0], Swap) is not None
    report.undo()
    report.undo()
    assert swap_of(model[0], Swap) is None
    model(torch.rand(1, 1, 5, 5))


def test_twice_changes_nothing_more() -> None:
    model = plain_pixelcnn()
    vf.accelerate(model)
    forward = model[2].forward
    assert vf.accelerate(model).left_alone["2"] == "accelerated already"
    assert model[2].forward == forward


def test_training_goes_the_same_way() -> None:
    ours = plain_pixelcnn()
    theirs, x = copy.deepcopy(ours), torch.rand(4, 1, 8, 8)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (ours, theirs)]
    vf.accelerate(ours)
    for _ in range(5):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x), x).backward()
            optimizer.step()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_compute_with_their_own_weights(copied: Callable[[nn.Module], nn.Module]) -> None:
    model, x = plain_pixelcnn(), torch.rand(1, 1, 6, 6)
    vf.accelerate(model)
    other = copied(model)
    expected = model(x)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert other(x).equal(expected) and not model(x).any()


@pytest.mark.usefixtures("_fresh_dynamo")
def test_accelerated_models_compile_in_one_graph() -> None:
    model, x = (
        nn.Sequential(plain_pixelcnn(), nn.Flatten(), ProductMaskedLinear(made_masks(36, 40)[0])),
        torch.rand(2, 1, 6, 6),
    )
    vf.accelerate(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outputs(compiled, x), outputs(model, x))


def test_images_without_batch_and_arguments_by_name() -> None:
    layer, x = ProductMaskedConv("A", 1, 2, 3, padding=1), torch.rand(1, 5, 5)
    expected = layer(x)
    vf.accelerate(layer)
    torch.testing.assert_close(layer(x=x), expected)


def test_a_named_backend_runs_or_raises() -> None:
    model = plain_pixelcnn()
    with pytest.raises(ValueError, match="accelerate: backend must be one of auto, cpu"):
        vf.accelerate(model, backend="mps")
    with pytest.raises(RuntimeError, match=r"masked_conv: backend 'cpu' cannot run this: .*float64"):
        vf.accelerate(model.double(), backend="cpu")
    assert swap_of(model[0], Swap) is None


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(0, 20)], ids=repr)
def test_an_activation_that_is_cut_off_far_away_is_not_relu(activation: nn.Module) -> None:
    model = nn.Sequential(ProductMaskedConv("A", 1, 8, 3, padding=1), activation)
    assert vf.accelerate(model).replaced == ["0"]
    nn.init.constant_(model[0].bias, 30.0)
    assert model(torch.zeros(1, 1, 4, 5)).max() == activation(torch.tensor(30.0))


class Added(nn.Module):
    """A wrapper whose forward takes more than what the convolution does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ProductMaskedConv("B", 2, 4, 3, padding=1)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        y = self.conv(x).relu()
        return y if added is None else y + added


def test_a_wrapper_of_several_arguments_keeps_its_forward() -> None:
    model, x, h = Added(), torch.randn(2, 2, 4, 5), torch.randn(2, 4, 4, 5)
    expected = model(x, h)
    assert vf.accelerate(model).replaced == ["conv", ""]  # the module for calls without `added`
    torch.testing.assert_close(model(x, h), expected)
    torch.testing.assert_close(model(x, added=h), expected)
    torch.testing.assert_close(model(x), expected - h)
    torch.testing.assert_close(model(x, None), expected - h)


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6)])
def test_batch_zero_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    layer = ProductMaskedLinear(torch.ones(6, 6).tril())
    assert vf.accelerate(layer).replaced == [""]
    assert layer(torch.zeros(shape)).shape == shape


def test_a_state_dict_with_another_mask_gives_the_own_forward_back() -> None:
    model, other = (nn.Sequential(ProductMaskedLinear(m)) for m in (torch.ones(6, 6).tril(), torch.ones(6, 6).triu()))
    report, x = vf.accelerate(model), torch.randn(3, 6)
    model.load_state_dict(model.state_dict())
    assert swap_of(model[0], Swap) is not None  # the same masks
    with pytest.warns(UserWarning, match="mask of a ProductMaskedLinear has changed"):
        model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x))
    report.undo()
    assert vf.accelerate(model).replaced == ["0"]
    torch.testing.assert_close(model(x), other(x))
