"""Our own code beside a library's for the same work: what each part is worth (docs/performance.md)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.harness import Result, medians
from benchmarks.rescore import COLUMNS, built
from benchmarks.tables import PER_IMAGE, PROPOSALS, VAL, features

Floats = NDArray[np.float32]
LINKED_GIB = float(os.environ.get("GLIMPSE_BENCH_GIB", 2))


def pair_blas() -> Result:
    """The float columns of 10,834 expressions x 60 proposals: a BLAS product for each image, in threads, and as the stage."""
    made = features(VAL)
    expressions, images = len(made.image), len(made.f_local)
    texts = np.stack([made.t_global, made.t_local], 1)
    bounds = [*range(0, expressions, PER_IMAGE), expressions]

    def plain() -> dict[str, Floats]:
        out = {name: np.empty((expressions if name in "abcd" else images) * PROPOSALS, np.float32) for name in COLUMNS}

        def fill(image: int) -> None:
            first, last = bounds[image], bounds[image + 1]
            rows = slice(first * PROPOSALS, last * PROPOSALS)
            both = np.concatenate([made.f_global[image], made.f_local[image]])
            products = texts[first:last].reshape(-1, texts.shape[2]) @ both.T
            by_text = products.reshape(last - first, 2, 2, PROPOSALS)
            for name, (text, view) in zip("abcd", ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
                out[name][rows] = by_text[:, text, view].ravel()
            own, f, l = slice(image * PROPOSALS, (image + 1) * PROPOSALS), made.f_global[image], made.f_local[image]
            for name, (x, y) in {"global_norm": (f, f), "cross_norm": (f, l), "local_norm": (l, l)}.items():
                out[name][own] = np.vecdot(x, y)

        with ThreadPoolExecutor(cpu_count()) as pool:
            list(pool.map(fill, range(images)))
        return out

    with threadpool_limits(1):
        expected, found = plain(), built(made)
        error = max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in "abcd")
        times = medians(plain, lambda: built(made), repeats=5, warm_up=False)
    return Result("pair_blas", *times, error=error, note="one BLAS thread in each of as many threads as cores")


def dvc_add() -> Result:
    """`dvc add` of so many GiB (GLIMPSE_BENCH_GIB, 2 by default): by copies into the cache, and by hard links."""
    return _links()[0]


def dvc_checkout() -> Result:
    """`dvc checkout` of the same."""
    return _links()[1]


@cache
def _links() -> list[Result]:
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        seconds: dict[str, list[float]] = {}
        for kind in ("copy", "hardlink"):
            place = Path(folder, kind)
            place.mkdir()
            seconds[kind] = list(_added_and_checked_out(place, kind))
            shutil.rmtree(place)
    size = f"{LINKED_GIB:g} GiB in 16 files; plain: copies, ours: hard links"
    times = zip(("dvc_add", "dvc_checkout"), seconds["copy"], seconds["hardlink"], strict=True)
    return [Result(name, plain, ours, note=size) for name, plain, ours in times]


def _added_and_checked_out(place: Path, kind: str) -> Iterator[float]:
    def run(*words: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    run("init", "--no-scm", "-q")
    run("config", "cache.type", kind)
    (place / "data").mkdir()
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, int(LINKED_GIB * 2**30 / 16), np.uint8)
    for number in range(16):
        block[:8] = number
        (place / "data" / f"{number}.bin").write_bytes(block.tobytes())
    yield run("add", "-q", "data")
    shutil.rmtree(place / "data")
    yield run("checkout", "-q")
