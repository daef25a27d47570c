"""How features become scores."""

from __future__ import annotations

from typing import Literal

ScoreRule = Literal["cosine", "unnormalised"]
"""``cosine``: 100 times the cosine of the mixed vectors. ``unnormalised``, for a ResNet: 100 f.t, where local and text
vectors count by direction only and the global vector keeps its norm."""
