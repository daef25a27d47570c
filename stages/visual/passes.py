"""The global and local features of many images (Yu et al., CVPR 2023, sec. 3.2), batched across images.

A pass takes images one after another and gives all their features at the end, so that images share forward passes. No
more than one prepared image is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.clip.backbone import Masking, VisualTower
from stages.visual.preprocess import Prepared, Preprocess, crop_windows
from store.errors import ParameterError

Features = NDArray[np.float32]
Masks = NDArray[np.bool_]
Boxes = NDArray[np.floating]


class Encoder(Protocol):
    """What a pass needs of `stages.visual.mask_encoder.MaskEncoder`."""

    tower: VisualTower
    pixels: Preprocess
    batch: int

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def grid_masks(self, masks: Masks) -> Tensor: ...

    def tower_masking(self, masking: Masking) -> VisualTower: ...


Way = tuple[Masking, int]
"""How a global feature is masked, and the number k of masked blocks."""


class GlobalPass:
    """f_G of every mask of the images added, in each of ``ways``; the blocks before the masked ones run once for all."""

    def __init__(self, encoder: Encoder, ways: Sequence[Way]) -> None:
        self._encoder, self._ways = encoder, ways
        self._towers = {masking: encoder.tower_masking(masking) for masking, _ in ways}
        self._views: list[Tensor] = []
        self._softs: list[Tensor] = []

    def add(self, image: Prepared, masks: Masks) -> None:
        """The next image, with masks bool (N, H, W) of its size."""
        self._softs.append(self._encoder.grid_masks(masks))
        self._views.append(self._encoder.pixels.global_view(image, self._encoder.tower.input_size))

    def finish(self) -> tuple[dict[Way, list[Features]], list[NDArray[np.bool_]]]:
        """Way -> float32 (N, D) of each image, and which masks reach the grid, bool (N,) of each image."""
        return (self._features() if self._softs else {way: [] for way in self._ways}), [reached(s) for s in self._softs]

    @torch.inference_mode()
    def _features(self) -> dict[Way, list[Features]]:
        """Masks that are equal on the grid are one."""
        encoder = self._encoder
        distinct = [soft.unique(dim=0, return_inverse=True) for soft in self._softs]
        counts = [len(grid_masks) for grid_masks, _ in distinct]
        owners, masks = np.repeat(np.arange(len(counts)), counts), torch.cat([grid_masks for grid_masks, _ in distinct])
        ks = sorted({k for _, k in self._ways})
        states = encoder.tower.shared(torch.cat(self._views).to(encoder.dtype), ks)
        features = {}
        for masking, k in self._ways:
            rows = floats(self._towers[masking].masked(states[k], owners, masks, k, encoder.batch))
            parts = np.split(rows, np.cumsum(counts)[:-1])
            features[masking, k] = [part[which.numpy()] for part, (_, which) in zip(parts, distinct, strict=True)]
        return features


class LocalPass:
    """f_L of every mask of the images added: crops, encoded whenever ``batch`` of them are there."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._counts: list[int] = []
        self._crops = _Crops(
            lambda views: encoder.tower.encode(views.to(encoder.dtype)),
            encoder.batch,
            encoder.tower.input_size,
            encoder.device,
        )

    @torch.inference_mode()
    def add(self, image: Prepared, masks: Masks, boxes: Boxes) -> None:
        """The next image, with masks bool (N, H, W) of its size and boxes (N, 4) XYXY pixels."""
        windows = crop_windows(boxes, image.height, image.width)
        if len(windows) != len(masks):
            raise ParameterError(f"boxes: expected one for each of the {len(masks)} masks, got {len(windows)}")
        self._counts.append(len(masks))
        source = self._encoder.pixels.source_view(image)
        for part, room in self._crops.rooms(len(masks)):
            self._encoder.pixels.cut(source, masks[part], windows[part], room)

    @torch.inference_mode()
    def finish(self) -> list[Features]:
        """float32 (N, D) of each image."""
        rows = [floats(part) for part in self._crops.encoded()]
        vectors = np.concatenate(rows) if rows else np.zeros((0, self._encoder.tower.dim), np.float32)
        return np.split(vectors, np.cumsum(self._counts)[:-1]) if self._counts else []


class _Crops:
    """Crops of many images, encoded whenever ``batch`` of them are there."""

    def __init__(self, encode: Callable[[Tensor], Tensor], batch: int, size: tuple[int, int], device: torch.device):
        self._encode = encode
        self._room = torch.empty(batch, 3, *size, device=device)
        self._filled = 0
        self._done: list[Tensor] = []

    def rooms(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Where the next ``count`` crops go: some rows of them at a time, with the place to write those, (n, 3, *size)."""
        start = 0
        while start < count:
            taken = min(count - start, len(self._room) - self._filled)
            yield slice(start, start + taken), self._room[self._filled : self._filled + taken]
            start, self._filled = start + taken, self._filled + taken
            if self._filled == len(self._room):
                self._run()

    def encoded(self) -> list[Tensor]:
        """The features of all crops, in order."""
        if self._filled:
            self._run()
        return self._done

    def _run(self) -> None:
        self._done.append(self._encode(self._room[: self._filled]))
        self._filled = 0


def floats(tensor: Tensor) -> Features:
    """As float32 on the CPU."""
    return tensor.float().cpu().numpy()


def reached(soft: Tensor) -> NDArray[np.bool_]:
    """Which masks (N, *grid) keep a patch: bool (N,)."""
    kept: NDArray[np.bool_] = (soft != 0).flatten(1).any(1).numpy()
    return kept
