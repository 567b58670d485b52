"""Router models small enough to make in a test: a real ONNX encoder of a few hundred bytes, a table, heads by hand.

Words that begin with the same letter have the same embedding, so a test decides by its words which prompts are alike.

Legend of array suffixes: V word pieces, D embedding, F inputs, T tasks, P pools, R rules, M models, K clusters.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from router_models.heads.odds import logit
from router_models.heads.tryage import ALARM_FIGURES, HeadSettings, Speed, TryageHead, stages
from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration

SIZE_D = 32
SIZE_F = SIZE_D + len(SURFACE_NAMES)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Words that begin with one of these lie near a cluster of training prompts; others are unfamiliar.
FAMILIAR = "abcdefghijklmrs"


@cache
def tiny_encoder() -> tuple[bytes, bytes]:
    """ONNX file and tokenizer: a token per letter, the first counts most; the mean of token vectors, normalised."""
    return _model().SerializeToString(), json.dumps(bert_tokenizer(_vocabulary(), _SPECIAL)).encode()


@cache
def tiny_pieces() -> np.ndarray:
    """The vector of each word piece, float32 [V, D]."""
    vector_VD = np.random.default_rng(3).normal(size=(len(_vocabulary()), SIZE_D)).astype(np.float32)
    # First letters say what a word is; the rest of it, and the special tokens, whisper.
    vector_VD[len(_SPECIAL) + 26 :] *= 0.05
    vector_VD[: len(_SPECIAL)] *= 0.05
    return vector_VD


def tiny_static() -> dict[str, np.ndarray]:
    """The same vectors as the table of a static encoder."""
    scale_V = np.abs(tiny_pieces()).max(1) / 127
    return {
        "table_VD": np.round(tiny_pieces() / scale_V[:, None]).astype(np.int8),
        "scale_V": scale_V.astype(np.float32),
    }


def _vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *string.digits]
    return {token: number for number, token in enumerate([*_SPECIAL, *letters])}


def bert_tokenizer(vocabulary: Mapping[str, int], special: Sequence[str]) -> dict[str, Any]:
    """What a `tokenizer.json` of an uncased BERT says."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": dict(vocabulary),
        },
        "added_tokens": [{"id": vocabulary[token], "content": token, "special": True, **plain} for token in special],
    }


