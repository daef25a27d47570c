"""A model's folder in Hugging Face's layout, below ``heat.folder``: the files of it that are read, and what is wrong with them.

Nothing of transformers or torch is imported here, and nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.clip.forms import form_of, weights_file
from stages.clip.model_text import json_of, text_of
from stages.contract import Params
from stages.heat_maps.registry import Asked
from stages.text.template import Template, prompts_of
from store.errors import ParameterError, WeightsError, extra
from store.regular import leaves

LIBRARIES = ("numpy", "pillow", "safetensors", "tokenizers", "torch", "transformers")
"""Distributions whose versions decide the maps of a model of transformers."""
_CONFIG = "config.json"
_PIXELS = ("preprocessor_config.json", "processor_config.json")
"""Where transformers writes how pixels enter: up to version 4, and since version 5 (under ``image_processor``)."""
_TOKENIZER, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_TAKE_OUT = "or take {} out of heat.maps"


class ModelSettings(Params):
    """What kinds have in common whose maps a model of transformers makes."""

    model: str = Field(description="the model's folder below heat.folder, in Hugging Face's layout", exclude=True)
    text: Literal["phrase", "sentence"] = Field(description="its noun phrase, or the whole sentence")
    template: Template = Field("{}", description="prompt around the text")

    def prompts(self, asked: Asked) -> tuple[str, ...]:
        """The strings that are encoded for a map."""
        return prompts_of(self.template, asked.phrase if self.text == "phrase" else asked.sentence)


def model_files(folder: Path, settings: ModelSettings, kind: str, model_type: str) -> dict[str, Path]:
    """The files of a model by what they are: ``config``, ``weights``, ``pixels``, and ``tokenizer`` or ``vocabulary`` and
    ``merges``.

    ``settings.model`` is no part of a key: the digests of these files are (`HeatMapKind.files`).

    Raises:
        ParameterError: the library transformers is not installed, or the model's folder is not below ``folder``.
        WeightsError: a file is missing, is not what its name says, or is of another model than ``model_type``.
    """
    if find_spec("transformers") is None:
        raise ParameterError(
            f"heat.maps: {kind} needs the library transformers, it is not installed; run: {extra('transformers')}, "
            f"{_TAKE_OUT.format(kind)}"
        )
    model = folder / settings.model
    try:
        outside = Path(settings.model).is_absolute() or leaves(folder, model)
    except (OSError, ValueError, RuntimeError) as error:
        raise ParameterError(f"heat.settings.{kind}.model: expected a folder's name, got {settings.model!r}") from error
    if outside:
        raise ParameterError(
            f"heat.settings.{kind}.model: expected a folder below heat.folder ({folder}), which DVC watches, got "
            f"{settings.model!r}; put the model's files there"
        )
    if not model.is_dir():
        raise WeightsError(
            f"{model}: expected the folder of {kind}'s model (config, weights, preprocessor and tokenizer in Hugging Face's "
            f"layout), there is none; put it there, correct heat.settings.{kind}.model or heat.folder, {_TAKE_OUT.format(kind)}"
        )
    files = {"config": model / _CONFIG, "weights": weights_file(model)}
    files["pixels"] = next((model / name for name in _PIXELS if (model / name).is_file()), model / _PIXELS[0])
    if (model / _TOKENIZER).is_file() or not (model / _VOCABULARY).is_file():
        files["tokenizer"] = model / _TOKENIZER
    else:
        files |= {"vocabulary": model / _VOCABULARY, "merges": model / _MERGES}
    _require_type(files["config"], model_type)
    form_of(files["weights"])
    json_of(files["pixels"])
    for name in files.keys() & {"tokenizer", "vocabulary", "merges"}:
        text_of(files[name])
    return files


def _require_type(file: Path, model_type: str) -> None:
    found = json_of(file).get("model_type")
    if found != model_type:
        raise WeightsError(
            f"{file}: expected model_type {model_type!r}, got {found!r}; give the folder of such a model"
        )


def pixels_of(file: Path) -> Mapping[str, Any]:
    """The document that says how pixels enter."""
    document = json_of(file)
    inner = document.get("image_processor")
    return inner if isinstance(inner, dict) else document
