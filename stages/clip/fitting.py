"""Tensors of a file into a built CLIP: other names for them, other input sizes, and what is said where they do not fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.clip.layouts import from_hugging_face, is_hugging_face, looks_like
from stages.clip.siglip import from_siglip, is_siglip
from stages.clip.suggest import fitting_models
from store.errors import WeightsError

NAMES_SHOWN = 6
_TEXT = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
"""What stands under ``text.`` in open_clip's CustomTextCLIP, and at the top in its CLIP."""
_SCALARS = ("logit_scale", "logit_bias")
_POSITIONS = ("visual.positional_embedding", "visual.attnpool.positional_embedding", "visual.trunk.pos_embed")


def load_into(net: nn.Module, state: Mapping[str, Tensor], path: Path, model: str, *, quiet: bool = False) -> None:
    """Load ``state`` into ``net``, a CLIP of open_clip, under whichever names its tensors have.

    Names of Hugging Face's CLIP and SigLIP and of either of open_clip's two classes are taken; a ``logit_scale`` of shape (1,)
    is one number; position tables of another input size are interpolated (`resized_positions`).

    Args:
        path, model: the file and the model's name, for messages.
        quiet: do not say when positions are interpolated: it was asked for.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape; says whose they are or which model fits.
    """
    expected = net.state_dict()
    tensors = from_hugging_face(state, path) if is_hugging_face(state) else dict(state)
    if is_siglip(tensors) and any(name.startswith("visual.trunk.") for name in expected):
        tensors = from_siglip(tensors, path)
    tensors = _text_as(tensors, in_text=any(name.startswith("text.") for name in expected))
    for name in _SCALARS:
        if name in tensors and name in expected and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in tensors:
        tensors["logit_bias"] = torch.zeros_like(expected["logit_bias"])  # as open_clip; no vector depends on it
    for name in expected:
        if name.endswith(".num_batches_tracked"):  # a counter that nothing reads
            tensors.setdefault(name, expected[name])
    sized = _resized(tensors, expected, net, path)
    _check(tensors | sized, expected, path, model, fits=tensors)
    for name in sized if not quiet else ():
        logging.getLogger(__name__).warning(
            "%s: %s has %d positions, the model %d: interpolated, as the model's input size is another one",
            *(path, name, tensors[name].shape[-2], expected[name].shape[-2]),
        )
    net.load_state_dict(tensors | sized)


def resized_positions(table: Tensor, grid: tuple[int, int], kept: int = 1) -> Tensor:
    """A position table for another grid: float (kept + P, C) -> float32 (kept + rows * columns, C).

    The first ``kept`` rows, the class token's or the mean's, stay; the others, a square grid, are interpolated: bicubic,
    antialiased, as open_clip's ``resize_pos_embed`` and timm's ``resample_abs_pos_embed`` do.

    Raises:
        ValueError: the table is no square grid.
    """
    first, rest = table[:kept].float(), table[kept:].float()
    side = math.isqrt(len(rest))
    if side * side != len(rest) or not side:
        raise ValueError(f"{len(rest)} positions are no square grid")
    cells = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    cells = functional.interpolate(cells, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, cells.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)])


def _text_as(tensors: Mapping[str, Tensor], *, in_text: bool) -> dict[str, Tensor]:
    """The text encoder's tensors under ``text.`` or at the top, as the model has them."""
    if in_text:
        return {f"text.{name}" if name.startswith(_TEXT) else name: value for name, value in tensors.items()}
    tops = tuple(f"text.{name}" for name in _TEXT)
    return {name.removeprefix("text.") if name.startswith(tops) else name: value for name, value in tensors.items()}


def _resized(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], net: Any, path: Path) -> dict[str, Tensor]:
    """The position tables that are of another input size, interpolated."""
    sized = {}
    for name in _POSITIONS:
        old, new = tensors.get(name), expected.get(name)
        if old is None or new is None or old.ndim != new.ndim or old.shape == new.shape:
            continue
        if old.shape[-1] != new.shape[-1] or old.shape[:-2] != new.shape[:-2]:
            continue
        grid, kept = _grid_of(net.visual, new)
        try:
            sized[name] = resized_positions(old.flatten(0, -2), grid, kept).view_as(new)
        except ValueError as error:
            raise WeightsError(
                f"{path}: {name}: expected a square grid of positions after the first {kept}, got {old.shape[-2]} rows; "
                f"give an image_size for which no positions are interpolated"
            ) from error
    return sized


def _grid_of(visual: Any, table: Tensor) -> tuple[tuple[int, int], int]:
    """The grid (rows, columns) of an image encoder's positions, and how many rows of its ``table`` stand before it."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:  # of timm
        return tuple(trunk.patch_embed.grid_size), 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    side = math.isqrt(len(table) - 1)
    return tuple(visual.grid_size) if hasattr(visual, "grid_size") else (side, side), 1


def _check(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, model: str, fits: Mapping[str, Tensor]
) -> None:
    common = expected.keys() & tensors.keys()
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    shapes = {
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    }
    problems = {"missing": missing, "unexpected": unexpected, "other shapes": shapes}
    if not any(problems.values()):
        return
    faults = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names)
    if 2 * len(common) < len(expected):
        known = looks_like(tensors)
        if known and known != looks_like(expected):
            raise WeightsError(
                f"{path}: expected the weights of a CLIP for model {model!r}, these are of another layout, as of {known}: "
                f"{faults}; give a CLIP's weights in OpenAI's, open_clip's or Hugging Face's form"
            )
        if not known:
            raise WeightsError(
                f"{path}: expected the weights of a CLIP for model {model!r}, these are of a layout that is not known: "
                f"{faults}; give a CLIP's weights in OpenAI's, open_clip's or Hugging Face's form"
            )
    if missing and all(name.startswith("visual.") for name in tensors):
        faults += "; it holds an image encoder alone"
    raise WeightsError(f"{path}: does not fit model {model!r}: {faults}; {fitting_models(fits)}")


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{shown}, ..." if len(names) > NAMES_SHOWN else shown
