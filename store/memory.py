"""How much memory this process may have, and refusing what would not fit before it is read.

What a file unfolds to can be any multiple of its size. What has to be held whole may take half of the memory; a compressed
file may unfold to `MOST_UNFOLDED` times its bytes, as an archive may (``pipeline.setup.unpack``).
"""

from __future__ import annotations

import io
import resource
from pathlib import Path

from store.errors import DataError

MOST_UNFOLDED = 100
"""Times the bytes of a compressed file, of which 1 MiB counts at the least. JSON shrinks to a tenth, pictures hardly."""
_SHARE, _LITTLE = 2, 2**26
_LIST, _DICT, _MEMBER, _TEXT = 64, 232, 40, 56
"""Bytes of CPython objects, rounded up: an empty list, a small dict, a number with its place in a list, the head of a text."""


def memory_of_machine() -> int:
    """Bytes of memory that this process may use: the machine's, or what limits of a container or of the shell (`ulimit -v`)
    leave of it; 0 if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    except (OSError, ValueError, IndexError):
        pass
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        if (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
            found.append(most)
    return min(found, default=0)


def too_much(need: int) -> bool:
    """Whether ``need`` bytes are more than half of the memory; False where it is not known how much there is."""
    return need > _LITTLE and 0 < memory_of_machine() < _SHARE * need


def require_memory(need: int, what: str, remedy: str) -> None:
    """Raise a DataError where ``need`` bytes are `too_much`; ``what`` would take them."""
    if too_much(need):
        raise DataError(
            f"{what} would take about {need:,} bytes of memory, more than half of the {memory_of_machine():,} there are; "
            f"{remedy}"
        )


def most_unfolded(size: int) -> int:
    """Bytes that a compressed file of ``size`` bytes may unfold to."""
    return MOST_UNFOLDED * max(size, 1 << 20)


def json_bytes(text: bytes) -> int:
    """Bytes of memory that the Python values of a JSON text take, from above: text, lists, dicts, and what is in them.

    >>> json_bytes(b"[[], [], []]") > 4 * 64
    True
    """
    counted = {b"[": _LIST, b"{": _DICT, b",": _MEMBER, b":": _MEMBER, b'"': _TEXT // 2}
    return 2 * len(text) + sum(size * text.count(sign) for sign, size in counted.items())


class Unfolding(io.RawIOBase):
    """What is read from a compressed file, refused with a DataError past ``most_unfolded`` of its ``size``.

    For `io.BufferedReader`, which asks for a block at a time, so no more than a block too many is ever held.
    """

    def __init__(self, inner: io.BufferedIOBase, size: int) -> None:
        self._inner, self._size, self._left = inner, size, most_unfolded(size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        got = self._inner.readinto(buffer)
        self._left -= got
        if self._left < 0:
            raise DataError(
                f"its {self._size:,} bytes unfold to more than {most_unfolded(self._size):,}, {MOST_UNFOLDED} times as many: "
                "unpack it yourself if it is what it should be"
            )
        return got

    def close(self) -> None:
        self._inner.close()
        super().close()
