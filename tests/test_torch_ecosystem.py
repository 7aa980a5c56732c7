"""The public modules with the rest of torch: compile, export, autocast, func, DDP, copies, files, devices."""

import copy
import io
import pickle
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from conftest import require_package
from torch import Tensor, nn

import vlae_fast as vf


class Inverse(nn.Module):
    """The sampling direction of a flow as a module."""

    def __init__(self, flow: vf.AutoregressiveFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.inverse(eps)


class Subject(NamedTuple):
    module: nn.Module
    inputs: tuple[Tensor, ...]

    def run(self, module: Callable[..., Any] | None = None, rows: slice = slice(None)) -> list[Tensor]:
        module = self.module if module is None else module
        return leaves(module(*(x[rows].clone() for x in self.inputs)))


def leaves(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def small_vlae() -> vf.VLAE:
    return vf.VLAE(latent_dim=4, hidden_dim=8, n_layers=2)


def images(batch: int) -> Tensor:
    return torch.rand(batch, 1, 28, 28).round()


MAKERS: dict[str, Callable[[], Subject]] = {
    "MaskedConv2d": lambda: Subject(vf.MaskedConv2d("A", 1, 8, 7), (torch.randn(3, 1, 9, 9),)),
    "GatedMaskedConv2d": lambda: Subject(
        vf.GatedMaskedConv2d("B", 8, 8, 3, cond_channels=4), (torch.randn(3, 8, 9, 9), torch.randn(3, 4))
    ),
    "MaskedLinear": lambda: Subject(
        vf.MaskedLinear(torch.arange(5), torch.arange(5), activation="relu"), (torch.randn(3, 5),)
    ),
    "MADE": lambda: Subject(vf.MADE(5, 16, 10, context_dim=2), (torch.randn(3, 5), torch.randn(3, 2))),
    "AutoregressiveFlow": lambda: Subject(vf.AutoregressiveFlow(5, 16), (torch.randn(3, 5),)),
    "inverse": lambda: Subject(Inverse(vf.AutoregressiveFlow(5, 16)), (torch.randn(3, 5),)),
    "PixelCNNDecoder": lambda: Subject(small_vlae().decoder, (images(3), torch.randn(3, 4))),
}


@pytest.fixture(params=MAKERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    made = MAKERS[request.param]()
    for parameter in made.module.parameters():  # those of a flow start at zero: they would hide much
        nn.init.normal_(parameter, std=0.1)
    return made


def assert_same(got: list[Tensor], want: list[Tensor], **tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.fixture
def _fresh_dynamo() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.usefixtures("_fresh_dynamo")
def test_compile_with_an_open_batch_size(subject: Subject) -> None:
    compiled = torch.compile(subject.module, fullgraph=True, dynamic=True, backend="aot_eager")
    parameters = list(subject.module.parameters())
    for rows in (slice(None), slice(2)):
        got, want = subject.run(compiled, rows), subject.run(rows=rows)
        assert_same(got, want)
        assert_same(
            *(
                list(torch.autograd.grad(sum(t.square().sum() for t in out), parameters, materialize_grads=True))
                for out in (got, want)
            )
        )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_dynamo")
def test_compile_a_vlae_with_an_open_batch_size() -> None:
    model = small_vlae()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (3, 2):
        x = images(batch)
        torch.manual_seed(1)
        want = model(x)
        torch.manual_seed(1)
        assert_same(leaves(compiled(x)), leaves(want))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_export_with_an_open_batch_size(subject: Subject) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} for _ in subject.inputs)
    program = torch.export.export(subject.module, subject.inputs, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for module in (program.module(), torch.export.load(buffer).module()):
        assert_same(subject.run(module), subject.run())
        assert_same(subject.run(module, slice(2)), subject.run(rows=slice(2)))


def test_autocast(subject: Subject) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = subject.run()
    assert_same([out.float() for out in got], subject.run(), rtol=0.05, atol=0.05)


def test_functional_call(subject: Subject) -> None:
    want = subject.run()
    parameters = {name: p.detach().clone() for name, p in subject.module.named_parameters()}
    nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in parameters.values())), subject.module.parameters())

    def call(*inputs: Tensor) -> Any:
        return torch.func.functional_call(subject.module, parameters, inputs)

    assert_same(subject.run(call), want)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch loops over the samples
def test_vmap(subject: Subject) -> None:
    def one(*inputs: Tensor) -> Any:
        return subject.module(*(x[None] for x in inputs))

    if isinstance(subject.module, Inverse):
        with pytest.raises(RuntimeError, match=r"made_inverse: torch\.vmap is not implemented"):
            torch.vmap(one)(*subject.inputs)
        return
    got = [out.squeeze(1) for out in leaves(torch.vmap(one)(*subject.inputs))]
    assert_same(got, subject.run())


