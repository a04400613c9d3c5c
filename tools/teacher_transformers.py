#!/usr/bin/env python3
"""A Hugging Face causal language model as teacher, without an export: run by `kd-cache build`, not by hand.

    [teacher]
    kind = "command"
    command = ["python3", "tools/teacher_transformers.py"]     # --dtype bfloat16 for half the memory
    path = "MODEL"

MODEL: a folder in Hugging Face's form, or a .gguf file; nothing is fetched from a hub. Needs PyTorch, transformers and
pyarrow (and gguf and accelerate for a .gguf file). Documents that share a row do not see each other; before anything is answered, some
that do, and padded ones, are compared with each document alone. The protocol is schemas/teacher-command.md.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from export_lm import Refused, attention_masks, check_supported
from language_model import load
from teacher_program import CHUNK, Conversation

# How far logits may be off, of the largest, where a row has several documents: more is another answer.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

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


def answer(model, rows, places):
    """Logits [positions, classes] of rows of tokens, one row after the other."""
    import torch

    lengths = torch.tensor([len(row) for row in rows])
    pad = torch.nn.utils.rnn.pad_sequence
    ids, at = (
        pad([torch.tensor(row, dtype=torch.long) for row in one], batch_first=True).to(model.device) for one in (rows, places)
    )
    valid = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(model.device)
    # Where each row is a document, and none is padded, a model's own mask is right: it is the quicker one.
    alone = bool(valid.all()) and bool((at == torch.arange(ids.shape[1], device=model.device)).all())
    # Others are additive, which every kind of attention takes as it is meant, and know of windows.
    mask = None if alone else attention_masks(model, ids, valid.long(), at)
    return model(input_ids=ids, position_ids=at, attention_mask=mask, use_cache=False).logits[valid]


def check(model, classes, dtype):
    """Refuses a model that answers otherwise where documents share a row, or rows differ in length."""
    import torch

    try:
        check_supported(model)
    except Refused as refused:
        sys.exit(f"teacher_transformers: error: {refused}")
    draw = torch.Generator().manual_seed(0)
    documents = [torch.randint(classes, (count,), generator=draw).tolist() for count in (9, 5, 7)]
    places = [list(range(len(one))) for one in documents]
    alone = torch.cat([answer(model, [one], [at]) for one, at in zip(documents, places)]).float()
    rows = [documents[0] + documents[1], documents[2]]
    together = answer(model, rows, [places[0] + places[1], places[2]]).float()
    off = ((together - alone).abs().max() / alone.abs().max()).item()
    if not off <= TOLERANCE[dtype]:
        sys.exit(
            f"teacher_transformers: error: {type(model).__name__}: expected documents that share a row to be answered as each alone, found logits "
            f"that differ by {off:.1g} of the largest; export the model with tools/export_lm.py, or give rows of one length with a document each"
        )


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
    most = getattr(model.config, "max_position_embeddings", None)
    if most and int(about.get("length", 0)) > most:
        print(
            f"teacher_transformers: warning: rows have up to {about['length']} tokens, and the model {most} positions: longer documents are "
            f"refused when they come; dataset.rows.length = {most} cuts them",
            file=sys.stderr,
        )
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[options.dtype]

    def logits(question):
        places = question["position_ids"].to_pylist()
        if most and (longest := max(max(row) for row in places) + 1) > most:
            sys.exit(
                f"teacher_transformers: error: a document of {longest} tokens in a row, and the model has {most} positions; set "
                f"dataset.rows.length = {most} or less"
            )
        whole = answer(model, question["input_ids"].to_pylist(), places)
        for part in whole.split(CHUNK):
            bits = part.contiguous().view(torch.int16) if name == "bf16" else part
            values = bits.cpu().numpy()
            yield values.view("u2") if name == "bf16" else values

    classes = model.get_output_embeddings().weight.shape[0]
    runtime = f"transformers {transformers.__version__}, torch {torch.__version__}"
    with torch.inference_mode():
        check(model, classes, options.dtype)
        conversation.answer(classes, name, digest(options.model), runtime, logits)


if __name__ == "__main__":
    main()
