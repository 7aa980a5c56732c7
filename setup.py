"""The part of the build that needs code: a shared library for CPUs and one for CUDA, on libtorch's stable ABI.

torch's own BuildExtension gives every file the same flags and binds the library to one Python; here the kernels are
compiled once per instruction set and nothing depends on Python, so a few lines of ninja do it. What to compile is in
csrc/build.json. A build that cannot be done is no error: the reason goes into vlae_fast/_build_report.json.
VLAE_FAST_REQUIRE_CPU=1 makes it one. VLAE_FAST_CUDA is auto (the CUDA library is built where there is nvcc, and a GPU
or a CUDA build of torch), 0 (it is not built) or 1 (it is built, or the install fails). VLAE_FAST_WERROR=1, which
.ci/run sets, makes a compiler's warning an error: not for users, whose compiler may have warnings of its own. Cf.
pyproject.toml and csrc/toolchain.py.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))  # a build finds nothing beside setup.py by itself

import toolchain  # noqa: E402
from toolchain import NotBuilt  # noqa: E402


class Unit(NamedTuple):
    """A compilation: the rule that does it, and flags beside those of the rule."""

    rule: str
    source: str
    target: str
    flags: list[str]


def words(*args: str) -> str:
    return shlex.join(args).replace("$", "$$")


def warnings_are_errors() -> bool:
    return os.environ.get("VLAE_FAST_WERROR") == "1"


def warning_flags(plan: dict[str, Any]) -> list[str]:
    return [*plan["warnings"], *(["-Werror"] if warnings_are_errors() else [])]


def nvcc_flags(plan: dict[str, Any]) -> list[str]:
    """Warnings are those of the host compiler that nvcc runs, and nvcc's own."""
    own = ["-Werror=all-warnings"] if warnings_are_errors() else []
    return [*plan["cuda"]["nvcc_flags"], f"-Xcompiler={','.join(warning_flags(plan))}", *own]


def torch_flags(plan: dict[str, Any], torch: Path, target: toolchain.Target) -> list[str]:
    """Our paths stay relative: the library names no folder."""
    macros = [f"-D{macro}" for macro in plan["define_macros"]]
    flags = [*plan["cxx_flags"], *toolchain.compile_flags(target), *warning_flags(plan), *macros, "-Icsrc"]
    for folder in (torch / "include", torch / "include/torch/csrc/api/include"):
        flags += ["-isystem", str(folder)]
    return [*flags, f"-ffile-prefix-map={torch}=torch"]


def write_ninja(
    library: str, rules: dict[str, list[str]], link: list[str], after: list[str], units: list[Unit]
) -> None:
    """Writes build.ninja: a command per rule, and the two parts of the link's around its objects."""
    build = Path("build", library)
    lines = [f"builddir = {build.as_posix()}"]
    for rule, command in rules.items():  # -MD, not -MMD: another torch at the same place is a reason to compile again
        command_line = f"  command = {words(*command)} $more -MD -MF $out.d -c $in -o $out"
        lines += [f"rule {rule}", command_line, "  description = $out", "  depfile = $out.d", "  deps = gcc"]
    lines += ["rule link", f"  command = {words(*link)} -shared $in {words(*after)} -o $out", "  description = $out"]
    for unit in units:
        lines += [f"build {unit.target}: {unit.rule} csrc/{unit.source}", f"  more = {words(*unit.flags)}"]
    lines += [f"build {(build / file_of(library)).as_posix()}: link {' '.join(unit.target for unit in units)}", ""]
    (ROOT / build).mkdir(parents=True, exist_ok=True)
    (ROOT / build / "build.ninja").write_text("\n".join(lines), encoding="utf-8")


def prepare_cpu(plan: dict[str, Any]) -> dict[str, Any]:
    """Writes what ninja is to do; returns what the report says of it."""
    compiler, torch, build = toolchain.find_compiler(), toolchain.find_torch(), Path("build", "cpu")
    target = toolchain.target_of(compiler)
    isas = toolchain.isas_of(plan, target)
    sources: list[tuple[str, str, list[str]]] = [(source, ".o", []) for source in plan["common"]]
    sources += [
        (source, f".{isa}.o", [*flags, f"-DVLAE_ISA={isa}"])
        for isa, flags in isas.items()
        for source in plan["isa_kernels_of"].get(isa, plan["isa_kernels"])
    ]
    units = [
        Unit(
            "compile",
            source,
            (build / source).with_suffix(suffix).as_posix(),
            [*flags, *toolchain.file_flags(plan, target, source)],
        )
        for source, suffix, flags in sources
    ]
    rules = {"compile": [*compiler, *torch_flags(plan, torch, target)]}
    write_ninja("cpu", rules, compiler, toolchain.link_flags(plan, target, torch), units)
    return {"isas": list(isas), "compiler": toolchain.version_of(compiler)}


