"""Keep freed memory mapped while a harvest runs.

A batch's activations are allocated and freed anew with every layer. By default glibc hands blocks of that size back to
the kernel, which zeroes them page by page when they are asked for again: about a tenth of a harvest's time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within the block freed memory stays with the process; afterwards it goes back. Only glibc knows how."""
    name = ctypes.util.find_library("c")
    libc = ctypes.CDLL(name) if name else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
    libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    libc.mallopt(_TOP_PAD, 64 << 20)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
        libc.mallopt(_TOP_PAD, 0)
        libc.malloc_trim(0)
