"""Ragged columns: offsets, owners and byte strings, against lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.ragged import Bytes, offsets_of, owners_of


@given(st.lists(st.integers(0, 5), max_size=8))
def test_offsets_and_owners(counts: list[int]) -> None:
    offsets = offsets_of(counts)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
    assert offsets_of(np.array(counts, np.int32)).tolist() == offsets_of(iter(counts)).tolist() == offsets.tolist()
    assert owners_of(offsets).tolist() == [i for i, n in enumerate(counts) for _ in range(n)]


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(-8, 8), st.integers(-8, 8))
def test_bytes_are_a_sequence(rows: list[bytes], start: int, stop: int) -> None:
    column = Bytes.of(iter(rows))
    assert len(column) == len(rows)
    assert list(column) == rows
    assert column[start:stop] == rows[start:stop]
    assert column[::-1] == rows[::-1]
    for i in range(-len(rows) - 2, len(rows) + 2):
        if -len(rows) <= i < len(rows):
            assert column[i] == rows[i] == column[np.int64(i)]
        else:
            with pytest.raises(IndexError, match=f"row {i} of a column of {len(rows)}"):
                column[i]
