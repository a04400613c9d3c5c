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
import os
import sys
from pathlib import Path

import pyarrow as pa

from language_model import load

# Positions in one record batch of an answer.
CHUNK = 256
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
    # Standard output is the stream's alone: whatever a library prints goes to standard error.
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    import torch
    import transformers

    questions = pa.ipc.open_stream(sys.stdin.buffer)
    about = {key.decode(): value.decode() for key, value in questions.schema.metadata.items()}
    if about.get("kd_cache.protocol") != "1" or about.get("kd_cache.input") != "tokens":
        sys.exit(f"teacher_transformers: error: expected to be asked about tokens in protocol 1, found {about}")
    if "kd_cache.threads" in about:
        torch.set_num_threads(int(about["kd_cache.threads"]))
    device = torch.device(about.get("kd_cache.device", "cpu"))
    _, model = load(options.model, options.dtype)
    model = model.to(device)
    name, stored = {
        "float32": ("f32", pa.float32()),
        "float16": ("f16", pa.float16()),
        "bfloat16": ("bf16", pa.uint16()),
    }[options.dtype]
    classes = model.get_output_embeddings().weight.shape[0]
    schema = pa.schema(
        [pa.field("logits", pa.list_(pa.field("item", stored, False), classes), False)],
        {
            "kd_cache.protocol": "1",
            "kd_cache.dtype": name,
            "kd_cache.digest": digest(options.model),
            "kd_cache.runtime": f"transformers {transformers.__version__}, torch {torch.__version__}",
        },
    )
    with torch.inference_mode(), pa.ipc.new_stream(stream, schema) as answers:
        # Says that a question is waited for.
        ready = pa.RecordBatch.from_pylist([], schema)
        answers.write_batch(ready)
        stream.flush()
        for question in questions:
            ids, places, seen, valid = padded(torch, question, device)
            logits = model(input_ids=ids, position_ids=places, attention_mask=seen, use_cache=False).logits[valid]
            for part in logits.split(CHUNK):
                part = part.contiguous()
                bits = part.view(torch.int16) if name == "bf16" else part
                values = bits.cpu().numpy().ravel()
                values = pa.array(values.view("u2") if name == "bf16" else values, stored)
                column = pa.FixedSizeListArray.from_arrays(values, type=schema[0].type)
                answers.write_batch(pa.record_batch([column], schema=schema))
            answers.write_batch(ready)
            stream.flush()


if __name__ == "__main__":
    main()
