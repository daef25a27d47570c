"""How an image enters a view whose release reads images in another way than the encoder does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from stages.visual.preprocess import Channels, Preprocess
from store.errors import ParameterError

if TYPE_CHECKING:
    from stages.visual.mask_encoder import MaskEncoder

Entry = Literal["release", "encoder"]
"""Normalised and resized as the view's release does, or as this encoder reads images for every other view."""


def preprocess_of(encoder: MaskEncoder, entry: Entry, mean: Channels, std: Channels) -> Preprocess:
    """``release``: this mean and std, tensors resized without antialias; ``encoder``: the encoder's own.

    Raises:
        ParameterError: neither of the two.
    """
    if entry not in get_args(Entry):
        raise ParameterError(f"preprocess: expected one of {', '.join(get_args(Entry))}, got {entry!r}")
    if entry == "encoder":
        return encoder.pixels
    return replace(encoder.pixels, mean=mean, std=std, antialias=False, fill="reference")