def _model() -> onnx.ModelProto:
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
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [numpy_helper.from_array(tiny_pieces(), "vectors")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tiny_artifact(
    models: Sequence[str] = ("small", "large"), rows: int = 12, speeds: tuple[Speed, ...] = ("static", "transformer")
) -> Artifact:
    """An artifact that loads: one pool, two tasks (words with a, words with r), drawn weights, lengths around 20.

    Nothing is unfamiliar to it; lower `alarm_static` and `alarm_full`, and prompts without `FAMILIAR` letters are.
    """
    return _artifact({"tiny": ("ar", range(len(models)))}, models, rows, speeds)


def tiny_pools_artifact(rows: int = 12) -> Artifact:
    """The same with two pools, "first" of small and both, "second" of large and both; two tasks each."""
    pools = {"first": ("ar", (0, 2)), "second": ("bs", (1, 2))}
    return _artifact(pools, ("small", "large", "both"), rows, ("static", "transformer"))


_Pools = Mapping[str, tuple[str, Sequence[int]]]
"""By name: a letter for each task, and the models, by number."""


def _artifact(pools: _Pools, models: Sequence[str], rows: int, speeds: tuple[Speed, ...]) -> Artifact:
    heads = _heads(pools, len(models), speeds)
    settings = HeadSettings(
        speeds,
        variance_floor=0.01,
        variance_per_disagreement=1.0,
        variance_unfamiliar=0.02,
        static_error=0.05,
        alarm_static=1.0,
        alarm_full=1.0,
    )
    encoder, tokenizer = tiny_encoder()
    return Artifact(
        name="tiny-v1",
        models=tuple(models),
        settings=settings,
        encoder=encoder if "transformer" in speeds else None,
        static=tiny_static() if "static" in speeds else None,
        tokenizer=tokenizer,
        heads=heads,
        calibration=_calibration(TryageHead(heads, settings, len(models)), tuple(pools), len(models), rows),
        about={"about": "Tiny.", "licences": ["Apache-2.0"], "seed": 1, "code_commit": "unknown"},
        pools=tuple(pools),
        tasks=tuple(f"{pool}/{letter}" for pool, (letters, _) in pools.items() for letter in letters),
    )


def _heads(pools: _Pools, size_M: int, speeds: tuple[Speed, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    pool_T = np.array([pool for pool, (letters, _) in enumerate(pools.values()) for _ in letters], np.int32)
    rules = [(pool, model) for pool, (_, members) in enumerate(pools.values()) for model in members]
    pool_R, model_R = np.array(rules, np.int32).T
    in_pool_TR = (pool_T[:, None] == pool_R).astype(np.float32)
    quality_TR = rng.uniform(0.2, 0.8, in_pool_TR.shape).astype(np.float32) * in_pool_TR
    complete_TM = rng.normal(scale=0.5, size=(len(pool_T), size_M)).astype(np.float32)
    for rule, model in enumerate(model_R):
        own_T = pool_T == pool_R[rule]
        complete_TM[own_T, model] = logit(quality_TR[own_T, rule])
    heads = {
        "layout.pool_T": pool_T,
        "layout.pool_R": pool_R,
        "layout.model_R": model_R,
        "table.quality_TR": quality_TR,
        "table.log_tokens_TR": np.float32(np.log(20)) * in_pool_TR,
        "complete.logit_TM": complete_TM,
        "tokens.known_R": np.ones(len(rules), np.uint8),
        "tokens.spread_M3": np.tile(np.array([0, -0.5, 0.5], np.float32), (size_M, 1)),
    }
    letters = "".join(letters for letters, _ in pools.values())
    for speed in speeds:
        heads |= _encoder_head(speed, letters, len(rules))
    return heads | _stages(speeds, len(pools), size_M)


def _encoder_head(speed: Speed, letters: str, size_R: int) -> dict[str, np.ndarray]:
    """Tasks by their letter, drawn residuals, no opinion on lengths; the surface counts in the alarm only."""
    unit_VD = tiny_pieces() / np.linalg.norm(tiny_pieces(), axis=1, keepdims=True)
    vocabulary, size_T = _vocabulary(), len(letters)
    weight_FO = np.zeros((SIZE_F, size_T + 2 * size_R), np.float32)
    weight_FO[:SIZE_D, :size_T] = 4 * unit_VD[[vocabulary[letter] for letter in letters]].T
    rng = np.random.default_rng(len(speed))
    weight_FO[:SIZE_D, size_T : size_T + size_R] = rng.normal(size=(SIZE_D, size_R))
    return {
        f"{speed}.mean_F": np.zeros(SIZE_F, np.float32),
        f"{speed}.scale_F": np.ones(SIZE_F, np.float32),
        f"{speed}.weight_FO": weight_FO,
        f"{speed}.bias_O": np.zeros(size_T + 2 * size_R, np.float32),
        f"{speed}.center_KD": unit_VD[[vocabulary[letter] for letter in FAMILIAR]],
    }


def _stages(speeds: tuple[Speed, ...], size_P: int, size_M: int) -> dict[str, np.ndarray]:
    """No map, everything trusted, standings that rise a little, and an alarm that looks at the distance alone."""
    heads: dict[str, np.ndarray] = {}
    for stage in stages(speeds):
        encoders = len(speeds) if stage == "full" else 1
        distance_A = np.array([name == "distance" for name in ALARM_FIGURES] * encoders, np.float32)
        heads |= {
            f"{stage}.platt_2P": np.array([[1] * size_P, [0] * size_P], np.float32),
            f"{stage}.trust_P": np.ones(size_P, np.float32),
            f"{stage}.standing_M": np.linspace(-0.1, 0.1, size_M, dtype=np.float32),
            f"{stage}.alarm_A": np.array([-4, *(16 / encoders * distance_A)], np.float32),
        }
    return heads


def _calibration(head: TryageHead, pools: tuple[str, ...], size_M: int, rows: int) -> Calibration:
    rng = np.random.default_rng(7)
    inputs_BF = np.concatenate([rng.normal(size=(rows, SIZE_D)), np.zeros((rows, SIZE_F - SIZE_D))], axis=1)
    inputs_BF = (inputs_BF / np.linalg.norm(inputs_BF, axis=1, keepdims=True)).astype(np.float32)
    prediction = head.predict(dict.fromkeys(head.speeds, inputs_BF))
    score_NM = rng.integers(0, 2, size=(rows, size_M)).astype(float)
    score_NM[:1, 0] = np.nan
    return Calibration(
        quality=prediction.quality,
        score=score_NM,
        output_tokens=prediction.output_tokens,
        real_output_tokens=np.full((rows, size_M), 25.0),
        input_tokens=np.full((rows, size_M), 40.0),
        dataset=np.zeros(rows, np.int32),
        datasets=pools,
        kind=np.eye(head.layout.tasks, dtype=np.float32)[rng.integers(head.layout.tasks, size=rows)],
    )


_WORDS = {
    ("train", "sums"): ("add", "all", "apples", "amount"),
    ("train", "rhymes"): ("rhyme", "rose", "river", "rain"),
    ("unseen", "sums"): ("age", "acres", "again"),
    ("unseen", "rhymes"): ("red", "round", "roof"),
}
_SPLITS = ("train", "train", "train", "train", "test", "unseen")


def tiny_dataset(prompts: int = 240, seed: int = 0) -> OutcomesDataset:
    """Two kinds of prompts and two models, each good at one kind; splits train (2/3), test and unseen (other words)."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    outcomes: list[dict[str, object]] = []
    for number in range(prompts):
        split, task = _SPLITS[number % 6], ("sums", "rhymes")[number // 6 % 2]
        text = " ".join(rng.choice(_WORDS["unseen" if split == "unseen" else "train", task], size=6))
        rows.append(_prompt(f"p{number}", task, f"{text} {number}", split))
        for model in ("adder", "poet"):
            right = (model == "adder") == (task == "sums")
            outcomes.append(_outcome(f"p{number}", model, float(rng.random() < (0.95 if right else 0.1)), rng))
    return OutcomesDataset(pa.Table.from_pylist(rows), pa.Table.from_pylist(outcomes))


def made_up_words(count: int) -> list[str]:
    """So many different ones of four letters."""
    return ["".join(letters) for letters in islice(product(string.ascii_lowercase, repeat=4), count)]


ALIASES = {"adder": {"second": ["adder-large", "adder-latest"]}}
"""As in a file of aliases: the names of adder in the second of the tiny pools."""


def tiny_pools(prompts: int = 240) -> dict[str, OutcomesDataset]:
    """Two datasets. The second has adder under two names, a singer for rhymes, and no lengths of the singer.

    Every fourth prompt of the second was sent within a template, and every sixth is also in the first (`core_hash`).
    Two of three prompts of the first's second task are marked `anchor`.
    """
    first, second = tiny_dataset(prompts), tiny_dataset(prompts, seed=1)
    texts = first.prompts["prompt"].to_pylist()
    first_rows = [
        row | {"core_hash": f"first {number}", "anchor": number % 3 > 0 and row["task"] == "rhymes", "grader": "exact"}
        for number, row in enumerate(first.prompts.to_pylist())
    ]
    second_rows = [_in_second(row, number, texts[number]) for number, row in enumerate(second.prompts.to_pylist())]
    outcomes: list[dict[str, object]] = []
    for outcome in second.outcomes.to_pylist():
        if outcome["model"] == "poet":
            outcomes.append(outcome | {"model": "singer", "output_tokens": None})
        else:
            outcomes += [outcome | {"model": name} for name in ALIASES["adder"]["second"]]
    return {
        "first": OutcomesDataset(pa.Table.from_pylist(first_rows), first.outcomes),
        "second": OutcomesDataset(pa.Table.from_pylist(second_rows), pa.Table.from_pylist(outcomes)),
    }


def _in_second(row: dict[str, object], number: int, text_in_first: str) -> dict[str, object]:
    shared = number % 6 == 0
    text = text_in_first if shared else row["prompt"]
    template = [{"role": "user", "content": f"Answer in one word.\n\nQuestion: {text}\nAnswer:"}]
    return row | {
        "prompt": text,
        "messages": json.dumps(template) if number % 4 == 0 else None,
        "core_hash": f"{'first' if shared else 'second'} {number}",
    }


def write_tiny_pools(folder: Path, prompts: int = 240) -> tuple[tuple[Path, ...], Path]:
    """Write the tiny pools; their folders, and the file of aliases."""
    pools = tiny_pools(prompts)
    for name, dataset in pools.items():
        write_outcomes(folder / name, dataset)
    (folder / "aliases.json").write_text(json.dumps(ALIASES), encoding="utf-8")
    return tuple(folder / name for name in pools), folder / "aliases.json"


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
