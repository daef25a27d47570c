"""Dense patch vectors of a CLIP vision transformer, without training: one text-aligned vector for each patch.

CLIP trains its class token only. Each method changes the attention of the last blocks so that patch tokens, which then take
the class token's way (last norm, projection), say what is at their own place. Formulas and sources: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stages.device.linear import linear
from stages.visual.blocks import feed_forward, run_block
from stages.visual.mask_encoder import MaskEncoder
from stages.visual.masked_vit import MaskedViT
from stages.visual.preprocess import Prepared
from stages.visual.timm_tower import regions as timm_regions
from store.errors import ParameterError, nearest

Size = tuple[int, int]
Positions = Literal["bicubic_antialias", "bicubic_scaled", "bilinear"]
"""How a release brings the position table to another grid, see `position_table`."""
DEEP = 6
"""How many last blocks GEM and CLIP Surgery change; all blocks of a shallower encoder."""
SIGMA = 5.0
"""Of NACLIP's Gaussian, patches."""


@dataclass(frozen=True)
class Dense:
    """A method.

    Attributes:
        tokens: ``(visual, tokens, grid)``: from what enters the first block to what the last norm reads, (1, 1 + P, width).
        positions: how its release resizes the position table.
        enlarged: its default input side, as a multiple of the encoder's own.
    """

    tokens: Callable[[VisionTransformer, Tensor, Size], Tensor]
    positions: Positions
    enlarged: int = 1


def dense_patches(
    encoder: MaskEncoder, image: Image.Image | Prepared, method: str, side: int | None = None
) -> NDArray[np.float32]:
    """The vector of every patch by a method of `METHODS`, raw, row by row: float32 (P, D).

    The whole image, squashed to ``side`` x ``side`` (pixels, a multiple of the patch size; default: the encoder's own input,
    or twice that), gives side / patch rows and columns of patches.

    Raises:
        ParameterError: no such method, a side of another kind, or an encoder that has no such patches.
    """
    return dense_map(encoder, image, method, side)[0]


@torch.inference_mode()
def dense_map(
    encoder: MaskEncoder, image: Image.Image | Prepared, method: str, side: int | None = None
) -> tuple[NDArray[np.float32], Size]:
    """`dense_patches`, and the grid (rows, columns) that they lie on."""
    if method not in METHODS:
        raise ParameterError(f"there is no dense method {method!r}; {nearest(method, METHODS)}")
    dense, visual = METHODS[method], transformer(encoder, method)
    tokens, grid = embedded(encoder, image, dense.positions, dense.enlarged, side)
    patches = projected(visual, dense.tokens(visual, tokens, grid)[0, 1:])
    return patches.float().cpu().numpy(), grid


def transformer(encoder: MaskEncoder, view: str) -> VisionTransformer:
    """The image tower that a view changes from inside.

    Raises:
        ParameterError: it is none of open_clip's transformers with plain attention.
    """
    visual: Any = encoder.model.visual
    plain = isinstance(encoder.tower, MaskedViT)
    if not plain or not all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks):
        raise ParameterError(
            f"view {view}: expected an encoder of kind vit (open_clip's VisionTransformer with plain attention), got "
            f"{type(visual).__name__}{' with attention of its own' if plain else ''}; take another model or view"
        )
    return visual


def embedded(
    encoder: MaskEncoder, image: Image.Image | Prepared, positions: Positions, enlarged: int, side: int | None
) -> tuple[Tensor, Size]:
    """What enters the first block, (1, 1 + P, width), and the grid of the P patches."""
    visual: Any = encoder.model.visual
    patch = visual.patch_size
    height, width = (side, side) if side else (length * enlarged for length in visual.image_size)
    if height < 1 or height % patch[0] or width % patch[1]:
        raise ParameterError(f"side: expected a multiple of the patch size {patch[0]} x {patch[1]}, pixels, got {side}")
    grid = height // patch[0], width // patch[1]
    picture = image if isinstance(image, Image.Image) else image.original
    cells = visual.conv1(squashed(picture, (height, width), visual).to(encoder.device, encoder.dtype))
    tokens = torch.cat([visual.class_embedding.to(encoder.dtype).expand(1, 1, -1), cells.flatten(2).mT], 1)
    return visual.ln_pre(tokens + position_table(visual, grid, positions).to(encoder.dtype)), grid


