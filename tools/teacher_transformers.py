#!/usr/bin/env python3
"""A Hugging Face causal language model as teacher, without an export: run by `kd-cache build`, not by hand.

    [teacher]
    kind = "command"
    command = ["python3", "tools/teacher_transformers.py"]     # --dtype bfloat16 for half the memory
    path = "MODEL"

MODEL: a folder in Hugging Face's form, or a .gguf file; nothing is fetched from a hub. Needs PyTorch, transformers and
pyarrow (and gguf and accelerate for a .gguf file). Documents that share a row do not see each other. The protocol is
schemas/teacher-command.md.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from language_model import load
from teacher_program import CHUNK, Conversation

# What a model is made of, beside its weights.
FILES = ("config.json", "*.safetensors", "pytorch_model*.bin")


def digest(path):
    """Of the files' names and bytes."""
    whole = hashlib.sha256()
    files = [path] if path.is_file() else sorted({file for pattern in FILES for file in path.glob(pattern)})
    if not files:
        sys.exit(f"teacher_transformers: error: {path} holds no model ({', '.join(FILES)})")
    for file in files:
        one = hashlib.sha256()
        with open(file, "rb") as opened:
            while piece := opened.read(1 << 20):
                one.update(piece)
        whole.update(f"{file.name} {one.hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def padded(torch, question, device):
    """Tokens, places [rows, length] and, where a row has several documents or is padded, who may see whom."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in question["input_ids"].to_pylist()]
    places = [torch.tensor(at, dtype=torch.long) for at in question["position_ids"].to_pylist()]
    lengths = torch.tensor([len(row) for row in rows])
    pad = torch.nn.utils.rnn.pad_sequence
    ids, at = pad(rows, batch_first=True).to(device), pad(places, batch_first=True).to(device)
    # A document begins wherever the place does not go on from the one before.
    begins = torch.ones_like(at, dtype=torch.bool)
    begins[:, 1:] = at[:, 1:] != at[:, :-1] + 1
    documents = begins.cumsum(1)
    valid = torch.arange(ids.shape[1])[None] < lengths[:, None]
    seen = None
    if documents.max() > 1:
        seen = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
    return ids, at, seen, valid.to(device)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    options = parser.parse_args()
    conversation = Conversation("teacher_transformers")

    import torch
    import transformers

    about = conversation.about
    if "threads" in about:
        torch.set_num_threads(int(about["threads"]))
    device = torch.device(about.get("device", "cpu"))
    _, model = load(options.model, options.dtype)
    model = model.to(device)
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[options.dtype]

    def logits(question):
        ids, places, seen, valid = padded(torch, question, device)
        whole = model(input_ids=ids, position_ids=places, attention_mask=seen, use_cache=False).logits[valid]
        for part in whole.split(CHUNK):
            bits = part.contiguous().view(torch.int16) if name == "bf16" else part
            values = bits.cpu().numpy()
            yield values.view("u2") if name == "bf16" else values

    classes = model.get_output_embeddings().weight.shape[0]
    runtime = f"transformers {transformers.__version__}, torch {torch.__version__}"
    with torch.inference_mode():
        conversation.answer(classes, name, digest(options.model), runtime, logits)


if __name__ == "__main__":
    main()
