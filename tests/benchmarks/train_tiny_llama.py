"""Train the small LLaMA of tests/assets/tiny_llama, whose perplexity shows what a quantization costs.

    python -m tests.benchmarks.train_tiny_llama --out tests/assets/tiny_llama

The text is of tests/benchmarks/library_text.py. The model card is written from what was measured of the saved files.
"""

import argparse
import json
import math
import platform
import shutil
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tests.benchmarks.library_text import SHARED_WORDS, TOPIC_REPEATS, Corpus, corpus, held_out_topics

BOS, EOS = "<s>", "</s>"
VOCABULARY = 1024
WINDOW = 256  # tokens of a training sequence and of a window that perplexity is measured on

SEED, THREADS = 0, 2
STEPS, BATCH, WARMUP = 1100, 16, 60
LEARNING_RATE, FINAL_RATE, WEIGHT_DECAY, BETAS, CLIP = 3e-3, 1e-4, 0.1, (0.9, 0.95), 1.0
VALIDATE_EVERY, PATIENCE = 50, 6  # steps; validations without a better loss before the training ends

PROMPT = "If the object is not"
CONTINUATION = 48  # tokens


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer that puts ``BOS`` in front, as LLaMA's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def config() -> LlamaConfig:
    """Return the architecture: 2.9 million parameters; every linear's input is a multiple of 256."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )


def loss(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy, in nats, of every token of ``windows`` [n, length] but the first."""
    logits = model(windows, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """Return the perplexity a token of ``tokens`` [n] in windows of ``WINDOW`` that do not overlap.

    The first token of a window is given, not predicted; what is left after the last whole window is not counted.
    """
    windows = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW)
    return math.exp(sum(loss(model, window[None]).item() for window in windows) / len(windows))


@torch.no_grad()
def greedy(model: LlamaForCausalLM, tokens: list[int], count: int) -> list[int]:
    """Return ``tokens`` and ``count`` more, each the likeliest."""
    for _ in range(count):
        tokens = [*tokens, int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())]
    return tokens


def rate(step: int) -> float:
    """Return the learning rate of ``step``: a linear warm-up, then half a cosine."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    turn = math.pi * (step - WARMUP) / (STEPS - WARMUP)
    return FINAL_RATE + (LEARNING_RATE - FINAL_RATE) * (1 + math.cos(turn)) / 2


def train(model: LlamaForCausalLM, tokens: torch.Tensor, validation: torch.Tensor) -> int:
    """Train ``model`` on windows drawn from ``tokens`` [n], leave its best weights in it, and return their step.

    Best is by the perplexity of ``validation`` [m]. Products are computed in bfloat16, weights stay float32.
    """
    draws = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY)
    best, best_step, best_weights = math.inf, 0, model.state_dict()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=STEPS)
        for step in range(STEPS):
            starts = torch.randint(len(tokens) - WINDOW, (BATCH, 1), generator=draws)
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model, tokens[starts + torch.arange(WINDOW)])
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % VALIDATE_EVERY == 0:
                now = perplexity(model, validation)
                if now < best:
                    best, best_step = now, step + 1
                    best_weights = {name: weight.clone() for name, weight in model.state_dict().items()}
                elif step + 1 - best_step >= PATIENCE * VALIDATE_EVERY:
                    break
                told = f"step {step + 1}: training loss {value.item():.3f}, validation perplexity {now:.2f}"
                progress.console.print(told)
            progress.advance(bar)
    model.load_state_dict(best_weights)
    return best_step


def save(out: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, held_out: str) -> None:
    """Write the float16 weights, the configuration, the tokenizer, the held-out text and its licence to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_position_embeddings,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (out / "heldout.txt").write_text(held_out + "\n", encoding="utf-8")
    shutil.copyfile(Path(sysconfig.get_path("stdlib")) / "LICENSE.txt", out / "LICENSE")


