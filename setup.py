"""The part of the build that needs code: a shared library for CPUs and one for CUDA, on libtorch's stable ABI.

torch's own BuildExtension gives every file the same flags and binds the library to one Python; here the kernels are
compiled once per instruction set and nothing depends on Python, so a few lines of ninja do it. What to compile is in
csrc/build.json. A build that cannot be done is no error: the reason goes into vlae_fast/_build_report.json.
VLAE_FAST_REQUIRE_CPU=1 and VLAE_FAST_REQUIRE_CUDA=1 make it one; VLAE_FAST_WITHOUT_CUDA=1 builds no CUDA library.
VLAE_FAST_WERROR=1, which .ci/run sets, makes a compiler's warning an error: not for users, whose compiler may have
warnings of its own. Cf. pyproject.toml.
"""

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 10)
OLDEST_NVCC = (12, 1)  # a kernel's parameters of more than 4 KB


class NotBuilt(Exception):  # noqa: N818 - no error where the library is optional
    """Why there is no library."""


class Unit(NamedTuple):
    """A compilation: the rule that does it, and flags beside those of the rule."""

    rule: str
    source: str
    target: str
    flags: list[str]


def find_torch() -> Path:
    """A torch that is new enough: importable, or in the environment that an isolated build installs into."""
    spec = importlib.util.find_spec("torch")  # finds without importing, which takes seconds
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [Path(sysconfig.get_path(name), "torch") for name in ("purelib", "platlib")]
    folders += [Path(folder, "torch") for folder in site.getsitepackages()]
    seen = []
    for folder in folders:
        if (folder / "version.py").is_file():
            found = re.search(r"__version__ = ['\"]((\d+)\.(\d+)[^'\"]*)", (folder / "version.py").read_text())
            if found and (int(found[2]), int(found[3])) >= OLDEST_TORCH:
                if (folder / "include/torch/csrc/stable/library.h").is_file():
                    return folder
                seen.append(f"torch {found[1]} comes without its headers")
            elif found:
                seen.append(f"torch {found[1]} is too old")
    raise NotBuilt(seen[0] if seen else "torch was not found")


