"""SigLIP and other encoders of timm from files: names of tensors, sizes, pixels, tokenizer, identity; no network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.clip.config import backbone_named, encoder_files, encoder_identity, read_document, tokenizer_of
from stages.clip.tokenizer import FileTokenizer
from stages.clip.weights import load_clip
from stages.visual.encoder import MaskedClip
from store.errors import ParameterError, WeightsError
from store.fingerprint import file_digest
from tests.helpers.timm_files import SIGLIP, TEXT, perturbed, timm_model, vision, write_tokenizer


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)


def siglip() -> Any:
    model = timm_model(SIGLIP["vision_cfg"], SIGLIP["embed_dim"])
    with torch.no_grad():
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-16.5)
    return model


def written(
    folder: Path, state: dict[str, Tensor], config: dict[str, Any] = SIGLIP, **changes: Any
) -> tuple[str, Path]:
    """Config and weights in ``folder`` with a tokenizer beside them, as load_clip takes them."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder / "tokenizer")
    (folder / "tiny.json").write_text(json.dumps({**config, **changes}))
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "w.safetensors")
    return str(folder / "tiny.json"), folder / "w.safetensors"


def as_hugging_face(model: Any) -> dict[str, Tensor]:
    """open_clip's weights under the names and in the shapes of ``transformers.SiglipModel``, module by module."""
    trunk, text, out = model.visual.trunk, model.text, {}

    def put(name: str, module: Any) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = module.weight, module.bias

    def split(name: str, weight: Tensor, bias: Tensor) -> None:
        width = weight.shape[1]
        for place, letter in enumerate("qkv"):
            rows = slice(place * width, (place + 1) * width)
            out[f"{name}.{letter}_proj.weight"], out[f"{name}.{letter}_proj.bias"] = weight[rows], bias[rows]

    put("vision_model.embeddings.patch_embedding", trunk.patch_embed.proj)
    out["vision_model.embeddings.position_embedding.weight"] = trunk.pos_embed[0]
    for number, block in enumerate(trunk.blocks):
        layer = f"vision_model.encoder.layers.{number}"
        split(f"{layer}.self_attn", block.attn.qkv.weight, block.attn.qkv.bias)
        put(f"{layer}.self_attn.out_proj", block.attn.proj)
        put(f"{layer}.layer_norm1", block.norm1)
        put(f"{layer}.layer_norm2", block.norm2)
        put(f"{layer}.mlp.fc1", block.mlp.fc1)
        put(f"{layer}.mlp.fc2", block.mlp.fc2)
    put("vision_model.post_layernorm", trunk.norm)
    head, pool = "vision_model.head", trunk.attn_pool
    out[f"{head}.probe"] = pool.latent
    out[f"{head}.attention.in_proj_weight"] = torch.cat([pool.q.weight, pool.kv.weight])
    out[f"{head}.attention.in_proj_bias"] = torch.cat([pool.q.bias, pool.kv.bias])
    put(f"{head}.attention.out_proj", pool.proj)
    put(f"{head}.layernorm", pool.norm)
    put(f"{head}.mlp.fc1", pool.mlp.fc1)
    put(f"{head}.mlp.fc2", pool.mlp.fc2)
    out["text_model.embeddings.token_embedding.weight"] = text.token_embedding.weight
    out["text_model.embeddings.position_embedding.weight"] = text.positional_embedding
    for number, block in enumerate(text.transformer.resblocks):
        layer = f"text_model.encoder.layers.{number}"
        split(f"{layer}.self_attn", block.attn.in_proj_weight, block.attn.in_proj_bias)
        put(f"{layer}.self_attn.out_proj", block.attn.out_proj)
        put(f"{layer}.layer_norm1", block.ln_1)
        put(f"{layer}.layer_norm2", block.ln_2)
        put(f"{layer}.mlp.fc1", block.mlp.c_fc)
        put(f"{layer}.mlp.fc2", block.mlp.c_proj)
    put("text_model.final_layer_norm", text.ln_final)
    put("text_model.head", text.text_projection)
    out["logit_scale"], out["logit_bias"] = model.logit_scale.reshape(1), model.logit_bias.reshape(1)
    return {name: value.detach() for name, value in out.items()}


PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 20, (3, 12), generator=torch.Generator().manual_seed(2))


