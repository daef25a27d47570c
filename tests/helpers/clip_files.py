"""A CLIP of a few thousand numbers, its config, and a plain CLIP of Hugging Face's form with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET: dict[str, Any] = {
    **CONFIG,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "patch_size": None, "image_size": 64},
}
HF_CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 16,
    "transformers_version": "4.40.0",
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "hidden_act": "quick_gelu",
        "top_k": 50,
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
    },
}


def config_file(folder: Path, config: dict[str, Any] = CONFIG, **changes: Any) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return str(path)


def hugging_face_state(config: dict[str, Any] = HF_CONFIG) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of transformers' CLIPModel."""
    random = torch.Generator().manual_seed(5)
    vision, text, dim = config["vision_config"], config["text_config"], config["projection_dim"]
    side = vision["image_size"] // vision["patch_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "visual_projection.weight": (dim, vision["hidden_size"]),
        "text_projection.weight": (dim, text["hidden_size"]),
        "vision_model.embeddings.class_embedding": (vision["hidden_size"],),
        "vision_model.embeddings.patch_embedding.weight": (vision["hidden_size"], 3, *[vision["patch_size"]] * 2),
        "vision_model.embeddings.position_embedding.weight": (1 + side * side, vision["hidden_size"]),
        "text_model.embeddings.token_embedding.weight": (49408, text["hidden_size"]),
        "text_model.embeddings.position_embedding.weight": (text["max_position_embeddings"], text["hidden_size"]),
    }
    norms = {
        "vision_model.pre_layrnorm": vision,
        "vision_model.post_layernorm": vision,
        "text_model.final_layer_norm": text,
    }
    for tower, own in (("vision_model", vision), ("text_model", text)):
        width, hidden = own["hidden_size"], own["intermediate_size"]
        for layer in range(own["num_hidden_layers"]):
            block = f"{tower}.encoder.layers.{layer}"
            for name, (rows, columns) in {
                **{f"self_attn.{each}_proj": (width, width) for each in ("q", "k", "v", "out")},
                "mlp.fc1": (hidden, width),
                "mlp.fc2": (width, hidden),
            }.items():
                shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
            norms |= {f"{block}.layer_norm{n}": own for n in (1, 2)}
    for name, own in norms.items():
        shapes |= {f"{name}.weight": (own["hidden_size"],), f"{name}.bias": (own["hidden_size"],)}
    return {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()} | {
        "vision_model.embeddings.position_ids": torch.arange(1 + side * side)[None],
        "text_model.embeddings.position_ids": torch.arange(text["max_position_embeddings"])[None],
    }


def hugging_face_image(state: dict[str, Tensor], config: dict[str, Any], pixels: Tensor) -> Tensor:
    """transformers' ``CLIPModel.get_image_features``, written down plainly: (N, 3, H, W) -> (N, D)."""
    own = config["vision_config"]
    patches = functional.conv2d(
        pixels, state["vision_model.embeddings.patch_embedding.weight"], stride=own["patch_size"]
    ).flatten(2)
    first = state["vision_model.embeddings.class_embedding"].expand(len(pixels), 1, -1)
    states = torch.cat([first, patches.transpose(1, 2)], 1)
    states = states + state["vision_model.embeddings.position_embedding.weight"]
    states = _norm(state, "vision_model.pre_layrnorm", states, own)
    states = _layers(state, "vision_model", states, own, causal=False)
    return _norm(state, "vision_model.post_layernorm", states[:, 0], own) @ state["visual_projection.weight"].T


def hugging_face_text(state: dict[str, Tensor], config: dict[str, Any], tokens: Tensor) -> Tensor:
    """transformers' ``CLIPModel.get_text_features``: int64 (S, context) -> (S, D)."""
    own = config["text_config"]
    states = state["text_model.embeddings.token_embedding.weight"][tokens]
    states = states + state["text_model.embeddings.position_embedding.weight"][: tokens.shape[1]]
    states = _norm(state, "text_model.final_layer_norm", _layers(state, "text_model", states, own, causal=True), own)
    return states[torch.arange(len(tokens)), tokens.argmax(1)] @ state["text_projection.weight"].T


def _layers(state: dict[str, Tensor], tower: str, states: Tensor, own: dict[str, Any], *, causal: bool) -> Tensor:
    length, heads = states.shape[1], own["num_attention_heads"]
    allowed = torch.ones(length, length).tril().bool() if causal else torch.ones(length, length).bool()
    for layer in range(own["num_hidden_layers"]):
        block = f"{tower}.encoder.layers.{layer}"

        def linear(name: str, values: Tensor, block: str = block) -> Tensor:
            return values @ state[f"{block}.{name}.weight"].T + state[f"{block}.{name}.bias"]

        seen = _norm(state, f"{block}.layer_norm1", states, own)
        query, key, value = (
            linear(f"self_attn.{each}_proj", seen).unflatten(2, (heads, -1)).transpose(1, 2) for each in "qkv"
        )
        logits = query @ key.mT * query.shape[-1] ** -0.5
        answers = logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ value
        states = states + linear("self_attn.out_proj", answers.transpose(1, 2).flatten(2))
        hidden = linear("mlp.fc1", _norm(state, f"{block}.layer_norm2", states, own))
        quick = own["hidden_act"] == "quick_gelu"
        hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else functional.gelu(hidden)
        states = states + linear("mlp.fc2", hidden)
    return states


def _norm(state: dict[str, Tensor], name: str, values: Tensor, own: dict[str, Any]) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + own.get("layer_norm_eps", 1e-5)).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