CARD = """# tiny_llama

A LLaMA of {parameters:,} parameters, small enough to keep beside the tests and trained well enough to have something to lose:
the perplexity of `heldout.txt` before and after shows what a quantization costs, without a download.

| | |
| --- | --- |
| architecture | `LlamaForCausalLM`: 4 layers, hidden 256, MLP 512, 4 heads of 64 over 2 key-value heads, untied output |
| weights | float16, trained as float32 with bfloat16 products |
| tokenizer | byte-level BPE, {vocabulary} tokens with `{bos}` and `{eos}`; puts `{bos}` in front (onnxruntime-genai does not) |
| context | trained on {window} tokens, 512 at most |
| training | {best_step} steps of {batch} x {window} tokens, best on a validation text; {minutes:.0f} min, {threads} threads |
| **held-out perplexity** | **{perplexity:.2f}** a token, {bits:.3f} bits a byte |

The perplexity is of the whole `heldout.txt` ({held_tokens:,} tokens without `{bos}`) in windows of {window} tokens that do not
overlap, the first of each given, the float16 weights computed in float32.

## A sample

The likeliest token each time, after `{bos}` and "{prompt}":

```text
{sample}
```

## Text

All text is of the Python {python} standard library (`LICENSE` beside this file; copyright Python Software Foundation): the
language reference in `pydoc_data.topics` and the docstrings of the modules, {characters:,} characters, the topics drawn
{repeats} times as often. `heldout.txt` is these topics, less paragraphs that come twice:
{held_topics}.
A paragraph of the training text that shares {shared} words in a row with it, or with the validation text, was left out.

The model knows the prose of the Python reference and nothing else; it is no use for anything but measuring.

## Again

```sh
python -m tests.benchmarks.train_tiny_llama --out tests/assets/tiny_llama
```

The random numbers are seeded; these weights are of Python {python}, torch {torch} and tokenizers {tokenizers}. Another Python
has another text, and another machine rounds otherwise: after training again, measure the number in
`tests/test_tiny_llama.py` again too.
"""


def write_card(out: Path, texts: Corpus, best_step: int, seconds: float) -> str:
    """Measure what was saved in ``out``, write its model card, and return a line with the perplexity."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    held_out = (out / "heldout.txt").read_text(encoding="utf-8")
    tokens = tokenizer.encode(held_out, add_special_tokens=False).ids
    found = perplexity(model, torch.tensor(tokens))
    sample = tokenizer.decode(greedy(model, tokenizer.encode(PROMPT).ids, CONTINUATION))
    card = CARD.format(
        parameters=model.num_parameters(),
        vocabulary=VOCABULARY,
        bos=BOS,
        eos=EOS,
        window=WINDOW,
        best_step=best_step,
        batch=BATCH,
        minutes=seconds / 60,
        threads=THREADS,
        perplexity=found,
        bits=math.log2(found) * len(tokens) / len(held_out.encode()),
        held_tokens=len(tokens),
        prompt=PROMPT,
        sample=sample,
        python=platform.python_version(),
        characters=sum(map(len, set(texts.train))),
        repeats=TOPIC_REPEATS,
        held_topics=", ".join(f"`{name}`" for name in held_out_topics()),
        shared=SHARED_WORDS,
        torch=metadata.version("torch"),
        tokenizers=metadata.version("tokenizers"),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    return f"held-out perplexity {found:.3f}\n{sample}\n"


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that the model is written to")
    out: Path = parser.parse_args().out
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    texts = corpus()
    tokenizer = train_tokenizer(texts.train)
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    documents = tokenizer.encode_batch(texts.train, add_special_tokens=False)
    order = torch.randperm(len(documents)).tolist()
    tokens = torch.tensor([token for i in order for token in (bos, *documents[i].ids, eos)])
    validation = torch.tensor(tokenizer.encode(texts.validation, add_special_tokens=False).ids)
    model = LlamaForCausalLM(config())
    start = time.perf_counter()
    best_step = train(model, tokens, validation)
    seconds = time.perf_counter() - start
    save(out, model, tokenizer, texts.held_out)
    sys.stdout.write(write_card(out, texts, best_step, seconds))


if __name__ == "__main__":
    main()
