"""Ragged columns: rows of unequal length as one flat array and offsets.

Row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``; ``offsets`` is int64 of length rows + 1 and starts at 0. The same
form serves proposals of an image, expressions of an image, pairs of an expression, and the bytes of a string or mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]


def offsets_of(counts: Iterable[int] | NDArray[np.integer]) -> Offsets:
    """Offsets (R+1,) int64 of rows with these lengths (R,).

    >>> offsets_of([2, 0, 1])
    array([0, 2, 2, 3])
    """
    lengths = np.fromiter(counts, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def owners_of(offsets: Offsets) -> NDArray[np.int64]:
    """For every flat row (T,) the index of the row that owns it.

    >>> owners_of(offsets_of([2, 0, 1]))
    array([0, 0, 2])
    """
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


class Bytes(Sequence[bytes]):
    """A column of byte strings kept flat; reading row ``i`` copies only that row.

    >>> column = Bytes.of([b"ab", b"", b"c"])
    >>> column[0], column[-1], len(column)
    (b'ab', b'c', 3)
    """

    def __init__(self, flat: NDArray[np.uint8], offsets: Offsets) -> None:
        self.flat, self.offsets = flat, offsets

    @classmethod
    def of(cls, rows: Iterable[bytes]) -> Bytes:
        rows = list(rows)
        return cls(np.frombuffer(b"".join(rows), np.uint8), offsets_of(map(len, rows)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a column of {len(self)}")
        row %= len(self)
        return self.flat[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, bounds = self.flat.tobytes(), self.offsets.tolist()  # slices of an array cost 20 times as much
        return (data[start:stop] for start, stop in pairwise(bounds))
