"""Kind clip_seg against transformers' own CLIPSegProcessor and model, one image and one phrase at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPSegForImageSegmentation

from stages.heat_maps.clip_seg import Settings, activations, files, opened
from stages.heat_maps.registry import Asked, Heat, Opening
from stages.heat_maps.transformers_model import Model
from store.errors import ParameterError
from tests.helpers.transformers_files import SIDE, as_of_openai, clip_seg, quiet, vocabulary

TEXTS = ("the red dog", "a cat, left of the blue ball!", "red", "x" * 40)
"""The last one is longer than the context of 16 tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    clip_seg(folder / "tiny")
    return folder


def picture(seed: int = 0, width: int = 90, height: int = 50) -> Image.Image:
    """Slow colours with noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((width, height))
    return Image.fromarray((np.asarray(coarse) // 2 + rng.integers(0, 128, (height, width, 3))).astype(np.uint8))


def asked(*texts: str) -> list[Asked]:
    return [Asked(0, text, f"the phrase of {text}") for text in texts]


def maker(folder: Path, **settings: Any) -> Any:
    return opened(Opening(Settings(**{"model": "tiny", "block": 1} | settings), folder, {}))


def maps(folder: Path, image: Image.Image, texts: Sequence[str], **settings: Any) -> list[Heat]:
    found = maker(folder, **settings)(image, asked(*texts))
    assert all(isinstance(heat, np.ndarray) and heat.dtype == np.float32 for heat in found)
    return list(found)


def released(model: Path, image: Image.Image, text: str, processor: Any) -> np.ndarray:
    """The map as transformers' documentation makes it."""
    with quiet():
        net = CLIPSegForImageSegmentation.from_pretrained(model, local_files_only=True).eval()
    given = processor(text=[text], images=[image], truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = net(**given).logits
    return logits.reshape(logits.shape[-2:]).sigmoid().numpy()


@pytest.mark.parametrize(
    "config", [{}, {"conditional_layer": 1}, {"use_complex_transposed_convolution": True}, {"eos": 2}]
)
def test_maps_are_those_of_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    processor, image = clip_seg(tmp_path / "tiny", seed=3, **config), picture()
    expected = [released(tmp_path / "tiny", image, text, processor) for text in TEXTS]
    for found, heat in zip(maps(tmp_path, image, TEXTS), expected, strict=True):
        assert heat.std() > 0.01
        np.testing.assert_allclose(found, heat, rtol=1e-4, atol=1e-6)
    assert min(abs(expected[0] - other).max() for other in expected[1:]) > 1e-2, "the text steers the map"


def test_a_map_depends_on_nothing_else_that_is_asked(folder: Path) -> None:
    make, image = maker(folder), picture()
    together = make(image, asked(*TEXTS))
    for row, text in enumerate(TEXTS):
        (alone,) = maker(folder)(image, asked(text))
        assert alone.tobytes() == together[row].tobytes()
    other, again = make(picture(1), asked(*TEXTS[::-1])), make(image, asked(*TEXTS[::-1]))
    assert [heat.tobytes() for heat in again[::-1]] == [heat.tobytes() for heat in together]
    assert all(abs(heat - before).max() > 1e-2 for heat, before in zip(other[::-1], together, strict=True))


def test_phrases_share_the_image_encoders_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the image encoder itself; the maps of a pass each are the same."""
    from transformers.models.clipseg.modeling_clipseg import CLIPSegVisionModel

    passes, forward = [], CLIPSegVisionModel.forward

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        passes.append(1)
        return forward(self, *given, **named)

    make, image = maker(folder), picture()
    apart = [make(image, asked(text))[0] for text in TEXTS]
    monkeypatch.setattr(CLIPSegVisionModel, "forward", counted)
    together = make(image, asked(*TEXTS))
    assert len(passes) == 1
    for heat, one in zip(together, apart, strict=True):
        np.testing.assert_array_equal(heat, one)


def test_states_are_read_after_the_configs_layers(tmp_path: Path) -> None:
    """Of a config that leaves layers out; by hooks of torch's own on the layers."""
    clip_seg(tmp_path / "tiny", extract_layers=[0, 2])
    model = Model(files(tmp_path, Settings(model="tiny")), "CLIPSeg", "CLIPSegForImageSegmentation", "cpu")
    left: dict[int, torch.Tensor] = {}
    for row, layer in enumerate(model.net.clip.vision_model.encoder.layers):
        layer.register_forward_hook(lambda _m, _i, out, row=row: left.update({row: out}))
    with torch.inference_mode():
        found = activations(model, picture())
    assert len(found) == 2
    for states, row in zip(found, (0, 2), strict=True):
        np.testing.assert_array_equal(states.numpy(), left[row].numpy())


def test_what_is_kept_are_means_of_squares(folder: Path) -> None:
    image = picture()
    (whole,) = maps(folder, image, TEXTS[:1])
    (kept,) = maps(folder, image, TEXTS[:1], block=4)
    assert kept.shape == (SIDE // 4, SIDE // 4)
    expected = [[whole[r : r + 4, c : c + 4].mean() for c in range(0, SIDE, 4)] for r in range(0, SIDE, 4)]
    np.testing.assert_allclose(kept, expected, rtol=1e-5)
    with pytest.raises(ParameterError, match=r"clip_seg\.block: expected a divisor of the map's 64 x 64 pixels, got 5"):
        maker(folder, block=5)


def test_texts_and_prompts(folder: Path) -> None:
    """The noun phrase or the sentence; several prompts by the mean of their vectors."""
    image, (one,) = picture(), asked(TEXTS[0])
    (phrase,) = maps(folder, image, [TEXTS[0]], text="phrase")
    np.testing.assert_array_equal(phrase, maps(folder, image, [one.phrase])[0])
    (prompted,) = maps(folder, image, [TEXTS[0]], template="a photo of {}")
    np.testing.assert_array_equal(prompted, maps(folder, image, [f"a photo of {TEXTS[0]}"])[0])
    (several,) = maps(folder, image, [TEXTS[0]], template="a photo of {}|{}")
    with quiet():
        net = CLIPSegForImageSegmentation.from_pretrained(folder / "tiny").eval()
    processor = clip_seg(folder / "tiny")
    with torch.no_grad():
        texts = processor(text=[TEXTS[0], f"a photo of {TEXTS[0]}"], padding=True, return_tensors="pt")
        vector = net.clip.get_text_features(**texts).pooler_output.mean(0, keepdim=True)
        pixels = processor(images=[image], return_tensors="pt").pixel_values
        expected = net(pixel_values=pixels, conditional_embeddings=vector).logits.reshape(SIDE, SIDE).sigmoid()
    np.testing.assert_allclose(several, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert abs(several - prompted).max() > 1e-3


def old_config(model: Path) -> None:
    """Sizes as configs of 2022 have them, beside keys that say how to run it."""
    document = json.loads((model / "config.json").read_text())
    document["text_config_dict"], document["vision_config_dict"] = document.pop("text_config"), None
    document |= {"text_config": {"hidden_size": 512}, "torch_dtype": "float16", "_name_or_path": "elsewhere"}
    document["attn_implementation"] = "somebody/kernels"
    (model / "config.json").write_text(json.dumps(document))


def old_pixels(model: Path) -> None:
    file = model / "preprocessor_config.json"
    document = json.loads(file.read_text())
    kept = {name: document[name] for name in ("image_mean", "image_std", "resample", "do_resize")}
    file.write_text(json.dumps(kept | {"size": SIDE, "feature_extractor_type": "ViTFeatureExtractor"}))


def new_pixels(model: Path) -> None:
    file = model / "preprocessor_config.json"
    (model / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(file.read_text())}))
    file.unlink()


def pickled(model: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(model / "model.safetensors")
    state["clip.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save(state, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


@pytest.mark.parametrize("form", [old_config, old_pixels, new_pixels, pickled, as_of_openai])
def test_other_forms_of_the_same_model_give_the_same_bytes(form: Any, folder: Path, tmp_path: Path) -> None:
    clip_seg(tmp_path / "tiny")
    form(tmp_path / "tiny")
    expected, found = (maps(where, picture(), TEXTS) for where in (folder, tmp_path))
    assert [heat.tobytes() for heat in found] == [heat.tobytes() for heat in expected]


def test_nothing_is_asked_of_a_network_and_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError(f"a network is asked: {given}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    maps(folder, picture(), TEXTS)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_the_tiny_vocabulary_has_the_words_of_the_texts() -> None:
    """Else the texts would be told apart by nothing but the unknown token."""
    assert set("".join(TEXTS)) - {" "} <= {token[0] for token in vocabulary()}
