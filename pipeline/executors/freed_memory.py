"""Makes a worker give freed memory back to the system."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_BYTES = 1 << 20


def return_freed_memory() -> None:
    """Have glibc's malloc return blocks of a mebibyte and more when they are freed; nothing with another C library.

    Left to itself it raises that size to 32 MiB after the first large block is freed. Tensors of many different sizes then
    share one heap, it fragments, and a worker's memory grows with the number of documents.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
