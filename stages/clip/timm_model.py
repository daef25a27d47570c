"""Image encoders of timm in a model config of open_clip's form: what it may ask for, input size, pixels. No weights, no hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
import timm

from store.errors import ParameterError, WeightsError, nearest

_KEYS = frozenset(
    {"timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop"}
    | {"timm_drop_path", "patch_dropout", "image_size"}
)


def check_timm(vision: Mapping[str, Any], model: str) -> None:
    """Check the ``vision_cfg`` of an image encoder of timm.

    Raises:
        ParameterError: no such network, or weights from the hub. WeightsError: a key without effect beside it.
    """
    name = vision["timm_model_name"]
    if not isinstance(name, str) or not timm.is_model(name):  # what looks on the hub or in a folder is no such name
        raise ParameterError(
            f"{model}: vision_cfg.timm_model_name: expected a network of timm, got {name!r}; "
            f"{nearest(str(name), timm.list_models())}"
        )
    if vision.get("timm_model_pretrained"):
        raise ParameterError(
            f"{model}: vision_cfg.timm_model_pretrained: expected false, nothing is downloaded, got "
            f"{vision['timm_model_pretrained']!r}; set it to false: `weights` has all weights"
        )
    if unknown := sorted(vision.keys() - _KEYS):
        raise WeightsError(
            f"{model}: vision_cfg.{unknown[0]}: a key that cannot be honoured beside timm_model_name; correct or remove it"
        )


def fit_input(visual: Any, model: str) -> None:
    """Bring timm's network to the ``image_size`` of its ``TimmModel``: open_clip builds it with its own.

    Raises:
        ParameterError: no whole patches, or a network with one input size only.
    """
    trunk, size = visual.trunk, tuple(visual.image_size)
    embed: Any = getattr(trunk, "patch_embed", None)
    step = tuple(embed.patch_size) if hasattr(embed, "patch_size") else (trunk.feature_info[-1]["reduction"],) * 2
    if any(side % part for side, part in zip(size, step, strict=True)):
        raise ParameterError(
            f"image_size: expected a multiple of {step[0]} pixels (one patch of model {model!r}), got {size}; choose such "
            "a size"
        )
    own = getattr(embed, "img_size", None)
    if own is None or tuple(own) == size:
        return
    if not hasattr(trunk, "set_input_size"):
        raise ParameterError(
            f"image_size: expected {own[0]}, the only one that timm's {type(trunk).__name__} of model {model!r} has, got "
            f"{size}; set it so"
        )
    visual.set_input_size(size)


def published_pixels(name: str) -> dict[str, Any]:
    """``mean`` and ``std`` of pixels with which all weights that open_clip knows for a network of timm were trained.

    {} where it knows none, or they differ.
    """
    found = []
    for model, tag in open_clip.list_pretrained():
        config: Any = open_clip.get_model_config(model)
        if config["vision_cfg"].get("timm_model_name") == name:
            published: Any = open_clip.get_pretrained_cfg(model, tag)
            pixels = {key: published[key] for key in ("mean", "std") if published.get(key)}
            found += [pixels] if pixels not in found else []
    return found[0] if len(found) == 1 else {}
