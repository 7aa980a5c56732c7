"""Our layers and accelerated ones exported to ONNX: plain convolutions and products, the same numbers."""

import io
from typing import Any

import pytest
import torch
from cases.deadline import slow_where
from cases.foreign import ProductMaskedConv
from torch import Tensor, nn

import vlae_fast as vf

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
evaluator = pytest.importorskip("onnx.reference")


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = vf.PixelCNNDecoder(1, 3, 6, 2, image_size=(6, 5))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.decoder(x, z)


def accelerated() -> nn.Module:
    model = nn.Sequential(ProductMaskedConv("A", 1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    assert vf.accelerate(model).replaced == ["0"]
    return model


SUBJECTS: dict[str, Any] = {
    "decoder": (Decoder, (torch.rand(2, 1, 6, 5), torch.randn(2, 3))),
    "rgb": (lambda: vf.MaskedConv2d("B", 3, 6, 3, image_channels=3, activation="elu"), (torch.rand(2, 3, 5, 4),)),
    "dilated": (lambda: vf.MaskedConv2d("A", 1, 4, 3, dilation=2, activation="relu"), (torch.rand(2, 1, 7, 6),)),
    "MADE": (lambda: vf.MADE(5, 16, 10), (torch.randn(3, 5),)),
    "flow": (lambda: vf.AutoregressiveFlow(4, 8), (torch.randn(3, 4),)),
    "accelerated": (accelerated, (torch.rand(2, 1, 6, 5),)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@slow_where(lambda name: name in ("decoder", "MADE", "dilated"))  # of layers and in a flow that are exported too
@pytest.mark.parametrize("name", SUBJECTS)
def test_exported_graphs_are_plain_and_right(name: str) -> None:
    make, inputs = SUBJECTS[name]
    torch.manual_seed(0)
    module = make().eval()
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    buffer = io.BytesIO()
    torch.onnx.export(module, inputs, dynamo=True, verbose=False).save(buffer)
    model = onnx.load_model_from_string(buffer.getvalue())
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    names = [value.name for value in model.graph.input]
    feed = {key: x.numpy() for key, x in zip(names, inputs, strict=True)}
    got = evaluator.ReferenceEvaluator(model).run(None, feed)
    want = module(*inputs)
    for a, b in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b.detach(), rtol=1e-4, atol=1e-5)
