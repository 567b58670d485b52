"""Practice for the demo's models: items as chat text, tokenised and batched, with the loss on the answer only.

Shape suffixes: B conversations of a batch, T tokens, D width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from layout import use_project
from transformers import PreTrainedTokenizerBase

use_project()

from router_models.aptitude import Item, draw  # noqa: E402  # importable only after use_project

IGNORED = -100
"""What torch's cross-entropy leaves out: the prompt and the padding."""

NEIGHBOURS = 16
"""So many batches' items are sorted by length together: little padding, and the order stays nearly random."""


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids, their mask, and the labels, IGNORED where nothing is to be learnt."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor  # array names carry their shape


def draw_practice(shares: dict[str, float], *, seed: int, count: int) -> list[Item]:
    """About `count` items in seen wordings, split over the families by their shares."""
    total = sum(shares.values())
    items = [
        item for family, share in shares.items() for item in draw(family, seed=seed, count=round(count * share / total))
    ]
    Random(seed).shuffle(items)
    return items


def batches(items: list[Item], tokenizer: PreTrainedTokenizerBase, size: int, seed: int) -> Iterator[Batch]:
    """Every item once, in batches of similar length. A remainder that fills no batch is dropped."""
    rng = Random(seed)
    encoded = [encode(item, tokenizer) for item in items]
    for start in range(0, len(encoded), size * NEIGHBOURS):
        group = sorted(encoded[start : start + size * NEIGHBOURS], key=lambda pair: len(pair[0]))
        chunks = [group[at : at + size] for at in range(0, len(group) - size + 1, size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, tokenizer.pad_token_id)


def encode(item: Item, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """Token ids of prompt and answer exactly as a worker formats them, and how many belong to the prompt."""
    messages = [{"role": "user", "content": item.prompt}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
    return prompt_ids + answer_ids + [tokenizer.eos_token_id], len(prompt_ids)


def collate(pairs: list[tuple[list[int], int]], pad_id: int) -> Batch:
    """One batch, padded on the right to its longest conversation."""
    length = max(len(ids) for ids, _ in pairs)
    ids_BT = torch.full((len(pairs), length), pad_id)
    mask_BT = torch.zeros((len(pairs), length), dtype=torch.long)
    labels_BT = torch.full((len(pairs), length), IGNORED)
    for row, (ids, prompt_tokens) in enumerate(pairs):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
        labels_BT[row, prompt_tokens : len(ids)] = torch.tensor(ids[prompt_tokens:])
    return Batch(ids_BT, mask_BT, labels_BT)


def answer_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens.

    Only their positions go through the output head: it is a fifth of the model, and nine tokens in ten are prompt.
    """
    hidden_BTD = model.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False).last_hidden_state
    next_BT = batch.labels_BT[:, 1:]
    wanted_BT = next_BT != IGNORED
    logits = model.lm_head(hidden_BTD[:, :-1][wanted_BT])
    return torch.nn.functional.cross_entropy(logits.float(), next_BT[wanted_BT])


def warm_cosine(step: int, steps: int, warm_up: int = 10) -> float:
    """Share of the learning rate at a step: a linear warm-up, then a cosine down to a tenth."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
