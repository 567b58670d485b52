"""The encoder that artifacts carry: exported from the wheel, small, and close to the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router_models.features import TextEncoder
from router_models.onnx_check import check_self_contained
from router_models.training.encoder import exported_encoder


@pytest.mark.slow
def test_the_export_is_checked_small_and_made_once(tmp_path: Path) -> None:
    model, tokenizer = exported_encoder(tmp_path)

    assert 20_000_000 < len(model) < 25_000_000
    check_self_contained(model)
    made = next(tmp_path.iterdir())
    changed_at = made.stat().st_mtime_ns
    assert exported_encoder(tmp_path) == (model, tokenizer)
    assert made.stat().st_mtime_ns == changed_at

    encoder = TextEncoder(model, tokenizer)
    texts = ("What is 2 + 3?", "How much is five plus eight?", "Translate the old tree into German.")
    sum_D, sum_again_D, german_D = encoder.encode([(("user", text),) for text in texts])
    assert encoder.embedding_size == 384
    assert float(sum_D @ sum_again_D) > float(sum_D @ german_D) + 0.2
    np.testing.assert_allclose(np.linalg.norm(sum_D), 1, rtol=1e-5)
