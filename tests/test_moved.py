"""Old names of modules: importable, and the module of today itself."""

import importlib
import subprocess
import sys

import pytest

import vlae_fast
from vlae_fast import _moved


@pytest.mark.parametrize(("old", "new"), _moved.MODULES.items())
def test_an_old_name_is_the_module_of_today(old: str, new: str) -> None:
    module = importlib.import_module(f"vlae_fast.{old}")
    assert module is importlib.import_module(f"vlae_fast.{new}")
    assert module.__name__ == module.__spec__.name == f"vlae_fast.{new}"


def test_old_names_as_people_write_them() -> None:
    code = """
from vlae_fast import native, pixelcnn_draw, reference
from vlae_fast.program import Emit, Plan
from vlae_fast.sampling.stages import build_program
from vlae_fast.flows.accelerate import accelerate_flows
import vlae_fast as vf
assert native is vf.backends.cpu and native.__spec__.name == "vlae_fast.backends.cpu"
assert vf.models.decoder.make_decoder is vf.models.make_decoder
assert vf.layers.accelerate is vf.accelerate and vf.sampling.fast_sampler is vf.fast_sampler
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_no_other_name_is_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'vlae_fast\.stages'"):
        importlib.import_module("vlae_fast.stages")
    assert not hasattr(vlae_fast, "stages")
