"""Which stages of a step share a barrier in the CUDA kernel: none that reads what another one writes in that step."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from cases.cuda_host import watched
from cases.decoders import gated_stacks, random_decoder

import vlae_fast as vf
from benchmarks import cuda_plans
from vlae_fast.models import make_decoder
from vlae_fast.plan import Plan
from vlae_fast.sampling.schedule import derive

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

Sections = list[list[int]]


def faults(plan: Plan, sections: Sections) -> Iterator[str]:
    """What is wrong with the sections of a plan: a stage that is missing, or that has a barrier too few before it."""
    section = {stage: number for number, stages in enumerate(sections) for stage in stages}
    if sorted(section) != list(range(len(plan.stages))) or sum(map(len, sections)) != len(section):
        yield "each stage must be in one section"
        return
    for s, reads in enumerate(plan.links):
        for writer, _, (dy, dx) in reads:
            is_tight = 0 <= writer < s and plan.leads[s] == plan.leads[writer] - dx - plan.slope * dy
            if is_tight and section[s] <= section[writer]:
                yield f"stage {s} reads stage {writer}"
    for draw in plan.all_draws:
        before, behind = ([section[s] for s in section if (s < draw.after) == first] for first in (True, False))
        if before and behind and max(before) >= min(behind):
            yield f"a draw comes behind stage {draw.after - 1}"
    for stages in sections:
        if len(stages) > 1 and any(plan.stages[s].kind == "norm" for s in stages):
            yield "a norm must be alone"


def two_stacks(order: str = "wavefront") -> Plan:
    stages = tuple(gated_stacks(4))
    schedule = derive(stages, (6, 5), order=order)
    return Plan(1, schedule.slope, stages, schedule.leads)


def plan_of(kind: str, **options: object) -> Plan:
    decoder = make_decoder(kind, input_dim=1, latent_dim=2, hidden_dim=8, n_layers=2, image_size=(8, 8), **options)
    return vf.PixelCNNSampler(decoder.eval(), "reference").plan


def of_decoder(seed: int) -> Plan:
    return vf.PixelCNNSampler(random_decoder(seed), "reference").plan


PLANS: dict[str, Callable[[], Plan]] = {
    "two stacks": two_stacks,
    "two stacks in raster order": partial(two_stacks, "raster"),
    "norms": watched._norms,
    "gates and outputs": partial(plan_of, "two-stack"),
    **{f"decoder {seed}": partial(of_decoder, seed) for seed in (6, 8, 9)},
}


@pytest.mark.parametrize("most", [1, 3, 96])
@pytest.mark.parametrize("name", PLANS)
def test_a_stage_waits_for_what_it_reads(name: str, most: int) -> None:
    torch.manual_seed(0)
    plan = PLANS[name]()
    sections = cuda_plans.sections(plan, most)
    assert list(faults(plan, sections)) == []
    assert max(map(len, sections)) <= most


def test_stacks_run_side_by_side() -> None:
    """The vertical one beside the horizontal one, each stage of which reads the one before."""
    plan = two_stacks()
    sections = cuda_plans.sections(plan, 96)
    assert len(sections) < len(plan.stages) and max(map(len, sections)) > 1


def test_a_stage_that_does_not_wait_is_found() -> None:
    """A stage moved into the section before its own, whose turn comes there at the earliest."""
    plan = two_stacks()
    sections = cuda_plans.sections(plan, 96)
    for number, stages in enumerate(sections):
        for stage in stages if number else ():
            moved = [[s for s in others if s != stage] for others in sections]
            moved[number - 1].append(stage)
            assert any(fault.startswith(f"stage {stage} reads") for fault in faults(plan, moved)), stage
    assert list(faults(plan, sections[1:])) == ["each stage must be in one section"]
