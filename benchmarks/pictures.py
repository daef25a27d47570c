"""Own pictures: `glimpse predict` for all phrases at once, and `glimpse segment` once for each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import Result

PICTURES, SEGMENTED = 20, 5
_WORDS = ("the red star", "the striped circle on the left", "the largest blue square")
PHRASES = PICTURES * len(_WORDS)


def predict() -> Result:
    """60 phrases about 20 scenes with the demo's weights, seconds a phrase: a process for each phrase (the median of 5), and
    one for all, its start and the loading of its models counted in."""
    pictures = sorted(Path("data/refshapes/images").glob("*.png"))[:PICTURES]
    asked = product(_WORDS, pictures)
    rows = [{"image": str(file.absolute()), "phrase": word} for word, file in asked]
    params = ["--params", "demo/params.yaml"]
    with TemporaryDirectory() as folder:
        table = Path(folder, "phrases.jsonl")
        table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        out = Path(folder, "results")
        ours = _seconds(["predict", *map(str, pictures), "--phrases", str(table), "--out", str(out), *params]) / PHRASES
        found = json.loads((out / "predictions.json").read_text())["predictions"]
        times, differing = [], 0
        for row, known in islice(zip(rows, found, strict=True), 0, PHRASES, PHRASES // SEGMENTED):
            overlay = str(Path(folder, "overlay.png"))
            mask = Path(folder, "mask.png")
            times.append(
                _seconds(["segment", row["image"], row["phrase"], "--out", overlay, "--mask", str(mask), *params])
            )
            differing += mask.read_bytes() != (out / known["mask"]).read_bytes()
    note = f"seconds a phrase; error: masks of {len(times)} that differ"
    return Result("predict", median(times), ours, error=float(differing), at_least=15.0, note=note)


def _seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
