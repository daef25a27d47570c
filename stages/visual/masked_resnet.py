"""Masked global features of CLIP's ResNet (Yu et al., CVPR 2023, sec. 3.2).

The last feature map, L2-normalised at every position, is multiplied by the mask and pooled by the model's attention
pool. A mask scales positions and the pool's projections are linear: each is applied once to an image's map, never to a
masked one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional

from stages.visual.attention import attend_once
from store.errors import ParameterError


def open_tower(model: Any, masking: str = "token") -> MaskedResNet:
    """The image tower of a loaded open_clip model."""
    if masking != "token":
        raise ParameterError(f"masking: expected 'token', the only one that a ResNet has, got {masking!r}")
    return MaskedResNet(model.visual)


class MaskedResNet:
    """A view of ``visual`` that can mask its last feature map; holds no weights of its own.

    Global features are not normalised, the image encoder's are: scores with them are not cosines (score rule
    ``unnormalised``).
    """

    def __init__(self, visual: ModifiedResNet) -> None:
        size = visual.image_size
        self._visual = visual
        self.input_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.grid: tuple[int, int] = (self.input_size[0] // 32, self.input_size[1] // 32)
        self.dim: int = visual.output_dim

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """``pixels`` (I, 3, *input_size) -> the normalised map (I, C, *grid), for every k: a ResNet masks no blocks."""
        features = functional.normalize(self.feature_map(pixels), dim=1)
        return dict.fromkeys(ks, features)

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """Pool the masked maps: (N, dim). ``k`` is ignored.

        ``states`` of `shared`; ``owners`` (N,), the image of each mask; ``masks`` (N, *grid) in [0, 1].
        No pass holds more than ``batch`` masks.
        """
        pool, split = self._visual.attnpool, (self._visual.attnpool.num_heads, -1)
        cells, places = states.flatten(2).transpose(1, 2), pool.positional_embedding.to(states.dtype)
        # By head and position: of the map (I, heads, P, d), and of the positional embedding (heads, 1 + P, d).
        of_maps = [functional.linear(cells, p.weight).unflatten(2, split).transpose(1, 2) for p in self._projections]
        of_places = [p(places).unflatten(1, split).transpose(0, 1) for p in self._projections]
        weights, pooled = masks.flatten(1).to(states), states.new_empty(len(masks), cells.shape[2])
        for image in np.unique(owners):
            for rows in torch.from_numpy(np.flatnonzero(owners == image)).to(states.device).split(batch):
                heads = _pool_masked(weights[rows], [each[image] for each in of_maps], of_places)
                pooled[rows] = heads.transpose(0, 1).flatten(1)
        return pool.c_proj(pooled)

    def encode(self, pixels: Tensor) -> Tensor:
        """The image encoder, nothing masked, L2-normalised: (N, 3, *input_size) -> (N, dim)."""
        return functional.normalize(self._pool(self.feature_map(pixels)), dim=1)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last feature map, raw: (N, 3, *input_size) -> (N, C, *grid)."""
        visual = self._visual
        return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))

    @property
    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        pool = self._visual.attnpool
        return pool.q_proj, pool.k_proj, pool.v_proj

    def _pool(self, features: Tensor) -> Tensor:
        """CLIP's attention pool, for the one query it returns (the mean of all positions): (N, C, h, w) -> (N, dim)."""
        pool, (ask, key, value) = self._visual.attnpool, self._projections
        cells = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + pool.positional_embedding.to(cells.dtype)
        pooled = attend_once(ask(tokens[:, 0]), [tokens], key.weight, value.weight, value.bias, pool.num_heads, [None])
        return pool.c_proj(pooled)


def _pool_masked(weights: Tensor, maps: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """What the pool's heads answer for each mask of one image: ``weights`` (N, P) -> (heads, N, d).

    ``maps`` (heads, P, d) and ``places`` (heads, 1 + P, d): query, key and value projections of the unmasked map and,
    with their bias, of the positional embedding. Position p holds w_p F_p, the one before them the mean of these; so
    position p has the key w_p K_p + k_p, and the mean's is sum_p w_p K_p / P + k_0.
    """
    positions = weights.shape[1]
    query = weights / positions @ maps[0] + places[0][:, :1]
    query = query * query.shape[2] ** -0.5
    products = query @ maps[1].transpose(1, 2) * weights
    logits = torch.cat([products.mean(2, keepdim=True), products], 2) + query @ places[1].transpose(1, 2)
    shares = logits.softmax(2)
    of_map = (shares[..., 1:] + shares[..., :1] / positions) * weights
    return of_map @ maps[2] + shares @ places[2]