def squashed(image: Image.Image, size: Size, visual: Any) -> Tensor:
    """The whole image at ``size`` (height, width), aspect ratio not kept, with the encoder's own mean and std: (1, 3, *size).

    Resized by PIL, bicubic, so that the values are those of CLIP's own preprocessing.
    """
    pixels = np.array(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC))
    mean = torch.tensor(getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN)
    std = torch.tensor(getattr(visual, "image_std", None) or OPENAI_DATASET_STD)
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(2, 0, 1)[None]


def position_table(visual: Any, grid: Size, positions: Positions) -> Tensor:
    """The position table for another grid, float32 (1 + P, width); at the encoder's own grid it is the table itself.

    ``bicubic_antialias`` and ``bilinear`` (no antialias) resize by size; ``bicubic_scaled`` (no antialias) by the factor
    (grid + 0.1) / trained grid, as DINO does, which stretches the places a little.
    """
    table, trained = visual.positional_embedding.float(), tuple(visual.grid_size)
    if grid == trained:
        return table
    cells = table[1:].T.reshape(1, -1, *trained)
    if positions == "bicubic_scaled":
        factors = tuple((new + 0.1) / old for new, old in zip(grid, trained, strict=True))
        cells = functional.interpolate(cells, scale_factor=factors, mode="bicubic")
    else:
        mode, _, smooth = positions.partition("_")
        cells = functional.interpolate(cells, grid, mode=mode, antialias=bool(smooth))
    return torch.cat([table[:1], cells.flatten(2)[0].T])


def projected(visual: Any, tokens: Tensor) -> Tensor:
    """The class token's way for any tokens (..., width): (..., D)."""
    return visual.ln_post(tokens) @ visual.proj


