"""Stage report: one self-contained HTML page about a run, readable offline."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from stages.base import Context, Summary
from stages.base import Params as BaseParams
from stages.base import Paths as BasePaths


class Params(BaseParams):
    """How much the page shows."""

    cards: int = Field(6, ge=0, description="pictures of each kind (best, worst, differ) and split")
    image_width: int = Field(320, ge=64, le=4096, description="width of a picture, pixels")
    seed: int = Field(0, ge=0, description="of the choice among equally good pictures")


class Paths(BasePaths):
    index: Path
    proposals: Path
    parse: Path
    pairs: Path
    scores: Path
    metrics: Path
    ablations: Path
    grid: Path
    images: Path
    records: Path
    report: Path
    outputs: ClassVar[tuple[str, ...]] = ("report",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the page. ``records`` (what each stage took) may be absent: times differ between equal runs."""
    from stages.report.page import write_page  # Pillow and more, which those who only check parameters need not load

    return write_page(params, paths, context)
