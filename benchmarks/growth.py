"""How the cost of each kind of work grows: the same call at three sizes, the others held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import open_clip

from benchmarks.expressions import expressions
from benchmarks.freesolo import GOLDEN
from benchmarks.harness import medians
from benchmarks.rescore import CONTEXT, GRID, built
from benchmarks.roofline import THREADS, threads
from benchmarks.tables import VAL, features, pair_table
from benchmarks.visual import K, model, scene
from pipeline.golden.folder import Folder
from stages.proposals.freesolo import FreeSolo
from stages.scoring.fusion import first_best
from stages.scoring.surface import surface
from stages.scoring.table import PairTable
from stages.text.encoder import TextEncoder
from stages.visual.encoder import MaskedClip

IMAGES, MASKS, STRINGS, EXPRESSIONS, PROPOSALS = (
    (1, 2, 4),
    (25, 50, 100),
    (250, 500, 1000),
    (3000, VAL, 33_000),
    (30, 60, 120),
)


def growth() -> Iterator[dict[str, Any]]:
    """Rows of benchmarks/results.json, each printed when it is there."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    clip, texts = MaskedClip(model(), tokenizer), TextEncoder(model(), tokenizer)
    image, masks, boxes, _ = scene()
    folder = Folder(GOLDEN)
    net = FreeSolo.from_state_dict(
        folder.weights.fill(folder.json("freesolo_shapes.json"), folder.weights.SEEDS["freesolo_r101"])
    )

    def more(count: int) -> tuple[Any, ...]:
        """So many masks, the second and third time moved: equal ones would be encoded once."""
        times, rows = np.divmod(np.arange(count), len(masks))
        moved = [np.roll(masks[row], 60 * time, axis=1) for time, row in zip(times, rows, strict=True)]
        return image, np.stack(moved), boxes[rows]

    with threads(THREADS):
        yield row("propose", "images", IMAGES, lambda n: lambda: [net.propose(image) for _ in range(n)])
        yield row(
            "embed_masks", "images of 38 masks", IMAGES, lambda n: lambda: clip.encode_images([scene()[:3]] * n, [K])
        )
        yield row("embed_masks", "masks of an image", MASKS, lambda n: lambda: clip.encode_images([more(n)], [K]))
        strings = list(dict.fromkeys(expressions(5000)))
        yield row("embed_text", "distinct strings", STRINGS, lambda n: lambda: texts.encode(strings[:n]))
    yield row("pair", "expressions of 60 proposals", EXPRESSIONS, lambda n: building(n, 60))
    yield row("pair", f"proposals of {VAL:,} expressions", PROPOSALS, lambda n: building(VAL, n))
    for stage, work in (("score", point), ("sweep", grid)):
        yield row(stage, "expressions of 60 proposals", EXPRESSIONS, lambda n, work=work: work(pair_table(n, 60)))
        yield row(stage, f"proposals of {VAL:,} expressions", PROPOSALS, lambda n, work=work: work(pair_table(VAL, n)))


def row(stage: str, what: str, sizes: Sequence[int], prepare: Callable[[int], Callable[[], object]]) -> dict[str, Any]:
    """Median seconds of what ``prepare`` gives for each size."""
    seconds = [medians(prepare(size), repeats=3)[0] for size in sizes]
    print(
        f"growth: {stage}, {what}: " + ", ".join(f"{n:,}: {s:.3g} s" for n, s in zip(sizes, seconds, strict=True)),
        flush=True,
    )
    return {"stage": stage, "what": what, "sizes": list(sizes), "seconds": seconds}


def building(count: int, proposals: int) -> Callable[[], object]:
    made = features(count, proposals)
    return lambda: built(made)


def point(pairs: PairTable) -> Callable[[], object]:
    return lambda: first_best(pairs.dots.scores(0.85, 0.5), pairs.offsets)


def grid(pairs: PairTable) -> Callable[[], object]:
    return lambda: surface(pairs, GRID, GRID, "count", CONTEXT)
