"""Products by oneDNN against torch's plain function."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stages.device import linear as module
from stages.device.linear import linear


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (0, 7), (1, 7), (300, 64, 7)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_plain_function(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(9, 7, dtype=dtype)
    b = torch.randn(9, dtype=dtype) if bias else None
    with torch.inference_mode():
        got, expected = linear(x, weight, b), functional.linear(x, weight, b)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-6 if dtype == torch.float32 else 0)


def test_views_and_parts_of_a_weight_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As attention cuts its queries from one matrix, and takes rows that lie apart."""
    torch.manual_seed(1)
    x, weight, bias = torch.randn(4, 10, 6), torch.randn(18, 6), torch.randn(18)
    with torch.inference_mode():
        for own, w, b in ((x[:, 0], weight[6:12], bias[6:12]), (x.transpose(0, 1), weight[:6], None)):
            torch.testing.assert_close(linear(own, w, b), functional.linear(own, w, b), rtol=0, atol=5e-6)


def test_a_torch_without_it_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_offers_onednn", lambda: False)
    x, weight = torch.randn(5, 7), torch.randn(9, 7)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))


def test_this_torch_has_it() -> None:
    """Else the fast path would be gone without a word."""
    assert module._offers_onednn()
