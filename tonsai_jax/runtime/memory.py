"""Memory: the peak of a run, what its process holds on the host, and how the C library (glibc) keeps and returns it.

psutil is imported where it is used, so that the benchmarks can read the peak on a machine without it.
"""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import Any

import jax

HUGE_PAGE = 2**21  # bytes
SMALL_PARAMETERS = 20e6  # a model below fits on every device that one would train on; looking closer takes a second


def peak_memory_bytes() -> int:
    """The most memory that this run has used so far: of the fullest local device, or of this process on a CPU."""
    stats: list[dict[str, Any] | None] = [device.memory_stats() for device in jax.local_devices()]
    on_devices = [stat["peak_bytes_in_use"] for stat in stats if stat and "peak_bytes_in_use" in stat]
    if on_devices:
        return max(on_devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA says that a device has not enough memory.

    On a CPU the status is INTERNAL where the step was already dispatched; only the message says "Out of memory".
    """
    words = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in words)


def host_memory_bytes() -> int:
    """The memory of the host that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def memory_now() -> dict[str, float]:
    """Metrics in GiB: what this process holds on the host, and what the fullest local device holds, where it says so."""
    stats: list[dict[str, Any] | None] = [device.memory_stats() for device in jax.local_devices()]
    on_devices = [stat["bytes_in_use"] for stat in stats if stat and "bytes_in_use" in stat]
    devices = {"memory/device_gib": max(on_devices) / 2**30} if on_devices else {}
    return {"memory/host_gib": host_memory_bytes() / 2**30} | devices


def host_memory_limit() -> int:
    """The memory of the machine, or of the container (cgroup) that this process runs in, where that is less."""
    import psutil

    total = psutil.virtual_memory().total
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # of version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            total = min(total, int(Path(file).read_text()))
    return total


def keep_freed_memory() -> None:
    """Makes malloc keep freed blocks, on huge pages; call it before JAX starts its threads. Only on Linux with glibc.

    A step on a CPU allocates its scratch memory and frees it again. Without this call each allocation is a new mapping of small
    pages, which the system must clear one by one; that can take more time than the arithmetic.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # names of mallopt's parameters in malloc.h
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
        _put_heap_on_huge_pages()


def return_freed_memory() -> None:
    """Gives freed memory back to the system; call it after a compilation and after a save.

    glibc keeps freed blocks, but does not always reuse them. Without this call a process grows from save to save.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
        _put_heap_on_huge_pages()


def _put_heap_on_huge_pages() -> None:
    """Extends the heap by addresses for half of the machine's memory, and asks for huge pages there."""
    import psutil

    malloc, free, madvise = _glibc("malloc"), _glibc("free"), _glibc("madvise")
    if malloc is None or madvise is None:
        return
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    huge_pages = 14  # MADV_HUGEPAGE in sys/mman.h
    size = psutil.virtual_memory().total // 2
    block = malloc(size)
    if block:  # NULL on a system that gives out no more addresses than it has memory
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        madvise(start, block + size - start, huge_pages)
        free(block)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
