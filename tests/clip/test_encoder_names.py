"""An encoder by name, config or folder, of open_clip's or Hugging Face's form, at any input size: numbers as theirs."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from torch import Tensor

from stages.clip.backbone import BACKBONES
from stages.clip.config import architecture_of, encoder_files, encoder_identity, model_at, model_form, read_document
from stages.clip.fitting import resized_positions
from stages.clip.suggest import fitting_models
from stages.clip.weights import load_clip
from stages.visual.encoder import MaskedClip
from store.errors import GlimpseError, ParameterError, WeightsError
from store.fingerprint import file_digest
from tests.helpers.clip_files import (
    CONFIG,
    HF_CONFIG,
    RESNET,
    config_file,
    hugging_face_image,
    hugging_face_state,
    hugging_face_text,
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    """torch computes attention in another way where gradients are kept."""
    with torch.no_grad():
        yield


def tiny(config: dict[str, Any] = CONFIG) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: Any = open_clip.CLIP(**config).eval()
        for name, table in model.visual.named_parameters():
            if name.endswith("positional_embedding"):
                torch.nn.init.normal_(table)
    return model


def save(state: dict[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def folder_of(path: Path, config_name: str, config: dict[str, Any], weights: str, state: dict[str, Tensor]) -> Path:
    save(state, path / weights)
    (path / config_name).write_text(json.dumps(config))
    return path


PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_a_hugging_face_folder_gives_their_vectors(activation: str, eps: float, tmp_path: Path) -> None:
    changed = {"hidden_act": activation, "layer_norm_eps": eps}
    config = HF_CONFIG | {key: HF_CONFIG[key] | changed for key in ("vision_config", "text_config")}
    state = hugging_face_state(config)
    folder = folder_of(tmp_path / "their clip", "config.json", config, "model.safetensors", state)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 2]}')
    loaded: Any
    loaded, tokenizer = load_clip(str(folder), folder)
    tokens = tokenizer(["a dog", "the second horse from the left of the picture, running"])
    torch.testing.assert_close(loaded.encode_image(PIXELS), hugging_face_image(state, config, PIXELS))
    torch.testing.assert_close(loaded.encode_text(tokens), hugging_face_text(state, config, tokens))
    assert (loaded.visual.image_mean, loaded.visual.image_std) == ((0.1, 0.2, 0.3), (1, 1, 2))
    assert MaskedClip(loaded, tokenizer).text_features(["a dog"]).shape == (1, 16)
    identity = encoder_identity(str(folder), folder, "float32")
    assert (identity["architecture"], identity["backbone"]) == ("their clip", "vit")
    assert encoder_files(str(folder), folder, identity) == {
        folder / name: file_digest(folder / name)
        for name in ("model.safetensors", "config.json", "preprocessor_config.json")
    }
    with pytest.raises(WeightsError, match=r"the config\.json beside it says so"):
        load_clip(config_file(tmp_path, quick_gelu=activation == "gelu"), folder)


def test_an_old_hugging_face_config_and_the_file_itself(tmp_path: Path) -> None:
    """Of old configs the section under _dict counts; weights may also be named apart, with a JSON config of open_clip's."""
    state = hugging_face_state()
    old = HF_CONFIG | {"vision_config_dict": HF_CONFIG["vision_config"], "vision_config": {"hidden_size": 7}}
    old["text_config_dict"] = None
    (tmp_path / "config.json").write_text(json.dumps(old))
    weights = save(state, tmp_path / "weights.safetensors")
    loaded: Any = load_clip(str(tmp_path / "config.json"), weights)[0]
    torch.testing.assert_close(loaded.encode_image(PIXELS), hugging_face_image(state, HF_CONFIG, PIXELS))
    vision = CONFIG["vision_cfg"] | {"mlp_ratio": 3.0}
    other: Any = load_clip(config_file(tmp_path, vision_cfg=vision), weights)[0]
    torch.testing.assert_close(other.encode_image(PIXELS), hugging_face_image(state, HF_CONFIG, PIXELS))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"auto_map": {}}, "auto_map: a key that a CLIP of open_clip cannot honour"),
        ({"vision_config": {"rope_theta": 1}}, r"vision_config\.rope_theta: a key"),
        ({"vision_config": {"hidden_act": "gelu_new"}}, "hidden_act: expected quick_gelu or gelu, got 'gelu_new'"),
        ({"vision_config": {"hidden_act": "gelu"}}, "expected one hidden_act for both"),
        ({"vision_config": {"num_channels": 4}}, "expected num_channels 3, got 4"),
        ({"vision_config": {"patch_size": "8"}}, r"vision_config\.patch_size: expected a value like 32, got '8'"),
        ({"vision_config": {"num_attention_heads": 0}}, "expected at least 1"),
        ({"text_config": {"eos_token_id": 1}}, "expected eos_token_id 49407"),
        ({"text_config": 3}, "text_config: expected an object"),
    ],
)
def test_hugging_face_configs_that_cannot_be_honoured(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**HF_CONFIG, **change}))
    with pytest.raises(ParameterError, match=said) as error:
        load_clip(str(tmp_path), tmp_path)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_an_open_clip_folder(name: str, tmp_path: Path) -> None:
    model = tiny()
    document = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "interpolation": "bicubic"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    if name.endswith("bin"):
        torch.save(model.state_dict(), tmp_path / name)
    else:
        save(model.state_dict(), tmp_path / name)
    loaded: Any = load_clip(str(tmp_path), tmp_path)[0]
    torch.testing.assert_close(loaded.encode_image(PIXELS), model.encode_image(PIXELS), rtol=0, atol=0)
    assert loaded.visual.image_mean == (0.1, 0.2, 0.3)
    assert encoder_identity(str(tmp_path), tmp_path, "float32")["weights"] == file_digest(tmp_path / name)


