"""FreeSOLO's settings, and the released values of all of them (arXiv 2202.12181; decoding of SOLOv2, arXiv 2003.10152
sec. 3), declared here only: the parameters of stage `propose` and `FreeSolo` take their defaults from them. No torch.
"""

from dataclasses import dataclass

from stages.device.precision import Precision
from stages.proposals.boxes import RULES, BoxRule
from store.errors import ParameterError

PRECISION: Precision = "float32"
SHORT_SIDE = 800
"""Pixels of the short side of the network's input."""
STRIDES = (8, 8, 16, 32, 32)
"""Of the levels of the feature pyramid, finest first."""


@dataclass(frozen=True)
class DecodeSettings:
    """How proposals are chosen. The defaults are the released ones; lower thresholds keep more."""

    score_threshold: float = 0.1  # of a cell's class probability, before the masks, exclusive
    update_threshold: float = 0.05  # of the score after matrix NMS, inclusive
    max_candidates: int = 500  # this many of the best enter matrix NMS
    max_proposals: int = 100  # this many of the best leave it
    box: BoxRule = "reference"
    strides: tuple[int, ...] = STRIDES  # a mask of a level must cover more pixels (of the mask features) than this

    def __post_init__(self) -> None:
        for name in ("score_threshold", "update_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        for name in ("max_candidates", "max_proposals"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.box not in RULES:
            raise ParameterError(f"box: expected {' or '.join(map(repr, RULES))}, got {self.box!r}")


RELEASED = DecodeSettings()
