"""Loads a causal language model from a Hugging Face folder or a .gguf file; nothing is fetched from a hub.

What the tools share that read such models. Needs PyTorch and transformers (and gguf and accelerate for a .gguf file).
"""

import os
from pathlib import Path

# transformers reads these when it is first imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def load(path, dtype="float32"):
    """(tokenizer, model): the model in evaluation mode on the CPU, its weights as `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(path)
    where = (str(path), {}) if path.is_dir() else (str(path.parent), {"gguf_file": path.name})
    tokenizer = AutoTokenizer.from_pretrained(where[0], **where[1])
    return tokenizer, AutoModelForCausalLM.from_pretrained(where[0], **where[1], dtype=dtype).eval()