def prepare_cuda(plan: dict[str, Any]) -> dict[str, Any]:
    """As `prepare_cpu`. libtorch.so is named for what it pulls in: libtorch_cuda.so, where torch has it."""
    wanted = toolchain.cuda_wanted()
    torch, build = toolchain.find_torch(), Path("build", "cuda")
    if reason := toolchain.why_no_cuda(wanted, torch):
        raise NotBuilt(reason)
    nvcc, compiler = toolchain.find_nvcc(), toolchain.find_compiler()
    host, cuda = f"-ccbin={compiler[0]}", plan["cuda"]
    rules = {
        "compile": [*compiler, *torch_flags(plan, torch, toolchain.target_of(compiler))],
        "nvcc": [*nvcc, host, *nvcc_flags(plan), *cuda["architectures"].values(), "-Icsrc"],
    }
    units = [
        Unit("nvcc" if source.endswith(".cu") else "compile", source, (build / f"{source}.o").as_posix(), [])
        for source in cuda["sources"]
    ]
    write_ninja("cuda", rules, [*nvcc, host], [f"-L{torch / 'lib'}", *cuda["link_flags"]], units)
    return {"architectures": list(cuda["architectures"]), "compiler": toolchain.version_of(nvcc, line=-2)}


def file_of(library: str) -> str:
    return f"_native_{library}.so"


def run_ninja(library: str) -> None:
    """Shows each file as it is done, which pip does with -v: nvcc takes minutes."""
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    command = [toolchain.find_ninja(), "-f", str(Path("build", library, "build.ninja")), *jobs]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as ninja:
        assert ninja.stdout is not None
        first = None
        for line in ninja.stdout:
            print(f"vlae_fast: {line}", end="", flush=True)
            first = first or re.search(r"^.*(error:|undefined reference).*$", line)
    if ninja.returncode != 0:
        raise NotBuilt(f"compilation failed: {first[0] if first else 'see the output of the build'}")


def build_library(library: str, package: Path) -> dict[str, Any]:
    """Builds a library into `package`, or leaves none there; returns its entry in the report."""
    plan = json.loads((ROOT / "csrc/build.json").read_text(encoding="utf-8"))
    entry: dict[str, Any] = {"built": False, "why_not": "", "compiler": ""}
    built = package / file_of(library)
    try:
        entry |= PREPARE[library](plan)
        run_ninja(library)
    except NotBuilt as error:
        built.unlink(missing_ok=True)
        return entry | {"why_not": str(error)}
    # Replaced in one step: writing into a library that a running process has mapped would crash it.
    fresh = built.with_suffix(".new")
    shutil.copy(ROOT / "build" / library / file_of(library), fresh)
    fresh.replace(built)
    return entry | {"built": True}


PREPARE = {"cpu": prepare_cpu, "cuda": prepare_cuda}
REQUIRED = {
    "cpu": lambda: os.environ.get("VLAE_FAST_REQUIRE_CPU") == "1",
    "cuda": lambda: toolchain.cuda_wanted() == "1",
}


class BuildNative(build_ext):
    def run(self) -> None:
        package = Path(ROOT if self.inplace else self.build_lib, "vlae_fast")
        package.mkdir(parents=True, exist_ok=True)
        report = {library: build_library(library, package) for library in PREPARE}
        (package / "_build_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for library, entry in report.items():
            if entry["built"]:
                print(f"vlae_fast: built the {library} library with {entry['compiler']}")
            elif REQUIRED[library]():
                raise SystemExit(f"vlae_fast: the {library} library is required and was not built: {entry['why_not']}")
            else:
                print(f"vlae_fast: WARNING: no {library} library: {entry['why_not']}", file=sys.stderr)

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join("vlae_fast", file_of("cpu"))


class TaggedWheel(bdist_wheel):
    def run(self) -> None:
        # Files that an earlier build left there would go into this wheel too, a module long deleted for one.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        platform: str = super().get_tag()[2]
        try:
            target = toolchain.target_of(toolchain.find_compiler())
        except NotBuilt:
            return "py3", "none", platform
        return "py3", "none", toolchain.wheel_platform(target, platform)


def build_requires() -> list[str]:
    """torch's headers are all we need of it: an environment that has them need not download a second copy."""
    try:
        toolchain.find_torch()
    except NotBuilt:
        return ["torch>=" + ".".join(map(str, toolchain.OLDEST_TORCH))]
    return []


setup(
    packages=[*find_packages(include=["vlae_fast", "vlae_fast.*"]), "vlae_fast.kernels"],
    package_dir={"vlae_fast.kernels": "kernels"},
    py_modules=["vlae_fast_start"],
    package_data={
        "vlae_fast.kernels": ["configs.json"],
        "vlae_fast": [
            "py.typed",
            "commands/help.json",
            "pretrained/*/*",
            *(f"explore/*.{kind}" for kind in ("html", "css", "js")),
        ],
    },
    ext_modules=[Extension("vlae_fast._native_cpu", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": TaggedWheel},
    setup_requires=build_requires(),
)
