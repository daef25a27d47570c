"""Which architecture weights are of, read off the shapes of their tensors, for messages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import open_clip
from torch import Tensor

from stages.clip.config_check import foreign_part

_TEXT_SIZES = {"width": 512, "layers": 12, "context_length": 77, "vocab_size": 49408}
"""What open_clip takes for what a text config leaves out."""
_NAMES = 4


def fitting_models(state: Mapping[str, Tensor]) -> str:
    """Which of open_clip's architectures has tensors of these shapes, or what its config would have to say: advice.

    ``state``: name -> tensor, under open_clip's names.
    """
    sizes = sizes_of(state)
    if not sizes:
        return "give the architecture that these weights were made with"
    names = [name for name in open_clip.list_models() if _sizes_in(open_clip.get_model_config(name) or {}) == sizes]
    if names:
        more = ", ..." if len(names) > _NAMES else ""
        return f"these weights are of {' or '.join(names[:_NAMES])}{more}: give such an architecture as the model"
    vision = ", ".join(f"{name} {value}" for name, value in sizes["vision_cfg"].items())
    text = ", ".join(f"{name} {value}" for name, value in sizes["text_cfg"].items())
    return (
        "give the architecture that these weights were made with: a config with "
        f"embed_dim {sizes['embed_dim']}, vision_cfg: {vision}; text_cfg: {text}"
    )


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of a CLIP that its tensors show, as a model config has them; {} where they do not."""
    shapes = {name.removeprefix("text."): tuple(value.shape) for name, value in state.items()}
    try:
        text = {
            "width": shapes["ln_final.weight"][0],
            "layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
            "context_length": shapes["positional_embedding"][0],
            "vocab_size": shapes["token_embedding.weight"][0],
        }
        if "visual.attnpool.positional_embedding" in shapes:
            vision: dict[str, Any] = {
                "layers": [_count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
                "width": shapes["visual.layer1.0.conv1.weight"][0],
                "image_size": 32 * math.isqrt(shapes["visual.attnpool.positional_embedding"][0] - 1),
            }
            dim = shapes["visual.attnpool.c_proj.weight"][0]
        else:
            patch = shapes["visual.conv1.weight"][2]
            vision = {
                "layers": _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
                "width": shapes["visual.conv1.weight"][0],
                "patch_size": patch,
                "image_size": patch * math.isqrt(shapes["visual.positional_embedding"][0] - 1),
            }
            dim = shapes["visual.proj"][1]
    except (LookupError, ValueError):
        return {}
    return {"embed_dim": dim, "vision_cfg": vision, "text_cfg": text}


def _sizes_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a config of open_clip; {} for one that Glimpse does not take."""
    if foreign_part(config):
        return {}
    vision, text = config["vision_cfg"], config["text_cfg"]
    resnet = isinstance(vision.get("layers"), list)
    own = {
        "layers": vision.get("layers", 12),
        "width": vision.get("width", 768),
        **({} if resnet else {"patch_size": vision.get("patch_size", 16)}),
        "image_size": vision.get("image_size", 224),
    }
    return {
        "embed_dim": config["embed_dim"],
        "vision_cfg": own,
        "text_cfg": {name: text.get(name, usual) for name, usual in _TEXT_SIZES.items()},
    }


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    sizes = [int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match]
    return 1 + max(sizes, default=-1)
