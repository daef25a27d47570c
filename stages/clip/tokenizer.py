"""A tokenizer of Hugging Face's form from its ``tokenizer.json``, used as open_clip's HFTokenizer does: no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from stages.clip.model_text import json_of, text_of
from store.errors import ParameterError, WeightsError, extra, nearest, reason

CLEANING = ("whitespace", "lower", "canonicalize")
"""open_clip's names: spaces, also lower case, also without punctuation (SigLIP's)."""


class FileTokenizer:
    """Token ids of texts, padded and cut to the context length: called like open_clip's tokenizers.

    A text is cleaned as open_clip does (``clean``), split by ``tokenizer.json`` with the special tokens that it adds
    (SigLIP: an end token), cut so that these stay, and padded with the pad token to the context length. As transformers does,
    ``tokenizer_config.json`` says which is the pad token, on which side it goes, and, where it has ``add_bos_token`` and
    ``add_eos_token`` (SigLIP2), which special tokens are added.

    Raises:
        ParameterError: the library ``tokenizers`` is not installed, or no such cleaning. WeightsError: files that cannot be
            read, no pad token, or more tokens than the model has (``vocab_size``).
    """

    def __init__(
        self, files: Sequence[Path], context_length: int, vocab_size: int, clean: str | None = None, **others: Any
    ) -> None:
        if others:
            raise ParameterError(
                f"text_cfg.tokenizer_kwargs.{min(others)}: a key that cannot be honoured; choose another model"
            )
        clean = clean or "whitespace"
        if clean not in CLEANING:
            raise ParameterError(f"text_cfg.tokenizer_kwargs.clean: no cleaning {clean!r}; {nearest(clean, CLEANING)}")
        self.file, self.context_length, self._vocab_size = files[0], context_length, vocab_size
        self._clean = get_clean_fn(clean)
        config = json_of(files[1]) if len(files) > 1 else {}
        self._tokenizer = _opened(files[0])
        self._padding = self._pad_token(config)
        self._left = config.get("padding_side") == "left"
        self._add_special_tokens(config)
        self._tokenizer.no_padding()
        size = self._tokenizer.get_vocab_size(with_added_tokens=False)
        if size > vocab_size:
            raise WeightsError(
                f"{self.file}: expected at most {vocab_size} tokens, the model's vocab_size, got {size}; give the model's own "
                "tokenizer"
            )

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids: int64 (S, context_length)."""
        return self.with_cuts([texts] if isinstance(texts, str) else texts, context_length)[0]

    def with_cuts(self, texts: Sequence[str], context_length: int | None = None) -> tuple[Tensor, NDArray[np.bool_]]:
        """Token ids int64 (S, context_length), and which texts were longer than that, bool (S,)."""
        length = context_length or self.context_length
        self._tokenizer.enable_truncation(length)
        tokens, cut = torch.full((len(texts), length), self._padding), np.zeros(len(texts), np.bool_)
        for row, text in enumerate(texts):
            encoding = self._tokenizer.encode(self._clean(text))
            ids = torch.tensor(encoding.ids, dtype=torch.int64)
            if len(ids) and int(ids.max()) >= self._vocab_size:
                raise WeightsError(
                    f"{self.file}: expected ids below {self._vocab_size}, the model's vocab_size, got {int(ids.max())} for "
                    f"{text!r}; give the model's own tokenizer"
                )
            tokens[row, length - len(ids) if self._left else 0 :][: len(ids)] = ids
            cut[row] = bool(encoding.overflowing)
        return tokens, cut

    def _pad_token(self, config: dict[str, Any]) -> int:
        """Id of the pad token."""
        name = _content(config.get("pad_token"))
        padding = self._tokenizer.padding
        found = self._tokenizer.token_to_id(name) if name else padding and padding["pad_id"]
        if found is None:
            raise WeightsError(
                f"{self.file}: expected a pad token, in pad_token of the tokenizer_config.json beside it or in its own section "
                f"padding, got {name or 'none'}; add the tokenizer_config.json of the same model"
            )
        return int(found)

    def _add_special_tokens(self, config: dict[str, Any]) -> None:
        """Start and end token as ``add_bos_token`` and ``add_eos_token`` say; without both keys as ``tokenizer.json`` does."""
        flags = {name: config.get(f"add_{name}_token") for name in ("bos", "eos")}
        if any(not isinstance(flag, bool) for flag in flags.values()):
            return
        from tokenizers.processors import TemplateProcessing

        tokens = {name: _content(config.get(f"{name}_token")) for name, flag in flags.items() if flag}
        ids = {name: self._tokenizer.token_to_id(token) for name, token in tokens.items()}
        if missing := [name for name, number in ids.items() if number is None]:
            raise WeightsError(
                f"{self.file}: expected the {missing[0]}_token of the tokenizer_config.json beside it, "
                f"{tokens[missing[0]]!r}, among its tokens; give two files of the same model"
            )
        template = " ".join(filter(None, [tokens.get("bos", ""), "$A", tokens.get("eos", "")]))
        special = [(tokens[name], number) for name, number in ids.items()]
        self._tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)


def _content(token: Any) -> str:
    """A special token, which transformers writes as text or as an object."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


def _opened(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ParameterError(
            f"{file}: reading a model's own tokenizer needs the library tokenizers, it is not installed; run: "
            f"{extra('siglip')}"
        ) from error
    text = text_of(file)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # its Rust side raises plain Exception
        raise WeightsError(
            f"{file}: expected a tokenizer of Hugging Face's form, cannot read it ({reason(error)}); fetch the file again"
        ) from error
