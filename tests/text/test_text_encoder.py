"""Text vectors by shared beginnings against open_clip's own encode_text, which runs all 77 positions of each string."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.clip.weights import load_clip
from stages.text.encoder import TextEncoder
from stages.text.prefixes import Forest, portions
from tests.helpers.visual_oracles import TEXT, VIT

MODELS = Path(__file__).parents[2] / "demo" / "models"
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
    {"qk_norm": True, "scale_heads": True, "scale_attn": True, "scale_attn_inner": True, "scale_fc": True},
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


def test_equal_strings_have_one_vector() -> None:
    encoder = TextEncoder(tiny(), TOKENIZER)
    strings = ["red dog", "man", "red dog", "Red  Dog", "man", "a"]
    got, _ = encoder.encode(strings)
    np.testing.assert_array_equal(got[[0, 0, 1]], got[[2, 3, 4]])  # the tokenizer knows no case
    assert len(np.unique(got, axis=0)) == 3


@cache
def wide(**text: Any) -> Any:
    """The width of ViT-B/32's text tower, at which matrix products run in other tiles and on several threads."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        text = {"width": 512, "heads": 8, "layers": 2, "context_length": 77, **text}
        return open_clip.CLIP(embed_dim=512, vision_cfg={**VIT, "layers": 1}, text_cfg=text, quick_gelu=True).eval()


CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}
TOWERS: dict[str, Callable[[], Any]] = {
    "tiny": tiny,
    "tiny custom": cache(lambda: random_tower(**CUSTOM)),
    "demo": demo,
    "wide": wide,
}
MANY = [
    f"{a} {b} in {c} left" for a in ("the man", "a dog") for b in ("red", "!", "left of") for c in VOCABULARY.split()
]


@pytest.mark.parametrize("name", TOWERS)
@settings(max_examples=8, deadline=None)
@given(
    strings=STRINGS,
    company=st.lists(st.sampled_from(ODD + MANY), max_size=100),
    batch=st.sampled_from([1, 2, 64]),
    order=st.randoms(use_true_random=False),
)
@example(strings=ODD, company=MANY, batch=1, order=None)
def test_a_vector_does_not_depend_on_its_company(
    name: str, strings: list[str], company: list[str], batch: int, order: Any
) -> None:
    """To the byte, of beginnings of others and of strings that are cut, too."""
    together = strings + company
    if order:
        order.shuffle(together)
    model = TOWERS[name]()
    got, cut = TextEncoder(model, TOKENIZER, batch).encode(together)
    for string in dict.fromkeys(strings):
        alone, own = TextEncoder(model, TOKENIZER).encode([string])
        row = together.index(string)
        np.testing.assert_array_equal(alone[0], got[row], err_msg=string)
        assert own[0] == cut[row]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [2, 3, 7])
def test_nor_on_how_threads_share_the_work(number: int, threads: Callable[[int], None]) -> None:
    threads(number)
    encoder = TextEncoder(wide(), TOKENIZER)
    got, _ = encoder.encode(ODD + MANY)
    for rows in ([0], [5, 40], range(70, 7, -1)):
        np.testing.assert_array_equal(encoder.encode([(ODD + MANY)[row] for row in rows])[0], got[rows])


def test_half_precision_is_near() -> None:
    exact = TextEncoder(wide(), TOKENIZER).encode(ODD)[0]
    got = TextEncoder(copy.deepcopy(wide()).bfloat16(), TOKENIZER).encode(ODD)[0]
    plain = TextEncoder(copy.deepcopy(wide()).bfloat16(), TOKENIZER, plain=True).encode(ODD)[0]
    assert 1e-4 < np.median(errors(got, exact)) < 1.2 * np.median(errors(plain, exact))


def test_every_string_is_tokenised_once() -> None:
    seen: list[str] = []

    def tokenizer(strings: list[str], context_length: int = 77) -> torch.Tensor:
        seen.extend(strings)
        return TOKENIZER(strings, context_length)

    TextEncoder(tiny(), tokenizer).encode(["a dog", "man", "a dog", "left"])
    assert sorted(seen) == ["", "a dog", "left", "man"]  # the empty one shows what padding is


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_only_what_can_matter_is_run(batch: int) -> None:
    """Distinct beginnings within the positions of ``batch`` strings at a time; only the ends of texts at last."""
    strings = [f"{a} in {b} {c}" for a in ("the man", "a dog") for b in "abcdefghijklm" for c in ("it", "red", "on it")]
    positions: list[int] = []
    rows: list[list[int]] = [[], []]
    model = random_tower()
    model.token_embedding.register_forward_hook(lambda _, given, __: positions.append(given[0].numel()))
    for own, block in zip(rows, model.transformer.resblocks[1:], strict=True):
        block.ln_2.register_forward_hook(lambda _, given, __, own=own: own.append(len(given[0])))
    TextEncoder(model, TOKENIZER, batch).encode(strings)
    ids = [row[: row.index(TOKENIZER.eot_token_id) + 1] for row in TOKENIZER(strings).tolist()]
    beginnings = {tuple(row[:length]) for row in ids for length in range(1, len(row) + 1)}
    assert max(positions) <= 77 * batch
    again = 8 * (len(positions) - 1)  # a portion begins with what the last one ended with, or less
    assert len(beginnings) <= sum(positions) <= len(beginnings) + again < sum(map(len, ids)) / 1.5
    if batch == 64:
        assert [sum(own) for own in rows] == [-(-count // 120) * 120 for count in (len(beginnings), len(strings))]


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES)
def test_a_forest_holds_every_beginning_once(sequences: list[list[int]]) -> None:
    forest = Forest.of(sequences)
    paths = [path[: depth + 1].tolist() for path, depth in zip(forest.paths, forest.depths, strict=True)]
    beginnings = [tuple(forest.tokens[path].tolist()) for path in paths]
    assert sorted(beginnings) == sorted({tuple(own[:length]) for own in sequences for length in range(1, len(own) + 1)})
    assert [beginnings[end] for end in forest.ends] == [tuple(own) for own in sequences]
    assert (np.diff(forest.depths) >= 0).all()
    for node, path in enumerate(paths):
        assert path[-1] == node
        assert path[:-1] == (paths[path[-2]] if len(path) > 1 else [])
        assert not forest.paths[node, len(path) :].any()
    assert forest.paths.shape[1] == max(map(len, sequences))


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES, size=st.integers(1, 30))
def test_portions_hold_every_sequence_and_are_cut_only_when_full(sequences: list[list[int]], size: int) -> None:
    cut = list(portions(sequences, size))
    assert sorted(row for rows in cut for row in rows) == list(range(len(sequences)))
    forests = [Forest.of([sequences[row] for row in rows]) for rows in cut]
    for rows, forest in zip(cut, forests, strict=True):
        assert len(forest.tokens) <= max(size, len(sequences[rows[0]]))
    for rows, after in pairwise(cut):
        assert len(Forest.of([sequences[row] for row in [*rows, after[0]]]).tokens) > size
