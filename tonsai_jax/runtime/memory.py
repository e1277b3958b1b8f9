"""The host's memory: what a process holds, and how the C library (glibc, where there is one) keeps and returns it."""

import ctypes
import sys
from typing import Any

import psutil

HUGE_PAGE = 2**21  # bytes


def host_memory_bytes() -> int:
    """The memory that this process holds on its host now."""
    return psutil.Process().memory_info().rss


def keep_freed_memory() -> None:
    """Lets malloc keep large blocks that are freed, on huge pages; call it before JAX starts its threads.

    A step on a CPU allocates its scratch memory and frees it again. By default each time is a new mapping whose small
    pages the system must clear one by one, which can take more time than the arithmetic.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # names of mallopt's parameters in malloc.h
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
        _put_heap_on_huge_pages()


def return_freed_memory() -> None:
    """Gives memory that was freed back to the system: after a compilation, after a save.

    glibc keeps freed blocks for the next ones, but not always in the same place: without this call a process grows from
    save to save.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)
        _put_heap_on_huge_pages()


def _put_heap_on_huge_pages() -> None:
    """Extends the heap, in addresses only, by half of the machine's memory and asks for huge pages there (Linux)."""
    malloc, free, madvise = _glibc("malloc"), _glibc("free"), _glibc("madvise")
    if malloc is None or madvise is None:
        return
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    huge_pages = 14  # MADV_HUGEPAGE in sys/mman.h
    size = psutil.virtual_memory().total // 2
    block = malloc(size)
    if block:  # a system that does not give out more addresses than memory may say no
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        madvise(start, block + size - start, huge_pages)
        free(block)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
