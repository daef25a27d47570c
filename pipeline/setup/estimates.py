"""What a run will take, stage by stage, told before it from the annotations: rough figures of memory and disk.

The counts come from the annotations; the number of proposals is a guess until they exist: `PROPOSED` of the most that the
profile allows, all of these where another program made them. The terms were fitted by hand, from above, to runs of the small
models: the demo (300 images, two at once), one image with one expression, one with 20,000, and two with 1,000 masks and 400
refs each; and to four images at the true sizes, two at once (tests/faults/test_limits.py has what they took). What these do not
show is assumed, not measured: how it grows with more workers, and what `variants` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.project import Project
from pipeline.registry import PER_ENCODER, STAGES
from stages.device.threads import AT_ONCE
from stages.heat_maps.known import HEAT_MAPS
from stages.proposals.registry import SOURCES

PROPOSED = 0.75
"""Share of ``propose.max_proposals`` that a network proposes for an image on the average."""
WIDTH = 512
"""Numbers of a vector of ViT-B/32: where the model's config does not say."""
_PLAIN, _WITH_NUMBA, _WITH_TORCH = 100_000_000, 280_000_000, 700_000_000
_WITH_ENCODER, _WITH_SPACY = 900_000_000, 700_000_000
"""Bytes of a process that has done nothing yet: with numpy and HDF5; with numba, which compiles; with torch; with torch and
open_clip; with spaCy and its model."""
_PASSES = 150_000_000
"""Bytes that the forward passes of a view take, and libraries keep for the next ones."""


@dataclass(frozen=True)
class Counts:
    """What the chosen data sets have, and the bytes of their annotation files."""

    images: int = 0
    refs: int = 0
    expressions: int = 0
    annotation_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes of memory at the peak, and of disk for parts and outputs, that a stage takes (all encoders together)."""

    stage: str
    memory: int
    disk: int

    def __str__(self) -> str:
        return f"{self.stage}: about {self.memory / 2**20:,.0f} MiB of memory, {self.disk / 2**20:,.0f} MiB of disk"


def estimates(
    values: Project,
    counts: Counts,
    weights: Mapping[str, int],
    generator: int,
    workers: int = 0,
    widths: Mapping[str, int] | None = None,
    cores: int = 1,
) -> list[Estimate]:
    """What each stage takes, in the order of the flow.

    Args:
        counts: of the chosen data sets.
        weights: encoder -> bytes of its weights file, 0 where there is none yet.
        generator: bytes of ``propose.input``.
        workers: processes that compute at once, 0 for this one.
        widths: encoder -> numbers of a vector, ``WIDTH`` where it is not known.
        cores: of the machine, which share out the images of a process.
    """
    of_an_image = values.propose.max_proposals * (PROPOSED if SOURCES[values.propose.source].input_is_weights else 1)
    proposals, pairs = int(counts.images * of_an_image), int(counts.expressions * of_an_image)
    views = len(values.embed_masks.views) + len(values.embed_masks.masked_blocks) - 1
    processes, encoders = max(1, workers), len(values.encoders)
    mask_bytes, pair_bytes = 320 * proposals, pairs * (28 + 16 * views)
    vector = 4 * max((widths or {}).values(), default=WIDTH)
    crossed = int(counts.refs * of_an_image)
    tables = 800 * counts.refs + 300 * counts.expressions
    images = processes * max(1, min(AT_ONCE, cores // processes, counts.images))  # whose activations are held at once
    encoder = (_WITH_ENCODER + 3 * max(weights.values(), default=0)) * processes
    propose, passes = _networks(values, generator, views, processes, images)
    texts = 2 * counts.expressions
    taken: dict[str, tuple[int, int]] = {
        "index": (_PLAIN + 8 * counts.annotation_bytes + tables, tables),
        "propose": (propose + 2 * mask_bytes, 3 * mask_bytes),
        "embed_masks": (encoder + passes + mask_bytes, 2 * proposals * views * vector + 2**20),
        "parse": (_WITH_SPACY * processes + tables + 2_500 * counts.expressions, 5 * tables // 2),
        "embed_text": (encoder + 2 * texts * vector, 2 * texts * vector),
        "overlap": (_PLAIN + mask_bytes + tables + 56 * crossed, 24 * crossed),
        "heat": _heat(values, counts, encoder, mask_bytes, pairs),
        "pair": (_WITH_NUMBA + 3 * pair_bytes + 2 * views * vector * proposals, pair_bytes),
        "score": (_PLAIN + 3 * pair_bytes, 6 * pairs + 100 * counts.expressions),
        "ablations": (_PLAIN + 2 * pair_bytes, 0),
        "sweep": (_WITH_NUMBA + 2 * pair_bytes, 0),
        "report": (11 * _PLAIN // 5 + 2 * pair_bytes, 5_000_000),
    }
    taken["variants"] = _variants(values, max(memory for memory, _ in taken.values()), pair_bytes)
    return [
        Estimate(stage, taken[stage][0], taken[stage][1] * (encoders if stage in PER_ENCODER else 1))
        for stage in STAGES
    ]


def _networks(values: Project, generator: int, views: int, processes: int, images: int) -> tuple[int, int]:
    """Of stage propose all but the masks, and of embed_masks what the forward passes take, for ``images`` at once."""
    most, short = values.propose.max_proposals, max(values.propose.short_side, values.embed_masks.short_side)
    propose = _WITH_TORCH // 2 + 8 * generator
    if SOURCES[values.propose.source].input_is_weights:
        propose = (_WITH_TORCH + 2 * generator) * processes + 2_300 * short**2 * images
    return propose, _PASSES * (views + 1) + (200 + 8 * most) * short**2 * images


def _variants(values: Project, most: int, pair_bytes: int) -> tuple[int, int]:
    """Of stage variants: the stages that take ``most`` run again, and a pair table of each is kept."""
    reruns = len(values.variants.switches) + len(values.variants.sources) + len(values.variants.templates)
    return (most if reruns else _PLAIN), reruns * pair_bytes


def _heat(values: Project, counts: Counts, encoder: int, masks: int, pairs: int) -> tuple[int, int]:
    """Of stage heat: a map for each expression as part, column and in memory, two means a pair."""
    kinds = [HEAT_MAPS[name] for name in values.heat.maps]
    held = sum(kind.map_bytes * counts.expressions + 8 * pairs for kind in kinds)
    return (encoder + masks + 2 * held if kinds else _PLAIN), 2 * held
