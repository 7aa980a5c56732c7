"""The part of the build that needs code: one shared library for CPUs, on libtorch's stable ABI. Cf. pyproject.toml.

torch's own BuildExtension gives every file the same flags and binds the library to one Python; here the kernels are
compiled once per instruction set and nothing depends on Python, so a few lines of ninja do it. What to compile is in
csrc/build.json. A build that cannot be done is no error: the reason goes into vlae_fast/_build_report.json.
VLAE_FAST_REQUIRE_CPU=1 makes it one.
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
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = Path("build", "cpu")
LIBRARY = "_native_cpu.so"
OLDEST_TORCH = (2, 10)


class NotBuilt(Exception):  # noqa: N818 - no error where the library is optional
    """Why there is no CPU library."""


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


def find_ninja() -> str:
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        found = shutil.which("ninja")
    if found is None:
        raise NotBuilt("ninja was not found")
    return found


def units(plan: dict[str, Any], isas: dict[str, list[str]]) -> list[tuple[str, str, list[str]]]:
    """Source, object and extra flags of each compilation."""

    def object_of(source: str, suffix: str) -> str:
        return (BUILD / source).with_suffix(suffix).as_posix()

    common: list[tuple[str, str, list[str]]] = [(source, object_of(source, ".o"), []) for source in plan["common"]]
    return common + [
        (source, object_of(source, f".{isa}.o"), [*flags, f"-DVLAE_ISA={isa}"])
        for isa, flags in isas.items()
        for source in plan["isa_kernels"]
    ]


def write_ninja(compiler: list[str], torch: Path) -> list[str]:
    """Writes build.ninja; returns the instruction sets. Our paths stay relative: the library names no folder."""
    plan = json.loads((ROOT / "csrc/build.json").read_text(encoding="utf-8"))
    isas = plan["isas"].get({"AMD64": "x86_64"}.get(platform.machine(), platform.machine()), plan["isas"]["other"])

    def words(*args: str) -> str:
        return shlex.join(args).replace("$", "$$")

    flags = [*plan["cxx_flags"], *(f"-D{macro}" for macro in plan["define_macros"]), "-Icsrc"]
    for folder in (torch / "include", torch / "include/torch/csrc/api/include"):
        flags += ["-isystem", str(folder)]
    flags += [f"-ffile-prefix-map={torch}=torch"]
    if sys.platform == "darwin":  # torch is in the process before this library is
        link = ["-undefined", "dynamic_lookup", *plan["link_flags"]]
    else:  # by soname, without an rpath; a symbol that torch lacks fails here and not on a user's machine
        link = [f"-L{torch / 'lib'}", *(f"-l{name}" for name in plan["libraries"]), "-Wl,-z,defs", *plan["link_flags"]]

    lines = [
        f"builddir = {BUILD.as_posix()}",
        "rule compile",  # -MD, not -MMD: another torch at the same place is a reason to compile again
        f"  command = {words(*compiler, *flags)} $more -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {words(*compiler)} -shared $in {words(*link)} -o $out",
    ]
    todo = units(plan, isas)
    for source, target, more in todo:
        lines += [f"build {target}: compile csrc/{source}", f"  more = {words(*more)}"]
    lines += [f"build {(BUILD / LIBRARY).as_posix()}: link {' '.join(target for _, target, _ in todo)}", ""]
    (ROOT / BUILD).mkdir(parents=True, exist_ok=True)
    (ROOT / BUILD / "build.ninja").write_text("\n".join(lines), encoding="utf-8")
    return list(isas)


def run_ninja() -> None:
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    command = [find_ninja(), "-f", str(BUILD / "build.ninja"), *jobs]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr, flush=True)
        first = re.search(r"^.*(error:|undefined reference).*$", done.stdout, re.MULTILINE)
        raise NotBuilt(f"compilation failed: {first[0] if first else 'see the output of the build'}")


def version_of(compiler: list[str]) -> str:
    done = subprocess.run([*compiler, "--version"], text=True, capture_output=True)
    return (done.stdout.splitlines() or [shlex.join(compiler)])[0]


def build_cpu(package: Path) -> dict[str, Any]:
    """Builds the library into `package`, or leaves none there; returns its entry in the report."""
    entry: dict[str, Any] = {"built": False, "why_not": "", "isas": [], "compiler": ""}
    library = package / LIBRARY
    try:
        compiler = find_compiler()
        entry["compiler"] = version_of(compiler)
        isas = write_ninja(compiler, find_torch())
        run_ninja()
    except NotBuilt as error:
        library.unlink(missing_ok=True)
        return entry | {"why_not": str(error)}
    # Replaced in one step: writing into a library that a running process has mapped would crash it.
    fresh = library.with_suffix(".new")
    shutil.copy(ROOT / BUILD / LIBRARY, fresh)
    fresh.replace(library)
    return entry | {"built": True, "isas": isas}


class BuildNative(build_ext):
    def run(self) -> None:
        package = Path(ROOT if self.inplace else self.build_lib, "vlae_fast")
        package.mkdir(parents=True, exist_ok=True)
        cpu = build_cpu(package)
        (package / "_build_report.json").write_text(json.dumps({"cpu": cpu}, indent=2) + "\n", encoding="utf-8")
        if cpu["built"]:
            print(f"vlae_fast: built the cpu library ({', '.join(cpu['isas'])}) with {cpu['compiler']}")
        elif os.environ.get("VLAE_FAST_REQUIRE_CPU") == "1":
            raise SystemExit(f"vlae_fast: VLAE_FAST_REQUIRE_CPU=1, and the cpu library was not built: {cpu['why_not']}")
        else:
            print(f"vlae_fast: WARNING: no cpu library: {cpu['why_not']}", file=sys.stderr)

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join("vlae_fast", LIBRARY)


class TaggedWheel(bdist_wheel):
    def run(self) -> None:
        # What an earlier build left there would go into this wheel too, a module long deleted for one.
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
    package_data={"vlae_fast.kernels": ["configs.json"]},
    ext_modules=[Extension("vlae_fast._native_cpu", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": TaggedWheel},
    setup_requires=build_requires(),
)
