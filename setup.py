"""Builds the one compiled extension; everything else is declared in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LINETRACE = "EOMIRROR_LINETRACE" in os.environ  # for `make coverage`; never in a build that is used
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "linetrace": LINETRACE,
}

fastpath = Extension(
    "eomirror._fastpath",
    ["eomirror/_fastpath.pyx"],
    depends=[str(p) for p in Path("eomirror/fastpath").glob("*")] + ["eomirror/_fastpath.pxd"],
    define_macros=[("CYTHON_TRACE_NOGIL", "1")] if LINETRACE else [],
    extra_compile_args=["-O3", *os.environ.get("EOMIRROR_CFLAGS", "").split()],
    extra_link_args=os.environ.get("EOMIRROR_LDFLAGS", "").split(),
)

setup(ext_modules=cythonize([fastpath], compiler_directives=DIRECTIVES))
