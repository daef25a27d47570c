"""What kind of model an encoder is, read from its config alone: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.clip.backbone import Backbone, backbone_for
from store.errors import ParameterError, WeightsError, nearest
from store.fingerprint import file_digest


def read_document(model: str) -> dict[str, Any]:
    """A model config as it is written: ``model`` is the path of a JSON file, or an architecture name of open_clip.

    Raises:
        ParameterError: an unknown name. WeightsError: a file that is no JSON object.
    """
    if not model.endswith(".json"):
        import open_clip  # only names in the package: it would look up hf-hub: names on the network

        if model not in open_clip.list_models():
            raise ParameterError(
                f"model: expected the path of a .json model config or an open_clip architecture, got {model!r}; "
                f"{nearest(model, open_clip.list_models())}"
            )
        named: dict[str, Any] = open_clip.get_model_config(model) or {}
        return named
    try:
        document = json.loads(Path(model).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{model}: expected a JSON model config, cannot read it ({error}); check the path of the model"
        ) from error
    if not isinstance(document, dict):
        raise WeightsError(
            f"{model}: expected an open_clip model config with a vision_cfg and a text_cfg; give such a file"
        )
    return document


def model_config(document: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a config document, which may stand in it under ``model_cfg``."""
    config = document.get("model_cfg", document)
    return config if isinstance(config, dict) else {}


def backbone_named(model: str) -> Backbone:
    """The kind of backbone of ``model``, a JSON file or an open_clip name."""
    return backbone_for(model_config(read_document(model)), model)


def architecture_of(model: str) -> str:
    """The name of an architecture for people: open_clip's, or that of the JSON file."""
    return Path(model).stem if model.endswith(".json") else model


def encoder_identity(model: str, weights: Path, precision: str) -> dict[str, str]:
    """Which encoder makes vectors: equal identities give vectors that may be compared.

    ``architecture`` is its name for people, ``standard`` the field's name for its sizes (`standard_name`), ``model`` the
    digest of its JSON file or its open_clip name, ``weights`` the sha256 of the weights file.
    """
    config = model_config(read_document(model))
    return {
        "architecture": architecture_of(model),
        "standard": standard_name(config),
        "backbone": backbone_for(config, model).name,
        "model": file_digest(Path(model)) if model.endswith(".json") else model,
        "weights": file_digest(weights),
        "precision": precision,
    }


def encoder_files(model: str, weights: Path, identity: Mapping[str, str]) -> dict[Path, str]:
    """The files that loading an encoder reads, with their digests as its identity has them."""
    config = {Path(model): identity["model"]} if model.endswith(".json") else {}
    return {weights: identity["weights"], **config}


def vectors_of(identity: Mapping[str, str]) -> dict[str, str]:
    """What of an encoder's identity decides its vectors: all but the name for people."""
    return {name: value for name, value in identity.items() if name not in ("architecture", "standard")}


def standard_name(config: Mapping[str, Any]) -> str:
    """The field's name for an encoder of these sizes, read off its config and not its file's name: ViT-B/32, RN50.

    "" for sizes that have none (a toy) and for configs that are not of open_clip's form.
    """
    vision = config.get("vision_cfg")
    if not isinstance(vision, Mapping) or vision.get("timm_model_name"):
        return ""
    layers, width, side = vision.get("layers", 12), vision.get("width", 768), vision.get("image_size", 224)
    if isinstance(layers, list):
        name = _RESNETS.get((tuple(layers), vision.get("width", 64), config.get("embed_dim")), "")
        usual = _RESNET_SIDES.get(name, 224)
    else:
        size = _VIT_SIZES.get((layers, width, config.get("embed_dim")), "")
        name, usual = (f"ViT-{size}/{vision.get('patch_size', 16)}" if size else ""), 224
    return name if side == usual or not name else f"{name}@{side}"


_VIT_SIZES: dict[Any, str] = {
    (12, 768, 512): "B",
    (24, 1024, 768): "L",
    (32, 1280, 1024): "H",
    (40, 1408, 1024): "g",
    (48, 1664, 1280): "bigG",
}
"""(layers, width, embedding width) of the vision transformers of CLIP and OpenCLIP."""
_RESNETS: dict[Any, str] = {
    ((3, 4, 6, 3), 64, 1024): "RN50",
    ((3, 4, 23, 3), 64, 512): "RN101",
    ((4, 6, 10, 6), 80, 640): "RN50x4",
    ((6, 8, 18, 8), 96, 768): "RN50x16",
    ((3, 15, 36, 10), 128, 1024): "RN50x64",
}
"""(layers, width, embedding width) of CLIP's ResNets."""
_RESNET_SIDES = {"RN50x4": 288, "RN50x16": 384, "RN50x64": 448}
"""Input sides other than 224 pixels."""
