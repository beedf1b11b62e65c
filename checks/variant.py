"""Builds of the extension with other compiler flags, each in a folder of its own under `.work`.

A folder holds links to the package's modules and its own extension, so the normal one is never touched. With the folder
first in PYTHONPATH, `import eomirror` gives the variant.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".work"
MADE_HERE = {"_fastpath.c", "_fastpath.html", "__pycache__"}
# Copied, not linked: coverage looks for the generated C beside the files that a link leads to.
COPIED = {"_fastpath.pyx", "_fastpath.pxd", "fastpath"}
SANITIZED = "-g1 -O1 -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=all"
TRACED = "-fsanitize-coverage=trace-pc,trace-cmp"


SKIPPED = 77  # the exit code of a check that this machine cannot make; `make test` counts it as skipped


class CannotCheck(Exception):
    """A build or a tool failed; the message is its output."""


class Missing(CannotCheck):
    """The machine lacks something; the message names it and what gives it."""


@dataclass(frozen=True)
class Variant:
    """One way to build the extension: added compiler flags, and the files that setup.py is told of."""

    name: str
    cflags: str
    linetrace: bool = False
    edges: bool = False

    @property
    def folder(self) -> Path:
        return WORK / self.name

    def build(self) -> Path:
        """The folder to put first in PYTHONPATH; built anew only if the kernel, the flags or the compiler changed.

        Processes that want the same one wait for each other, and find it as the first has left it.
        """
        WORK.mkdir(exist_ok=True)
        with (WORK / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._built()

    def _built(self) -> Path:
        package = self.folder / "eomirror"
        stamp, wanted = self.folder / "stamp", self._stamp()
        if stamp.exists() and stamp.read_text() == wanted:
            self._link(package)
            return self.folder
        shutil.rmtree(self.folder, ignore_errors=True)
        self._link(package)
        for path in kernel_files():
            copy = self.folder / path.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        if self.linetrace:
            # Coverage looks for the generated C of an included file one folder up only if that file's is a package.
            (package / "fastpath" / "__init__.py").touch()
        environment = {**os.environ, "EOMIRROR_CFLAGS": self.cflags, "EOMIRROR_LDFLAGS": ""}
        if self.linetrace:
            environment["EOMIRROR_LINETRACE"] = "1"
        if self.edges:
            edges = str(self.folder / "edges.o")
            self._call([*compiler(), "-O2", "-fPIC", "-c", str(ROOT / "checks/edges.c"), "-o", edges], environment)
            environment["EOMIRROR_LDFLAGS"] = edges
        self._call([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], environment)
        stamp.write_text(wanted)
        return self.folder

    def _stamp(self) -> str:
        seen = hashlib.sha256(repr((self, sys.version, compiler_version())).encode())
        for path in [ROOT / "setup.py", Path(__file__), ROOT / "checks/edges.c", *kernel_files()]:
            seen.update(path.read_bytes())
        return seen.hexdigest()

    def _link(self, package: Path) -> None:
        """Links that are right stay: somebody may be importing from them."""
        package.mkdir(parents=True, exist_ok=True)
        modules = (ROOT / "eomirror").iterdir()
        wanted = {package / p.name: p for p in modules if p.name not in COPIED | MADE_HERE and p.suffix != ".so"}
        wanted |= {self.folder / name: ROOT / name for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE")}
        for old in [*package.iterdir(), *self.folder.iterdir()]:
            if old.is_symlink() and old.readlink() != wanted.get(old):
                old.unlink()
        for link, path in wanted.items():
            if not link.is_symlink():
                link.symlink_to(path)

    def _call(self, command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotCheck(f"{' '.join(command)} failed\n{done.stdout}{done.stderr}")


def kernel_files() -> list[Path]:
    """What the extension is compiled from."""
    package = ROOT / "eomirror"
    return sorted([*package.glob("_fastpath.p[yx][xd]"), *package.glob("fastpath/*")])


def compiler() -> list[str]:
    """The compiler that builds extensions here."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def compiler_version() -> str:
    """For example `gcc 12.2.0`."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    first = done.stdout.splitlines()[0] if done.stdout else "no compiler"
    return f"{Path(compiler()[0]).name} {first.split()[-1]}" if done.returncode == 0 else first


def runtimes(*names: str) -> str:
    """The sanitizers' shared libraries of this compiler, for LD_PRELOAD. Raises Missing when it has none."""
    found = []
    for name in names:
        command = [*compiler(), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if not os.path.isabs(path):
            raise Missing(
                f"{compiler()[0]} has no {name}\nhint: The sanitizers of gcc are used: apt-get install gcc, and CC=gcc."
            )
        found.append(path)
    return " ".join(found)


def sanitized() -> Variant:
    """Address and undefined-behaviour sanitizer, edges counted for a fuzzer, the planted over-read waiting."""
    return Variant("sanitized", f"{SANITIZED} {TRACED} -DEOMIRROR_PLANTED_OVERREAD", edges=True)


def traced() -> Variant:
    """Every line of the kernel reports itself, those that run without the GIL too."""
    return Variant("traced", "-O0", linetrace=True)
