#!/usr/bin/env python3
"""A language model of SmolLM2-135M's shape whose weights are drawn, as a teacher whose speed is to be measured.

    tools/draw_language_model.py OUT [--format torchscript|onnx] [--dtype f32|f16|bf16] [--rows 64] [--length 512]
                                 [--layers 30] [--rank 0]

Writes into OUT a TorchScript module (model.pt) or an ONNX model (model.onnx), rows of drawn tokens (tokens.bin) and configs for `kd-cache build` (cache.toml)
and `kd-train` (train.toml) with paths that do not depend on the folder they are used from. What it predicts means nothing; what
it costs is what a model of this shape costs. Needs torch and transformers, for ONNX also onnx and onnxscript; fetches nothing.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
VOCABULARY = 49_152
MODELS = {"torchscript": "model.pt", "onnx": "model.onnx"}
BATCH = 8

CONFIG = """seed = 0

[dataset]
kind = "tokens"
paths = ["{out}/tokens.bin"]
dtype = "u16"
rows = {{ length = {length} }}

[teacher]
kind = "{kind}"
path = "{out}/{model}"
batch = {batch}

[head]
k = 12

[tail]
rank = {rank}
fit_samples = 1024

[storage]
values = "quantized"
shard_samples = 128
"""


STUDENT = """seed = 0

[student]
kind = "llama"
hidden_size = 192
num_hidden_layers = 4
num_attention_heads = 6
num_key_value_heads = 2

[loss]
weights = { kl = 1.0 }

[optimizer]
kind = "adamw"
learning_rate = 1e-3

[train]
epochs = 1
batch = 4
"""


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", choices=MODELS, default="torchscript")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512, help="tokens of a row; the module takes no other")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rank", type=int, default=0, help="tail.rank of the config")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=options.layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Logits(LlamaForCausalLM(config).to(device, DTYPES[options.dtype])).eval().requires_grad_(False)
    tokens = torch.randint(0, VOCABULARY, (BATCH, options.length), device=device)
    path = out / MODELS[options.format]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.format == "torchscript":
            torch.jit.trace(model, (tokens,), check_trace=False).save(str(path))
        else:
            names = {"input_names": ["input_ids"], "output_names": ["logits"]}
            program = torch.onnx.export(model.cpu(), (tokens.cpu(),), **names, dynamo=True, verbose=False)
            program.save(str(path))
    drawn = np.random.default_rng(0).integers(1, VOCABULARY, options.rows * options.length)
    drawn.astype("<u2").tofile(out / "tokens.bin")
    settings = {"kind": options.format, "model": path.name, "batch": BATCH, "length": options.length, "rank": options.rank}
    (out / "cache.toml").write_text(CONFIG.format(out=out, **settings))
    (out / "train.toml").write_text(STUDENT)
    print(f"{out}: {sum(weight.numel() for weight in model.parameters()):,} weights, {options.rows} rows")


if __name__ == "__main__":
    main()
