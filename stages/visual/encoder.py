"""CLIP features of masks and texts: a mask encoder and a text encoder that share one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stages.clip.backbone import Masking, backbone_of
from stages.views.known import VIEWS
from stages.visual.mask_encoder import MaskEncoder, PreprocessKind
from stages.visual.passes import Boxes, Features, Masks
from stages.visual.preprocess import Fill, Prepared
from store.errors import ParameterError


class MaskedClip(MaskEncoder):
    """`MaskEncoder`, and the text vectors of the same model. ``batch`` bounds the texts of a forward pass, too.

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

    def view_features(
        self, name: str, image: Image.Image | Prepared, masks: Masks, boxes: Boxes | None = None, **arguments: Any
    ) -> Features:
        """The vectors of masks by the view ``name`` (`stages.views`), raw: float32 (N, D).

        Args:
            image: PIL RGB, or what `prepare` made of it. masks: bool (N, H, W) of its size.
            boxes: float (N, 4), XYXY pixels, for views that read them; by default the tight boxes of the masks.
            arguments: the view's own, as ``masked_blocks`` of view ``global``.

        Raises:
            ParameterError: no such view, with the nearest name; an encoder that does not offer it; an argument that it
                does not know; or masks and boxes of another form.
        """
        view, prepared = VIEWS[name], self.prepared(image, masks)
        view.check_backbone(backbone_of(self.model).name)
        running = view.open(self, {name: arguments})
        running.add(prepared, masks, tight_boxes(masks) if boxes is None else boxes)
        return running.finish()[name][0].vectors

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


def tight_boxes(masks: Masks) -> NDArray[np.float32]:
    """The smallest boxes around masks bool (N, H, W): float32 (N, 4), XYXY pixels, x2 and y2 exclusive; 0 for empty ones."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for axis, start in ((1, 0), (2, 1)):  # over rows for x, over columns for y
        lines = np.asarray(masks.any(axis=axis))
        boxes[:, start] = lines.argmax(1)
        boxes[:, start + 2] = np.where(np.asarray(lines.any(axis=1)), lines.shape[1] - lines[:, ::-1].argmax(1), 0)
    return boxes
