"""Tiny encoders of timm in open_clip's form, a tokenizer.json, and an image encoder written down plainly, mask by mask."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional

from stages.clip.timm_model import fit_input

SENTENCES = (
    "the man in the red coat",
    "a dog left of the small blue horse",
    "the second ball from the right",
    "large green circle above the yellow square",
)
TEXT: dict[str, Any] = {
    "context_length": 12,
    "vocab_size": 60,
    "hf_tokenizer_name": "tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 16,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
"""A text encoder as SigLIP's, a few thousand numbers."""


if not timm.is_model("vit_glimpse_siglip"):

    @register_model
    def vit_glimpse_siglip(pretrained: bool = False, **options: Any) -> VisionTransformer:
        """SigLIP's image encoder in small: no class token, an attention pool."""
        assert not pretrained
        options.pop("pretrained_cfg", None), options.pop("pretrained_cfg_overlay", None), options.pop("cache_dir", None)
        return VisionTransformer(
            **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "class_token": False}
            | {"global_pool": "map"}
            | options
        )


def vision(name: str, size: int, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj}


SIGLIP = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {**vision("vit_glimpse_siglip", 32, "map", "none"), "timm_model_pretrained": False},
    "text_cfg": TEXT,
}
TOWERS: dict[str, tuple[dict[str, Any], int]] = {
    "siglip": (vision("vit_glimpse_siglip", 32, "map", "none"), 32),
    "siglip with a class token": (vision("vit_tiny_patch16_224", 48, "map", "none"), 192),
    "attention pool with registers": (vision("test_vit3", 64, "map", "linear"), 24),
    "mean with registers": (vision("test_vit2", 64, "avg", "mlp"), 24),
    "class token": (vision("test_vit", 48, "token", "linear"), 24),
}
"""Kinds of pools of timm's VisionTransformer: vision_cfg, embed_dim."""
OTHERS: dict[str, tuple[dict[str, Any], int]] = {
    "pe": (vision("vit_pe_core_tiny_patch16_384", 64, "map", None), 24),
    "eva02": (vision("eva02_tiny_patch14_224", 56, "token", None), 24),
    "convnext": (vision("test_convnext", 96, "", "linear"), 24),
    "convnext without a norm": (vision("test_convnext2", 96, "avg", None), 24),
    "swin": (vision("swin_tiny_patch4_window7_224", 224, "", "linear"), 24),
}
"""Others that can mask."""


def perturbed(model: Any, seed: int = 7, by: float = 0.1) -> Any:
    """No parameter keeps its start value, so that a forgotten bias or scale shows."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=random))
    return model.eval()


def timm_model(config: Mapping[str, Any], dim: int, text: Mapping[str, Any] = TEXT) -> Any:
    """A CLIP of open_clip with random weights whose image encoder is of timm."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.CustomTextCLIP(
            embed_dim=dim, vision_cfg=dict(config), text_cfg=dict(text), init_logit_bias=-10
        )
    fit_input(model.visual, "a test's")
    return perturbed(model)


