"""FreeSOLO at its official size: the network as it is written down, and as `FreeSolo.from_state_dict` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.harness import Result, medians
from benchmarks.roofline import THREADS, counted, threads
from pipeline.golden.folder import Folder
from stages.proposals.freesolo import FreeSolo, load_network, padded
from stages.proposals.network import RawOutput

GOLDEN = Path(__file__).parent.parent / "tests/golden"


def freesolo() -> Result:
    """Proposals of one photograph at 800 pixels: R101-FPN in NCHW with its batch norms, against the optimised one."""
    folder = Folder(GOLDEN)
    weights = folder.weights.fill(folder.json("freesolo_shapes.json"), folder.weights.SEEDS["freesolo_r101"])
    image = folder.image("astronaut")
    plain, ours = FreeSolo(load_network(weights)), FreeSolo.from_state_dict(weights)
    pixels = plain.preprocess(image)
    batch, size = padded(pixels)[None], (pixels.shape[1], pixels.shape[2])
    original = (image.height, image.width)
    with threads(THREADS):
        plain_seconds, seconds = medians(lambda: plain.propose(image), lambda: ours.propose(image))
        expected, raw = plain.forward(batch), ours.forward(batch)
        preprocess, forward, decode = medians(
            lambda: ours.preprocess(image),
            lambda: ours.forward(batch),
            lambda: ours.decode(raw, 0, size, original),
            repeats=3,
        )
    wanted, found = (plain.decode(output, 0, size, original) for output in (expected, raw))
    same = wanted.masks.shape == found.masks.shape
    flipped = f"{(wanted.masks != found.masks).sum((1, 2)).max()} px" if same else "other proposals"
    scores = f"{np.abs(wanted.scores - found.scores).max():.1e}" if same else "other proposals"
    work = counted(lambda: ours.forward(batch), ours.network, gbyte=batch.nbytes / 1e9)
    whole = counted(lambda: plain.forward(batch))
    note = (
        f"{len(found.scores)} proposals, most flipped in a mask {flipped}, scores within {scores}; "
        f"preprocess {preprocess:.3f} s, network {forward:.2f} s, decode {decode:.3f} s; "
        f"{whole.gflop:.0f} GFLOP plain, {work.gflop:.0f} ours"
    )
    error, work = raw_error(raw, expected), replace(work, seconds=forward)
    return Result("freesolo", plain_seconds, seconds, error=error, at_least=1.3, note=note, stage="propose", work=work)


def raw_error(got: RawOutput, expected: RawOutput) -> float:
    """The largest relative error (L2 norm) of the network's outputs, each level's by itself."""
    return max(relative(a, b) for a, b in zip(flat(got), flat(expected), strict=True))


def flat(raw: RawOutput) -> Sequence[Tensor]:
    return [*raw.category_logits, *raw.kernels, raw.mask_features]


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())
