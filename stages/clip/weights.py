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

from stages.clip.config import read_document
from stages.clip.state_dict import read_state_dict
from stages.device.precision import Precision, torch_dtype
from store.errors import ParameterError, WeightsError

# Scalars that only OpenAI's own archives hold; all their models use QuickGELU.
OPENAI_SCALARS = frozenset({"input_resolution", "context_length", "vocab_size"})
NAMES_SHOWN = 6


def load_clip(
    model: str, weights: Path, *, device: torch.device | str = "cpu", precision: Precision = "float32"
) -> tuple[nn.Module, SimpleTokenizer]:
    """An open_clip model in eval mode with the weights of a file, and CLIP's tokenizer for its context length.

    Args:
        model: an architecture name of open_clip (``ViT-B-32-quickgelu``), or the path of a JSON file in open_clip's
            model-config format, with or without ``model_cfg`` and ``preprocess_cfg`` around it.
        weights: ``.safetensors``, a PyTorch checkpoint, or an archive as OpenAI published them; any float type.

    Raises:
        ParameterError: an unknown ``model``. WeightsError: a file that is damaged, of another architecture, or trained
            with another activation than ``model`` has, as far as `_trained_with_quick_gelu` can tell.
    """
    config, pixels = _read_config(model)
    state = read_state_dict(weights)
    _require_activation(config, model, weights, OPENAI_SCALARS & state.keys())
    net, tokenizer = _build(config, model)
    _load_state(net, {name: tensor for name, tensor in state.items() if name not in OPENAI_SCALARS}, weights, model)
    net.visual.image_mean = tuple(pixels.get("mean", OPENAI_DATASET_MEAN))
    net.visual.image_std = tuple(pixels.get("std", OPENAI_DATASET_STD))
    return net.to(device=device, dtype=torch_dtype(precision)).eval().requires_grad_(False), tokenizer


def _read_config(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model config, and the preprocessing config that may come with it."""
    document = read_document(model)
    config = document.get("model_cfg", document)
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("vision_cfg", "text_cfg")):
        raise WeightsError(
            f"{model}: expected an open_clip model config with a vision_cfg and a text_cfg; give such a file"
        )
    if foreign := _foreign(config):
        raise ParameterError(
            f"model: {model!r} has {foreign}, expected a CLIP with open_clip's own two encoders; choose another"
        )
    return config, document.get("preprocess_cfg", {})


def _foreign(config: dict[str, Any]) -> str:
    """What in a model config asks for more than open_clip's own two encoders; "" for nothing."""
    foreign = [
        name
        for name, section in (
            ("timm_model_name", "vision_cfg"),
            ("hf_model_name", "text_cfg"),
            ("hf_tokenizer_name", "text_cfg"),
        )
        if config[section].get(name)
    ]
    return ", ".join(foreign) or ("multimodal_cfg" if "multimodal_cfg" in config else "")


def _require_activation(config: dict[str, Any], model: str, weights: Path, scalars: frozenset[str]) -> None:
    """Refuse weights that are known to have been trained with QuickGELU where ``config`` has GELU, or the reverse."""
    if scalars:
        expected, reason = True, f"it holds {', '.join(sorted(scalars))}, as only OpenAI's archives do"
    else:
        known = _trained_with_quick_gelu(config, weights.stem)
        if known is None:
            return
        expected, reason = known[0], f"its name holds open_clip's tag {known[1]}"
    if bool(config.get("quick_gelu", False)) != expected:
        trained, other = ("QuickGELU", "GELU") if expected else ("GELU", "QuickGELU")
        ending = "ends in -quickgelu" if expected else "does not end in -quickgelu"
        raise WeightsError(
            f"{weights}: expected a model with {trained}, which these weights were trained with ({reason}), model "
            f"{model!r} has {other}; take the architecture whose name {ending}, or set quick_gelu to "
            f"{str(expected).lower()} in its JSON file{'' if scalars else '; if the name of the file misleads, rename it'}"
        )


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
        if not _foreign(config):
            published: Any = open_clip.get_pretrained_cfg(model, tag)
            rows.append((config, tag, bool(published.get("quick_gelu", False))))
    return rows


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "quick_gelu"}


def _build(config: dict[str, Any], model: str) -> tuple[Any, SimpleTokenizer]:
    arguments = dict(config)
    build = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    text = arguments["text_cfg"]
    try:
        net: Any = build(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise WeightsError(f"{model}: open_clip cannot build this model config ({error}); correct the file") from error
    tokenizer = SimpleTokenizer(context_length=net.context_length, **(text.get("tokenizer_kwargs") or {}))
    if net.vocab_size < tokenizer.vocab_size:
        raise WeightsError(
            f"{model}: expected a vocab_size of at least {tokenizer.vocab_size}, the tokenizer's, got {net.vocab_size}"
        )
    return net, tokenizer


def _load_state(net: nn.Module, state: dict[str, Tensor], path: Path, model: str) -> None:
    expected = net.state_dict()
    shapes = {
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    }
    problems = {
        "missing": expected.keys() - state.keys(),
        "unexpected": state.keys() - expected.keys(),
        "other shapes": shapes,
    }
    if any(problems.values()):
        faults = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names)
        raise WeightsError(
            f"{path}: does not fit model {model!r}: {faults}; give the architecture that these weights were made with"
        )
    net.load_state_dict(state)


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{shown}, ..." if len(names) > NAMES_SHOWN else shown