def test_by_name_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert read_document("ViT-B-32-quickgelu") == open_clip.get_model_config("ViT-B-32-quickgelu")
    weights = save({"visual.proj": torch.zeros(1)}, tmp_path / "w.safetensors")
    identity = encoder_identity("ViT-B-32-quickgelu", weights, "float32")
    assert (identity["model"], identity["standard"]) == ("ViT-B-32-quickgelu", "ViT-B/32")
    assert encoder_files("ViT-B-32-quickgelu", weights, identity) == {weights: identity["weights"]}
    assert encoder_identity("ViT-B-32", weights, "float32", 384)["standard"] == "ViT-B/32@384"
    assert encoder_identity("ViT-B-32", weights, "float32", 224) == encoder_identity("ViT-B-32", weights, "float32")


def test_which_of_the_three_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [model_form(m) for m in ("ViT-B-32", "a/b.json", "models/mine", "hf-hub:timm/x")] == [
        *("name", "file", "folder", "name")
    ]
    (tmp_path / "RN50").mkdir()
    assert model_form("RN50") == "name", "a folder without a config is no model"
    (tmp_path / "RN50" / "config.json").write_text("{}")
    assert (model_form("RN50"), architecture_of("models/mine"), architecture_of("a/b.json")) == ("folder", "mine", "b")
    assert model_at("RN50", tmp_path) == str(tmp_path / "RN50")
    assert [model_at(m, Path("p")) for m in ("RN101", "a/b.json")] == ["RN101", "p/a/b.json"]
    with pytest.raises(WeightsError, match=r"models/mine: expected a model's folder .*there is no such folder"):
        read_document("models/mine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 3}, "depth: a key that cannot be honoured"),
        (
            {"vision_cfg": {**CONFIG["vision_cfg"], "patchsize": 3}},
            r"vision_cfg\.patchsize: .*did you mean 'patch_size'",
        ),
        ({"vision_cfg": {**CONFIG["vision_cfg"], "pool_type": "avg"}}, r"vision_cfg\.pool_type 'avg'"),
        ({"vision_cfg": {**CONFIG["vision_cfg"], "attentional_pool": True}}, r"vision_cfg\.attentional_pool"),
        ({"text_cfg": {**CONFIG["text_cfg"], "output_tokens": True}}, r"text_cfg\.output_tokens"),
        ({"text_cfg": {**CONFIG["text_cfg"], "tokenizer_mode": "clips"}}, "tokenizer_mode"),
        ({"preprocess_cfg": {"size": 32}}, r"preprocess_cfg\.size: expected the image_size 16, got 32"),
        ({"preprocess_cfg": {"mode": "L"}}, r"preprocess_cfg\.mode: expected RGB"),
        ({"preprocess_cfg": {"mean": [0.5]}}, "mean of pixels: expected three numbers"),
        ({"preprocess_cfg": {"std": [0, 1, 1]}}, "above 0"),
        ({"preprocess_cfg": {"gamma": 2}}, r"preprocess_cfg\.gamma: a key that cannot be honoured"),
        ({"embed_dim": None}, "embed_dim"),
    ],
)
def test_a_key_that_cannot_be_honoured_is_an_error(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(GlimpseError, match=said):
        load_clip(config_file(tmp_path, **change), tmp_path / "none")


# Input sizes.


@pytest.mark.parametrize("config", [CONFIG, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("patches", [1, 3, 5])
def test_another_input_size_is_open_clips(config: dict[str, Any], patches: int, tmp_path: Path) -> None:
    model, resnet = tiny(config), config is RESNET
    size = patches * (32 if resnet else 8)
    weights = save(model.state_dict(), tmp_path / "w.safetensors")
    loaded: Any = load_clip(config_file(tmp_path, config), weights, image_size=size)[0]
    theirs: Any = open_clip.CLIP(**{**config, "vision_cfg": {**config["vision_cfg"], "image_size": size}}).eval()
    state = model.state_dict()
    if resnet:  # open_clip resizes no attention pool: its function, on the pool's table
        table = {"visual.positional_embedding": state["visual.attnpool.positional_embedding"]}
        resize_pos_embed(table, SimpleNamespace(visual=SimpleNamespace(grid_size=(patches, patches))))
        state["visual.attnpool.positional_embedding"] = table["visual.positional_embedding"]
    else:
        resize_pos_embed(state, theirs)
    theirs.load_state_dict(state)
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loaded.encode_image(pixels), theirs.encode_image(pixels), rtol=0, atol=0)
    tower = BACKBONES["resnet" if resnet else "vit"].visual_tower(loaded)
    assert tower.grid == (patches, patches)
    torch.testing.assert_close(
        *(torch.nn.functional.normalize(of.float()) for of in (tower.encode(pixels), theirs.encode_image(pixels)))
    )


def test_a_config_of_another_size_interpolates_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = save(tiny().state_dict(), tmp_path / "w.safetensors")
    vision = CONFIG["vision_cfg"]
    with caplog.at_level(logging.WARNING):
        loaded: Any = load_clip(config_file(tmp_path, vision_cfg={**vision, "image_size": [24, 32]}), weights)[0]
    assert loaded.visual.positional_embedding.shape == (1 + 3 * 4, 32)
    assert "has 5 positions, the model 13: interpolated" in caplog.text
    caplog.clear()
    load_clip(config_file(tmp_path), weights, image_size=24)
    assert not caplog.text


@pytest.mark.parametrize("size", [7, 20, -8, 8200, True])
def test_sizes_that_are_no_whole_patches(size: int, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="image_size: expected"):
        load_clip(config_file(tmp_path), tmp_path / "none", image_size=size)


def test_half_positions_and_grids_that_are_not_square() -> None:
    table = torch.randn(5, 3)
    torch.testing.assert_close(resized_positions(table.half(), (3, 2)), resized_positions(table.half().float(), (3, 2)))
    with pytest.raises(ValueError, match="6 positions are no square grid"):
        resized_positions(torch.randn(7, 3), (2, 2))


def test_the_backbone_passes_the_size_on(tmp_path: Path) -> None:
    weights = save(tiny().state_dict(), tmp_path / "w.safetensors")
    loaded, _ = BACKBONES["vit"].loaded(config_file(tmp_path), weights, image_size=32)
    assert loaded.visual.grid_size == (4, 4)


def one_size_only(model: str, weights: Path, *, device: str, precision: str) -> Any:
    return "model", "tokenizer"


def test_a_backbone_of_one_size_says_so(tmp_path: Path) -> None:
    backbone = replace(BACKBONES["vit"], load=one_size_only)
    assert backbone.loaded("x", tmp_path) == ("model", "tokenizer")
    with pytest.raises(ParameterError, match="image_size: expected 0, backbone vit has one input size only, got 32"):
        backbone.loaded("x", tmp_path, image_size=32)


# Names and shapes that differ from the model's.


@pytest.mark.parametrize("custom", [True, False])
def test_either_of_open_clips_classes_takes_the_weights_of_the_other(custom: bool, tmp_path: Path) -> None:
    theirs = tiny() if custom else open_clip.CustomTextCLIP(**CONFIG).eval()
    state: Any = theirs.state_dict() | {"logit_scale": torch.tensor([4.0])}
    loaded: Any
    loaded, tokenizer = load_clip(config_file(tmp_path, custom_text=custom), save(state, tmp_path / "w.safetensors"))
    assert type(loaded) is (open_clip.CustomTextCLIP if custom else open_clip.CLIP)
    tokens = tokenizer(["a dog"])
    torch.testing.assert_close(loaded.encode_text(tokens), theirs.encode_text(tokens))
    assert loaded.logit_scale.item() == 4.0


def test_a_scale_of_one_number_in_a_list_and_a_bias_that_is_not_there(tmp_path: Path) -> None:
    state = tiny().state_dict() | {"logit_scale": torch.tensor([4.0])}
    weights = save(state, tmp_path / "w.safetensors")
    loaded: Any = load_clip(config_file(tmp_path, init_logit_bias=-10.0), weights)[0]
    assert (loaded.logit_scale.shape, loaded.logit_scale.item(), loaded.logit_bias.item()) == ((), 4.0, 0.0)


def test_counters_that_are_not_there(tmp_path: Path) -> None:
    state = {n: v for n, v in tiny(RESNET).state_dict().items() if not n.endswith("num_batches_tracked")}
    load_clip(config_file(tmp_path, RESNET), save(state, tmp_path / "w.safetensors"))


def test_a_config_that_is_a_pointer_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(WeightsError, match=r"config\.json: expected a JSON model config, .*a Git LFS pointer"):
        read_document(str(tmp_path))


@pytest.mark.parametrize("part", ["q_proj.weight", "v_proj.bias"])
def test_a_hugging_face_layer_that_lacks_a_part(part: str, tmp_path: Path) -> None:
    state = hugging_face_state()
    del state[f"text_model.encoder.layers.0.self_attn.{part}"]
    folder = folder_of(tmp_path, "config.json", HF_CONFIG, "model.safetensors", state)
    with pytest.raises(
        WeightsError, match=f"transformer.resblocks.0.attn.in_proj_.* lacks self_attn.{part.partition('.')[0]}"
    ):
        load_clip(str(folder), folder)


# Which model fits.


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-336", "RN50", "RN50x4"])
def test_the_architecture_that_fits_is_named(name: str) -> None:
    config: Any = open_clip.get_model_config(name)
    with torch.device("meta"):
        state = open_clip.CLIP(**config).state_dict()
    said = fitting_models(state)
    assert f"these weights are of {name} or {name}-quickgelu: give such" in said


def test_the_wrong_architecture_is_an_error_that_says_which_fits(tmp_path: Path) -> None:
    weights = save(tiny().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as error:
        load_clip(config_file(tmp_path, vision_cfg={**CONFIG["vision_cfg"], "patch_size": 4}), weights)
    assert "visual.conv1.weight (32, 3, 8, 8) instead of (32, 3, 4, 4)" in str(error.value)
    assert "a config with embed_dim 16, vision_cfg: layers 2, width 32, patch_size 8, image_size 16" in str(error.value)
    only = {name: value for name, value in tiny().state_dict().items() if name.startswith("visual.")}
    save(only, tmp_path / "visual.safetensors")
    with pytest.raises(WeightsError, match="it holds an image encoder alone"):
        load_clip(config_file(tmp_path), tmp_path / "visual.safetensors")
