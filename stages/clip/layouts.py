"""Names of tensors: whose model they look like, and Hugging Face's names of a CLIP as open_clip's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from store.errors import WeightsError

_LAYOUTS: tuple[tuple[str, str], ...] = (
    (r"(visual\.)?.*lora_[AB]\.", "LoRA adapters, which change a model that is not in the file"),
    (r"vision_model\.head\.attention\.|vision_model\.head\.probe", "a SigLIP of Hugging Face transformers"),
    (r"visual\.trunk\..*attn_pool\.|visual\.trunk\.attn_pool", "a SigLIP of open_clip (an image encoder of timm)"),
    (r"visual\.trunk\.", "an open_clip model with an image encoder of timm"),
    (r"text_decoder\.", "a CoCa of open_clip"),
    (
        r"text\.transformer\.(embeddings|encoder)\.|text\.transformer\.block",
        "an open_clip model with a text encoder of transformers",
    ),
    (r"visual\.conv1_alpha\.", "an Alpha-CLIP, whose image encoder reads a fourth channel"),
    (r"visual\.blocks\.", "an EVA-CLIP"),
    (r"vision_model\.encoder\.layers\.|text_model\.encoder\.layers\.", "a CLIP of Hugging Face transformers"),
    (r"ins_head\.|mask_head\.convs_all_levels\.", "a SOLOv2 or FreeSOLO network of detectron2"),
    (r"proposal_generator\.|roi_heads\.", "a Mask R-CNN or Faster R-CNN of detectron2"),
    (r"backbone\.bottom_up\.", "a detector of detectron2"),
    (r"(image_encoder|mask_decoder|prompt_encoder)\.", "a SAM (Segment Anything)"),
    (r"(visual_encoder|text_encoder)\.", "a BLIP or ALBEF"),
    (r"bert\.|encoder\.layer\.\d+\.attention\.self\.|embeddings\.word_embeddings\.", "a BERT"),
    (r"(text\.)?transformer\.resblocks\.|visual\.(conv1|class_embedding|layer1)", "a CLIP of OpenAI or open_clip"),
    (r"stem\.conv1\.|res[2-5]\.\d+\.", "the backbone alone of a detectron2 network"),
    (r"blocks\.\d+\.attn\.qkv\.|patch_embed\.", "a vision transformer of timm, DINO or MAE"),
    (r"encoder\.layer\.\d+\.", "a vision transformer of Hugging Face transformers"),
    (r"layer[1-4]\.\d+\.conv\d\.|fc\.(weight|bias)$", "a ResNet of torchvision"),
)
"""(pattern at the start of a name, whose names these are), the most telling ones first."""

_ARRANGED = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)")
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OUTSIDE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
QKV = tuple(f"self_attn.{each}_proj" for each in "qkv")
"""Queries, keys and values of a layer under Hugging Face's names; open_clip and timm keep them as one."""


def looks_like(names: Iterable[str]) -> str:
    """Whose model has tensors of these names, in words: "a BERT"; "" where nothing is known of them."""
    names = list(names)
    return next((whose for pattern, whose in _LAYOUTS if any(re.match(pattern, name) for name in names)), "")


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether names are those of ``transformers.CLIPModel``."""
    return looks_like(names) == "a CLIP of Hugging Face transformers"


def from_hugging_face(state: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """The tensors of ``transformers.CLIPModel`` under open_clip's names: name -> tensor.

    Queries, keys and values become one matrix, projections are transposed (theirs are linear layers), counters of
    positions go. What has no place in open_clip keeps its name.

    Raises:
        WeightsError: a layer lacks one of its queries, keys and values. ``source`` is named in the message.
    """
    renamed: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _ARRANGED.fullmatch(name)
        if name.endswith(".position_ids"):
            continue
        if name in _TRANSPOSED and value.ndim == 2:
            renamed[_TRANSPOSED[name]] = value.T.contiguous()
        elif match is None:
            renamed[_OUTSIDE.get(name, name)] = value
        else:
            tower = "visual.transformer" if match[1] == "vision_model" else "transformer"
            part, _, kind = match[3].rpartition(".")
            block = f"{tower}.resblocks.{match[2]}"
            if part in QKV:
                attention.setdefault(f"{block}.attn.in_proj_{kind}", {})[part] = value
            else:
                renamed[f"{block}.{_BLOCK.get(part, part)}.{kind}"] = value
    return renamed | joined(attention, source)


def joined(attention: Mapping[str, Mapping[str, Tensor]], source: object) -> dict[str, Tensor]:
    """Name of a tensor -> its queries, keys and values, given by their names in ``QKV``, as one.

    Raises:
        WeightsError: one is missing, or of another size.
    """
    whole = {}
    for name, parts in attention.items():
        missing = [each for each in QKV if each not in parts]
        if missing or len({part.shape for part in parts.values()}) > 1:
            raise WeightsError(
                f"{source}: expected q_proj, k_proj and v_proj of one size in every layer, {name} lacks "
                f"{', '.join(missing) or 'equal sizes'}; fetch the weights file again"
            )
        whole[name] = torch.cat([parts[each] for each in QKV])
    return whole
