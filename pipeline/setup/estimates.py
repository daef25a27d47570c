"""What a run will take, stage by stage, told before it from the annotations: rough figures of memory and disk.

The counts come from the annotations; the number of proposals is a guess until they exist: `PROPOSED` of the most that the
profile allows. The terms were fitted by hand to one run of the demo (300 images). What that run does not show is assumed,
not measured: the memory of `embed_masks` and `variants`, and how all of it grows with weights, input size and larger data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.project import Project
from pipeline.registry import PER_ENCODER, STAGES
from stages.heat_maps.known import HEAT_MAPS

PROPOSED = 0.6
"""Share of ``propose.max_proposals`` that an image has on the average."""
_WIDTH = 512 * 4
"""Bytes of a vector: those of ViT-B/32; of others up to twice as many."""
_PLAIN, _WITH_TORCH, _WITH_SPACY = 100_000_000, 700_000_000, 700_000_000
"""Bytes of a process that has done nothing yet: with numpy and HDF5; with torch; with spaCy and its model."""


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
    values: Project, counts: Counts, weights: Mapping[str, int], generator: int, workers: int = 0
) -> list[Estimate]:
    """What each stage takes, in the order of the flow.

    Args:
        counts: of the chosen data sets.
        weights: encoder -> bytes of its weights file, 0 where there is none yet.
        generator: bytes of ``propose.input``.
        workers: processes that compute at once, 0 for this one.
    """
    proposals = int(counts.images * values.propose.max_proposals * PROPOSED)
    pairs = int(counts.expressions * values.propose.max_proposals * PROPOSED)
    views = len(values.embed_masks.views) + len(values.embed_masks.masked_blocks) - 1
    encoders, largest = len(values.encoders), max(weights.values(), default=0)
    processes = max(1, workers)
    mask_bytes, pair_bytes = 320 * proposals, pairs * (24 + 16 * views)
    tables = 800 * counts.refs + 300 * counts.expressions
    short = max(values.propose.short_side, values.embed_masks.short_side)
    network = (_WITH_TORCH + 2 * generator + 2_300 * short**2) * processes
    encoder = (_WITH_TORCH + 3 * largest) * processes
    texts = 2 * counts.expressions
    taken: dict[str, tuple[int, int]] = {
        "index": (_PLAIN + 8 * counts.annotation_bytes + tables, tables),
        "propose": (network + 2 * mask_bytes, 3 * mask_bytes),
        "embed_masks": (encoder + mask_bytes + 9 * 2_300 * short**2 // 4, 2 * proposals * views * _WIDTH),
        "parse": (_WITH_SPACY * processes + tables, 2 * tables),
        "embed_text": (encoder + 2 * texts * _WIDTH, 2 * texts * _WIDTH),
        "overlap": (_PLAIN + mask_bytes + tables + 24 * counts.refs * proposals // max(counts.images, 1), 0),
        "heat": _heat(values, counts, encoder, mask_bytes, pairs),
        "pair": (2 * _PLAIN + 3 * pair_bytes + 2 * views * _WIDTH * proposals, pair_bytes),
        "variants": (2 * _PLAIN + 3 * pair_bytes, 0),
        "score": (_PLAIN + 3 * pair_bytes, 4 * pairs + 100 * counts.expressions),
        "ablations": (_PLAIN + 2 * pair_bytes, 0),
        "sweep": (2 * _PLAIN + 2 * pair_bytes, 0),
        "report": (2 * _PLAIN + 2 * pair_bytes, 5_000_000),
    }
    reruns = len(values.variants.switches) + len(values.variants.sources) + len(values.variants.templates)
    taken["overlap"] = (taken["overlap"][0], 16 * counts.refs * proposals // max(counts.images, 1))
    taken["variants"] = (
        max(taken[stage][0] for stage in STAGES if stage != "variants") if reruns else _PLAIN,
        reruns * pair_bytes,
    )
    return [
        Estimate(stage, taken[stage][0], taken[stage][1] * (encoders if stage in PER_ENCODER else 1))
        for stage in STAGES
    ]


def _heat(values: Project, counts: Counts, encoder: int, masks: int, pairs: int) -> tuple[int, int]:
    """Of stage heat: a map for each expression as part, column and in memory, two means a pair."""
    kinds = [HEAT_MAPS[name] for name in values.heat.maps]
    held = sum(kind.map_bytes * counts.expressions + 8 * pairs for kind in kinds)
    return (encoder + masks + 2 * held if kinds else _PLAIN), 2 * held


def memory_of_machine() -> int:
    """Bytes of memory that this process may use: the machine's, or what a container's limit leaves of it; 0 if unknown."""
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
    return min(found, default=0)