def find_compiler() -> list[str]:
    wanted = os.environ.get("CXX")
    for command in [wanted] if wanted else ["c++", "g++", "clang++"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words
    raise NotBuilt(f"no C++ compiler was found (tried {f'CXX={wanted}' if wanted else 'c++, g++, clang++'})")


def find_nvcc() -> list[str]:
    if os.environ.get(unwanted := "VLAE_FAST_WITHOUT_CUDA") == "1":
        raise NotBuilt(f"{unwanted}=1")
    places = (
        [f"{os.environ['CUDA_HOME']}/bin/nvcc"] if os.environ.get("CUDA_HOME") else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    )
    found = next((path for path in map(shutil.which, places) if path), None)
    if found is None or sys.platform != "linux":
        raise NotBuilt("nvcc was not found")
    version = re.search(r"release (\d+)\.(\d+)", version_of([found], line=-2))
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NVCC:
        raise NotBuilt(f"nvcc {version[1]}.{version[2]} is too old" if version else "nvcc does not say its version")
    return [found]


def find_ninja() -> str:
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        found = shutil.which("ninja")
    if found is None:
        raise NotBuilt("ninja was not found")
    return found


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


def torch_flags(plan: dict[str, Any], torch: Path) -> list[str]:
    """Our paths stay relative: the library names no folder."""
    flags = [*plan["cxx_flags"], *warning_flags(plan), *(f"-D{macro}" for macro in plan["define_macros"]), "-Icsrc"]
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
        lines += [f"rule {rule}", command_line, "  depfile = $out.d", "  deps = gcc"]
    lines += ["rule link", f"  command = {words(*link)} -shared $in {words(*after)} -o $out"]
    for unit in units:
        lines += [f"build {unit.target}: {unit.rule} csrc/{unit.source}", f"  more = {words(*unit.flags)}"]
    lines += [f"build {(build / file_of(library)).as_posix()}: link {' '.join(unit.target for unit in units)}", ""]
    (ROOT / build).mkdir(parents=True, exist_ok=True)
    (ROOT / build / "build.ninja").write_text("\n".join(lines), encoding="utf-8")


def prepare_cpu(plan: dict[str, Any]) -> dict[str, Any]:
    """Writes what ninja is to do; returns what the report says of it."""
    compiler, torch, build = find_compiler(), find_torch(), Path("build", "cpu")
    isas = plan["isas"].get({"AMD64": "x86_64"}.get(platform.machine(), platform.machine()), plan["isas"]["other"])
    units = [Unit("compile", source, (build / source).with_suffix(".o").as_posix(), []) for source in plan["common"]]
    units += [
        Unit("compile", source, (build / source).with_suffix(f".{isa}.o").as_posix(), [*flags, f"-DVLAE_ISA={isa}"])
        for isa, flags in isas.items()
        for source in plan["isa_kernels_of"].get(isa, plan["isa_kernels"])
    ]
    if sys.platform == "darwin":  # torch is in the process before this library is
        link = ["-undefined", "dynamic_lookup", *plan["link_flags"]]
    else:  # by soname, without an rpath; a symbol that torch lacks fails here and not on a user's machine
        link = [f"-L{torch / 'lib'}", *(f"-l{name}" for name in plan["libraries"]), "-Wl,-z,defs", *plan["link_flags"]]
    write_ninja("cpu", {"compile": [*compiler, *torch_flags(plan, torch)]}, compiler, link, units)
    return {"isas": list(isas), "compiler": version_of(compiler)}


def prepare_cuda(plan: dict[str, Any]) -> dict[str, Any]:
    """As `prepare_cpu`. libtorch.so is named for what it pulls in: libtorch_cuda.so, where torch has it."""
    nvcc, compiler, torch, build = find_nvcc(), find_compiler(), find_torch(), Path("build", "cuda")
    host, cuda = f"-ccbin={compiler[0]}", plan["cuda"]
    rules = {
        "compile": [*compiler, *torch_flags(plan, torch)],
        "nvcc": [*nvcc, host, *nvcc_flags(plan), *cuda["architectures"].values(), "-Icsrc"],
    }
    units = [
        Unit("nvcc" if source.endswith(".cu") else "compile", source, (build / f"{source}.o").as_posix(), [])
        for source in cuda["sources"]
    ]
    write_ninja("cuda", rules, [*nvcc, host], [f"-L{torch / 'lib'}", *cuda["link_flags"]], units)
    return {"architectures": list(cuda["architectures"]), "compiler": version_of(nvcc, line=-2)}


def file_of(library: str) -> str:
    return f"_native_{library}.so"


def run_ninja(library: str) -> None:
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    command = [find_ninja(), "-f", str(Path("build", library, "build.ninja")), *jobs]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr, flush=True)
        first = re.search(r"^.*(error:|undefined reference).*$", done.stdout, re.MULTILINE)
        raise NotBuilt(f"compilation failed: {first[0] if first else 'see the output of the build'}")


def version_of(compiler: list[str], line: int = 0) -> str:
    done = subprocess.run([*compiler, "--version"], text=True, capture_output=True)
    lines = done.stdout.splitlines()
    return lines[line] if -len(lines) <= line < len(lines) else shlex.join(compiler)


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


class BuildNative(build_ext):
    def run(self) -> None:
        package = Path(ROOT if self.inplace else self.build_lib, "vlae_fast")
        package.mkdir(parents=True, exist_ok=True)
        report = {library: build_library(library, package) for library in PREPARE}
        (package / "_build_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for library, entry in report.items():
            if entry["built"]:
                print(f"vlae_fast: built the {library} library with {entry['compiler']}")
            elif os.environ.get(required := f"VLAE_FAST_REQUIRE_{library.upper()}") == "1":
                raise SystemExit(
                    f"vlae_fast: {required}=1, and the {library} library was not built: {entry['why_not']}"
                )
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
        return "py3", "none", super().get_tag()[2]


def build_requires() -> list[str]:
    """torch's headers are all we need of it: an environment that has them need not download a second copy."""
    try:
        find_torch()
    except NotBuilt:
        return ["torch>=" + ".".join(map(str, OLDEST_TORCH))]
    return []


setup(
    packages=[*find_packages(include=["vlae_fast", "vlae_fast.*"]), "vlae_fast.kernels"],
    package_dir={"vlae_fast.kernels": "kernels"},
    py_modules=["vlae_fast_start"],
    package_data={"vlae_fast.kernels": ["configs.json"], "vlae_fast": ["py.typed", "pretrained/*/*"]},
    ext_modules=[Extension("vlae_fast._native_cpu", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": TaggedWheel},
    setup_requires=build_requires(),
)
