"""CLIP features of masks and texts: a mask encoder and a text encoder that share one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.clip.backbone import Masking, backbone_of
from stages.visual.mask_encoder import Features, MaskEncoder, PreprocessKind
from stages.visual.preprocess import Fill
from store.errors import ParameterError


class MaskedClip(MaskEncoder):
    """`MaskEncoder`, and the text vectors of the same model. ``batch`` bounds texts in a forward pass as it does masks.

    Stage embed_masks takes `MaskEncoder` alone, so that its results do not depend on the code for texts.
    """

    def __init__(
        self,
        open_clip_model: nn.Module,
        tokenizer: Callable[..., Tensor],
        preprocess: PreprocessKind = "reference",
        *,
        short_side: int = 800,
        fill: Fill = "reference",
        antialias: bool | None = None,
        masking: Masking = "token",
        batch: int = 64,
    ) -> None:
        super().__init__(
            open_clip_model,
            preprocess,
            short_side=short_side,
            fill=fill,
            antialias=antialias,
            masking=masking,
            batch=batch,
        )
        self._text = backbone_of(open_clip_model).text_tower(open_clip_model, tokenizer, batch)

    def text_features(self, strings: Sequence[str]) -> Features:
        """Text vectors, raw: float32 (S, D). The tokenizer cuts strings over the context length (see `truncated`)."""
        _check_strings(strings)
        return self._text.encode(strings)[0] if strings else np.zeros((0, self.dim), np.float32)

    def truncated(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Which strings have more tokens than the model reads (77 in CLIP, start and end included): bool (S,)."""
        _check_strings(strings)
        return self._text.truncated(strings)


def _check_strings(strings: Sequence[str]) -> None:
    if isinstance(strings, str):
        raise ParameterError(f"strings: expected a sequence of strings, got one string, {strings!r}; wrap it in a list")
