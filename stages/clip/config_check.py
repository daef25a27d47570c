"""What a model config of open_clip's form asks for, and whether Glimpse can honour it: every key that it cannot is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from stages.clip.config import with_image_size
from stages.clip.timm_model import check_timm
from store.errors import ParameterError, WeightsError, nearest

_TOP = frozenset(
    {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "nonscalar_logit_scale"}
    | {"init_logit_scale", "init_logit_bias", "preprocess_cfg"}
)
_PREPROCESS = frozenset({"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"})
_RESNET_STRIDE = 32
_LARGEST_SIDE = 8192


def checked_config(document: Mapping[str, Any], model: str, image_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model config with the input size that counts, and ``mean`` and ``std`` of pixels where the document has them.

    How images are resized is not the model's to say (`embed_masks.preprocess`): of ``preprocess_cfg`` the size and the
    mode must fit the model, the rest is not read.

    Args:
        image_size: pixels, instead of the config's; 0 for the config's own.

    Raises:
        ParameterError: a key or a value that cannot be honoured. WeightsError: not of open_clip's form.
    """
    nested = "model_cfg" in document
    config = document["model_cfg"] if nested else document
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("vision_cfg", "text_cfg")):
        raise WeightsError(
            f"{model}: expected an open_clip model config with a vision_cfg and a text_cfg; give such a file"
        )
    if foreign := _refused_part(config):
        raise ParameterError(
            f"model: {model!r} has {foreign}, expected a CLIP with open_clip's own text encoder and its own image encoder or "
            "one of timm; choose another"
        )
    if nested:
        _known(document, frozenset({"model_cfg", "preprocess_cfg"}), model, "")
    _known(config, _TOP, model, "")
    for section, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        _known(config[section], frozenset(field.name for field in fields(kind)), model, f"{section}.")
    if not isinstance(config.get("embed_dim"), int):
        raise WeightsError(f"{model}: embed_dim: expected the width of the vectors, got {config.get('embed_dim')!r}")
    sized = with_image_size(config, image_size)
    sized.pop("preprocess_cfg", None)
    if config["vision_cfg"].get("timm_model_name"):
        check_timm(config["vision_cfg"], model)
    _check_size(sized["vision_cfg"], model)
    pixels = document.get("preprocess_cfg", {})
    return sized, _checked_pixels(pixels, config["vision_cfg"], model)


def foreign_part(config: Mapping[str, Any]) -> str:
    """What in a model config asks for more than open_clip's own two encoders, pooled as CLIP's; "" for nothing."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = {
        "timm_model_name": vision.get("timm_model_name"),
        "hf_model_name": text.get("hf_model_name"),
        "hf_tokenizer_name": text.get("hf_tokenizer_name"),
        "tokenizer_mode": text.get("tokenizer_mode"),
        "multimodal_cfg": "multimodal_cfg" in config,
        "vision_cfg.attentional_pool": vision.get("attentional_pool"),
        f"vision_cfg.pool_type {vision.get('pool_type')!r}": vision.get("pool_type", "tok") != "tok",
        "vision_cfg.output_tokens": vision.get("output_tokens"),
        "text_cfg.output_tokens": text.get("output_tokens"),
    }
    return ", ".join(name for name, there in foreign.items() if there)


_TAKEN = ("timm_model_name", "hf_tokenizer_name")
"""What is foreign and honoured all the same: `stages.clip.timm_model`, `stages.clip.tokenizer`."""


def _refused_part(config: Mapping[str, Any]) -> str:
    """What in a model config cannot be honoured: its `foreign_part` without `_TAKEN`."""
    return ", ".join(name for name in foreign_part(config).split(", ") if name not in _TAKEN)


def _known(section: Mapping[str, Any], known: frozenset[str], model: str, place: str) -> None:
    if unknown := sorted(map(str, section.keys() - known)):
        raise WeightsError(
            f"{model}: {place}{unknown[0]}: a key that cannot be honoured; correct or remove it; {nearest(unknown[0], known)}"
        )


def _check_size(vision: Mapping[str, Any], model: str) -> None:
    """The input size must be whole patches: those that are cut off would be missing unseen."""
    size, resnet = vision.get("image_size", 224), isinstance(vision.get("layers"), list)
    step = _RESNET_STRIDE if resnet else vision.get("patch_size", 16)
    step = 1 if vision.get("timm_model_name") else step  # its patches show when it is built
    sides = size if isinstance(size, list | tuple) else [size]
    whole = isinstance(step, int) and step > 0 and len(sides) in ({1} if resnet else {1, 2})
    if not whole or not all(type(side) is int and 0 < side <= _LARGEST_SIDE and side % step == 0 for side in sides):
        raise ParameterError(
            f"image_size: expected a multiple of {step} pixels (one patch of model {model!r}) up to {_LARGEST_SIDE}, got "
            f"{size}; choose such a size"
        )


def _checked_pixels(pixels: Any, vision: Mapping[str, Any], model: str) -> dict[str, Any]:
    if not isinstance(pixels, dict):
        raise WeightsError(
            f"{model}: preprocess_cfg: expected an object, got {type(pixels).__name__}; correct the file"
        )
    _known(pixels, _PREPROCESS, model, "preprocess_cfg.")
    own = vision.get("image_size", 224)
    size = pixels.get("size", own)
    if _pair(size) != _pair(own):
        raise ParameterError(
            f"{model}: preprocess_cfg.size: expected the image_size {own}, got {size}; correct the file"
        )
    if pixels.get("mode", "RGB") != "RGB":
        raise ParameterError(
            f"{model}: preprocess_cfg.mode: expected RGB, got {pixels['mode']!r}; choose another model"
        )
    pixel_values = {}
    for name in ("mean", "std"):
        value = pixels.get(name)
        if value is None:
            continue
        if not isinstance(value, list) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
            raise WeightsError(f"{model}: {name} of pixels: expected three numbers, got {value!r}; correct the file")
        if name == "std" and not all(v > 0 for v in value):
            raise WeightsError(
                f"{model}: std of pixels: expected three numbers above 0, got {value!r}; correct the file"
            )
        pixel_values[name] = value
    return pixel_values


def _pair(size: Any) -> list[Any]:
    """(height, width) of a size; three numbers (channels, height, width) as timm writes them."""
    return list(size)[-2:] if isinstance(size, list | tuple) else [size, size]
