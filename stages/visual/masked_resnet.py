"""Masked global features of CLIP's ResNet (Yu et al., CVPR 2023, sec. 3.2).

The last feature map, L2-normalised at every position, is multiplied by the mask and pooled by the model's attention
pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor
from torch.nn import functional

ScoreRule = Literal["cosine", "unnormalised"]


class MaskedResNet:
    """A view of ``visual`` that can mask its last feature map; holds no weights of its own.

    Global features are not normalised, the image encoder's are: scores with them are not cosines (``score_rule``).
    """

    score_rule: ScoreRule = "unnormalised"

    def __init__(self, visual: ModifiedResNet) -> None:
        size = visual.image_size
        self._visual = visual
        self.input_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.grid: tuple[int, int] = (self.input_size[0] // 32, self.input_size[1] // 32)
        self.dim: int = visual.output_dim

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """``pixels`` (1, 3, *input_size) -> the normalised map (1, C, *grid), for every k: a ResNet masks no blocks."""
        features = functional.normalize(self._features(pixels), dim=1)
        return dict.fromkeys(ks, features)

    def masked(self, state: Tensor, masks: Tensor, k: int) -> Tensor:
        """Pool the masked map: ``state`` of `shared`, ``masks`` (N, *grid) in [0, 1] -> (N, dim). ``k`` is ignored."""
        return self._pool(state * masks[:, None].to(state.dtype))

    def encode(self, pixels: Tensor) -> Tensor:
        """The image encoder, nothing masked, L2-normalised: (N, 3, *input_size) -> (N, dim)."""
        return functional.normalize(self._pool(self._features(pixels)), dim=1)

    def _features(self, pixels: Tensor) -> Tensor:
        visual = self._visual
        return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))

    def _pool(self, features: Tensor) -> Tensor:
        """CLIP's attention pool, for the one query it returns (the mean of all positions): (N, C, h, w) -> (N, dim)."""
        pool = self._visual.attnpool
        tokens = features.flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.positional_embedding[:, None].to(
            features.dtype
        )
        pooled, _ = functional.multi_head_attention_forward(
            query=tokens[:1],
            key=tokens,
            value=tokens,
            embed_dim_to_check=tokens.shape[-1],
            num_heads=pool.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=pool.c_proj.weight,
            out_proj_bias=pool.c_proj.bias,
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )
        return pooled[0]