def same_vectors(loaded: Any, model: Any) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(PIXELS), model.encode_image(PIXELS), rtol=0, atol=0)
        torch.testing.assert_close(loaded.encode_text(TOKENS), model.encode_text(TOKENS), rtol=0, atol=0)


def test_open_clips_own_file(tmp_path: Path) -> None:
    model = siglip()
    config, weights = written(tmp_path, model.state_dict())
    loaded: Any
    loaded, tokenizer = load_clip(config, weights)
    same_vectors(loaded, model)
    assert isinstance(tokenizer, FileTokenizer)
    assert backbone_named(config).name == "timm"


def test_hugging_faces_names(tmp_path: Path) -> None:
    model = siglip()
    state = as_hugging_face(model)
    assert sum(value.numel() for value in state.values()) == sum(v.numel() for v in model.state_dict().values())
    loaded: Any = load_clip(*written(tmp_path, state))[0]
    same_vectors(loaded, model)
    assert (float(loaded.logit_scale), float(loaded.logit_bias)) == (pytest.approx(4.7), pytest.approx(-16.5))


def test_hugging_faces_names_with_a_part_missing(tmp_path: Path) -> None:
    state = as_hugging_face(siglip())
    del state["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.weight lacks self_attn\.k_proj"):
        load_clip(*written(tmp_path, state))
    state = as_hugging_face(siglip())
    del state["vision_model.head.probe"]
    with pytest.raises(WeightsError, match=r"1 missing: visual\.trunk\.attn_pool\.latent"):
        load_clip(*written(tmp_path, state))


def test_logit_scale_and_bias_change_no_vector(tmp_path: Path) -> None:
    model = siglip()
    state = {n: v for n, v in model.state_dict().items() if n != "logit_bias"} | {"logit_scale": torch.tensor([99.0])}
    same_vectors(load_clip(*written(tmp_path, state))[0], model)


@pytest.mark.parametrize(("name", "size", "pool", "kept"), [
    ("vit_glimpse_siglip", 32, "map", 0), ("test_vit2", 64, "avg", 1), ("test_vit", 64, "token", 1),
    ("eva02_tiny_patch14_224", 56, "token", 1),
])  # fmt: skip
def test_another_input_size(name: str, size: int, pool: str, kept: int, tmp_path: Path) -> None:
    """Position tables as timm's own set_input_size makes them, from a file or at once."""
    dim = {"vit_glimpse_siglip": 32, "test_vit2": 64, "test_vit": 64, "eva02_tiny_patch14_224": 192}[name]
    model = timm_model(vision(name, size, pool, "none"), dim)
    config = {**SIGLIP, "embed_dim": dim, "vision_cfg": vision(name, size, pool, "none")}
    file, weights = written(tmp_path, model.state_dict(), config)
    loaded: Any = load_clip(file, weights, image_size=size * 2)[0]
    assert (loaded.visual.image_size, loaded.visual.trunk.patch_embed.img_size) == ((size * 2,) * 2,) * 2
    before = model.visual.trunk.pos_embed[:, :kept].clone()
    model.visual.set_input_size(size * 2)
    pixels = torch.rand(1, 3, size * 2, size * 2, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(loaded.visual.trunk.pos_embed[:, :kept], before)


def test_sizes_that_are_no_patches(tmp_path: Path) -> None:
    config, weights = written(tmp_path, siglip().state_dict())
    with pytest.raises(ParameterError, match=r"image_size: expected a multiple of 8 pixels .* got \(36, 36\)"):
        load_clip(config, weights, image_size=36)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"timm_model_name": "vit_glimpse_sigli"}, ParameterError, "did you mean 'vit_glimpse_siglip'"),
        ({"timm_model_name": "hf-hub:timm/ViT-B-16-SigLIP"}, ParameterError, "expected a network of timm"),
        (
            {"timm_model_pretrained": True},
            ParameterError,
            "timm_model_pretrained: expected false, nothing is downloaded",
        ),
        ({"layers": 12}, WeightsError, r"vision_cfg\.layers: a key that cannot be honoured"),
        ({"timm_pool": "avg"}, WeightsError, "attn_pool"),
    ],
)
def test_vision_configs_that_cannot_be_honoured(
    change: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    config = {**SIGLIP, "vision_cfg": SIGLIP["vision_cfg"] | change}
    with pytest.raises(kind, match=message):
        load_clip(*written(tmp_path, siglip().state_dict(), config))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vit_base_patch16_siglip_224", (0.5, 0.5, 0.5)),
        ("fastvit_mci2", (0.0, 0.0, 0.0)),
        ("convnext_base", (0.48145466, 0.4578275, 0.40821073)),
        ("test_vit", None),
    ],
)
def test_pixels_are_normalised_as_in_training(name: str, mean: Any) -> None:
    from stages.clip.timm_model import published_pixels

    assert published_pixels(name).get("mean") == mean


