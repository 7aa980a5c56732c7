"""The public modules, and accelerated ones, with the rest of torch: compile, export, func, DDP, copies, devices."""

import copy
import gc
import io
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases.deadline import slow_where
from cases.foreign import DataMaskedConv
from cases.foreign_zoo import MaskedFlow
from cases.modules import (
    MAKERS,
    Subject,
    accelerated,
    assert_same,
    foreign_convolutions,
    images,
    leaves,
    small_vlae,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vlae_fast as vf


@pytest.fixture(params=MAKERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    made = MAKERS[request.param]()
    for parameter in made.module.parameters():  # those of a flow start at zero: they would hide much
        nn.init.normal_(parameter, std=0.1)
    return made


@slow_where(
    lambda subject: subject in ("accelerated flow", "accelerated convolutions")
)  # as a flow, an accelerated layer
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

    got = [out.squeeze(1) for out in leaves(torch.vmap(one)(*subject.inputs))]
    assert_same(got, subject.run())


def test_gradients_of_torch_func(subject: Subject) -> None:
    parameters = {name: p.detach() for name, p in subject.module.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        out = leaves(torch.func.functional_call(subject.module, parameters, subject.inputs))
        return out[0].square().sum()

    recorded = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    want = torch.autograd.grad(loss(recorded), list(recorded.values()), allow_unused=True)
    for (name, got), expected in zip(torch.func.grad(loss)(parameters).items(), want, strict=True):
        expected = torch.zeros_like(got) if expected is None else expected
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * max(1, expected.abs().max().item()), msg=name)
    _, along = torch.func.jvp(loss, (parameters,), (parameters,))
    total = sum((g * p).sum() for g, p in zip(want, parameters.values(), strict=True) if g is not None)
    torch.testing.assert_close(along, total, rtol=1e-3, atol=1e-3 * total.abs().item())


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(subject: Subject, reentrant: bool) -> None:
    inputs = [x.clone().requires_grad_() for x in subject.inputs]
    asked = [*inputs, *subject.module.parameters()]

    def gradients(outs: list[Tensor]) -> list[Tensor | None]:
        for t in asked:
            t.grad = None
        sum(out.square().sum() for out in outs).backward()
        return [t.grad for t in asked]

    want = gradients(leaves(subject.module(*inputs)))
    got = gradients(leaves(checkpoint(subject.module, *inputs, use_reentrant=reentrant)))
    for have, expected in zip(got, want, strict=True):
        torch.testing.assert_close(have, expected)


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
    safetensors = pytest.importorskip("safetensors.torch")
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


DISTRIBUTED: dict[str, Callable[[], Subject]] = {
    "VLAE": lambda: Subject(MeanLoss(small_vlae()), (images(4), torch.randn(4, 4))),
    "accelerated convolutions": lambda: Subject(foreign_convolutions(), (torch.randn(4, 1, 9, 9),)),
    "accelerated flow": lambda: Subject(MaskedFlow().eval(), (torch.randn(4, 5),)),
}


def distributed_subject(name: str) -> Subject:
    torch.manual_seed(3)
    return DISTRIBUTED[name]()


def mean_gradients(subject: Subject, module: nn.Module, rows: slice = slice(None)) -> list[Tensor]:
    for _ in range(2):
        sum(out.mean() for out in subject.run(module, rows)).backward()
    return [p.grad for p in subject.module.parameters()]


def take_part(rank: int, ranks: int, port: int, folder: str, name: str) -> None:
    """A process of `test_distributed_data_parallel`: two steps on its share of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=ranks, rank=rank)
    subject = distributed_subject(name)
    if name.startswith("accelerated"):
        accelerated(subject.module)
    parallel = nn.parallel.DistributedDataParallel(subject.module, gradient_as_bucket_view=True)
    gradients = mean_gradients(subject, parallel, slice(rank, None, ranks))
    if rank == 0:
        torch.save(gradients, f"{folder}/gradients")
    del parallel  # which holds the group: its threads must have ended before the interpreter does
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTED)
def test_distributed_data_parallel(name: str, tmp_path: Any) -> None:
    """Two processes with half of the batch each have the gradients of one that has it all, and is as it was written."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(take_part, (2, port, str(tmp_path), name), nprocs=2)
    subject = distributed_subject(name)
    want = mean_gradients(subject, subject.module)
    assert_same(torch.load(tmp_path / "gradients"), masked(subject.module, want), rtol=1e-4, atol=1e-4)


def masked(module: nn.Module, gradients: list[Tensor]) -> list[Tensor]:
    """Without those of dead weights that a layer writes zeros to: they have no effect."""
    dead = {id(part.weight): part.mask for part in module.modules() if type(part) is DataMaskedConv}
    return [g * dead.get(id(p), 1) for p, g in zip(module.parameters(), gradients, strict=True)]
