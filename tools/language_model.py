"""Loads a causal language model from a Hugging Face folder or a .gguf file; nothing is fetched from a hub.

What the tools share that read such models. Needs PyTorch and transformers (and gguf and accelerate for a .gguf file).
"""

import json
import os
import sys
from pathlib import Path

# transformers reads these when it is first imported.
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def load(path, dtype="float32"):
    """(tokenizer, model): the model in evaluation mode on the CPU, its weights as `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(path)
    if not path.exists():
        sys.exit(f"error: {path}: no such folder or file; nothing is fetched from a hub")
    where = (str(path), {}) if path.is_dir() else (str(path.parent), {"gguf_file": path.name})
    tokenizer = AutoTokenizer.from_pretrained(where[0], **where[1])
    return tokenizer, AutoModelForCausalLM.from_pretrained(where[0], **where[1], dtype=dtype).eval()


def write_tokenizer(tokenizer, folder):
    """Writes tokenizer.json, and beside it what begins and ends a text and lays out chats; False where the tokenizer has no such form."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return False
    fast.save(str(folder / "tokenizer.json"))
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    beside = folder / "tokenizer_config.json"
    # One with more in it is somebody else's, and has these too.
    if not beside.exists() or set(json.loads(beside.read_text(encoding="utf-8"))) == set(special):
        beside.write_text(json.dumps(special) + "\n", encoding="utf-8")
    templates = getattr(tokenizer, "chat_template", None) or {}
    templates = {"default": templates} if isinstance(templates, str) else templates
    for name, path in (("default", "chat_template.jinja"), ("tool_use", "additional_chat_templates/tool_use.jinja")):
        if name in templates:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(templates[name], encoding="utf-8")
    return True
