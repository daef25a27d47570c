"""Tokenizers of Hugging Face's form: ids, padding, cutting and cleaning as open_clip's HFTokenizer has them; SigLIP's texts."""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.clip.tokenizer import FileTokenizer
from stages.text.encoder import TextEncoder
from store.errors import ParameterError, WeightsError
from tests.helpers.timm_files import SENTENCES, SIGLIP, timm_model, write_tokenizer

LONG = "the red dog " * 4
"""12 words: one more than fit beside the end token."""


def opened(
    folder: Path, clean: str | None = "canonicalize", context: int = 12, vocab: int = 60, **config: Any
) -> FileTokenizer:
    file = write_tokenizer(folder, **config)
    return FileTokenizer([file, file.with_name("tokenizer_config.json")], context, vocab, clean)


def vocabulary(folder: Path) -> dict[str, int]:
    words: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return words


def plain_ids(text: str, words: dict[str, int], context: int) -> list[int]:
    """Lower case, no punctuation, words by spaces, the end token, which also pads."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation).split()
    ids = [words.get(word, words["<unk>"]) for word in kept][: context - 1]
    return (ids + [1] * context)[:context]


TEXTS = [*SENTENCES, "", "The MAN, in (the) red coat!!", "a\u00a0dog &amp; a horse", LONG, LONG[:-4], "zebra"]


def test_ids_are_words_with_siglips_cleaning(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path)
    tokens, cut = tokenizer.with_cuts(TEXTS)
    words = vocabulary(tmp_path)
    expected = [plain_ids(text.replace("&amp;", ""), words, 12) for text in TEXTS]
    assert tokens.tolist() == expected
    assert tokens.dtype == torch.int64
    assert cut.tolist() == [text == LONG for text in TEXTS]
    assert torch.equal(tokenizer(TEXTS), tokens)
    assert tokenizer("a dog").tolist() == tokenizer(["a dog"]).tolist()


def test_other_cleanings_and_lengths(tmp_path: Path) -> None:
    kept = opened(tmp_path, None)(["The  dog,", "the dog ,"])  # open_clip's default: only spaces
    words = vocabulary(tmp_path)
    assert kept[:, :4].tolist() == [
        [words["<unk>"], words["dog"], words["<unk>"], 1],
        [words["the"], words["dog"], words["<unk>"], 1],
    ]
    assert opened(tmp_path, "lower")(["The  dog"])[0, :3].tolist() == [words["the"], words["dog"], 1]
    assert opened(tmp_path)(["the dog"], context_length=3).tolist() == [[words["the"], words["dog"], 1]]
    with pytest.raises(ParameterError, match="no cleaning 'canonical'; did you mean 'canonicalize'"):
        opened(tmp_path, "canonical")


def test_special_tokens_of_the_config_go_before(tmp_path: Path) -> None:
    """As Gemma's, SigLIP2's: the config says whether texts start and end; its pad token is an object, on the left here."""
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": {"content": "<s>"},
        "pad_token": {"content": "<pad>"},
    }
    words = vocabulary(write_tokenizer(tmp_path).parent)
    assert opened(tmp_path, context=5, **config)(["a dog"]).tolist() == [[3, words["a"], words["dog"], 0, 0]]
    tokenizer = opened(tmp_path, context=5, **config, padding_side="left")
    assert tokenizer(["a dog"]).tolist() == [[0, 0, 3, words["a"], words["dog"]]]
    assert tokenizer.with_cuts(["a dog left of the"])[1].tolist() == [True]
    both = config | {"add_eos_token": True, "eos_token": "</s>"}
    assert opened(tmp_path, context=5, **both)([LONG]).tolist() == [[3, *(words[w] for w in ("the", "red", "dog")), 1]]
    with pytest.raises(WeightsError, match=r"expected the eos_token .* '<none>', among its tokens"):
        opened(tmp_path, **both | {"eos_token": "<none>"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token": None}, "expected a pad token"),
        ({"pad_token": "[PAD]"}, r"expected a pad token, .* got \[PAD\]"),
    ],
)
def test_no_pad_token(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        opened(tmp_path, **change)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tokenizer(tmp_path)
    size = len(vocabulary(tmp_path))
    with pytest.raises(WeightsError, match=f"expected at most {size - 1} tokens, the model's vocab_size, got {size}"):
        opened(tmp_path, vocab=size - 1)
    opened(tmp_path, vocab=size)
    with pytest.raises(ParameterError, match=r"tokenizer_kwargs\.strip_sep_token: a key that cannot be honoured"):
        FileTokenizer([file], 12, 60, strip_sep_token=True)
    file.with_name("tokenizer_config.json").write_text("[1]")
    with pytest.raises(WeightsError, match="expected a JSON object, got list"):
        FileTokenizer([file, file.with_name("tokenizer_config.json")], 12, 60)
    for damaged, said in (
        (b"{}", "expected a tokenizer of Hugging Face's form"),
        (b"<html>", "expected a tokenizer of Hugging Face's form"),
        (b"\xff", "expected a model's file, cannot read it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "expected a model's file, got .*Git LFS",
        ),
    ):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=rf"tokenizer\.json: {said}"):
            FileTokenizer([file], 12, 60)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ParameterError, match=r"needs the library tokenizers, .* pip install -c constraints.txt -e '\.\[siglip\]'"
    ):
        FileTokenizer([file], 12, 60)


def test_siglips_texts_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    """Read in both directions, at the last position, which padding fills: all texts have the context length."""
    model = timm_model(SIGLIP["vision_cfg"], 32)
    tokenizer = opened(tmp_path)
    encoder = TextEncoder(model, tokenizer, 64)
    together, cut = encoder.encode(TEXTS)
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(TEXTS)).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)
    alone = np.concatenate(
        [TextEncoder(model, tokenizer, batch).encode([text])[0] for batch, text in enumerate(TEXTS, 1)]
    )
    assert together.tobytes() == alone.tobytes()
    assert encoder.encode(TEXTS[::-1])[0].tobytes() == together[::-1].tobytes()
    assert cut.tolist() == encoder.truncated(TEXTS).tolist() == [text == LONG for text in TEXTS]
    distances = np.linalg.norm(together[:, None] - together[None], axis=2)
    assert distances[~np.eye(len(TEXTS), dtype=bool)].max() > 0.1
