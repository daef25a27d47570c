"""Masked global features of an image encoder of timm, as open_clip's ``TimmModel`` holds it: SigLIP, PE, EVA-02, ConvNeXt ...

Where CLIP's transformer is read at its class token, these are read by a pool: an attention pool (SigLIP, PE), the mean of the
patches, or the class token after all (EVA-02). A mask acts in the last k blocks as in CLIP's (`stages.visual.masked_vit`) and,
where there is no class token to read, in the pool: a patch counts there by its soft mask value. Formulas: docs/methods.md.
Built on timm's own modules, whose weights are all used as they are; no mask (values 1) gives the plain image encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.clip.backbone import Masking, VisualTower
from store.errors import ParameterError

_TRANSFORMERS = {("timm.models.vision_transformer", "VisionTransformer"), ("timm.models.eva", "Eva")}
_POOLS = ("map", "avg", "token")
_NO_GLOBAL = "take local, blur or red_circle, which need the plain encoder only, or another encoder"


def open_tower(model: Any, masking: Masking = "token") -> VisualTower:
    """The image tower of a loaded open_clip model whose image encoder is of timm."""
    if masking not in get_args(Masking):
        raise ParameterError(f"masking: expected one of {', '.join(get_args(Masking))}, got {masking!r}")
    trunk = model.visual.trunk
    kind = type(trunk)
    if (kind.__module__, kind.__name__) in _TRANSFORMERS and trunk.global_pool in _POOLS:
        return MaskedTimmViT(model.visual, masking)
    pool = getattr(getattr(trunk, "head", None), "global_pool", None)
    if getattr(pool, "pool_type", "") in ("avg", "fast"):
        return MaskedTimmMap(model.visual, masking)
    return WholeTimm(model.visual)


class MaskedTimmViT:
    """A transformer of timm (``VisionTransformer``, ``Eva``) that can mask patches; holds no weights of its own.

    ``masking`` ``token``: patch tokens are multiplied by their mask value m before each of the last k blocks, class and
    register tokens are not; then the pool weighs patches by m: the mean becomes the weighted mean, the attention pool adds
    log m to its logits (its weights become proportional to m exp(logit)). ``attention``: tokens keep their values, and the pool
    sees patches with m above 0 only, whatever k; of an encoder pooled by its class token, that token attends in the last k
    blocks to such patches only. A mask without a patch is pooled over all.
    """

    def __init__(self, visual: Any, masking: Masking) -> None:
        self._visual, self._trunk, self._masking = visual, visual.trunk, masking
        self.blocks: list[Any] = list(visual.trunk.blocks)
        self.pool: str = visual.trunk.global_pool
        self.input_size: tuple[int, int] = tuple(visual.image_size)
        self.grid: tuple[int, int] = tuple(visual.trunk.patch_embed.grid_size)
        self.dim = _width(visual)
        self._prefix: int = visual.trunk.num_prefix_tokens
        # timm's Eva gives its attention pool all tokens; its VisionTransformer says which.
        all_tokens = self.pool == "map" and not hasattr(visual.trunk, "pool_include_prefix")
        self._pooled_prefix = self._prefix if all_tokens or getattr(visual.trunk, "pool_include_prefix", False) else 0

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """For each k the tokens that enter block L - k: ``pixels`` (I, 3, *input_size) -> (I, prefix + patches, width).

        Every k must lie in 1..L.
        """
        depth = len(self.blocks)
        wrong = [k for k in ks if not isinstance(k, int | np.integer) or not 1 <= k <= depth]
        if wrong:
            raise ParameterError(
                f"masked_blocks: expected 1 to {depth}, a whole number of blocks of this model, got {wrong[0]}"
            )
        tokens, done, states = self._embedded(pixels), 0, {}
        for k in sorted(ks, reverse=True):
            tokens = self._run(tokens, done, depth - k)
            done, states[k] = depth - k, tokens
        return states

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """The last ``k`` blocks and the pool for each mask: (N, dim). No pass holds more than ``batch`` masks.

        ``states`` of `shared` for this k; ``owners`` (N,), the image of each mask; ``masks`` (N, *grid) in [0, 1].
        """
        parts, depth = [states.new_zeros(0, self.dim)], len(self.blocks)
        for images, chunk in zip(torch.from_numpy(owners).split(batch), masks.flatten(1).split(batch), strict=True):
            tokens, values = states[images.to(states.device)], chunk.to(states)  # rounded as the model's numbers are
            if self._masking == "attention":
                values = (values != 0).to(states)
                bias = self._class_bias(values) if self.pool == "token" else None
                tokens = self._run(tokens, depth - k, depth, bias=bias)
            else:
                ones = values.new_ones(len(values), self._prefix)
                tokens = self._run(tokens, depth - k, depth, values=torch.cat([ones, values], 1)[..., None])
            parts.append(self.projected(self._pooled(self._trunk.norm(tokens), _or_all(values))))
        return torch.cat(parts)

    def encode(self, pixels: Tensor) -> Tensor:
        """The plain image encoder, nothing masked: (N, 3, *input_size) -> (N, dim)."""
        return self._visual(pixels)

    def patches(self, pixels: Tensor) -> Tensor:
        """What the pool reads of the patches, after the last norm: (N, 3, *input_size) -> (N, patches, width)."""
        return self._trunk.norm(self._run(self._embedded(pixels), 0, len(self.blocks)))[:, self._prefix :]

    def projected(self, pooled: Tensor) -> Tensor:
        """From the pool's answer to the vector: (N, width) -> (N, dim)."""
        trunk = self._trunk
        return self._visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(pooled))))

    def _embedded(self, pixels: Tensor) -> Tensor:
        """What enters the first block: (N, prefix + patches, width)."""
        trunk = self._trunk
        placed = trunk._pos_embed(trunk.patch_embed(pixels))
        if isinstance(placed, tuple):  # Eva: with its rotary embedding, see `_rotary`; drops patches in training only
            return trunk.norm_pre(placed[0])
        return trunk.norm_pre(trunk.patch_drop(placed))

    def _run(
        self, tokens: Tensor, first: int, last: int, *, values: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Blocks first..last - 1; ``values`` (N, T, 1) multiply tokens before each, ``bias`` (N, 1, T, T) enters logits."""
        rotary = self._rotary()
        given: dict[str, Any] = {} if bias is None else {"attn_mask": bias}
        for number in range(first, last):
            if rotary is not None:
                given["rope"] = rotary[number] if getattr(self._trunk, "rope_mixed", False) else rotary
            tokens = self.blocks[number](tokens if values is None else tokens * values, **given)
        return tokens

    def _rotary(self) -> Tensor | None:
        """The rotary position embedding of Eva's blocks, None where there is none."""
        rope = getattr(self._trunk, "rope", None)
        if rope is None:
            return None
        own_shape = hasattr(rope, "feat_shape") and not self._trunk.dynamic_img_size
        rotary: Tensor = rope.get_embed() if own_shape else rope.get_embed(shape=self.grid)
        return rotary

    def _class_bias(self, values: Tensor) -> Tensor:
        """Keeps patches whose value (N, patches) is 0 from the class token: (N, 1, T, T)."""
        count, tokens = len(values), self._prefix + values.shape[1]
        bias = values.new_zeros(count, 1, tokens, tokens)
        bias[:, 0, 0, self._prefix :].masked_fill_(values == 0, float("-inf"))
        return bias

    def _pooled(self, tokens: Tensor, values: Tensor) -> Tensor:
        """The pool's answer where patch p counts by values (N, patches): (N, T, width) -> (N, width)."""
        if self.pool == "token":
            return tokens[:, 0]
        seen = tokens[:, self._prefix - self._pooled_prefix :]
        shares = torch.cat([values.new_ones(len(values), self._pooled_prefix), values], 1)
        if self.pool == "map":
            return self._trunk.attn_pool(seen, attn_mask=shares.float().log().to(seen.dtype)[:, None, None])
        return torch.einsum("nt,ntw->nw", shares / shares.sum(1, keepdim=True), seen)


class MaskedTimmMap:
    """An encoder of timm that ends in a map whose mean is pooled (ConvNeXt, Swin, FastViT): the mean is weighed by the mask.

    As for CLIP's ResNet the mask acts on the last map only, k counts nothing. ``masking`` ``token``: weights are the soft mask
    values; ``attention``: 1 where these are above 0. Nothing is normalised before the mean, so a whole mask gives the plain
    encoder.
    """

    def __init__(self, visual: Any, masking: Masking) -> None:
        self._visual, self._trunk, self._masking = visual, visual.trunk, masking
        self._channels_last = getattr(visual.trunk, "output_fmt", "NCHW") == "NHWC"
        step = visual.trunk.feature_info[-1]["reduction"]
        self.input_size: tuple[int, int] = tuple(visual.image_size)
        self.grid: tuple[int, int] = (self.input_size[0] // step, self.input_size[1] // step)
        self.dim = _width(visual)

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """The last map of each image, for every k: (I, C, *grid), or (I, *grid, C) where timm's has channels last."""
        return dict.fromkeys(ks, self._trunk.forward_features(pixels))

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """The pool of the weighed maps: (N, dim). ``k`` is ignored; no pass holds more than ``batch`` masks."""
        parts = [states.new_zeros(0, self.dim)]
        for images, chunk in zip(torch.from_numpy(owners).split(batch), masks.split(batch), strict=True):
            values = chunk.to(states)
            values = (values != 0).to(states) if self._masking == "attention" else values
            values = _or_all(values.flatten(1)).view_as(values)
            shares = values / values.mean((1, 2), keepdim=True)  # of mean 1: the pool's mean is the weighed one
            shares = shares[..., None] if self._channels_last else shares[:, None]
            maps = states[images.to(states.device)] * shares
            parts.append(self._visual.head(self._trunk.forward_head(maps)))
        return torch.cat(parts)

    def encode(self, pixels: Tensor) -> Tensor:
        """The plain image encoder: (N, 3, *input_size) -> (N, dim)."""
        return self._visual(pixels)


class WholeTimm:
    """Any other image encoder of timm: as it is, for views that mask pixels; a mask inside it is not defined."""

    grid = (1, 1)

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.input_size: tuple[int, int] = tuple(visual.image_size)
        weight = next(visual.parameters())
        with torch.inference_mode():
            self.dim = int(visual(weight.new_zeros(1, 3, *self.input_size)).shape[1])

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        raise self._refused()

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        raise self._refused()

    def encode(self, pixels: Tensor) -> Tensor:
        """The plain image encoder: (N, 3, *input_size) -> (N, dim)."""
        return self._visual(pixels)

    def _refused(self) -> ParameterError:
        trunk = self._visual.trunk
        return ParameterError(
            "view global: expected an image encoder of timm that is a VisionTransformer or Eva with pool "
            f"{', '.join(_POOLS)}, or one that ends in the mean of a map (ConvNeXt, Swin, FastViT), got "
            f"{type(trunk).__name__} with pool {getattr(trunk, 'global_pool', None)!r}; {_NO_GLOBAL}"
        )


Grid = tuple[int, int]


@torch.inference_mode()
def regions(tower: VisualTower, pixels: Tensor, weights_of: Callable[[Grid], NDArray[np.float32]]) -> Tensor:
    """What the pool would say of a region if it attended to its patches evenly: (N, dim), raw.

    The attention pool's values, averaged over the patches of each mask, through its output projection, the rest of the pool and
    the head; a mean pool is such an average itself.

    Args:
        pixels: one image, (1, 3, *input_size). weights_of: from the grid to the weights of N masks, float32 (N, patches).

    Raises:
        ParameterError: an encoder without such a pool.
    """
    if not isinstance(tower, MaskedTimmViT) or tower.pool == "token":
        raise ParameterError(
            "view text_region: expected an image encoder of timm that is a VisionTransformer or Eva with an attention pool or "
            "the mean of its patches, got one of another form or pooled by its class token; take another view or encoder"
        )
    patches = tower.patches(pixels)[0]
    weights = torch.from_numpy(weights_of(tower.grid)).to(patches)
    if tower.pool == "avg":
        return tower.projected(weights @ patches)
    pool = tower._trunk.attn_pool
    values = pool.kv(patches).chunk(2, dim=-1)[1]
    pooled = pool.proj(weights @ values)
    return tower.projected(pooled + pool.mlp(pool.norm(pooled)))


def _or_all(values: Tensor) -> Tensor:
    """Values (N, patches), all 1 in a row that has none above 0."""
    return torch.where(values.any(1, keepdim=True), values, 1)


def _width(visual: Any) -> int:
    """Width of the vectors of a ``TimmModel``."""
    for layer in reversed(list(visual.head.modules())):
        if isinstance(layer, nn.Linear):
            return layer.out_features
    return int(visual.trunk.num_classes or visual.trunk.num_features)
