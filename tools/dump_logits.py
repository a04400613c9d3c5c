#!/usr/bin/env python3
"""Raw logits of a language model on documents, for benches that ask what cached targets lose.

    tools/dump_logits.py MODEL DOCUMENTS OUT [--fit 4096] [--measure 1536] [--length 512] [--seed 0]

MODEL: a folder in Hugging Face's form, or a .gguf file. DOCUMENTS: a folder; every .txt, .rst and .md file in it is
a document. Writes OUT/fit.f32 and OUT/measure.f32: little-endian single precision, [positions, vocabulary], the
positions drawn at random from the first third of the documents and from the last third, so that no document is in
both. Needs PyTorch and transformers (and gguf and accelerate for a .gguf file); nothing is fetched from a hub.
"""

import argparse
import random
import sys
from pathlib import Path

from language_model import load

# Sequences in one forward pass.
BATCH = 4


def sequences(tokenizer, documents, length):
    """Whole sequences of one document each; what is left at a document's end is left out."""
    for document in documents:
        ids = tokenizer(document.read_text(encoding="utf-8", errors="replace")).input_ids
        for start in range(0, len(ids) - length + 1, length):
            yield ids[start : start + length]


def dump(tokenizer, model, documents, positions, length, seed, path):
    """Writes the logits of `positions` positions, an eighth of each sequence's, so that many documents speak."""
    import torch

    per_sequence = max(1, length // 8)
    wanted = -(-positions // per_sequence)
    rows = [ids for ids, _ in zip(sequences(tokenizer, documents, length), range(wanted))]
    if len(rows) < wanted:
        sys.exit(f"dump_logits: error: {len(rows)} sequences of {length} tokens, {wanted} are needed; add documents")
    draw, left = random.Random(seed), positions
    with open(path, "wb") as file, torch.no_grad():
        for start in range(0, len(rows), BATCH):
            logits = model(input_ids=torch.tensor(rows[start : start + BATCH]), use_cache=False).logits
            for one in logits:
                at = sorted(draw.sample(range(length), min(per_sequence, left)))
                file.write(one[at].float().contiguous().numpy().astype("<f4").tobytes())
                left -= len(at)
    return model.config.vocab_size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("documents", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fit", type=int, default=4096, help="positions to fit on")
    parser.add_argument("--measure", type=int, default=1536, help="positions to measure on")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    documents = sorted(p for p in options.documents.rglob("*") if p.suffix in (".txt", ".rst", ".md") and p.is_file())
    if len(documents) < 3:
        sys.exit(f"dump_logits: error: {options.documents} has {len(documents)} documents, 3 or more are needed")
    random.Random(options.seed).shuffle(documents)
    third = len(documents) // 3
    tokenizer, model = load(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part, positions in (
        ("fit", documents[:third], options.fit),
        ("measure", documents[-third:], options.measure),
    ):
        path = options.out / f"{name}.f32"
        classes = dump(tokenizer, model, part, positions, options.length, options.seed, path)
        print(f"{path}: {positions} positions of {classes} classes")


if __name__ == "__main__":
    main()
