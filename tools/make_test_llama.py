#!/usr/bin/env python3
"""Makes tests/fixtures/students/llama: a tiny Llama of transformers' own, and what it says of some tokens.

    tools/make_test_llama.py

Needs torch and transformers. The built-in student is held to these logits.
"""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/students/llama"
TOKENS = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]]


def main():
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=11, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, rope_theta=5000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval().double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms are 1 to begin with, which would hide where they are applied.
            weight.copy_(torch.randn_like(weight) * 0.3 + (1.0 if "norm" in name else 0.0))
        weights = model.float().state_dict()
        model.load_state_dict(weights)
        logits = model.double()(torch.tensor(TOKENS)).logits
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.float().save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    (FOLDER / "expected.json").write_text(json.dumps({"tokens": TOKENS, "logits": logits.tolist()}) + "\n")
    print(f"{FOLDER}: {sum(p.numel() for p in model.parameters())} weights")


if __name__ == "__main__":
    main()
