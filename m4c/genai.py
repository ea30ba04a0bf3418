"""What onnxruntime-genai 0.18 wants beside a model: ``genai_config.json`` and the tokenizer, at the root of the bundle."""

import json
import shutil
from pathlib import Path

from m4c.bundle import FileRecord, record_file
from m4c.errors import UsageError
from m4c.models.llama_sizes import LlamaSizes
from m4c.passes.fuse_attention import HEAD_STEP

CONFIG = "genai_config.json"

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
"""Either without the other is no tokenizer to onnxruntime-genai."""

OPTIONAL = ("special_tokens_map.json", "chat_template.jinja")


def write_genai(folder: Path, sizes: LlamaSizes, model: str, weights: Path | None) -> tuple[FileRecord, ...]:
    """Make the bundle at ``folder`` one that onnxruntime-genai loads; return the files that were written.

    ``model`` is the path of ``backbone/model`` within the bundle, ``weights`` the folder that the tokenizer is copied from.
    Without a tokenizer there, the runtime takes and gives token ids. With one, its ``Tokenizer`` puts the start token only
    after ``update_options(add_special_tokens="true")``.

    Raises:
        UsageError: if ``tokenizer.json`` is there without its configuration.
    """
    written = [folder / CONFIG]
    text = json.dumps(genai_config(sizes, model), indent=1, sort_keys=True, ensure_ascii=False)
    written[0].write_text(text + "\n", "utf-8")
    if weights is not None and (weights / TOKENIZER[0]).is_file():
        if not (weights / TOKENIZER[1]).is_file():
            raise UsageError(
                f"onnxruntime-genai reads {TOKENIZER[0]} only beside {TOKENIZER[1]}, which is missing",
                where=str(weights),
                fix=f"put the checkpoint's {TOKENIZER[1]} there",
            )
        for name in (*TOKENIZER, *OPTIONAL):
            if (weights / name).is_file():
                written.append(folder / name)
                shutil.copyfile(weights / name, written[-1])
    return tuple(record_file(folder, path) for path in written)


def genai_config(sizes: LlamaSizes, model: str) -> dict[str, object]:
    """Return the content of ``genai_config.json``, by the keys of onnxruntime-genai 0.18.

    Search is greedy unless a program asks for another, and stops at the last position. Caches are kept in one buffer of the
    greatest length, which the fused attention of the graph writes in place; where heads are of a size that is not fused, each
    call makes caches of its own. The end pads, as a LLaMA has no token for that.
    """
    return {
        "model": {
            "type": "llama",
            "bos_token_id": sizes.begin,
            "eos_token_id": sizes.end[0] if len(sizes.end) == 1 else list(sizes.end),
            "pad_token_id": sizes.end[0],
            "context_length": sizes.positions,
            "vocab_size": sizes.vocabulary,
            "decoder": {
                "filename": model,
                "session_options": {"log_id": "m4c", "provider_options": []},
                "hidden_size": sizes.width,
                "head_size": sizes.head_dim,
                "num_attention_heads": sizes.heads,
                "num_key_value_heads": sizes.kv_heads,
                "num_hidden_layers": sizes.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": sizes.positions,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": sizes.head_dim % HEAD_STEP == 0,
        },
    }
