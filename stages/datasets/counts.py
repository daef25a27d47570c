"""How many refs, images and sentences a published split has, and whether what was read agrees.

Other counts are no error: a part of a data set is a fair choice. But metrics of other refs than the published ones do not
compare with published numbers, so every difference is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.datasets.fields import NO_ID
from stages.datasets.rows import RefRow


@dataclass(frozen=True)
class Counts:
    """Refs, distinct images of these refs, and sentences of one split.

    ``unverified`` names the numbers that are reported, but could not be checked against a source we could open.
    """

    refs: int
    images: int
    sentences: int
    unverified: tuple[str, ...] = ()


def count(refs: Sequence[RefRow], split: str) -> Counts:
    """What was read of ``split``, faulty refs included; an image id that cannot be read is no image."""
    rows = [ref for ref in refs if split in ref.splits]
    images = {ref.image_id for ref in rows} - {NO_ID}
    return Counts(len(rows), len(images), sum(len(ref.sentences) for ref in rows))


def differences(name: str, published: Mapping[str, Counts], refs: Sequence[RefRow]) -> list[str]:
    """A line for each split of data set ``name`` (split -> published counts) whose counts are other than those of ``refs``."""
    lines = []
    for split, expected in published.items():
        actual = count(refs, split)
        differing = [
            f"expected {wanted:,} {number}{note}, found {got:,}"
            for number in _NUMBERS
            if (wanted := getattr(expected, number)) != (got := getattr(actual, number))
            for note in [" (as reported, not verified by us)" if number in expected.unverified else ""]
        ]
        if differing:
            lines.append(f"data set {name}, split {split}: {'; '.join(differing)}")
    return lines


_NUMBERS = ("refs", "images", "sentences")
