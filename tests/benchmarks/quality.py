"""Perplexity and divergence of quantized LLaMAs from the float32 one, on held-out text.

    python -m tests.benchmarks.quality [NAME=GRAPH.onnx …]

Exports ``tests/assets/tiny_llama`` by every method and reads its ``heldout.txt`` in windows of 256 tokens that do not overlap,
each begun by ``<s>``, with ONNX Runtime's defaults. Further graphs with onnxruntime-genai's interface may be named. Prints
bits of a weight of a linear layer, perplexity, its rise over float32, and the mean KL divergence in millinats.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from m4c.compile import compile_bundle
from m4c.progress import Silent
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.targets.profile import load_target
from tests.benchmarks.latency import Decoder

MODEL = Path(__file__).parents[1] / "assets" / "tiny_llama"
WINDOW = 256
SCHEMES = {
    "int8 rtn /128": Scheme(8),
    "int4 rtn /32": Scheme(4, 32),
    "int4 hqq /32": Scheme(4, 32, method="hqq"),
    "int4 gptq /32": Scheme(4, 32, method="gptq"),
    "uint4 rtn /32": Scheme(4, 32, symmetric=False),
    "uint4 hqq /32": Scheme(4, 32, symmetric=False, method="hqq"),
    "uint4 gptq /32": Scheme(4, 32, symmetric=False, method="gptq"),
    "int4 rtn /64": Scheme(4, 64),
    "int4 gptq /64": Scheme(4, 64, method="gptq"),
    "uint4 gptq /64": Scheme(4, 64, symmetric=False, method="gptq"),
    "int4 gptq /32, lm_head int8": Scheme(4, 32, method="gptq", keep=(("lm_head*", "int8"),)),
    "int4 rtn, budget 5.5": Scheme(4, 32, bits_budget=5.5),
    "int4 gptq, budget 5.5": Scheme(4, 32, method="gptq", bits_budget=5.5),
}


def windows() -> np.ndarray:
    """Return the held-out text as int64 (windows, 1 + WINDOW)."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer((MODEL / "heldout.txt").read_text("utf-8"), add_special_tokens=False)["input_ids"]
    count = len(ids) // WINDOW
    body = np.array(ids[: count * WINDOW], np.int64).reshape(count, WINDOW)
    return np.concatenate([np.full((count, 1), tokenizer.bos_token_id), body], axis=1)


def log_probabilities(logits: np.ndarray) -> torch.Tensor:
    """Return log-probabilities (positions, vocabulary) of the scores (1, positions, vocabulary)."""
    return torch.log_softmax(torch.from_numpy(logits[0]).double(), dim=-1)


def main() -> None:
    """Export, read, print."""
    text = windows()
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    sizes = model.config
    with torch.no_grad():
        true = [log_probabilities(model(torch.from_numpy(row[None])).logits.numpy()) for row in text]
    base = perplexity(true, text)
    print(f"{'float32':32s} perplexity {base:.4f}")
    empty = (1, sizes.num_key_value_heads, 0, sizes.head_dim)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {
            name: export(scheme, Path(folder) / name.replace("/", "")) for name, scheme in SCHEMES.items()
        }
        graphs |= {name: Path(path) for name, path in (pair.split("=", 1) for pair in sys.argv[1:])}
        for name, path in graphs.items():
            decoder = Decoder(path, 2)
            found = [log_probabilities(decoder(row[None], decoder.empty(empty))[0]) for row in text]
            now = perplexity(found, text)
            kl = float(np.mean([(t.exp() * (t - f)).sum(1).mean() for t, f in zip(true, found, strict=True)]))
            print(
                f"{name:32s} perplexity {now:.4f} ({100 * (now / base - 1):+.2f} %)  KL {1e3 * kl:.2f} mnat"
            )


def perplexity(found: list[torch.Tensor], text: np.ndarray) -> float:
    """Return exp of the mean surprise at the tokens of ``text`` after the first."""
    surprise = [-f[np.arange(WINDOW), row[1:]].mean() for f, row in zip(found, text, strict=True)]
    return float(np.exp(np.mean(surprise)))


def export(scheme: Scheme, out: Path) -> Path:
    """Return the decoder of tiny_llama on the grids of ``scheme``."""
    calibration = out.with_suffix(".txt")
    if scheme.method == "gptq":
        import pydoc_data.topics

        calibration.write_text(
            "\n".join(pydoc_data.topics.topics[k] for k in ("import", "class", "try")), "utf-8"
        )
    request = Request(
        target=load_target("cpu"),
        submodels=("backbone",),
        weights=MODEL,
        precision={8: "int8-weights", 4: "int4"}[scheme.bits],
        scheme=scheme,
        calibration=str(calibration),
    )
    compile_bundle(request, out, Silent())
    return out / "graphs" / "backbone" / "decoder.onnx"


if __name__ == "__main__":
    main()
