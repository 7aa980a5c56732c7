"""csrc/toolchain.py: what the build asks of the machine, and the flags of a platform."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLAN = json.loads((ROOT / "csrc" / "build.json").read_text(encoding="utf-8"))
TRIPLES = {
    "x86_64-linux-gnu": ("x86_64", "linux"),
    "aarch64-linux-gnu": ("aarch64", "linux"),
    "aarch64-unknown-linux-gnu": ("aarch64", "linux"),
    "arm64-apple-darwin23.6.0": ("aarch64", "darwin"),
    "riscv64-linux-gnu": ("riscv64", "linux"),
}


@pytest.fixture
def toolchain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toolchain", ROOT / "csrc" / "toolchain.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def says(path: Path, text: str) -> str:
    """A program that prints `text`, whatever it is asked."""
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("triple", TRIPLES)
def test_the_target_is_the_compilers(toolchain: ModuleType, tmp_path: Path, triple: str) -> None:
    assert toolchain.target_of([says(tmp_path / "c++", triple)]) == TRIPLES[triple]


def test_a_compiler_that_names_no_target_compiles_for_this_machine(
    toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr("sys.platform", "linux")
    silent = tmp_path / "c++"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    assert toolchain.target_of([str(silent)]) == ("x86_64", "linux")


@pytest.mark.parametrize(
    ("machine", "isas"),
    [
        ("x86_64", ["baseline", "avx2", "avx2_unfused", "avx512", "avx512_bf16", "amx"]),
        ("aarch64", ["neon", "baseline"]),
        ("riscv64", ["baseline"]),
    ],
)
def test_instruction_sets_are_those_that_the_sources_list(toolchain: ModuleType, machine: str, isas: list[str]) -> None:
    """csrc/cpu/isa.h declares the kernels of each, and csrc/build.json compiles them: one list for both."""
    assert list(toolchain.isas_of(PLAN, toolchain.Target(machine, "linux"))) == isas
    text = (ROOT / "csrc" / "cpu" / "isa.h").read_text(encoding="utf-8")
    of_all, more, tiles = (
        re.findall(rf"#define VLAE_FOR_EACH_{name}\(use\) ?(.*)", text) for name in ("ISA", "BFLOAT16_ISA", "TILE_ISA")
    )
    lists = [re.findall(r"\buse\((\w+)\)", a + b + c) for a, b, c in zip(of_all, more, tiles, strict=True)]
    assert lists.count(isas) == 1


def test_flags_of_linux(toolchain: ModuleType) -> None:
    target = toolchain.Target("x86_64", "linux")
    assert toolchain.compile_flags(target) == []
    assert toolchain.link_flags(PLAN, target, Path("/t")) == ["-L/t/lib", "-ltorch_cpu", "-Wl,-z,defs", "-pthread"]


def test_flags_of_macos(toolchain: ModuleType) -> None:
    """Its linker knows no -z and its compiler no -pthread at the link; a library is found beside this package."""
    target = toolchain.Target("aarch64", "darwin")
    oldest = "-mmacosx-version-min=11.0"
    assert toolchain.compile_flags(target) == [oldest]
    expected = ["-L/t/lib", "-ltorch_cpu", "-Wl,-rpath,@loader_path/../torch/lib", oldest]
    assert toolchain.link_flags(PLAN, target, Path("/t")) == expected


def test_no_flag_is_for_one_compiler_alone() -> None:
    """OpenMP is torch's, and clang refuses what only GCC knows where warnings are errors."""
    flags = [*PLAN["cxx_flags"], *PLAN["warnings"]]
    flags += [flag for isas in PLAN["isas"].values() for given in isas.values() for flag in given]
    flags += [flag for files in PLAN["file_flags"].values() for given in files.values() for flag in given]
    assert [flag for flag in flags if "openmp" in flag or "tree-loop" in flag or "schedule" in flag] == []


def test_flags_of_a_file_are_for_files_that_are_compiled(toolchain: ModuleType) -> None:
    compiled = {*PLAN["common"], *PLAN["isa_kernels"]}
    assert all(set(files) <= compiled for files in PLAN["file_flags"].values())
    draw = "cpu/pixelcnn_sample/draw.cpp"
    assert toolchain.file_flags(PLAN, toolchain.Target("aarch64", "linux"), draw) == ["-fno-tree-vectorize"]
    assert toolchain.file_flags(PLAN, toolchain.Target("x86_64", "linux"), draw) == []


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (("aarch64", "darwin"), "macosx_11_0_arm64"),
        (("x86_64", "darwin"), "macosx_11_0_x86_64"),
        (("aarch64", "linux"), "linux_aarch64"),
    ],
)
def test_wheels_name_the_librarys_machine(toolchain: ModuleType, target: tuple[str, str], name: str) -> None:
    """A Python for macOS is for two machines at once: its own name would promise both."""
    python = "macosx_10_13_universal2" if target[1] == "darwin" else "linux_aarch64"
    assert toolchain.wheel_platform(toolchain.Target(*target), python) == name


class TestCuda:
    """When the CUDA library is built: VLAE_FAST_CUDA, a GPU, a CUDA build of torch."""

    @pytest.fixture(autouse=True)
    def _nothing_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CUDA", "WITHOUT_CUDA", "REQUIRE_CUDA"):
            monkeypatch.delenv(f"VLAE_FAST_{name}", raising=False)

    @staticmethod
    def torch_of(tmp: Path, cuda: str) -> Path:
        (tmp / "version.py").write_text(f"__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = {cuda}\n")
        return tmp

    @pytest.mark.parametrize(
        ("wanted", "cuda", "gpu", "reason"),
        [
            ("auto", "None", False, "neither a GPU nor a CUDA build of torch was found"),
            ("auto", "'13.0'", False, None),
            ("auto", "None", True, None),
            ("1", "None", False, None),
            ("0", "'13.0'", True, "VLAE_FAST_CUDA=0"),
        ],
    )
    def test_what_it_is_built_for(
        self,
        toolchain: ModuleType,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        wanted: str,
        cuda: str,
        gpu: bool,
        reason: str | None,
    ) -> None:
        if gpu:
            says(tmp_path / "nvidia-smi", "GPU 0: a card")
        monkeypatch.setenv("PATH", str(tmp_path))
        found = toolchain.why_no_cuda(wanted, self.torch_of(tmp_path, cuda))
        assert found is None if reason is None else found.startswith(reason)

    def test_a_driver_without_a_gpu_is_none(
        self, toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert toolchain.why_no_cuda("auto", self.torch_of(tmp_path, "None")) is not None

    @pytest.mark.parametrize("value", ["auto", "0", "1"])
    def test_values(self, toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        assert toolchain.cuda_wanted() == "auto"
        monkeypatch.setenv("VLAE_FAST_CUDA", value)
        assert toolchain.cuda_wanted() == value

    def test_another_value_is_refused(self, toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VLAE_FAST_CUDA", "yes")
        with pytest.raises(SystemExit, match="VLAE_FAST_CUDA must be auto, 0 or 1, got 'yes'"):
            toolchain.cuda_wanted()

    @pytest.mark.parametrize(("name", "means"), [("VLAE_FAST_WITHOUT_CUDA", "0"), ("VLAE_FAST_REQUIRE_CUDA", "1")])
    def test_earlier_names_hold_and_say_so(
        self,
        toolchain: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
        means: str,
    ) -> None:
        monkeypatch.setenv(name, "1")
        assert toolchain.cuda_wanted() == means
        assert f"{name}=1 is now VLAE_FAST_CUDA={means}" in capsys.readouterr().err
