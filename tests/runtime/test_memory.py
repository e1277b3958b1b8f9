"""Memory: kept between steps on huge pages, and given back when asked. Each test has a process of its own to spoil."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, re
from tonsai_jax.runtime.memory import host_memory_bytes, keep_freed_memory, return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def huge_pages():
    return 1024 * int(re.search(r"AnonHugePages:\\s+(\\d+)", open("/proc/self/smaps_rollup").read())[1])

def grow(megabytes=256):
    before = host_memory_bytes()
    block = libc.malloc(megabytes << 20)
    ctypes.memset(block, 1, megabytes << 20)
    huge = huge_pages()
    libc.free(block)
    return (host_memory_bytes() - before) >> 20, huge >> 20

"""


def results_of(lines: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT + lines], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told what to do on Linux with glibc only")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    (grown, _) = results_of("print(*grow())")
    assert grown < 64, "without the call a large block that is freed leaves the process at once"
    kept, again, returned = results_of(
        "keep_freed_memory()\n"
        "start = host_memory_bytes()\n"
        "print(grow()[0], grow()[0])\n"
        "return_freed_memory()\n"
        "print(max(0, host_memory_bytes() - start) >> 20)"
    )
    assert kept > 200
    assert again < 64, "the second block should have come out of the memory of the first"
    assert returned < 64


def _huge_pages_on_request() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text(encoding="utf-8")


@pytest.mark.full
@pytest.mark.skipif(not _huge_pages_on_request(), reason="this system gives no huge pages on request")
def test_the_heap_lies_on_huge_pages_also_after_memory_was_returned() -> None:
    first, second = results_of("keep_freed_memory()\nprint(grow()[1])\nreturn_freed_memory()\nprint(grow()[1])")
    assert first > 200
    assert second > 200
