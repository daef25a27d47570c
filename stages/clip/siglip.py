"""Hugging Face's names of a SigLIP's tensors (``transformers.SiglipModel``, SigLIP and SigLIP2) as open_clip's with timm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from stages.clip.layouts import QKV, joined, looks_like

_LAYER = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCKS = {
    "vision_model": {
        "self_attn.out_proj": "attn.proj",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    "text_model": {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
}
_FUSED = {
    "vision_model": "visual.trunk.blocks.{}.attn.qkv.{}",
    "text_model": "text.transformer.resblocks.{}.attn.in_proj_{}",
}
_OUTSIDE = {
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp.fc1": "visual.trunk.attn_pool.mlp.fc1",
    "vision_model.head.mlp.fc2": "visual.trunk.attn_pool.mlp.fc2",
    "text_model.embeddings.token_embedding": "text.token_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
}
_WHOLE = {
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
}


def is_siglip(names: Iterable[str]) -> bool:
    """Whether names are those of ``transformers.SiglipModel``."""
    return looks_like(names) == "a SigLIP of Hugging Face transformers"


def from_siglip(state: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """The tensors of ``transformers.SiglipModel`` under open_clip's names: name -> tensor.

    Queries, keys and values of a block become one matrix; those of the pool, one matrix there, a query's and one of keys and
    values; positions get a first axis. What has no place in open_clip keeps its name.

    Raises:
        WeightsError: a layer lacks one of its queries, keys and values. ``source`` is named in the message.
    """
    renamed: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        layer = _LAYER.fullmatch(name)
        if name.endswith(".position_ids"):
            continue
        if layer is not None and layer[3] in QKV:
            fused.setdefault(_FUSED[layer[1]].format(layer[2], kind), {})[layer[3]] = value
        elif layer is not None:
            block = _FUSED[layer[1]].format(layer[2], "").partition(".attn.")[0]
            renamed[f"{block}.{_BLOCKS[layer[1]].get(layer[3], layer[3])}.{kind}"] = value
        elif name == "vision_model.embeddings.position_embedding.weight":
            renamed["visual.trunk.pos_embed"] = value[None]
        elif stem == "vision_model.head.attention" and kind.startswith("in_proj_"):
            query, *rest = value.chunk(3)
            renamed[f"visual.trunk.attn_pool.q.{kind[len('in_proj_') :]}"] = query
            renamed[f"visual.trunk.attn_pool.kv.{kind[len('in_proj_') :]}"] = torch.cat(rest)
        else:
            renamed[_WHOLE.get(name) or (f"{_OUTSIDE[stem]}.{kind}" if stem in _OUTSIDE else name)] = value
    return renamed | joined(fused, source)
