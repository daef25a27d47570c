"""Where the tokenizer of a text encoder lies that is not CLIP's: local files of Hugging Face's form, nothing of a hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from store.errors import ParameterError, WeightsError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def tokenizer_name(config: Mapping[str, Any]) -> str:
    """``text_cfg.hf_tokenizer_name`` of a model config of open_clip's form, "" for CLIP's own tokenizer."""
    text = config.get("text_cfg")
    return str(text.get("hf_tokenizer_name") or "") if isinstance(text, Mapping) else ""


def tokenizer_files(config: Mapping[str, Any], model: str, folders: Sequence[Path]) -> list[Path]:
    """The tokenizer's files: its ``tokenizer.json`` and, where there is one, the ``tokenizer_config.json`` beside it.

    Looked for in each of ``folders``: first under the name that the config gives it (``timm/ViT-B-16-SigLIP`` is then a folder
    there), then in the folder itself. [] for CLIP's own tokenizer, which open_clip brings along.

    Raises:
        WeightsError: there is none. ParameterError: a name that leads out of the folder.
    """
    name = tokenizer_name(config)
    if not name:
        return []
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ParameterError(
            f"{model}: text_cfg.hf_tokenizer_name: expected a folder below the config's, or a name on the Hugging Face hub, "
            f"got {name!r}; put the tokenizer's files beside the config and name their folder"
        )
    places = [place for folder in folders for place in (folder / name, folder)]
    for place in places:
        if (place / TOKENIZER).is_file():
            beside = place / TOKENIZER_CONFIG
            return [place / TOKENIZER, beside] if beside.is_file() else [place / TOKENIZER]
    looked = (
        ", ".join(str(place / TOKENIZER) for place in places) or "no folder: the config is a name, the weights a file"
    )
    raise WeightsError(
        f"{model}: expected {TOKENIZER} of its tokenizer {name!r}, found none (looked for {looked}); nothing is downloaded: "
        f"put the model's {TOKENIZER} and {TOKENIZER_CONFIG} into the folder of its weights and name that as `weights`, or "
        "into a folder beside the JSON config that hf_tokenizer_name names"
    )