def write_tokenizer(folder: Path, vocab_size: int = 60, **config: Any) -> Path:
    """A ``tokenizer.json`` of words with SigLIP's end token, which is the pad token, and its ``tokenizer_config.json``."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=["<pad>", "</s>", "<unk>", "<s>"])
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>", "padding_side": "right"} | config))
    return folder / "tokenizer.json"


def plain_vector(visual: Any, pixels: Tensor, mask: Tensor, k: int, masking: str) -> Tensor:
    """The vector of one mask by the formulas, float64: ``pixels`` (3, H, W), ``mask`` (P) in [0, 1] -> (D)."""
    trunk = visual.trunk
    state = {name: value.double() for name, value in visual.state_dict().items()}
    tokens, prefix = _embedded(trunk, state, pixels.double()), trunk.num_prefix_tokens
    depth, mask = len(trunk.blocks), mask.double()
    for number in range(depth):
        counts = torch.ones(len(tokens), len(tokens), dtype=torch.float64)
        if number >= depth - k and masking == "token":
            tokens = torch.cat([tokens[:prefix], tokens[prefix:] * mask[:, None]])
        elif number >= depth - k and trunk.global_pool == "token":
            counts[0, prefix:] = (mask != 0).double()
        tokens = _block(state, f"trunk.blocks.{number}", tokens, counts, trunk.blocks[number].attn.num_heads)
    if "trunk.norm.weight" in state:
        tokens = _norm(state, "trunk.norm", tokens)
    mask = (mask != 0).double() if masking == "attention" else mask
    pooled = plain_pool(trunk, state, tokens, mask if mask.any() else torch.ones_like(mask))
    return plain_head(state, pooled)


def plain_pool(trunk: Any, state: dict[str, Tensor], tokens: Tensor, mask: Tensor) -> Tensor:
    prefix = trunk.num_prefix_tokens
    if trunk.global_pool == "token":
        return tokens[0]
    if trunk.pool_include_prefix:
        counts = torch.cat([torch.ones(prefix, dtype=torch.float64), mask])
    else:
        tokens, counts = tokens[prefix:], mask
    if trunk.global_pool == "avg":
        return sum(count * token for count, token in zip(counts, tokens, strict=True)) / counts.sum()  # type: ignore[return-value]
    name, heads = "trunk.attn_pool", trunk.attn_pool.num_heads
    query = _linear(state, f"{name}.q", state[f"{name}.latent"][0])
    key, value = _linear(state, f"{name}.kv", tokens).chunk(2, dim=-1)
    pooled = _linear(state, f"{name}.proj", _attend(query, key, value, counts[None], heads))[0]
    return pooled + _mlp(state, f"{name}.mlp", _norm(state, f"{name}.norm", pooled))


def plain_head(state: dict[str, Tensor], pooled: Tensor) -> Tensor:
    for name, step in (("trunk.fc_norm", _norm), ("trunk.head", _linear), ("head.proj", _linear), ("head.mlp", _mlp)):
        if any(key.startswith(f"{name}.") for key in state):
            pooled = step(state, name, pooled)
    return pooled


def _embedded(trunk: Any, state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    embed = "trunk.patch_embed.proj"
    patches = functional.conv2d(
        pixels[None], state[f"{embed}.weight"], state[f"{embed}.bias"], trunk.patch_embed.patch_size
    )
    before = [state[f"trunk.{name}"][0] for name in ("cls_token", "reg_token") if f"trunk.{name}" in state]
    return torch.cat([*before, patches[0].flatten(1).T]) + state["trunk.pos_embed"][0]


def _block(state: dict[str, Tensor], name: str, tokens: Tensor, counts: Tensor, heads: int) -> Tensor:
    scales = [state.get(f"{name}.ls{number}.gamma", torch.tensor(1.0)) for number in (1, 2)]
    query, key, value = _linear(state, f"{name}.attn.qkv", _norm(state, f"{name}.norm1", tokens)).chunk(3, dim=-1)
    tokens = tokens + scales[0] * _linear(state, f"{name}.attn.proj", _attend(query, key, value, counts, heads))
    return tokens + scales[1] * _mlp(state, f"{name}.mlp", _norm(state, f"{name}.norm2", tokens))


def _attend(query: Tensor, key: Tensor, value: Tensor, counts: Tensor, heads: int) -> Tensor:
    """Weights proportional to count times exp(logit): (Q, C), (T, C), (T, C), counts (Q, T) -> (Q, C)."""
    width, answers = query.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = counts * (query[:, part] @ key[:, part].T / math.sqrt(width)).exp()
        answers.append(weights @ value[:, part] / weights.sum(1, keepdim=True))
    return torch.cat(answers, 1)


def _linear(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    bias = state.get(f"{name}.bias")
    return values @ state[f"{name}.weight"].T + (0 if bias is None else bias)


def _mlp(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    hidden = _linear(state, f"{name}.fc1", values)
    return _linear(state, f"{name}.fc2", hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)


def _norm(state: dict[str, Tensor], name: str, values: Tensor, eps: float = 1e-6) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
