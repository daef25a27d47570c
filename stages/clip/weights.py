"""Build a CLIP from an open_clip architecture and a local weights file; downloads nothing, runs no code of a file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from stages.clip.config import config_files, model_config, read_document, tokenizer_of
from stages.clip.config_check import checked_config, foreign_part
from stages.clip.fitting import load_into
from stages.clip.forms import WEIGHTS_NAMES, weights_file
from stages.clip.state_dict import read_state_dict
from stages.clip.timm_model import fit_input, published_pixels
from stages.clip.tokenizer import FileTokenizer
from stages.device.precision import Precision, torch_dtype
from store.errors import GlimpseError, ParameterError, WeightsError

# Scalars that only OpenAI's own archives hold; all their models use QuickGELU.
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})


def load_clip(
    model: str,
    weights: Path,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    image_size: int = 0,
) -> tuple[nn.Module, SimpleTokenizer | FileTokenizer]:
    """An open_clip model in eval mode with the weights of a file, and its tokenizer for its context length.

    The tokenizer is CLIP's, which open_clip brings along, or where the config has an ``hf_tokenizer_name`` (SigLIP) the
    ``tokenizer.json`` of `stages.clip.config.tokenizer_of`.

    Args:
        model: an architecture name of open_clip (``ViT-B-32-quickgelu``), the path of a JSON file in open_clip's
            model-config format, with or without ``model_cfg`` and ``preprocess_cfg`` around it, or a folder in open_clip's
            or Hugging Face's form. Its image encoder may be one of timm.
        weights: a file of any form that `read_state_dict` reads, under open_clip's or Hugging Face's names, in any float
            type; or such a folder.
        image_size: side of the input, pixels, instead of the model's own (0): position tables are interpolated.

    Raises:
        ParameterError: an unknown ``model``, a key in its config that cannot be honoured, an ``image_size`` that is not
            whole patches. WeightsError: a file that is damaged, of another architecture, or trained with another
            activation than ``model`` has, as far as `_trained_with_quick_gelu` can tell.
    """
    if type(image_size) is not int or image_size < 0:
        raise ParameterError(f"image_size: expected pixels, or 0 for the model's own size, got {image_size!r}")
    config, pixels = checked_config(read_document(model), model, image_size)
    file = weights_file(weights)
    state = {name: value for name, value in read_state_dict(file).items() if isinstance(value, Tensor | int)}
    _require_activation(config, model, file, OPENAI_SCALARS & state.keys())
    net = _build(config, model)
    tokenizer = _tokenizer(net, config, model, weights)
    tensors = {n: v for n, v in state.items() if isinstance(v, Tensor) and n not in OPENAI_SCALARS}
    load_into(net, tensors, file, model, quiet=image_size > 0)
    if network := config["vision_cfg"].get("timm_model_name"):
        pixels = published_pixels(network) | pixels
    net.visual.image_mean = tuple(pixels.get("mean", OPENAI_DATASET_MEAN))
    net.visual.image_std = tuple(pixels.get("std", OPENAI_DATASET_STD))
    return net.to(device=device, dtype=torch_dtype(precision)).eval().requires_grad_(False), tokenizer


def _require_activation(config: dict[str, Any], model: str, weights: Path, scalars: frozenset[str]) -> None:
    """Refuse weights that are known to have been trained with QuickGELU where ``config`` has GELU, or the reverse."""
    remedy = ""
    if scalars:
        expected, reason = True, f"it holds {', '.join(sorted(scalars))}, as only OpenAI's archives do"
    elif (beside := _activation_beside(weights)) is not None:
        expected, reason = beside[0], f"the {beside[1]} beside it says so"
    else:
        known = _trained_with_quick_gelu(config, weights.stem)
        if known is None:
            return
        expected, reason = known[0], f"its name holds open_clip's tag {known[1]}"
        remedy = "; if the name of the file misleads, rename it"
    if bool(config.get("quick_gelu", False)) != expected:
        trained, other = ("QuickGELU", "GELU") if expected else ("GELU", "QuickGELU")
        ending = "ends in -quickgelu" if expected else "does not end in -quickgelu"
        raise WeightsError(
            f"{weights}: expected a model with {trained}, which these weights were trained with ({reason}), model "
            f"{model!r} has {other}; take the architecture whose name {ending}, or set quick_gelu to "
            f"{str(expected).lower()} in its JSON file{remedy}"
        )


def _activation_beside(weights: Path) -> tuple[bool, str] | None:
    """Whether the config in the folder of weights called as in a model's folder has QuickGELU, and that config's name."""
    if weights.name not in WEIGHTS_NAMES:
        return None
    try:
        first = config_files(str(weights.parent.absolute()))[0]
        beside = model_config(read_document(str(first)))
    except GlimpseError:
        return None
    return (bool(beside.get("quick_gelu", False)), first.name) if "vision_cfg" in beside else None


def _trained_with_quick_gelu(config: dict[str, Any], name: str) -> tuple[bool, str] | None:
    """Whether weights with this file name were trained with QuickGELU, and the tag of open_clip's table that says so.

    The longest tag in ``name`` counts (case, "-" and "_" do not). Some tags stand for QuickGELU in one architecture and
    GELU in another: what is said of the architecture of ``config`` goes before what is said of all. None where no tag
    is named, or the tag leaves it open.
    """
    plain = name.lower().replace("-", "_")
    rows = [row for row in _published() if row[1] in plain]
    longest = max((len(tag) for _, tag, _ in rows), default=0)
    rows = [row for row in rows if len(row[1]) == longest]
    same = [row for row in rows if _architecture(row[0]) == _architecture(config)]
    answers = {quick_gelu for _, _, quick_gelu in same or rows}
    return (answers.pop(), rows[0][1]) if len(answers) == 1 else None


@cache
def _published() -> list[tuple[dict[str, Any], str, bool]]:
    """(model config, tag, whether trained with QuickGELU) of all weights that open_clip knows and `load_clip` can take."""
    rows = []
    for model, tag in open_clip.list_pretrained():
        config: Any = open_clip.get_model_config(model)
        if not foreign_part(config):
            published: Any = open_clip.get_pretrained_cfg(model, tag)
            rows.append((config, tag, bool(published.get("quick_gelu", False))))
    return rows


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "quick_gelu"}


def _build(config: dict[str, Any], model: str) -> Any:
    arguments = dict(config)
    build = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    try:
        net: Any = build(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise WeightsError(f"{model}: open_clip cannot build this model config ({error}); correct the file") from error
    if config["vision_cfg"].get("timm_model_name"):
        fit_input(net.visual, model)
    return net


def _tokenizer(net: Any, config: dict[str, Any], model: str, weights: Path) -> SimpleTokenizer | FileTokenizer:
    options = config["text_cfg"].get("tokenizer_kwargs") or {}
    if files := tokenizer_of(config, model, weights):
        return FileTokenizer(files, net.context_length, net.vocab_size, **options)
    tokenizer = SimpleTokenizer(context_length=net.context_length, **options)
    if net.vocab_size < tokenizer.vocab_size:
        raise WeightsError(
            f"{model}: expected a vocab_size of at least {tokenizer.vocab_size}, the tokenizer's, got {net.vocab_size}"
        )
    return tokenizer
