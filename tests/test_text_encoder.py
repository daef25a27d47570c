"""Text vectors by shared beginnings against open_clip's own encode_text, which runs all 77 positions of each string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.clip_weights import load_clip
from stages.text.encoder import TextEncoder
from stages.text.prefixes import pack
from tests.visual_oracles import TEXT, VIT, relative

MODELS = Path(__file__).parent.parent / "demo" / "models"
TOKENIZER = open_clip.SimpleTokenizer()
TOLERANCE = 1e-5
FULL, CUT = "dog " * 75, "dog " * 76  # 77 and 78 tokens, start and end included
ODD = [
    *("", " ", FULL, CUT, "cat . " * 90, "! " * 75, "!", "the man in red", "The man  in RED", "the man in"),
    *(
        "<end_of_text>",
        "a <end_of_text> b",
        "<start_of_text>",
        "<|endoftext|>",
        "the man in red",
        "猫 🐈 café",
        "x" * 400,
    ),
]
VOCABULARY = "the a man dog in on red of left <end_of_text> <start_of_text> ! é 猫"
WORDS = st.lists(st.sampled_from(VOCABULARY.split()))
STRINGS = st.lists(st.one_of(st.text(max_size=20), WORDS.map(" ".join), st.sampled_from(ODD)), min_size=1, max_size=6)


def random_tower(custom: bool = False, **text: Any) -> Any:
    """A tiny CLIP in which no parameter of the text tower keeps its start value."""
    build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = build(embed_dim=24, vision_cfg={**VIT, "layers": 1}, text_cfg={**TEXT, "layers": 3, **text})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@cache
def tiny() -> Any:
    return random_tower()


@cache
def demo() -> Any:
    return load_clip(str(MODELS / "refshapes_clip.json"), MODELS / "refshapes_clip.safetensors")[0]


def plainly(model: Any, strings: Sequence[str]) -> NDArray[np.float32]:
    with torch.inference_mode():
        vectors: NDArray[np.float32] = model.encode_text(TOKENIZER(list(strings))).numpy()
    return vectors


def errors(got: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    distance: NDArray[np.float32] = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return distance


@pytest.mark.parametrize("model", [tiny, demo])
@settings(max_examples=12, deadline=None)
@given(strings=STRINGS, batch=st.sampled_from([1, 2, 64]))
@example(strings=ODD, batch=64)
@example(strings=ODD[::-1], batch=1)
def test_any_strings_are_open_clips(model: Callable[[], Any], strings: list[str], batch: int) -> None:
    got, truncated = TextEncoder(model(), TOKENIZER, batch).encode(strings)
    assert errors(got, plainly(model(), strings)).max() < TOLERANCE
    assert truncated.tolist() == [len(TOKENIZER.encode(string)) + 2 > 77 for string in strings]


def test_the_text_tower_of_vit_b_32_is_open_clips() -> None:
    """At its true size, from open_clip's start values; test_visual_golden.py has it with the golden weights."""
    text = open_clip.get_model_config("ViT-B-32-quickgelu")["text_cfg"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=512, vision_cfg={**VIT, "layers": 1}, text_cfg=text, quick_gelu=True).eval()
    got = TextEncoder(model, TOKENIZER).encode(ODD)[0]
    assert errors(got, plainly(model, ODD)).max() < TOLERANCE
    assert errors(got[:1], got[6:7]).min() > 1e-2


EXACT: list[dict[str, Any]] = [
    {"custom": True},
    {"custom": True, "proj_bias": True, "ls_init_value": 0.4, "mlp_ratio": 2.0},
    {"custom": True, "proj_type": "none"},
    {"pool_type": "eos", "eos_id": TOKENIZER.eot_token_id},
    {"custom": True, "pool_type": "eos", "eos_id": TOKENIZER.encoder["dog</w>"]},  # not every string has one
    {"qk_norm": True, "scale_heads": True, "scale_attn": True},
    {"layers": 1},
    {"context_length": 9},
]
NOT_EXACT: list[dict[str, Any]] = [
    {"no_causal_mask": True},
    {"pool_type": "first", "no_causal_mask": True},
    {"pool_type": "last"},
    {"custom": True, "pool_type": "last"},
    {"custom": True, "no_causal_mask": True},
    {"custom": True, "embed_cls": True},
]