def test_pixels_of_the_document_go_before(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    written(folder, siglip().state_dict())
    document = {
        "model_cfg": SIGLIP,
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "size": [3, 32, 32]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    (folder / "w.safetensors").rename(folder / "open_clip_model.safetensors")
    loaded: Any = load_clip(str(folder), folder)[0]
    assert (loaded.visual.image_mean, loaded.visual.image_std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_the_identity_has_the_tokenizer(tmp_path: Path) -> None:
    config, weights = written(tmp_path, siglip().state_dict())
    identity = encoder_identity(config, weights, "float32")
    files = [tmp_path / "tokenizer/tokenizer.json", tmp_path / "tokenizer/tokenizer_config.json"]
    assert (identity["architecture"], identity["standard"], identity["backbone"]) == ("tiny", "", "timm")
    assert [identity["tokenizer"], identity["tokenizer_config"]] == [file_digest(file) for file in files]
    assert encoder_files(config, weights, identity) == {
        file: file_digest(file) for file in [weights, Path(config), *files]
    }
    files[0].write_text(files[0].read_text().replace("dog", "cat"))
    assert encoder_identity(config, weights, "float32") != identity


def test_where_a_tokenizer_is_looked_for(tmp_path: Path) -> None:
    """Under its name below the config's folder, in that folder, in the folder of the weights; a name has the last only."""
    config, named = {"text_cfg": {"hf_tokenizer_name": "timm/some"}}, str(tmp_path / "models/c.json")
    weights = tmp_path / "weights"
    weights.mkdir()
    for model, place in (
        (named, "weights"),
        ("ViT-B-16-SigLIP", "weights"),
        (named, "models"),
        (named, "models/timm/some"),
    ):
        file = write_tokenizer(tmp_path / place)
        assert tokenizer_of(config, model, weights)[0] == file
    assert tokenizer_of(config, "ViT-B-16-SigLIP", weights) == [
        weights / "tokenizer.json",
        weights / "tokenizer_config.json",
    ]
    with pytest.raises(
        WeightsError, match=r"no folder: the config is a name, the weights a file\); nothing is downloaded"
    ):
        tokenizer_of(config, "ViT-B-16-SigLIP", weights / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'timm/some', found none .looked for .*else/timm/some/tokenizer.json"):
        tokenizer_of(config, str(tmp_path / "else/c.json"), tmp_path / "w.safetensors")
    for outside in ("../models", "/etc"):
        with pytest.raises(ParameterError, match="expected a folder below the config's"):
            tokenizer_of({"text_cfg": {"hf_tokenizer_name": outside}}, named, weights)
    assert tokenizer_of({"text_cfg": {}}, named, weights) == []


def test_the_config_of_transformers_says_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ParameterError, match="name its architecture of open_clip as the model"):
        read_document(str(tmp_path))


def test_a_timm_encoder_with_clips_tokenizer(tmp_path: Path) -> None:
    """As open_clip's ConvNeXt: its class CLIP, causal texts, pixels as for CLIP."""
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision("test_convnext", 64, "", "linear"), "text_cfg": text}
    model: Any = perturbed(open_clip.CLIP(**config))  # type: ignore[arg-type]
    loaded: Any
    loaded, tokenizer = load_clip(*written(tmp_path, model.state_dict(), config))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_image(pixels), model.encode_image(pixels), rtol=0, atol=0)
        expected = model.encode_text(tokenizer(["a dog"])).numpy()
    assert MaskedClip(loaded, tokenizer).text_features(["a dog"]) == pytest.approx(expected, rel=1e-4)
    assert TEXT["context_length"] == 12