def heads_of(block: ResidualAttentionBlock, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of normalised tokens (1, T, width): (1, heads, T, width / heads) each."""
    attn = block.attn
    split = linear(seen, attn.in_proj_weight, attn.in_proj_bias).unflatten(2, (3, attn.num_heads, -1))
    query, key, value = split.permute(2, 0, 3, 1, 4)
    return query, key, value


def joined(block: ResidualAttentionBlock, attended: Tensor) -> Tensor:
    """The output projection of the heads' results: (1, heads, T, width / heads) -> (1, T, width)."""
    out = block.attn.out_proj
    return block.ls_1(linear(attended.transpose(1, 2).flatten(2), out.weight, out.bias))


attend = functional.scaled_dot_product_attention
"""``(query, key, value, mask)``: softmax(s q k^T + mask) v, s = d^-0.5 unless given, of each head."""

Attention = Callable[[Tensor, Tensor, Tensor, Size], Tensor]


def _last_block(attention: Attention, *, rest: bool) -> Callable[[VisionTransformer, Tensor, Size], Tensor]:
    """A method that changes the last block alone; ``rest``: with its residual connection and its perceptron."""

    def tokens_of(visual: VisionTransformer, tokens: Tensor, grid: Size) -> Tensor:
        *trunk, last = visual.transformer.resblocks
        for block in trunk:
            tokens = run_block(block, tokens)
        states = joined(last, attention(*heads_of(last, last.ln_1(tokens)), grid))
        if rest:
            states = states + tokens
            states = states + last.ls_2(feed_forward(last, last.ln_2(states)))
        return states

    return tokens_of


def _identity(query: Tensor, key: Tensor, value: Tensor, grid: Size) -> Tensor:
    return value


def _query_and_key(query: Tensor, key: Tensor, value: Tensor, grid: Size) -> Tensor:
    return attend(query, query, value) + attend(key, key, value)


def _query(query: Tensor, key: Tensor, value: Tensor, grid: Size) -> Tensor:
    return attend(query, query, value)


def _key_nearby(query: Tensor, key: Tensor, value: Tensor, grid: Size) -> Tensor:
    return attend(key, key, value, nearness(grid).to(key))


def nearness(grid: Size) -> Tensor:
    """NACLIP's omega: exp(-d^2 / (2 sigma^2)) of patches d apart, 0 for the class token: float32 (1 + P, 1 + P)."""
    rows, columns = torch.meshgrid(*(torch.arange(length).float() for length in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    squares = (places[:, None] - places[None]).square().sum(-1)
    return functional.pad((-squares / (2 * SIGMA**2)).exp(), (1, 0, 1, 0))


def _second_path(attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A method with a second path: it starts as the input of the last `DEEP` blocks, and each adds what ``attention``
    makes of the ordinary path, which runs as ever; no perceptron.

    ``attention`` (query, key, value, normalised tokens) -> (1, heads, T, width / heads).
    """

    def tokens_of(visual: VisionTransformer, tokens: Tensor, grid: Size) -> Tensor:
        blocks = list(visual.transformer.resblocks)
        for block in blocks[:-DEEP]:
            tokens = run_block(block, tokens)
        states = tokens
        for block in blocks[-DEEP:]:
            seen = block.ln_1(tokens)
            states = states + joined(block, attention(*heads_of(block, seen), seen))
            tokens = run_block(block, tokens)
        return states

    return tokens_of


def _value(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    return attend(value, value, value)


def _gem(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """The mean of three self-self attentions of unit vectors, each drawn once to its like before; tau is their sharpness."""
    tau = float(seen.norm(dim=-1).mean()) * value.shape[-1] ** -0.5
    attended = torch.zeros_like(value)
    for each in (query, key, value):
        unit = functional.normalize(each, dim=-1)
        unit = functional.normalize(attend(unit, unit, unit, scale=tau), dim=-1)
        attended = attended + attend(unit, unit, value, scale=tau)
    return attended / 3


METHODS = {
    "mask_clip": Dense(_last_block(_identity, rest=False), "bicubic_scaled"),
    "sclip": Dense(_last_block(_query_and_key, rest=True), "bicubic_scaled"),
    "clear_clip": Dense(_last_block(_query, rest=False), "bicubic_scaled", enlarged=2),
    "nac_clip": Dense(_last_block(_key_nearby, rest=False), "bicubic_scaled"),
    "clip_surgery": Dense(_second_path(_value), "bilinear"),
    "gem": Dense(_second_path(_gem), "bicubic_antialias", enlarged=2),
}


@torch.inference_mode()
def text_regions(
    encoder: MaskEncoder,
    image: Image.Image | Prepared,
    weights_of: Callable[[Size], NDArray[np.float32]],
    side: int | None = None,
) -> NDArray[np.float32]:
    """TextRegion's token of each mask, unit: float32 (N, D).

    The values of the last block, averaged over a mask, take what is left of the block and the class token's way.

    Args:
        weights_of: from the grid to the weights of N masks on its patches, float32 (N, P).
    """
    visual = transformer(encoder, "text_region")
    tokens, grid = embedded(encoder, image, "bicubic_antialias", 1, side)
    *trunk, last = visual.transformer.resblocks
    for block in trunk:
        tokens = run_block(block, tokens)
    values = heads_of(last, last.ln_1(tokens))[2][:, :, 1:]
    weights = torch.from_numpy(weights_of(grid)).to(values)
    regions = joined(last, weights @ values)[0]
    regions = regions + last.ls_2(feed_forward(last, last.ln_2(regions)))
    return functional.normalize(projected(visual, regions).float(), dim=-1).cpu().numpy()


@torch.inference_mode()
def pooled_regions(
    encoder: MaskEncoder,
    image: Image.Image | Prepared,
    weights_of: Callable[[Size], NDArray[np.float32]],
    side: int | None = None,
) -> NDArray[np.float32]:
    """`text_regions` of an encoder of timm: what its pool says where it attends evenly to a mask's patches.

    Raises:
        ParameterError: another ``side`` than the encoder's own, or an encoder that has no such pool.
    """
    size = encoder.tower.input_size
    if side is not None and (side, side) != size:
        raise ParameterError(
            f"side: expected none or {size[0]}, the encoder's own input, got {side}; an encoder of timm is given another size "
            "by image_size of its entry in `encoders`"
        )
    picture = image if isinstance(image, Image.Image) else image.original
    pixels = squashed(picture, size, encoder.model.visual).to(encoder.device, encoder.dtype)
    vectors = timm_regions(encoder.tower, pixels, weights_of)
    return functional.normalize(vectors.float(), dim=-1).cpu().numpy()