@pytest.mark.parametrize("text", EXACT + NOT_EXACT, ids=str)
def test_every_kind_of_tower_is_open_clips(text: dict[str, Any]) -> None:
    """Where the padding or later tokens count, only the plain way gives the right vectors."""
    model = random_tower(**text)
    tokenizer = open_clip.SimpleTokenizer(context_length=text.get("context_length", 77))
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(ODD)).numpy()
    encoder = TextEncoder(model, tokenizer, batch=5)
    assert errors(encoder.encode(ODD)[0], expected).max() < TOLERANCE
    assert (encoder._tower is None) == (text in NOT_EXACT)
    assert errors(TextEncoder(model, tokenizer, plain=True).encode(ODD)[0], expected).max() < 1e-6


def test_a_mask_that_is_not_causal_runs_plainly() -> None:
    model = random_tower()
    model.attn_mask[3, 5] = 0  # one token sees two ahead
    got = TextEncoder(model, TOKENIZER).encode(ODD)[0]
    assert errors(got, plainly(model, ODD)).max() < TOLERANCE
    assert errors(got, TextEncoder(tiny(), TOKENIZER).encode(ODD)[0]).max() > 1e-3


def test_one_vector_for_equal_strings_and_the_order_of_the_input() -> None:
    encoder = TextEncoder(tiny(), TOKENIZER)
    strings = ["red dog", "man", "red dog", "Red  Dog", "man", "a"]
    got, _ = encoder.encode(strings)
    np.testing.assert_array_equal(got[0], got[2])
    np.testing.assert_array_equal(got[1], got[4])
    order = [5, 3, 1, 0]
    assert relative(encoder.encode([strings[i] for i in order])[0], got[order]) < 1e-6
    assert relative(encoder.encode(["man"])[0], got[1:2]) < 1e-6


def test_every_string_is_tokenised_once() -> None:
    seen: list[str] = []

    def tokenizer(strings: list[str], context_length: int = 77) -> torch.Tensor:
        seen.extend(strings)
        return TOKENIZER(strings, context_length)

    TextEncoder(tiny(), tokenizer).encode(["a dog", "man", "a dog", "left"])
    assert sorted(seen) == ["", "a dog", "left", "man"]  # the empty one shows what padding is


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_only_what_can_matter_is_run(batch: int) -> None:
    """Distinct beginnings once each, within the positions of ``batch`` strings a pass, and one MLP row a text at last."""
    strings = [f"{a} {b} in {c}" for a in ("the man", "a dog") for b in ("left", "right", "big") for c in ("red", "it")]
    positions, last = [], []
    model = random_tower()
    model.token_embedding.register_forward_hook(lambda _, given, __: positions.append(given[0].numel()))
    model.transformer.resblocks[-1].mlp.register_forward_hook(lambda _, given, __: last.append(len(given[0])))
    TextEncoder(model, TOKENIZER, batch).encode(strings)
    ids = [row[: row.index(TOKENIZER.eot_token_id) + 1] for row in TOKENIZER(strings).tolist()]
    beginnings = {tuple(row[:length]) for row in ids for length in range(1, len(row) + 1)}
    assert max(positions) <= 77 * batch
    assert sum(positions) == len(beginnings) < sum(map(len, ids)) / 1.5
    assert sum(last) == len(strings)


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=25)


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES, size=st.integers(1, 30))
def test_packs_hold_every_sequence(sequences: list[list[int]], size: int) -> None:
    packs = pack(sequences, size)
    assert sorted(row for own in packs for row in own.rows) == list(range(len(sequences)))
    for own in packs:
        paths: list[list[int]] = []  # of each node: itself and its ancestors, the first token at the front
        for node, parent in enumerate(own.parents):
            assert parent < node
            paths.append([*(paths[parent] if parent >= 0 else []), node])
        assert own.depths == [len(path) - 1 for path in paths]
        assert own.sees().tolist() == [[other in path for other in range(len(paths))] for path in paths]
        for row, end in zip(own.rows, own.ends, strict=True):
            assert [own.tokens[node] for node in paths[end]] == sequences[row]
        assert len(own.tokens) <= max(size, *(len(sequences[row]) for row in own.rows))


@settings(max_examples=50, deadline=None)
@given(SEQUENCES)
def test_a_pack_that_is_large_enough_repeats_no_beginning(sequences: list[list[int]]) -> None:
    beginnings = {tuple(own[:length]) for own in sequences for length in range(1, len(own) + 1)}
    packs = pack(sequences, 1000)
    assert sum(len(own.tokens) for own in packs) == len(beginnings)
    assert len(packs) == bool(sequences)
