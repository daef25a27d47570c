"""Text vectors as stage embed_text keeps them as parts: whose code digest covers this module and what it imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.clip.config import backbone_named
from stages.device.memory import rows_for, shrinking
from stages.device.precision import Precision
from store.units import Compute, Result


class Model(Protocol):
    """Which CLIP: an open_clip architecture, a JSON file or a folder, and in which format it computes."""

    @property
    def model(self) -> str: ...

    @property
    def precision(self) -> Precision: ...

    @property
    def image_size(self) -> int: ...


def embedder(params: Model, weights: Path, batch: int | None, device: str) -> Compute:
    """What computes units of strings."""
    backbone = backbone_named(params.model)
    model, tokenizer = backbone.loaded(
        params.model, weights, device=device, precision=params.precision, image_size=params.image_size
    )
    encoder = backbone.text_tower(model, tokenizer, rows_for(device, batch))

    def embed(strings: Sequence[str], kinds: tuple[str, ...]) -> list[Result]:
        pairs = zip(*encoder.encode(strings), strict=True)
        return [Result({"text": {"feature": f[None], "truncated": np.array([cut])}}) for f, cut in pairs]

    return shrinking(embed, encoder, device)
