"""Modules under the names that they had before 0.1.0, for code that imports them; nothing in the package does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# old name -> today's
MODULES = {
    "changes": "foreign.changes",
    "checkpoint_config": "checkpoint.config",
    "cli": "__main__",  # console scripts that an earlier version installed
    "collapse": "experiments.collapse",
    "demo": "experiments.demo",
    "flows": "foreign.flows",
    "gpu": "backends.gpu",
    "inpainting": "generation.inpainting",
    "latent_space": "generation.latent_space",
    "layers.compare": "foreign.compare",
    "layers.fast_forward": "foreign.fast_forward",
    "layers.probe": "foreign.probe",
    "layout": "backends.memory_format",
    "models.decoder": "models.decoders.make",
    "native": "backends.cpu",
    "native_cuda": "backends.cuda",
    "pixelcnn_draw": "reference.pixelcnn_draw",
    "program": "plan",
    "sampling.affine": "foreign.decoders.affine",
    "sampling.foreign": "foreign.decoders.sampler",
    "sampling.operations": "foreign.decoders.operations",
    "sampling.stages": "sampling.program",
    "sampling.trace": "foreign.decoders.trace",
    "sampling.writer": "foreign.decoders.writer",
    "tensor_files": "checkpoint.tensors",
    "triton_kernels": "backends.triton",
}
# names of a package -> where they are today
NAMES = {
    "layers": ("foreign", ("Report", "accelerate")),
    "sampling": ("foreign", ("ForeignDecoder", "fast_sampler")),
}


def _today(name: str) -> str | None:
    """Today's name of a module of the package, None where it never had another."""
    for old, new in MODULES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None


class _Finder(MetaPathFinder, Loader):
    """Finds a module by its old name, and gives the module of today itself: one module, two names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __package__ and _today(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__package__}.{_today(spec.name.partition('.')[2])}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives back what the import system overwrote; the module ran when it was imported under its own name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Makes the old names importable, and attributes of their packages where that costs no import."""
    sys.meta_path.insert(0, _Finder())  # before that of files, which would run the modules of a moved package again
    for old, new in MODULES.items():
        parent, _, leaf = f"{__package__}.{old}".rpartition(".")
        module = sys.modules.get(f"{__package__}.{new}")
        if module is not None and parent in sys.modules:
            setattr(sys.modules[parent], leaf, module)
    for package, (new, names) in NAMES.items():
        for name in names:
            setattr(sys.modules[f"{__package__}.{package}"], name, getattr(sys.modules[f"{__package__}.{new}"], name))
