"""Stage report: one self-contained HTML page about a run, readable offline."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.page.data import Inputs


class Params(BaseParams):
    """How much the page shows."""

    cards: int = Field(6, ge=0, description="pictures of each kind (best, worst, differ; by margin) and split")
    image_width: int = Field(320, ge=64, le=4096, description="width of a picture, pixels")
    seed: int = Field(0, ge=0, description="of the choice among equally good pictures")


class Paths(Inputs):
    report: Path
    outputs: ClassVar[tuple[str, ...]] = ("report",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the page. ``records`` (what each stage took) may be absent: times differ between equal runs."""
    from stages.page.page import write_page  # Pillow and more, which those who only check parameters need not load

    return write_page(paths, paths.report, params.cards, params.image_width, params.seed, context)
