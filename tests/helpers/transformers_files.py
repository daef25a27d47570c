"""Tiny models of transformers with random weights, in the layout of Hugging Face, written by transformers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    GroupViTConfig,
    GroupViTModel,
    ViTImageProcessorPil,
)
from transformers.utils import logging as transformers_logging

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "patch_size": 8}
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>"), ("b", "l")]
SIDE = 64
"""Of the pictures that enter the tiny CLIPSeg: other than the 32 of its position table, as in the release."""


def vocabulary() -> dict[str, int]:
    """Bytes of English, alone and at the end of a word, the merges, start and end."""
    signs = [sign + end for sign in "abcdefghijklmnopqrstuvwxyz0123456789!.,;-'" for end in ("", "</w>")]
    return {token: row for row, token in enumerate([*signs, *map("".join, MERGES), START, END])}


def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=vocabulary(), merges=MERGES)


def ends(eos: int | None = None) -> dict[str, int]:
    words = vocabulary()
    named = {"bos_token_id": words[START], "eos_token_id": words[END] if eos is None else eos}
    return {"vocab_size": len(words), "pad_token_id": words[END], **named}


def clip_seg(folder: Path, seed: int = 0, eos: int | None = None, **config: Any) -> CLIPSegProcessor:
    """A CLIPSeg's folder; the processor is transformers' own, with Pillow."""
    made = CLIPSegConfig(
        text_config=TEXT | ends(eos),
        vision_config=VISION | {"num_hidden_layers": 3, "image_size": 32},
        **{"projection_dim": 24, "extract_layers": [0, 1, 2], "reduce_dim": 16}
        | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
        | config,
    )
    save(CLIPSegForImageSegmentation, made, folder, seed)
    pixels = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    pixels.save_pretrained(folder)
    return CLIPSegProcessor(pixels, tokenizer())


def group_vit(folder: Path, seed: int = 0) -> CLIPProcessor:
    """A GroupViT's folder: 16 patches in 4 groups, these in 3; the processor is transformers' own, with Pillow."""
    stages = {"depths": [1, 1, 1], "num_group_tokens": [4, 3, 0], "num_output_groups": [4, 3, 3]}
    made = GroupViTConfig(
        text_config=TEXT | ends(),
        vision_config=VISION | stages | {"num_hidden_layers": 3, "image_size": 32},
        projection_dim=24,
        projection_intermediate_dim=40,
    )
    save(GroupViTModel, made, folder, seed)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels.save_pretrained(folder)
    return CLIPProcessor(pixels, tokenizer())


def save(kind: Any, config: Any, folder: Path, seed: int) -> None:
    """No tensor keeps its start value, so that a forgotten one shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind(config)
        with torch.no_grad():
            for name, value in net.state_dict().items():
                if value.is_floating_point():
                    value.add_(0.15 * torch.randn_like(value))
                if name.endswith("running_var"):
                    value.abs_()
        with quiet():
            net.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers' own ``from_pretrained`` without its progress bar."""
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.enable_progress_bar()


def as_of_openai(folder: Path) -> None:
    """The tokenizer in two files, as the released models have it: vocab.json and merges.txt, no tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in MERGES))
