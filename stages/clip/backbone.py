"""Encoder backbones: the two towers that every CLIP-like model must offer, and the registry of the kinds that do.

A kind is one record. Its towers are named as ``module:function``, so that a stage loads (and its parts depend on) the code
of its own side alone; an addition from outside the package may give the functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.scoring.score_rule import ScoreRule
from store.errors import ParameterError
from store.registry import Record, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class VisualTower(Protocol):
    """An image encoder that can mask what it sees.

    Attributes:
        input_size: (height, width) that it reads, pixels. grid: (rows, columns) of its patches.
        dim: D.
    """

    input_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int

    def shared(self, pixels: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        """What all masks of an image share, for each number k of masked blocks, from (I, 3, *input_size)."""

    def masked(self, states: Tensor, owners: NDArray[np.int64], masks: Tensor, k: int, batch: int) -> Tensor:
        """The vector of each mask inside its image: (N, dim).

        ``states`` of `shared` for this k; ``owners`` (N,), the image of each mask; ``masks`` (N, *grid) in [0, 1].
        """

    def encode(self, pixels: Tensor) -> Tensor:
        """The plain image encoder: (N, 3, *input_size) -> (N, dim)."""


class TextTower(Protocol):
    """A text encoder; ``batch`` strings at most are held at a time."""

    batch: int

    def encode(self, strings: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Raw vectors float32 (S, D) in the order of ``strings`` (one or more), and which were cut, bool (S,)."""

    def truncated(self, strings: Sequence[str]) -> NDArray[np.bool_]:
        """Which strings are longer than the encoder reads: bool (S,)."""


Masking = Literal["token", "attention"]
"""How a global feature is masked, see `stages.visual.masked_vit`."""
Tokenizer = Callable[..., Any]
Load = Callable[..., tuple[Any, Tokenizer]]
Visual = Callable[[Any, str], VisualTower]
Text = Callable[[Any, Tokenizer, int], TextTower]


@dataclass(frozen=True, kw_only=True)
class Backbone(Record):
    """A kind of encoder.

    Attributes:
        name, meaning: for people.
        reads: whether it takes a model config (a dict; of open_clip's form, or its own).
        wraps: whether it takes a loaded model.
        load: ``(model, weights, device=, precision=) -> (model, tokenizer)``; see `stages.clip.weights.load_clip`. One that
            can take another input size has ``image_size=`` too.
        visual: ``(model, masking) -> VisualTower``. text: ``(model, tokenizer, batch) -> TextTower``.
        score_rule: how its features become scores.
        libraries: distributions that its vectors depend on, beside those that all kinds do.
    """

    meaning: str
    reads: Callable[[Mapping[str, Any]], bool]
    wraps: Callable[[Any], bool]
    load: str | Load
    visual: str | Visual
    text: str | Text
    score_rule: ScoreRule
    libraries: tuple[str, ...] = ()

    def loaded(
        self,
        model: str,
        weights: Path,
        *,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        image_size: int = 0,
    ) -> tuple[Any, Tokenizer]:
        """The model in eval mode with the weights of a file, and its tokenizer.

        ``image_size``: side of its input, pixels, instead of its own (0). ParameterError: this kind has one size only.
        """
        load, options = _called(self.load), {"image_size": image_size} if image_size else {}
        if options and "image_size" not in signature(load).parameters:
            raise ParameterError(
                f"image_size: expected 0, backbone {self.name} has one input size only, got {image_size}; set it to 0"
            )
        model_and_tokenizer: tuple[Any, Tokenizer] = load(model, weights, device=device, precision=precision, **options)
        return model_and_tokenizer

    def modules(self, side: Literal["visual", "text"]) -> list[str]:
        """The modules named as text that compute what one side of the encoder gives, for digests of code."""
        return [entry.partition(":")[0] for entry in (self.load, getattr(self, side)) if isinstance(entry, str)]

    def visual_tower(self, model: Any, masking: str = "token") -> VisualTower:
        tower: VisualTower = _called(self.visual)(model, masking)
        return tower

    def text_tower(self, model: Any, tokenizer: Tokenizer, batch: int) -> TextTower:
        tower: TextTower = _called(self.text)(model, tokenizer, batch)
        return tower


BACKBONES: Registry[Backbone] = Registry("backbone", "clip")


def backbone_of(model: Any) -> Backbone:
    """The kind of a loaded model.

    Raises:
        ParameterError: no kind takes it.
    """
    for name in BACKBONES:
        if BACKBONES[name].wraps(model):
            return BACKBONES[name]
    visual = type(getattr(model, "visual", model)).__name__
    raise ParameterError(
        f"open_clip_model: expected a model of {known_kinds()}, got one whose image encoder is {visual}"
    )


def backbone_for(config: Mapping[str, Any], model: str) -> Backbone:
    """The kind that takes the config of ``model``, which is named in the message.

    Raises:
        ParameterError: no kind takes it.
    """
    for name in BACKBONES:
        if BACKBONES[name].reads(config):
            return BACKBONES[name]
    raise ParameterError(
        f"model: {model!r} is none of {known_kinds()}; choose another, or add its kind (CONTRIBUTING.md)"
    )


def known_kinds() -> str:
    """All kinds, for messages."""
    return ", ".join(f"{name} ({BACKBONES[name].meaning})" for name in BACKBONES)


def _called(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def _visual_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The vision part of a config of open_clip's own two encoders, {} for any other."""
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    foreign = not isinstance(vision, dict) or not isinstance(text, dict) or vision.get("timm_model_name")
    return {} if foreign else dict(vision)  # type: ignore[arg-type]


def _of_timm(config: Mapping[str, Any]) -> bool:
    """Whether a config is of open_clip's form with an image encoder of timm."""
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    return isinstance(vision, dict) and isinstance(text, dict) and bool(vision.get("timm_model_name"))


def _is(model: Any, module: str, name: str) -> bool:
    """Whether the image encoder of ``model`` is of a class, without importing where it is defined."""
    return any(
        kind.__module__ == module and kind.__name__ == name for kind in type(getattr(model, "visual", None)).__mro__
    )


BACKBONES.add(
    Backbone(
        module=__name__,
        name="vit",
        meaning="open_clip's VisionTransformer",
        reads=lambda config: isinstance(
            _visual_config(config).get("layers", 12 if _visual_config(config) else None), int
        ),
        wraps=lambda model: _is(model, "open_clip.transformer", "VisionTransformer"),
        load="stages.clip.weights:load_clip",
        visual="stages.visual.masked_vit:open_tower",
        text="stages.text.encoder:open_tower",
        score_rule="cosine",
    )
)
BACKBONES.add(
    Backbone(
        module=__name__,
        name="resnet",
        meaning="open_clip's ModifiedResNet",
        reads=lambda config: isinstance(_visual_config(config).get("layers"), list),
        wraps=lambda model: _is(model, "open_clip.modified_resnet", "ModifiedResNet"),
        load="stages.clip.weights:load_clip",
        visual="stages.visual.masked_resnet:open_tower",
        text="stages.text.encoder:open_tower",
        score_rule="unnormalised",
    )
)
BACKBONES.add(
    Backbone(
        module=__name__,
        name="timm",
        meaning="an image encoder of timm in open_clip's form: SigLIP, SigLIP2, PE, EVA-02, ConvNeXt",
        reads=_of_timm,
        wraps=lambda model: _is(model, "open_clip.timm_model", "TimmModel"),
        load="stages.clip.weights:load_clip",
        visual="stages.visual.timm_tower:open_tower",
        text="stages.text.encoder:open_tower",
        score_rule="cosine",
        libraries=("timm",),
    )
)
