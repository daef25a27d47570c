"""A model of transformers from local files: its network, how pictures enter it, and its tokens.

Config, weights, pixels and tokens are read here and not by ``from_pretrained``: no hub is asked, no code of a file is run, and
a fault is named in our words. What the network computes is transformers' own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.clip.model_text import json_of, text_of
from stages.clip.state_dict import read_state_dict
from stages.heat_maps.model_folder import pixels_of
from store.errors import GlimpseError, WeightsError, reason

_KEPT = 1 << 14
"""Text vectors that a process keeps: phrases recur from image to image."""
_NOT_WEIGHTS = (".position_ids", ".num_batches_tracked")
"""Counters that nothing reads, which some versions of transformers store and others do not."""
_SHOWN = 4
_DEFAULT_SCALE = 1 / 255


@dataclass(frozen=True)
class Pixels:
    """How pictures enter a network: squashed to its size, scaled to 0..1, normalised.

    Attributes:
        size: rows and columns, pixels. resample: PIL's number of the filter. scale: of the bytes.
        mean, std: of each channel.
    """

    size: tuple[int, int]
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, file: Path) -> Pixels:
        """As a preprocessor config has it.

        Where that scales the short side and cuts out the middle (``do_center_crop``), the whole picture is squashed to the
        size of the cut, so that every part of it has heat.

        Raises:
            WeightsError: a value is missing or of another kind.
        """
        document = pixels_of(file)
        try:
            cropped = document.get("do_center_crop", False) or "shortest_edge" in _sides(document["size"])
            sides = _sides(document.get("crop_size") or document["size"]) if cropped else _sides(document["size"])
            side = sides.get("shortest_edge")
            size = (side, side) if side else (sides["height"], sides["width"])
            mean, std = ((tuple(map(float, document[f"image_{name}"]))) for name in ("mean", "std"))
            scale = float(document.get("rescale_factor", _DEFAULT_SCALE)) if document.get("do_rescale", True) else 1.0
            if not document.get("do_normalize", True):
                mean, std = (0.0,) * 3, (1.0,) * 3
            found = cls(size, Image.Resampling(document["resample"]), scale, mean, std)
            if not (all(type(n) is int and 1 <= n <= 4096 for n in size) and len(mean) == len(std) == 3 and all(std)):
                raise ValueError(f"size {size}, mean {mean}, deviation {std}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else reason(error)
            raise WeightsError(
                f"{file}: expected size, resample, image_mean and image_std of a preprocessor of transformers, got {what}; "
                "give the model's own file"
            ) from error
        return found

    def entered(self, image: Image.Image) -> Tensor:
        """A picture (PIL RGB) as float32 (1, 3, rows, columns)."""
        squashed = image.resize((self.size[1], self.size[0]), self.resample)
        scaled = (np.asarray(squashed, np.float64) * self.scale).astype(np.float32)  # rounded as transformers does
        values = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(values.transpose(2, 0, 1)[None].copy())


def _sides(size: Any) -> Mapping[str, Any]:
    return {"height": size, "width": size} if isinstance(size, int) else size


class Model:
    """A network and its tokens.

    Attributes:
        net: transformers' model, float32, eval mode. pixels: how pictures enter it. vector: of a string, (1, D), kept.
    """

    def __init__(self, files: Mapping[str, Path], prefix: str, name: str, device: str) -> None:
        """
        Args:
            files: of `model_files`. prefix, name: of transformers' classes (``CLIPSeg``, ``CLIPSegForImageSegmentation``).

        Raises:
            WeightsError: the files do not make such a model.
        """
        self.net = network(files, prefix, name).to(device)
        self.pixels = Pixels.of(files["pixels"])
        self._device, self._file = device, files["config"]
        self._text = self.net.config.text_config
        self._tokens = tokens(files, self._text.max_position_embeddings)
        self.vector = lru_cache(_KEPT)(self._vector)

    def entered(self, image: Image.Image) -> Tensor:
        """A picture (PIL RGB) as the network takes it, (1, 3, rows, columns) on its device."""
        return self.pixels.entered(image).to(self._device)

    def tried(self, run: Callable[[Image.Image, str], object]) -> None:
        """Run a picture and a text through, which shows a config whose parts do not fit.

        Raises:
            WeightsError: it fails.
        """
        try:
            run(Image.new("RGB", (8, 8)), "a")
        except GlimpseError:
            raise
        except Exception as error:  # whatever a config of other numbers brings about
            raise WeightsError(
                f"{self._file}: the model cannot be run ({reason(error)}); give the files of one model"
            ) from error

    def _vector(self, string: str) -> Tensor:
        """Alone in its pass and without padding: the bytes depend on no other string."""
        ids = torch.tensor([self._tokens(string)], device=self._device)
        if int(ids.max()) >= self._text.vocab_size:
            raise WeightsError(
                f"{self._file}: expected token ids below {self._text.vocab_size}, its vocab_size, got {int(ids.max())} for "
                f"{string!r}; give the model's own tokenizer"
            )
        owner = getattr(self.net, "clip", self.net)
        found: Tensor = owner.get_text_features(ids).pooler_output
        return found


def network(files: Mapping[str, Path], prefix: str, name: str) -> Any:
    """The network of a config with the weights of a file, float32, eval mode.

    Raises:
        WeightsError: no such config, or tensors that are missing, unexpected or of another shape.
    """
    file = files["config"]
    with _silent():
        import transformers

        try:
            with torch.random.fork_rng(devices=[]):  # the numbers that a network starts with are replaced
                net: Any = getattr(transformers, name)(config_of(transformers, prefix, json_of(file)))
        except Exception as error:  # a dataclass of strict types, an assertion, a size below one
            raise WeightsError(
                f"{file}: transformers cannot build this config ({reason(error)}); give the model's own file"
            ) from error
    _load(net, files["weights"], file)
    return net.float().eval().requires_grad_(False)


def config_of(transformers: Any, prefix: str, document: Mapping[str, Any]) -> Any:
    """transformers' config of a document's sizes. Keys that say how to run it (attention, precision, quantisation, code of a
    repository) are left out, as are those it does not know."""
    made = {}
    for name in ("text_config", "vision_config"):
        kind = getattr(transformers, f"{prefix}{name.title().replace('_', '')}")
        section = document.get(f"{name}_dict") or document.get(name) or {}  # old configs: the first goes before
        made[name] = kind(**{key: value for key, value in section.items() if key in kind.__annotations__})
    kind = getattr(transformers, f"{prefix}Config")
    own = kind.__annotations__.keys() - made.keys()
    return kind(**made, **{key: value for key, value in document.items() if key in own})


def _load(net: torch.nn.Module, weights: Path, config: Path) -> None:
    def kept(named: Mapping[str, Any]) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in named.items()
            if isinstance(value, Tensor) and not name.endswith(_NOT_WEIGHTS)
        }

    expected, state = kept(net.state_dict()), kept(read_state_dict(weights))
    problems = {
        "missing": expected.keys() - state.keys(),
        "unexpected": state.keys() - expected.keys(),
        "of another shape": {n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape},
    }
    if any(problems.values()):
        faults = "; ".join(
            f"{len(names)} {kind}: {', '.join(sorted(names)[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for kind, names in problems.items()
            if names
        )
        raise WeightsError(f"{weights}: does not fit {config}: {faults}; give the files of one model")
    net.load_state_dict(state, strict=False)


def tokens(files: Mapping[str, Path], longest: int) -> Callable[[str], list[int]]:
    """What gives the token ids of a string with its start and end, at most ``longest``: by ``tokenizer.json``, or by CLIP's
    byte pairs with ``vocab.json`` and ``merges.txt``.

    Raises:
        WeightsError: the files are none of a tokenizer.
    """
    try:
        if "tokenizer" in files:
            from tokenizers import Tokenizer

            tokenizer: Any = Tokenizer.from_str(text_of(files["tokenizer"]))
        else:
            with _silent():
                from transformers import CLIPTokenizer

                pairs = [tuple(line.split()) for line in text_of(files["merges"]).splitlines()]
                merges = [pair for pair in pairs if len(pair) == 2 and pair[0] != "#version:"]
                tokenizer = CLIPTokenizer(vocab=json_of(files["vocabulary"]), merges=merges).backend_tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
    except GlimpseError:
        raise
    except Exception as error:  # its Rust side raises plain Exception
        file = files.get("tokenizer") or files["vocabulary"]
        raise WeightsError(
            f"{file}: expected a tokenizer of Hugging Face's form, cannot read it ({reason(error)}); fetch the file again"
        ) from error
    return lambda string: list(tokenizer.encode(string).ids)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what transformers logs: what matters is an error here."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
