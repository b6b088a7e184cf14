"""Build treadle_backend_cpu._native: every kernel file of csrc once per instruction set level.

A kernel file is any csrc/*.c that is not in HOST_SOURCES; the tables it defines
(`const td_entry KERNEL(x_table)[]`) are found by reading it, so adding a kernel file needs no list.
Objects made by the same command from the same contents are reused, the others are made in parallel.
The module carries a stamp of the sources (src/treadle_backend_cpu/stamp.py), which the probe compares.

    python setup.py -q build_ext --inplace      build into src/treadle_backend_cpu

Settings, all from the environment:
    CC, CFLAGS, LDFLAGS     as usual; CFLAGS come last, so they win
    TREADLE_ONLY=a,b        compile only these kernel files (a.c, b.c)
    TREADLE_LEVELS=base     build only these levels of base,avx2,avx512
    TREADLE_SANITIZE=address|thread     with the sanitizers (tests/sanitize/run.py uses it)
Each combination has its own folder of objects. To build one's own work apart from everybody's:
    TREADLE_ONLY=reduce TREADLE_LEVELS=avx512 python setup.py -q build_ext --build-lib /tmp/mine
and then PYTHONPATH=/tmp/mine finds that build (the Python files are copied there too)."""

import fcntl
import filecmp
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))
from treadle_backend_cpu import stamp  # noqa: E402

PACKAGE = "treadle_backend_cpu"
SOURCES = ROOT / "src" / PACKAGE / "csrc"
HOST_SOURCES = {
    "bind.c",
    "cpuid.c",
    "fail.c",
    "memory.c",
    "module.c",
    "number.c",
    "pool.c",
    "program.c",
    "program_make.c",
    "registry.c",
    "storage.c",
    "topology.c",
}
LEVEL_FLAGS = {
    "base": ["-DTD_ISA=base", "-DTD_VEC=16"],
    "avx2": ["-DTD_ISA=avx2", "-DTD_VEC=32", "-march=x86-64-v3"],
    "avx512": ["-DTD_ISA=avx512", "-DTD_VEC=64", "-march=x86-64-v4", "-mprefer-vector-width=512"],
}
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fPIC",
    "-pthread",
    "-Wall",
    "-Wextra",
]
# Random numbers are equal bit by bit on every machine: no fused multiply-add may appear in them.
FILE_FLAGS = {"random.c": ["-ffp-contract=off"]}
SANITIZE_FLAGS = {
    "": [],
    "address": [
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
    ],
    "thread": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=thread"],
}
TABLE = re.compile(r"^const\s+td_entry\s+KERNEL\((\w+)\)\s*\[\]", re.MULTILINE)


def chosen(variable):
    """Return the names in a comma-separated variable, or None where it is not set."""
    return {name.strip() for name in os.environ[variable].split(",")} if os.environ.get(variable) else None


