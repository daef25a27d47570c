"""What kind of model an encoder is, read from its config alone: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from stages.clip.backbone import Backbone, backbone_for
from stages.clip.forms import text_instead, weights_digest, weights_file
from stages.clip.hugging_face import is_hugging_face, open_clip_document
from stages.clip.tokenizer_files import tokenizer_files
from store.errors import ParameterError, WeightsError, nearest, reason
from store.fingerprint import file_digest
from store.regular import read_regular

_MOST_BYTES = 1 << 24
_TOKENIZER = ("tokenizer", "tokenizer_config")
"""Names of the digests of a tokenizer's files in an encoder's identity."""
ModelForm = Literal["name", "file", "folder"]
OPEN_CLIP_CONFIG, HUGGING_FACE_CONFIG, HUGGING_FACE_PIXELS = (
    "open_clip_config.json",
    "config.json",
    "preprocessor_config.json",
)


def model_form(model: str) -> ModelForm:
    """Which of the three ways names a model: a JSON file, a folder with a config and weights, or a name of open_clip.

    Only `read_document` says whether there is such a name.
    """
    if model.endswith(".json"):
        return "file"
    if _has_config(Path(model)):
        return "folder"
    return "folder" if "/" in model and ":" not in model else "name"


def model_at(model: str, folder: Path) -> str:
    """``model`` of a params file, whose paths start at ``folder``, as seen from here; a name stays."""
    path = str(folder / model)
    return model if model_form(model) == "name" and not _has_config(folder / model) else path


def _has_config(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (OPEN_CLIP_CONFIG, HUGGING_FACE_CONFIG))


def config_files(model: str) -> list[Path]:
    """The files that describe a model: [] for a name; for a folder of Hugging Face's form also how pixels are normalised.

    Raises:
        WeightsError: a folder with no config.
    """
    form, path = model_form(model), Path(model)
    if form == "name":
        return []
    if form == "file":
        beside = path.with_name(HUGGING_FACE_PIXELS)
        return [path, beside] if path.name == HUGGING_FACE_CONFIG and beside.is_file() else [path]
    for name in (OPEN_CLIP_CONFIG, HUGGING_FACE_CONFIG):
        if (path / name).is_file():
            pixels = path / HUGGING_FACE_PIXELS
            return [path / name, pixels] if name == HUGGING_FACE_CONFIG and pixels.is_file() else [path / name]
    raise WeightsError(
        f"{model}: expected a model's folder with {OPEN_CLIP_CONFIG} or {HUGGING_FACE_CONFIG}, "
        f"{'found none of them' if path.is_dir() else 'there is no such folder'}; correct the path, give a JSON model config, "
        "or a name of open_clip"
    )


def read_document(model: str) -> dict[str, Any]:
    """A model config of open_clip's form, or as an additional backbone has it, of a name, a JSON file or a folder.

    A config of Hugging Face's form is translated (`stages.clip.hugging_face`).

    Raises:
        ParameterError: an unknown name, or a config of Hugging Face's form that cannot be honoured. WeightsError: a file
            that is no JSON object, a folder without a config.
    """
    if model_form(model) == "name":
        import open_clip  # only names in the package: it would look up hf-hub: names on the network

        if model not in open_clip.list_models():
            raise ParameterError(
                f"model: expected the path of a .json model config, a model's folder or an open_clip architecture, got "
                f"{model!r}; {nearest(model, open_clip.list_models())}"
            )
        named: dict[str, Any] = open_clip.get_model_config(model) or {}
        return named
    first, *pixels = config_files(model)
    document = _read_json(first)
    if is_hugging_face(document):
        return open_clip_document(document, _read_json(pixels[0]) if pixels else {}, str(first))
    return document


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_regular(path, _MOST_BYTES)
        document = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        problem = error.strerror if isinstance(error, OSError) else text_instead(data[:4096]) or "it is no JSON"
        if not isinstance(error, OSError) and data.lstrip()[:1] in (b"{", b"["):
            problem = f"its JSON is damaged: {reason(error)}"
        raise WeightsError(
            f"{path}: expected a JSON model config, cannot read it ({problem}); check the path of the model"
        ) from error
    if not isinstance(document, dict):
        raise WeightsError(
            f"{path}: expected an open_clip model config with a vision_cfg and a text_cfg; give such a file"
        )
    return document


def model_config(document: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a config document, which may stand in it under ``model_cfg``."""
    config = document.get("model_cfg", document)
    return config if isinstance(config, dict) else {}


def with_image_size(config: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """A model config with another input size, pixels; 0 leaves its own."""
    vision = config.get("vision_cfg")
    if not image_size or not isinstance(vision, Mapping):
        return dict(config)
    return {**config, "vision_cfg": {**vision, "image_size": image_size}}


def backbone_named(model: str) -> Backbone:
    """The kind of backbone of ``model``: an open_clip name, a JSON file or a folder."""
    return backbone_for(model_config(read_document(model)), model)


def tokenizer_of(config: Mapping[str, Any], model: str, weights: Path) -> list[Path]:
    """The files of the tokenizer of a model config (`stages.clip.tokenizer_files`); [] for CLIP's own.

    They lie in the folder of the JSON config, the model's own folder, or the folder that ``weights`` names.
    """
    form = model_form(model)
    own = {"file": [Path(model).parent], "folder": [Path(model)], "name": []}[form]
    return tokenizer_files(config, model, [*own, *([weights] if weights.is_dir() and weights not in own else [])])


def architecture_of(model: str) -> str:
    """The name of an architecture for people: open_clip's, or that of the JSON file or folder."""
    return {"name": model, "file": Path(model).stem, "folder": Path(model).name}[model_form(model)]


def encoder_identity(model: str, weights: Path, precision: str, image_size: int = 0) -> dict[str, str]:
    """Which encoder makes vectors: equal identities give vectors that may be compared.

    ``architecture`` is its name for people, ``standard`` the field's name for its sizes (`standard_name`), ``model`` the
    digest of its config file or its open_clip name, ``pixels`` that of a second config file, where there is one,
    ``tokenizer`` and ``tokenizer_config`` those of its tokenizer's files, where that is not CLIP's, ``weights`` the sha256 of
    the weights file. ``image_size`` is there where it is another one than the config's.
    """
    config = model_config(read_document(model))
    sized = with_image_size(config, image_size)
    files = dict(zip(("model", "pixels"), map(file_digest, config_files(model)), strict=False))
    tokenizer = tokenizer_of(config, model, weights)
    files |= zip(_TOKENIZER, map(file_digest, tokenizer), strict=False)
    return {
        "architecture": architecture_of(model),
        "standard": standard_name(sized),
        "backbone": backbone_for(config, model).name,
        "model": model,
        **files,
        "weights": weights_digest(weights),
        "precision": precision,
        **({"image_size": str(image_size)} if image_size and (sized != config or "vision_cfg" not in config) else {}),
    }


def encoder_files(model: str, weights: Path, identity: Mapping[str, str]) -> dict[Path, str]:
    """The files that loading an encoder reads, with their digests as its identity has them."""
    files = {file: identity[key] for file, key in zip(config_files(model), ("model", "pixels"), strict=False)}
    tokenizer = tokenizer_of(model_config(read_document(model)), model, weights)
    files |= {file: identity[key] for file, key in zip(tokenizer, _TOKENIZER, strict=False)}
    return {weights_file(weights): identity["weights"], **files}


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
