"""A router model small enough to make in a test: a real ONNX encoder of a few hundred bytes, and heads made by hand.

Words that begin with the same letter have the same embedding, so a test decides by its words which prompts are alike.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from router_models.artifact import Artifact, Calibration
from router_models.outcomes import OutcomesDataset
from router_models.tryage import HeadSettings, TryageHead

SIZE_D = 32
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@cache
def tiny_encoder() -> tuple[bytes, bytes]:
    """ONNX file and tokenizer: one token per word, by its first letter; the mean of token vectors, normalised."""
    return _model().SerializeToString(), json.dumps(_tokenizer()).encode()


def _vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *string.digits]
    return {token: number for number, token in enumerate([*_SPECIAL, *letters])}


def _tokenizer() -> dict[str, object]:
    return {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": _vocabulary(),
        },
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(_SPECIAL)
        ],
    }


def _model() -> onnx.ModelProto:
    vectors = np.random.default_rng(3).normal(size=(len(_vocabulary()), SIZE_D)).astype(np.float32)
    # First letters say what a word is; the rest of it, and the special tokens, whisper.
    vectors[len(_SPECIAL) + 26 :] *= 0.05
    vectors[: len(_SPECIAL)] *= 0.05
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["sentence_embedding"], axis=1, p=2),
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", SIZE_D])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [numpy_helper.from_array(vectors, "vectors")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tiny_artifact(models: Sequence[str] = ("small", "large"), rows: int = 12) -> Artifact:
    """An artifact that loads: a logistic member with drawn weights, lengths around 20 tokens, some calibration rows."""
    rng, size_M = np.random.default_rng(7), len(models)
    heads: dict[str, np.ndarray] = {
        "input.mean_D": np.zeros(SIZE_D, np.float32),
        "input.scale_D": np.ones(SIZE_D, np.float32),
        "logistic.weight_DM": rng.normal(size=(SIZE_D, size_M)).astype(np.float32),
        "logistic.bias_M": np.zeros(size_M, np.float32),
        "quality.prior_M": np.zeros(size_M, np.float32),
        "tokens.weight_DM": np.zeros((SIZE_D, size_M), np.float32),
        "tokens.bias_M": np.full(size_M, np.log(20.0), np.float32),
        "tokens.residual_M2": np.tile(np.array([-0.5, 0.5], np.float32), (size_M, 1)),
        "tokens.known_M": np.ones(size_M, np.uint8),
    }
    settings = HeadSettings(("logistic",), 1.0, 1.0, 0.0, 0.01, 0.0)
    prediction = TryageHead(heads, settings).predict(rng.normal(size=(rows, SIZE_D)).astype(np.float32))
    score_NM = rng.integers(0, 2, size=(rows, size_M)).astype(float)
    score_NM[0, 0] = np.nan
    calibration = Calibration(
        quality=prediction.quality,
        score=score_NM,
        output_tokens=prediction.output_tokens,
        real_output_tokens=np.full((rows, size_M), 25.0),
        input_tokens=np.full((rows, size_M), 40.0),
        dataset=np.zeros(rows, np.int32),
        datasets=("tiny",),
    )
    encoder, tokenizer = tiny_encoder()
    about = {"about": "Tiny.", "licences": ["Apache-2.0"], "seed": 1, "code_commit": "unknown"}
    return Artifact("tiny-v1", tuple(models), settings, encoder, tokenizer, heads, calibration, about)


def tiny_dataset(prompts: int = 240, seed: int = 0) -> OutcomesDataset:
    """Two kinds of prompts and two models, each good at one kind; splits train (2/3), test and unseen (other words)."""
    rng = np.random.default_rng(seed)
    words = {
        ("train", "sums"): ("add", "all", "apples", "amount"),
        ("train", "rhymes"): ("rhyme", "rose", "river", "rain"),
        ("unseen", "sums"): ("age", "acres", "again"),
        ("unseen", "rhymes"): ("red", "round", "roof"),
    }
    rows: list[dict[str, object]] = []
    outcomes: list[dict[str, object]] = []
    for number in range(prompts):
        split = ("train", "train", "train", "train", "test", "unseen")[number % 6]
        task = ("sums", "rhymes")[number // 6 % 2]
        text = " ".join(rng.choice(words["unseen" if split == "unseen" else "train", task], size=6))
        rows.append(_prompt(f"p{number}", task, f"{text} {number}", split))
        for model in ("adder", "poet"):
            right = (model == "adder") == (task == "sums")
            outcomes.append(_outcome(f"p{number}", model, float(rng.random() < (0.95 if right else 0.1)), rng))
    return OutcomesDataset(pa.Table.from_pylist(rows), pa.Table.from_pylist(outcomes))


def _prompt(prompt_id: str, task: str, text: str, split: str) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(("messages", "reference", "grader"))
    return row | {"prompt_id": prompt_id, "dataset": "tiny", "task": task, "prompt": text, "split": split}


def _outcome(prompt_id: str, model: str, score: float, rng: np.random.Generator) -> dict[str, object]:
    input_tokens, output_tokens = 8, int(rng.integers(10, 20)) * (3 if model == "poet" else 1)
    return {
        "prompt_id": prompt_id,
        "model": model,
        "score": score,
        "cost_usd": (input_tokens * 1.0 + output_tokens * 2.0) * 1e-6,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "latency_s": 0.1,
        "mean_logprob": None,
    }
