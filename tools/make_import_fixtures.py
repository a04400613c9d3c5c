#!/usr/bin/env python3
"""Writes tests/fixtures/import: what DistillKit's own code makes of made-up log-probabilities, and what it reads back.

    tools/make_import_fixtures.py CHECKOUT      # of DistillKit; needs torch, pydantic, pyarrow, PyYAML

Two captures, as distillkit/sample_logits_vllm.py writes them: exact values and a curve; and steps with coarse bins.
expected.json beside each has the classes and log-probabilities that DistillKit decodes.
"""

import argparse
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
import yaml

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures/import"
CLASSES = 1000
# The second row is shorter, and both have one entry fewer than tokens.
LENGTHS = (9, 5)
CONFIGS = {
    "distillkit": {
        "k": 24, "exact_k": 6, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"],
        "term_dtype": "float32", "residual_bins": [], "delta_encoding": False, "normalize_t": True,
    },
    "distillkit-bins": {
        "k": 20, "exact_k": 4, "exact_dtype": "float32", "polynomial_terms": [0, 1], "term_dtype": "float32",
        "residual_bins": [
            {"scale_dtype": "float16", "element_bits": 5, "num_elements": 7},
            {"scale_dtype": "float32", "element_bits": 1, "num_elements": 3},
        ],
        "delta_encoding": True, "normalize_t": False,
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    # As compressed_logit_schema() has it, which is not to be had without `datasets`.
    byte_lists = pyarrow.list_(pyarrow.list_(pyarrow.uint8()))
    schema = pyarrow.schema({
        "input_ids": pyarrow.list_(pyarrow.uint64()),
        "compressed_logprobs": byte_lists,
        "bytepacked_indices": byte_lists,
    })
    for name, settings in CONFIGS.items():
        torch.manual_seed(1)
        config = DistributionQuantizationConfig(d=CLASSES, **settings)
        compressor = LogprobCompressor(config=config)
        rows, expected = [], []
        for length in LENGTHS:
            logits = torch.randn(1, length - 1, CLASSES) * 2.5
            row = compressor.compress(torch.log_softmax(logits, -1))
            ids, logprobs = compressor.decompress_to_sparse(row)
            tokens = torch.randint(0, CLASSES, (length,)).tolist()
            rows.append({"input_ids": tokens} | {key: value[0].tolist() for key, value in row.items()})
            expected.append({"tokens": tokens, "ids": ids[0].tolist(), "logprobs": logprobs[0].float().tolist()})
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        pyarrow.parquet.write_table(table, folder / "data_0.parquet")
        (folder / "compression_config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
