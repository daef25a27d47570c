"""Masks inside image encoders of timm: against formulas written down plainly, and what must not change a vector."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from stages.clip.backbone import backbone_of
from stages.visual.encoder import MaskedClip
from stages.visual.mask_encoder import MaskEncoder
from stages.visual.timm_tower import MaskedTimmMap, MaskedTimmViT, open_tower
from store.errors import ParameterError
from tests.helpers.timm_files import OTHERS, TOWERS, plain_head, plain_pool, plain_vector, timm_model, vision
from tests.helpers.visual_oracles import Array, some_boxes, some_image, some_masks

EVERY = TOWERS | OTHERS
IMAGES = 2


@cache
def model_of(name: str) -> Any:
    return timm_model(*EVERY[name])


def pixels_of(model: Any) -> torch.Tensor:
    return torch.randn(IMAGES, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(2))


def grid_masks(tower: Any) -> torch.Tensor:
    """Soft masks: random with zeros, binary, one patch, whole, none."""
    random = torch.Generator().manual_seed(4)
    masks = torch.rand(5, *tower.grid, generator=random)
    masks[0][masks[0] < 0.4] = 0
    masks[1] = (masks[1] > 0.5).float()
    masks[1, 0, 0] = 1
    masks[2:] = 0
    masks[2, 1, 0] = 0.3
    masks[3] = 1
    return masks


OWNERS = np.array([0, 1, 1, 0, 1])


def masked(model: Any, masking: Any, k: int, batch: int = 64) -> torch.Tensor:
    tower: Any = open_tower(model, masking)
    with torch.inference_mode():
        states = open_tower(model).shared(pixels_of(model), [k])[k]
        return tower.masked(states, OWNERS, grid_masks(tower), k, batch)


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    error = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < tolerance, error


@pytest.mark.parametrize("masking", ["token", "attention"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", TOWERS)
def test_a_mask_by_the_formulas(name: str, k: int, masking: str) -> None:
    model = model_of(name)
    tower = open_tower(model)
    pixels, soft = pixels_of(model), grid_masks(tower)
    rows = [
        plain_vector(model.visual, pixels[owner], mask.flatten(), k, masking)
        for owner, mask in zip(OWNERS, soft, strict=True)
    ]
    got = masked(model, masking, k)
    assert got.shape == (5, tower.dim)
    close(got, torch.stack(rows).float())
    assert (got[2] - got[1]).norm() > 1e-3 * got[1].norm(), "the mask counts"


@pytest.mark.parametrize("masking", ["token", "attention"])
@pytest.mark.parametrize("name", EVERY)
def test_the_whole_image_is_the_plain_encoder(name: str, masking: Any) -> None:
    model = model_of(name)
    tower = open_tower(model, masking)
    assert backbone_of(model).name == "timm"
    pixels = pixels_of(model)
    with torch.inference_mode():
        plain = model.encode_image(pixels)
        states = tower.shared(pixels, [1, 2])
        ones = torch.ones(IMAGES, *tower.grid)
        for k in (1, 2):
            close(tower.masked(states[k], np.arange(IMAGES), ones, k, 1), plain)
        assert torch.equal(tower.encode(pixels), plain)
    assert tower.dim == plain.shape[1]


@pytest.mark.parametrize("masking", ["token", "attention"])
@pytest.mark.parametrize("name", ["pe", "eva02"])
def test_eva_mask_by_mask(name: str, masking: Any) -> None:
    """Its own forward pass, with tokens multiplied by hooks and the pool (or the class token) kept from the rest."""
    model, k = model_of(name), 2
    trunk, pixels, soft = model.visual.trunk, pixels_of(model), grid_masks(open_tower(model))[:4]
    got = masked(model, masking, k)
    for row, (owner, mask) in enumerate(zip(OWNERS, soft, strict=False)):
        hooks = []
        counts = torch.cat([torch.ones(trunk.num_prefix_tokens), mask.flatten()])
        if masking == "attention":
            counts = (counts != 0).float()
        pool_bias = counts.log()[None, None, None]
        class_bias = torch.zeros(1, 1, len(counts), len(counts))
        class_bias[:, :, 0] = counts.log()
        for block in trunk.blocks[-k:]:
            if masking == "token":
                hooks.append(block.register_forward_pre_hook(lambda _, args, c=counts: (args[0] * c[:, None],)))
            elif name == "eva02":
                hooks.append(
                    block.register_forward_pre_hook(
                        lambda _, args, given, b=class_bias: (args, given | {"attn_mask": b}), with_kwargs=True
                    )
                )
        if name == "pe":
            hooks.append(
                trunk.attn_pool.register_forward_pre_hook(
                    lambda _, args, given, b=pool_bias: (args, given | {"attn_mask": b}), with_kwargs=True
                )
            )
        with torch.inference_mode():
            close(got[row], model.encode_image(pixels[owner : owner + 1])[0])
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("masking", ["token", "attention"])
@pytest.mark.parametrize("name", ["convnext", "convnext without a norm", "swin"])
def test_a_map_is_averaged_by_the_mask(name: str, masking: str) -> None:
    model = model_of(name)
    visual = model.visual
    got = masked(model, masking, 3)
    with torch.inference_mode():
        maps = visual.trunk.forward_features(pixels_of(model))
        maps = maps.permute(0, 3, 1, 2) if name == "swin" else maps
        for row, (owner, mask) in enumerate(zip(OWNERS, grid_masks(open_tower(model)), strict=True)):
            weights = (mask != 0).float() if masking == "attention" else mask
            weights = weights if weights.any() else torch.ones_like(weights)
            mean = (maps[owner] * weights).sum((1, 2)) / weights.sum()
            constant = mean[None, :, None, None].expand(1, -1, *mask.shape)  # whose mean any pool gives
            constant = constant.permute(0, 2, 3, 1) if name == "swin" else constant
            close(got[row], visual.head(visual.trunk.forward_head(constant))[0])


@pytest.mark.parametrize("name", ["siglip", "mean with registers", "pe", "convnext"])
def test_batches_and_neighbours_change_nothing(name: str) -> None:
    for masking in ("token", "attention"):
        together = masked(model_of(name), masking, 2)
        close(masked(model_of(name), masking, 2, batch=1), together, 1e-5)
        assert torch.equal(masked(model_of(name), masking, 2), together)


def test_k_that_the_encoder_has_not_and_ways_it_has_not() -> None:
    tower = open_tower(model_of("siglip"))
    for k in (0, 4):
        with pytest.raises(ParameterError, match="masked_blocks: expected 1 to 3"):
            tower.shared(pixels_of(model_of("siglip")), [k])
    wrong: Any = "both"
    with pytest.raises(ParameterError, match="masking: expected one of token, attention, got 'both'"):
        open_tower(model_of("siglip"), wrong)


def test_kinds_of_towers() -> None:
    kinds = {name: type(open_tower(model_of(name))) for name in EVERY}
    assert {name for name, kind in kinds.items() if kind is MaskedTimmMap} == {
        "convnext", "convnext without a norm", "swin"
    }  # fmt: skip
    assert all(kinds[name] is MaskedTimmViT for name in (*TOWERS, "pe", "eva02"))


@pytest.mark.parametrize("preprocess", ["reference", "clip"])
def test_all_of_a_mask_encoder(preprocess: Any) -> None:
    """Global as the tower masks, local as any encoder: the masked crop through encode_image."""
    model, image, masks, boxes = model_of("siglip"), some_image(), some_masks(), some_boxes()
    model.visual.image_mean = model.visual.image_std = (0.5, 0.5, 0.5)
    encoder = MaskEncoder(model, preprocess, short_side=60)
    prepared = encoder.prepare(image)
    f_local = encoder.local_features(prepared, masks, boxes)
    from stages.visual.preprocess import crop_windows

    source = encoder.pixels.source_view(prepared)
    for row, (left, top, right, bottom) in enumerate(crop_windows(boxes, *masks.shape[1:])):
        crop = source[:, top:bottom, left:right].clone()
        fill = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        crop = torch.where(torch.from_numpy(masks[row, top:bottom, left:right]), crop, fill)
        view = encoder.pixels.resize(crop[None], (32, 32))
        with torch.inference_mode():
            close(torch.from_numpy(f_local[row]), model.encode_image(view)[0])
    whole = encoder.global_features(image, masks, 2)[2]
    with torch.inference_mode():
        close(torch.from_numpy(whole), model.encode_image(encoder.pixels.global_view(prepared, (32, 32)))[0])
    assert encoder.score_rule == "cosine"


def region_oracle(model: Any, pixels: torch.Tensor, weights: Array) -> torch.Tensor:
    """The pool with even attention: its logits replaced by log w, for each mask."""
    trunk = model.visual.trunk
    state = {name: value.double() for name, value in model.visual.state_dict().items()}
    with torch.inference_mode():
        patches = trunk.forward_features(pixels)[0, trunk.num_prefix_tokens :].double()
    if trunk.global_pool == "map":
        state["trunk.attn_pool.q.weight"] = torch.zeros_like(state["trunk.attn_pool.q.weight"])
        state["trunk.attn_pool.q.bias"] = torch.zeros_like(state["trunk.attn_pool.q.bias"])
    before = torch.zeros(trunk.num_prefix_tokens, patches.shape[1], dtype=torch.float64)
    rows = [
        plain_head(state, plain_pool(trunk, state, torch.cat([before, patches]), torch.from_numpy(w).double()))
        for w in weights
    ]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize("name", ["siglip", "siglip with a class token", "mean with registers"])
def test_text_region_is_the_pool_with_even_attention(name: str) -> None:
    from stages.visual.dense import squashed
    from stages.visual.pooling import pooling_weights

    model, image, masks = model_of(name), some_image(), some_masks()
    clip: Any = MaskedClip(model, lambda texts: None, short_side=60)  # type: ignore[arg-type, return-value]
    got = clip.view_features("text_region", image, masks)
    pixels = squashed(image, clip.tower.input_size, model.visual)
    weights, nothing = pooling_weights(masks, clip.tower.grid)
    assert nothing.tolist() == [False] * 6 + [True]
    close(torch.from_numpy(got[:6]), region_oracle(model, pixels, weights[:6]).float())
    assert not got[6].any()


def test_views_that_an_encoder_of_timm_has_not() -> None:
    image, masks = some_image(), some_masks()
    clip: Any = MaskedClip(model_of("siglip"), lambda texts: None, short_side=60)  # type: ignore[arg-type, return-value]
    with pytest.raises(ParameterError, match="view gem: expected an encoder of kind vit, got one of kind timm"):
        clip.view_features("gem", image, masks)
    with pytest.raises(ParameterError, match="side: expected none or 32"):
        clip.view_features("text_region", image, masks, side=64)
    token: Any = MaskedClip(model_of("class token"), lambda texts: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ParameterError, match="pooled by its class token"):
        token.view_features("text_region", image, masks)


@pytest.mark.parametrize("view", ["local", "blur", "red_circle"])
def test_any_network_of_timm_has_the_views_of_masked_pixels(view: str) -> None:
    model = timm_model(vision("test_vit_relpos", 160, "avg", "linear"), 24)
    clip: Any = MaskedClip(model, lambda texts: None, short_side=60)  # type: ignore[arg-type, return-value]
    assert clip.dim == 24
    vectors = clip.view_features(view, some_image(), some_masks(), some_boxes())
    assert vectors.shape == (7, 24)
    assert np.isfinite(vectors).all()
    with pytest.raises(
        ParameterError, match=r"view global: .* got VisionTransformerRelPos .* take local, blur or red_circle"
    ):
        clip.view_features("global", some_image(), some_masks())
