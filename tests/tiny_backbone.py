"""A LLaMA of random weights with a tokenizer of bytes, saved as checkpoints are published; and what transformers says."""

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from m4c.models.llama_sizes import NANO, LlamaSizes

SIZES = replace(NANO, vocabulary=320, layers=4, kv_heads=2, max_positions=64)
"""More layers than are captured; heads that share a cache."""


def save(folder: Path, sizes: LlamaSizes = SIZES) -> LlamaForCausalLM:
    """Write a checkpoint to ``folder`` and return its model; random weights are so large that each step says another word."""
    torch.manual_seed(3)
    model = LlamaForCausalLM(sizes.to_library()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return model


def reference(model: LlamaForCausalLM, prompt: tuple[int, ...], count: int) -> list[int]:
    """Return the ``count`` tokens of the highest score that transformers generates after ``prompt``, or fewer."""
    tokens = torch.tensor([prompt])
    made = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=SIZES.end[0],
    )
    return [int(token) for token in made[0, len(prompt) :]]
