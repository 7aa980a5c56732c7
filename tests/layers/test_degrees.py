"""The degrees of a `MaskedLinear` are no buffers of it: they follow its weight through files, copies, fake tensors."""

from __future__ import annotations

import io
import pickle

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from vlae_fast.layers import MADE, MaskedLinear

X = torch.linspace(-1, 1, 12).view(3, 4)


def test_a_pickled_layer_has_its_degrees_where_its_weight_is_loaded() -> None:
    """`torch.load` moves each tensor that it finds by `map_location`, and knows no device that one is filed under."""
    model = MADE(4, 8, 8).to("meta").to_empty(device="cpu")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, map_location="meta", weights_only=False)
    for layer in loaded.masked_layers():
        assert layer.weight.is_meta and layer.in_degrees.is_meta
        assert [(at, made["in"].device) for at, made in layer._made.items()] == [(torch.device("meta"),) * 2]


def test_layers_that_an_earlier_version_pickled_can_be_loaded_and_moved() -> None:
    """Their degrees were buffers."""
    model = MADE(4, 8, 8)
    for layer in model.masked_layers():
        state = {name: value for name, value in vars(layer).items() if name not in ("_made", "_degrees")}
        state["_buffers"] = {"in_degrees": layer.in_degrees, "out_degrees": layer.out_degrees}
        state["_non_persistent_buffers_set"] = set(state["_buffers"])
        again = MaskedLinear.__new__(MaskedLinear)
        again.__setstate__(pickle.loads(pickle.dumps(state)))
        assert torch.equal(again.mask, layer.mask) and not list(again.buffers())
        assert again.double().in_degrees.dtype == torch.int64


def test_a_call_with_fake_weights_leaves_no_fake_degrees() -> None:
    model, mode = MADE(4, 8, 8), FakeTensorMode()
    expected = model(X)
    fakes = {name: mode.from_tensor(parameter) for name, parameter in model.named_parameters()}
    with mode:
        out = torch.func.functional_call(model, fakes, (mode.from_tensor(X),))
    assert isinstance(out, FakeTensor) and out.shape == (3, 8)
    assert torch.equal(model(X), expected)


def test_a_model_that_was_built_of_fake_tensors_runs_with_real_weights() -> None:
    model = MADE(4, 8, 8)
    with FakeTensorMode():
        built = MADE(4, 8, 8)
        assert built(torch.empty(3, 4)).shape == (3, 8)
    built.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(built(X), model(X))
