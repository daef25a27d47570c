"""FreeSOLO at its official size: the network as it is written down, and as `FreeSolo.from_state_dict` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Result, medians
from pipeline.golden.folder import Folder
from stages.proposals.freesolo import FreeSolo, load_network, padded
from stages.proposals.network import RawOutput

GOLDEN = Path(__file__).parent.parent / "tests/golden"
THREADS = 2


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
        peak = peak_gflops()
    wanted, found = (plain.decode(output, 0, size, original) for output in (expected, raw))
    same = wanted.masks.shape == found.masks.shape
    flipped = f"{(wanted.masks != found.masks).sum((1, 2)).max()} px" if same else "other proposals"
    scores = f"{np.abs(wanted.scores - found.scores).max():.1e}" if same else "other proposals"
    work, less = (gflop(net, batch) for net in (plain, ours))
    note = (
        f"{len(found.scores)} proposals, most flipped in a mask {flipped}, scores within {scores}; "
        f"preprocess {preprocess:.3f} s, network {forward:.2f} s, decode {decode:.3f} s; "
        f"roofline: {work:.0f} GFLOP plain, {less:.0f} ours; matrix products reach {peak:.0f} GFLOP/s here, "
        f"plain {work / plain_seconds / peak:.0%} of that, ours {less / seconds / peak:.0%}"
    )
    return Result("freesolo", plain_seconds, seconds, error=raw_error(raw, expected), at_least=1.3, note=note)


def raw_error(got: RawOutput, expected: RawOutput) -> float:
    """The largest relative error (L2 norm) of the network's outputs, each level's by itself."""
    return max(relative(a, b) for a, b in zip(flat(got), flat(expected), strict=True))


def flat(raw: RawOutput) -> Sequence[Tensor]:
    return [*raw.category_logits, *raw.kernels, raw.mask_features]


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def gflop(net: FreeSolo, batch: Tensor) -> float:
    """Multiplications and additions of the convolutions and matrix products of one forward pass, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        net.forward(batch)
    return counter.get_total_flops() / 1e9


def peak_gflops(sizes: Sequence[int] = (512, 1024, 2048)) -> float:
    """10^9 float32 operations a second that square matrix products reach here, the best of a few sizes and runs."""
    best = 0.0
    for size in sizes:
        product = partial(torch.mm, torch.randn(size, size), torch.randn(size, size))
        seconds = min(medians(product, repeats=1)[0] for _ in range(5))
        best = max(best, 2 * size**3 / seconds / 1e9)
    return best


@contextmanager
def threads(count: int) -> Iterator[None]:
    """At most ``count`` threads for torch within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