def test_gradients_of_torch_func_say_what_to_use_instead(subject: Subject) -> None:
    parameters = {name: p.detach() for name, p in subject.module.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        out = leaves(torch.func.functional_call(subject.module, parameters, subject.inputs))
        return out[0].square().sum()

    message = r"\w+: torch\.func\.grad, vjp and jvp are not implemented, use torch\.autograd\.grad"
    with pytest.raises(RuntimeError, match=message):
        torch.func.grad(loss)(parameters)
    with pytest.raises(RuntimeError, match=message):
        torch.func.jvp(loss, (parameters,), (parameters,))


def test_inference_mode(subject: Subject) -> None:
    with torch.inference_mode():
        got = subject.run()
        assert all(out.is_inference() for out in got)
    assert_same([out.clone() for out in got], [out.detach() for out in subject.run()])


def test_copies_and_pickles(subject: Subject) -> None:
    buffer = io.BytesIO()
    torch.save(subject.module, buffer)
    buffer.seek(0)
    copies = (
        copy.deepcopy(subject.module),
        pickle.loads(pickle.dumps(subject.module)),
        torch.load(buffer, weights_only=False),
    )
    want = subject.run()
    for module in copies:
        assert_same(subject.run(module), want, rtol=0, atol=0)
        nn.init.zeros_(next(module.parameters()))
    assert_same(subject.run(), want, rtol=0, atol=0)


def test_samplers_are_copied_and_pickled() -> None:
    sampler = vf.PixelCNNSampler(small_vlae().decoder)
    z, noise = torch.randn(2, 4), torch.rand(2, 1, 28, 28)
    want = sampler.sample(z, noise)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert other.sample(z, noise).equal(want) and other.backend == sampler.backend
    with torch.inference_mode():
        assert sampler.sample(z, noise).equal(want)


def test_safetensors(subject: Subject) -> None:
    safetensors = require_package("safetensors.torch")
    want, file = subject.run(), safetensors.save(subject.module.state_dict())
    for parameter in subject.module.parameters():
        nn.init.normal_(parameter)
    subject.module.load_state_dict(safetensors.load(file))
    assert_same(subject.run(), want, rtol=0, atol=0)


def test_meta_device_and_back(subject: Subject) -> None:
    module = copy.deepcopy(subject.module).to("meta")
    shapes = [out.shape for out in leaves(module(*(x.to("meta") for x in subject.inputs)))]
    assert shapes == [out.shape for out in subject.run()]
    module.to_empty(device="cpu").load_state_dict(subject.module.state_dict())
    assert_same(subject.run(module), subject.run(), rtol=0, atol=0)


def test_moving_between_dtypes(subject: Subject) -> None:
    module = copy.deepcopy(subject.module).double()
    got = leaves(module(*(x.double() for x in subject.inputs)))
    assert_same(got, [out.double() for out in subject.run()], rtol=1e-4, atol=1e-4)
    assert_same(subject.run(module.float()), subject.run(), rtol=0, atol=0)


def mean_gradients(rank: int, ranks: int, port: int, folder: str) -> None:
    """A process of `test_distributed_data_parallel`: two steps on its share of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=ranks, rank=rank)
    model, x, eps = ddp_subject()
    share = slice(rank, None, ranks)
    parallel = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    for _ in range(2):
        parallel(x[share], eps[share]).backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], f"{folder}/gradients")
    torch.distributed.destroy_process_group()


class MeanLoss(nn.Module):
    """Deterministic: the noise of z is given."""

    def __init__(self, vlae: vf.VLAE) -> None:
        super().__init__()
        self.vlae = vlae

    def forward(self, x: Tensor, eps: Tensor) -> Tensor:
        mu, logvar = self.vlae.encoder(x)
        z = mu + torch.exp(0.5 * logvar) * eps
        logits = self.vlae.decoder(x, z)
        return vf.loss_function(logits, x, mu, logvar, z, self.vlae.log_prior(z)) / len(x)


def ddp_subject() -> tuple[MeanLoss, Tensor, Tensor]:
    torch.manual_seed(3)
    return MeanLoss(small_vlae()), images(4), torch.randn(4, 4)


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Any) -> None:
    """Two processes with half of the batch each have the gradients of one that has it all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(mean_gradients, (2, port, str(tmp_path)), nprocs=2)
    model, x, eps = ddp_subject()
    for _ in range(2):
        model(x, eps).backward()
    assert_same(torch.load(tmp_path / "gradients"), [p.grad for p in model.parameters()], rtol=1e-4, atol=1e-4)
