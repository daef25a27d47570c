"""The config of a Hugging Face CLIP as open_clip's: no torch, nothing of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from store.errors import ParameterError

_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
"""What ``transformers.CLIPConfig`` takes for what a config leaves out."""
_TRAINING = frozenset(
    {
        "attention_dropout",
        "dropout",
        "initializer_factor",
        "initializer_range",
        "gradient_checkpointing",
        "projection_dim",
    }
)
_GENERIC = frozenset(
    re.findall(
        r"\w+",
        """_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _name_or_path
    add_cross_attention architectures bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16""",
    )
)
"""Keys of every config of transformers, which say nothing about what a CLIP computes."""
_TOP = frozenset(
    {
        "text_config",
        "vision_config",
        "text_config_dict",
        "vision_config_dict",
        "projection_dim",
        "logit_scale_init_value",
    }
)
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_LAST_IS_HIGHEST = (2, 49407, None)
"""End tokens with which transformers reads a text where open_clip does: at the highest token."""


def is_hugging_face(document: Mapping[str, Any]) -> bool:
    """Whether a config is of transformers' form, of whatever model."""
    return "model_type" in document and not {"vision_cfg", "model_cfg"} & document.keys()


def open_clip_document(document: Mapping[str, Any], preprocessor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """open_clip's config document of a ``config.json`` and a ``preprocessor_config.json`` ({} for none).

    Raises:
        ParameterError: another model than a CLIP, or a key that open_clip's two encoders cannot honour.
    """
    if document["model_type"] == "siglip":
        raise ParameterError(
            f"{source}: expected the config of a CLIP (model_type clip), got model_type 'siglip'; a SigLIP's weights of this "
            "form are read all the same: name its architecture of open_clip as the model (ViT-B-16-SigLIP, ViT-B-16-SigLIP2, "
            "...) and this folder as `weights`"
        )
    if document["model_type"] != "clip":
        raise ParameterError(
            f"{source}: expected the config of a CLIP (model_type clip), got model_type {document['model_type']!r}; choose "
            "a CLIP with open_clip's own two encoders"
        )
    _known(document, _TOP | _GENERIC | _TRAINING, source, "")
    vision = _section(document, "vision_config", _VISION, source)
    text = _section(document, "text_config", _TEXT, source)
    activations = [_activation(section, source) for section in (vision, text)]
    if activations[0] != activations[1]:
        raise ParameterError(
            f"{source}: expected one hidden_act for both encoders, got two; open_clip has one for both"
        )
    if vision["num_channels"] != 3:
        raise ParameterError(f"{source}: expected num_channels 3, got {vision['num_channels']}; choose another model")
    if text["eos_token_id"] not in _LAST_IS_HIGHEST:
        raise ParameterError(
            f"{source}: expected eos_token_id 49407, that of CLIP's tokenizer, got {text['eos_token_id']}; choose another model"
        )
    config = {
        "embed_dim": document.get("projection_dim", 512),
        "quick_gelu": activations[0],
        "vision_cfg": {
            **_encoder(vision),
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            **_encoder(text),
            "heads": text["num_attention_heads"],
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
        },
    }
    return {"model_cfg": config, "preprocess_cfg": _pixels(preprocessor, source)}


def _section(document: Mapping[str, Any], name: str, defaults: Mapping[str, Any], source: str) -> dict[str, Any]:
    """One encoder's values; those under ``<name>_dict``, of old configs, go before the others, as in transformers."""
    values: dict[str, Any] = dict(defaults)
    for key in (name, f"{name}_dict"):
        section = document.get(key)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ParameterError(f"{source}: {key}: expected an object, got {type(section).__name__}; correct the file")
        _known(section, frozenset(defaults) | _GENERIC | _TRAINING, source, f"{key}.")
        values |= {**defaults, **section} if key != name else section
    for key, default in defaults.items():
        if key != "eos_token_id" and type(values[key]) is not type(default):
            raise ParameterError(f"{source}: {name}.{key}: expected a value like {default!r}, got {values[key]!r}")
        if isinstance(default, int) and key != "eos_token_id" and values[key] < 1:
            raise ParameterError(f"{source}: {name}.{key}: expected at least 1, got {values[key]}; correct the file")
    return values


def _known(section: Mapping[str, Any], known: frozenset[str], source: str, place: str) -> None:
    if unknown := sorted(section.keys() - known):
        raise ParameterError(
            f"{source}: {place}{unknown[0]}: a key that a CLIP of open_clip cannot honour; choose another model, or where it "
            "changes nothing remove the key"
        )


def _activation(section: Mapping[str, Any], source: str) -> bool:
    if section["hidden_act"] not in _ACTIVATIONS:
        raise ParameterError(
            f"{source}: hidden_act: expected {' or '.join(_ACTIVATIONS)}, got {section['hidden_act']!r}; choose another model"
        )
    return _ACTIVATIONS[section["hidden_act"]]


def _encoder(section: Mapping[str, Any]) -> dict[str, Any]:
    """What both encoders have."""
    shared = {
        "width": section["hidden_size"],
        "layers": section["num_hidden_layers"],
        "mlp_ratio": section["intermediate_size"] / section["hidden_size"],
    }
    eps = section["layer_norm_eps"]
    return shared if eps == _VISION["layer_norm_eps"] else {**shared, "norm_kwargs": {"eps": eps}}


def _pixels(preprocessor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Mean and deviation by which pixels are normalised; how images are resized is `embed_masks.preprocess`."""
    scale = preprocessor.get("rescale_factor", 1 / 255)
    if preprocessor.get("do_normalize") is False or not isinstance(scale, float) or abs(scale * 255 - 1) > 1e-3:
        raise ParameterError(
            f"{source}: its preprocessor config takes pixels that are not scaled to 0..1 and normalised; choose another model"
        )
    names = {"mean": "image_mean", "std": "image_std"}
    return {name: preprocessor[key] for name, key in names.items() if preprocessor.get(key) is not None}