def levels():
    """Return the levels to build; processors other than x86-64 have one."""
    names = list(LEVEL_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["base"]
    only = chosen("TREADLE_LEVELS")
    return [name for name in names if only is None or name in only]


def kernel_sources():
    """Return the kernel files to build."""
    only = chosen("TREADLE_ONLY")
    found = [path for path in sorted(SOURCES.glob("[!.]*.c")) if path.name not in HOST_SOURCES]
    return [path for path in found if only is None or path.stem in only]


def write_if_changed(path, text):
    """Write a generated file, leaving its time alone when it would stay the same."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def write_tables(folder, kernels):
    """Generate tables.inc, which tells registry.c the tables and levels of this build."""
    tables = [name for path in kernels for name in TABLE.findall(path.read_text())]
    built = levels()
    lines = [f"#define TD_HAS_{level.upper()} {int(level in built)}" for level in LEVEL_FLAGS]
    lines.append("#define TD_TABLES " + " ".join(f"TD_TABLE({name})" for name in tables))
    write_if_changed(folder / "tables.inc", "\n".join(lines) + "\n")


class Recipes:
    """What objects are made from: by contents, since times lie after a checkout, a copy or an edit while compiling."""

    def __init__(self):
        self.digests = {}
        for path in filter(Path.is_file, SOURCES.iterdir()):  # now, before a compiler reads them
            self.digest(path)

    def digest(self, path):
        """Return the hash of a file as it was when first asked for."""
        path = os.path.normpath(path)
        if path not in self.digests:
            self.digests[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return self.digests[path]

    def of(self, target, command):
        """Return the hash of a command and of the files that its compiler read (its .d file); "" if one is gone."""
        try:
            rule = target.with_suffix(".d").read_text().replace("\\\n", " ").split(": ", 1)[1]
            names = [name.replace("\\ ", " ").replace("$$", "$") for name in re.split(r"(?<!\\)\s+", rule.strip())]
            digests = [self.digest(SOURCES / name) for name in names]
        except FileNotFoundError:
            return ""
        return hashlib.sha256("\0".join([*command, *names, *digests]).encode()).hexdigest()

    def made(self, target):
        """Return the recipe that the object was made by; "" without an object."""
        record = target.with_suffix(".recipe")
        return record.read_text() if record.exists() and target.exists() else ""


class Compiler:
    """One configuration: the compiler, its flags, and the folder of objects made with them."""

    def __init__(self, build_temp):
        self.sanitize = os.environ.get("TREADLE_SANITIZE", "")
        if self.sanitize not in SANITIZE_FLAGS:
            sys.exit(f"TREADLE_SANITIZE={self.sanitize}: unknown; use address or thread")
        self.command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        self.flags = FLAGS + SANITIZE_FLAGS[self.sanitize] + shlex.split(os.environ.get("CFLAGS", ""))
        self.link_flags = shlex.split(os.environ.get("LDFLAGS", ""))
        key = [*self.command, self.version(), *self.flags, os.environ.get("TREADLE_ONLY", ""), *levels()]
        self.folder = Path(build_temp) / hashlib.sha256("\0".join(key).encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)

    def version(self):
        """Return what the compiler calls itself; the program ends if there is none."""
        try:
            return subprocess.run([*self.command, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as e:
            sys.exit(f"treadle-backend-cpu needs a C compiler: {e}; install gcc, or name another in CC")

    def jobs(self, kernels):
        """Return (source, object, flags) for every object. Paths are relative to SOURCES: a copied tree is its own."""
        generated = os.path.relpath(self.folder, SOURCES)
        python = ["-I" + sysconfig.get_path("include"), "-I" + generated]
        result = [(name, self.folder / (name[:-2] + ".o"), python) for name in sorted(HOST_SOURCES)]
        result.append((os.path.join(generated, "stamp.c"), self.folder / "stamp.o", []))
        for path in kernels:
            extra = FILE_FLAGS.get(path.name, [])
            for level in levels():
                result.append((path.name, self.folder / f"{path.stem}.{level}.o", [*LEVEL_FLAGS[level], *extra]))
        return result

    def compile(self, job):
        """Compile one object unless it is fresh; return the source's name when that fails."""
        source, target, flags = job
        command = [*self.command, *self.flags, *flags, "-I.", "-c", source]
        made = self.recipes.made(target)
        if made and made == self.recipes.of(target, command):
            return None
        partial = target.with_suffix(".tmp.o")
        record = target.with_suffix(".recipe")
        record.unlink(missing_ok=True)
        files = ["-MMD", "-MF", str(target.with_suffix(".d")), "-MT", "object", "-o", str(partial)]
        done = subprocess.run([*command, *files], cwd=SOURCES, capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        if done.returncode:
            return source
        os.replace(partial, target)
        record.write_text(self.recipes.of(target, command))
        return None

    def build(self, target):
        """Compile what is stale and link it all to target, one process at a time in this folder."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.build_alone(target)

    def build_alone(self, target):
        """Do what build says, under its lock."""
        kernels = kernel_sources()
        write_tables(self.folder, kernels)
        # The stamp comes first: an edit from here on makes a module that does not match, never one that seems to.
        write_if_changed(self.folder / "stamp.c", stamp.declaration())
        self.recipes = Recipes()
        jobs = self.jobs(kernels)
        with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
            broken = sorted({name for name in workers.map(self.compile, jobs) if name})
        if broken:
            sys.exit("cannot compile " + ", ".join(broken))
        partial = target.with_name(target.name + ".tmp")
        flags = SANITIZE_FLAGS[self.sanitize] + self.link_flags
        objects = [str(job[1]) for job in jobs]
        subprocess.run(
            [*self.command, "-shared", "-pthread", *flags, "-o", str(partial), *objects, "-lm"],
            check=True,
        )
        os.replace(partial, target)  # a process that has the old file mapped keeps it


class BuildKernels(build_ext):
    """Build the extension by Compiler instead of setuptools' one command per source."""

    def build_extension(self, extension):
        """Compile and link into the folder that setuptools wants."""
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = ROOT / "build" / "objects" if os.access(ROOT, os.W_OK) else Path(self.build_temp)
        Compiler(folder).build(target)
        if self.build_lib_given and not self.inplace:
            self.copy_python(target.parent)

    def copy_extensions_to_source(self):
        """Put the extension beside the Python files in one step, since the old one may be in use, if it is new."""
        for extension in self.extensions:
            built = Path(self.build_lib) / self.get_ext_filename(extension.name)
            target = ROOT / "src" / PACKAGE / built.name
            if target.exists() and filecmp.cmp(built, target, shallow=False):
                continue
            partial = target.with_name(f"{built.name}.{os.getpid()}")
            shutil.copy2(built, partial)
            os.replace(partial, target)

    def initialize_options(self):
        """Remember nothing yet about where the user wants the result."""
        super().initialize_options()
        self.build_lib_given = False

    def finalize_options(self):
        """Note whether build_ext itself was told the folder of the result."""
        self.build_lib_given = self.build_lib is not None
        super().finalize_options()

    def copy_python(self, folder):
        """Put the Python files beside a private build, so that it imports as the package."""
        source = ROOT / "src" / PACKAGE
        for path in source.rglob("*.py"):
            to = folder / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)


class BuildPython(build_py):
    """Copy the Python files into an empty folder: setuptools would keep, and ship, modules that are gone from here."""

    def run(self):
        """Empty the folder, then copy."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / PACKAGE, ignore_errors=True)
        super().run()


os.chdir(ROOT)  # setuptools reads pyproject.toml from here
setup(
    ext_modules=[Extension(f"{PACKAGE}._native", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPython},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
