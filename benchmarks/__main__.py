"""Run every benchmark, or those named: a table on the terminal, benchmarks/results.json with the machine described."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.freesolo import freesolo
from benchmarks.growth import growth
from benchmarks.harness import Result
from benchmarks.heat_maps import grad_cam, pooling
from benchmarks.libraries import dvc_add, dvc_checkout, pair_blas
from benchmarks.masks import boxes, decoding, overlap
from benchmarks.pictures import predict
from benchmarks.precision import precision_bf16, precision_fp16
from benchmarks.repro import alpha_repro, noop_repro
from benchmarks.rescore import pair_build, rescore_one, rescore_surface, rescore_surface_full, rescore_weighted
from benchmarks.stream import visual_stream
from benchmarks.text import text
from benchmarks.visual import crops, images_at_once, products, sparse_masking, visual_encode

BENCHMARKS: dict[str, Callable[[], Result]] = {
    "freesolo": freesolo,
    "sparse_masking": sparse_masking,
    "visual_encode": visual_encode,
    "images_at_once": images_at_once,
    "crops": crops,
    "products": products,
    "pooling": pooling,
    "grad_cam": grad_cam,
    "text": text,
    "visual_stream": visual_stream,
    "decode": decoding,
    "boxes": boxes,
    "overlap": overlap,
    "pair_build": pair_build,
    "pair_blas": pair_blas,
    "rescore_one": rescore_one,
    "rescore_weighted": rescore_weighted,
    "rescore_surface": rescore_surface,
    "rescore_surface_full": rescore_surface_full,
    "predict": predict,
    "noop_repro": noop_repro,
    "alpha_repro": alpha_repro,
    "dvc_add": dvc_add,
    "dvc_checkout": dvc_checkout,
    "precision_bf16": precision_bf16,
    "precision_fp16": precision_fp16,
}
RESULTS = Path(__file__).parent / "results.json"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def line(result: Result, row: dict[str, Any]) -> str:
    """A row of the table, and one of its roofline."""
    plain = "-" if result.plain is None else f"{result.plain:.4f}"
    ratio = "-" if result.ratio is None else f"{result.ratio:.1f}"
    error = "-" if result.error is None else f"{result.error:.1e}"
    met = {True: "met", False: "NOT MET", None: ""}[result.met]
    numbers = f"{plain:>10}{result.ours:>10.4f} {result.unit:<8}{ratio:>7}{error:>10}"
    text = f"{result.name:<22}{numbers}  {result.target:<16} {met:<8} {result.note}".rstrip()
    return text if row["roofline"] is None else f"{text}\n{roofline(row)}"


def roofline(row: dict[str, Any]) -> str:
    """What the work must cost on this machine, and the share reached."""
    roof = row["roofline"]
    return (
        f"  stage {row['stage']}: {roof['gflop']:.3g} GFLOP and {roof['gbyte']:.3g} GB in {roof['seconds']:.3g} s; "
        f"this machine: {roof['peak_gflops']:.0f} GFLOP/s, {roof['peak_gbytes']:.1f} GB/s, so {roof['least']:.3g} s at "
        f"least ({roof['bound']}): {roof['share']:.0%} reached"
    )


def main(names: list[str]) -> None:
    """Run the benchmarks called ``names`` (``growth`` too), all by default; other results in the file stay."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = {row["name"]: row for row in kept.get("results", [])}
    grown = kept.get("growth", [])
    print(f"{'name':<22}{'plain':>10}{'ours':>10} {'unit':<8}{'ratio':>7}{'error':>10}  target")
    for name in names or [*BENCHMARKS, "growth"]:
        if name == "growth":
            grown = list(growth())
            continue
        result = BENCHMARKS[name]()
        known[name] = result.row()
        print(line(result, known[name]), flush=True)
    results = [known[name] for name in BENCHMARKS if name in known]
    RESULTS.write_text(json.dumps({"machine": machine(), "results": results, "growth": grown}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
