"""CRC-32C: the instruction and the tables agree with the definition, and combining is what it says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import reference_format as fmt
from batches import examples
from hypothesis import given
from hypothesis import strategies as st

from eomirror import _fastpath as kernel

noise = bytes((i * i * 31 + i * 7 + 5) & 255 for i in range(70_000))


@examples(60)
@given(st.binary(max_size=300), st.integers(0, (1 << 32) - 1))
def test_agrees_with_the_definition(data: bytes, crc: int) -> None:
    assert kernel.crc32c(data, crc) == kernel.crc32c_table(data, crc) == fmt.crc32c(data, crc)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 4103, 4119, 12_288, 16_384, 20_001, 65_536, 69_999])
def test_agrees_where_three_streams_are_folded(size: int) -> None:
    for start in (0, 1):
        data = noise[start : start + size]
        assert kernel.crc32c(data, 77) == kernel.crc32c_table(data, 77) == fmt.crc32c(data, 77)


@examples(60)
@given(st.binary(max_size=50), st.integers(0, 70_000))
def test_combining_gives_the_whole_s(data: bytes, size: int) -> None:
    other = noise[:size]
    crc = kernel.crc32c(data + other)
    assert kernel.crc32c_combine(kernel.crc32c(data), kernel.crc32c(other), len(other)) == crc
    assert kernel.crc32c(other, kernel.crc32c(data)) == crc


@examples(60)
@given(st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 30), st.integers(0, 1 << 62))
def test_combining_over_zeros_adds_up(crc: int, first: int, second: int) -> None:
    once = kernel.crc32c_combine(crc, 0, first + second)
    assert kernel.crc32c_combine(kernel.crc32c_combine(crc, 0, first), 0, second) == once


@pytest.mark.parametrize("choice", ["table", "auto", ""])
def test_the_implementation_is_chosen_by_cpu_and_environment(choice: str) -> None:
    program = (
        "from eomirror import _fastpath as k;"
        "print(k.crc32c_implementation(), k.crc32c(b'123456789'), k.crc32c(bytes(range(256)) * 64))"
    )
    out = run(program, choice)
    assert out.returncode == 0, out.stderr
    name, known, long = out.stdout.split()
    assert (int(known), int(long)) == (0xE3069283, fmt.crc32c(bytes(range(256)) * 64))
    assert name == ("table" if choice == "table" else native())


def native() -> str:
    with open("/proc/cpuinfo") as cpus:
        return "sse4.2" if " sse4_2 " in cpus.read() and os.uname().machine == "x86_64" else "table"


def test_another_choice_is_refused() -> None:
    out = run("import eomirror._fastpath", "fast")
    assert out.returncode == 1
    assert "EOMIRROR_CRC32C: 'fast' is neither auto nor table" in out.stderr


def run(program: str, choice: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EOMIRROR_CRC32C": choice, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
