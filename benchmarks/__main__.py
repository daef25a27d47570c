"""Run every benchmark and print one line each: plain seconds, our seconds, ratio, largest error."""

from __future__ import annotations

from benchmarks.rescore import rescore_one

if __name__ == "__main__":
    print(f"{'name':<14}{'plain s':>10}{'ours s':>10}{'ratio':>8}{'error':>10}")
    for result in (rescore_one(),):
        print(f"{result.name:<14}{result.plain:>10.4f}{result.ours:>10.4f}{result.ratio:>8.0f}{result.error:>10.1e}")
