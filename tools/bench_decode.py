#!/usr/bin/env python3
"""How fast targets are read at random and decoded, beside DistillKit's decoder and beside NumPy, in turns.

    tools/bench_decode.py --out FOLDER [--cache DIR] [--distillkit CHECKOUT] [--programs BIN] [--rounds 5]

Needs NumPy, and torch for DistillKit, whose own code is run from CHECKOUT; its files need `datasets`. All of them use one
thread. Two tables, by what a row is:

* a position, as of images, in batches of 256: our cache (one of your own, or benches/decode.rs makes one up);
* 512 tokens, as of language models, in batches of eight rows: a made-up cache.

Beside ours, which gathers rows at random and decodes them at T = 2:

* NumPy: `records[rows]` of a memory-mapped file of as many equal records, each of the bytes that one position of the
  cache takes. Nothing is decoded.
* DistillKit: `LogprobCompressor.decompress_to_sparse` of a batch that lies in memory, k = 50 as in its README's budget
  preset, and k = 12 exact values; then probabilities and the mass that is left, at T = 2 as its loss has them.
* DistillKit, from its files: the same, of rows at random that `datasets` reads out of a Parquet file with DistillKit's
  columns, stacked as its `collate_packed_batch` does.

A ratio is positions a second over theirs in the same round. Numbers go to FOLDER/decode.json.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

from rate_distortion import ROOT, bench, spread

BATCH = 256
TOKENS = 512
ROWS_OF_TOKENS = 8
# What is drawn from DistillKit's files.
ROWS_IN_FILE = 64
POSITIONS = 1 << 20
LEAST = 1.0
TEMPERATURE = 2.0
CLASSES = 49_152
# Of the made-up cache of benches/decode.rs: ids and logits of 12 classes, five nodes in half precision, sample and label.
MADE_UP_BYTES = 12 * 4 + 5 * 2 + 8 + 4
PRESETS = {
    "k = 50": {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]},
    "k = 12": {"k": 12, "exact_k": 12, "polynomial_terms": []},
}


def rate(batch, positions):
    """Positions a second of calls that take a second together."""
    batch()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < LEAST:
        batch()
        done += positions
    return done / (time.perf_counter() - begun)


def shuffled(rows, batch):
    """Batches of rows without end, in an order that is drawn before anything is timed."""
    order = numpy.random.default_rng(0).permutation(rows)
    return itertools.cycle(numpy.resize(order, -(-rows // batch) * batch).reshape(-1, batch))


def numpy_gather(path, size, positions):
    with open(path, "wb") as file:
        for _ in range(16):
            file.write(os.urandom(-(-positions // 16) * size))
    records = numpy.memmap(path, dtype=numpy.dtype((numpy.void, size)), mode="r")
    records[numpy.arange(positions)]  # every page once
    batches = shuffled(positions, BATCH)
    return lambda: rate(lambda: records[next(batches)], BATCH)


class DistillKit:
    """Its decoder, from a checkout, and positions to decode."""

    def __init__(self, checkout, classes):
        sys.path.insert(0, str(checkout))
        import torch
        from distillkit import compression

        torch.set_num_threads(1)
        self.torch, self.compression, self.classes = torch, compression, classes

    def compressor(self, preset):
        config = self.compression.DistributionQuantizationConfig(
            d=self.classes, exact_dtype="bfloat16", term_dtype="float32", residual_bins=[], delta_encoding=False,
            normalize_t=False, **PRESETS[preset],
        )
        return self.compression.LogprobCompressor(config=config)

    def rows(self, compressor, rows, positions):
        torch = self.torch
        made = [compressor.compress(torch.log_softmax(torch.randn(1, positions, self.classes) * 2.5, -1)) for _ in range(rows)]
        return {key: torch.cat([row[key] for row in made]) for key in made[0]}

    def targets(self, compressor, batch):
        torch = self.torch
        with torch.no_grad():
            ids, log_p = compressor.decompress_to_sparse(batch)
            log_p = log_p.float()
            left = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(1e-8).log()
            return ids, torch.softmax(torch.cat([log_p, left], -1) / TEMPERATURE, -1)

    def in_memory(self, preset, rows, positions):
        compressor = self.compressor(preset)
        batch = self.rows(compressor, rows, positions)
        return lambda: rate(lambda: self.targets(compressor, batch), rows * positions)

    def from_files(self, preset, path):
        import pyarrow
        import pyarrow.parquet
        from datasets import Dataset

        compressor = self.compressor(preset)
        columns = {key: rows.tolist() for key, rows in self.rows(compressor, ROWS_IN_FILE, TOKENS).items()}
        kind = pyarrow.list_(pyarrow.list_(pyarrow.uint8()))
        pyarrow.parquet.write_table(pyarrow.table({key: pyarrow.array(rows, kind) for key, rows in columns.items()}), path)
        dataset = Dataset.from_parquet(str(path), cache_dir=str(path.parent / "datasets"))
        batches = shuffled(ROWS_IN_FILE, ROWS_OF_TOKENS)

        def batch():
            examples = [dataset[int(row)] for row in next(batches)]
            stacked = {key: self.torch.tensor([example[key] for example in examples]) for key in examples[0]}
            return self.targets(compressor, stacked)

        return lambda: rate(batch, ROWS_OF_TOKENS * TOKENS)


def ours(arguments, programs):
    def measured():
        run = subprocess.run([*bench("decode", programs), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            sys.exit("bench_decode: error: benches/decode.rs failed")
        return statistics.median(json.loads(run.stdout.strip().splitlines()[-1])["at random, decoded"])

    return measured


def in_turns(ways, rounds, title):
    """Positions a second of each way, by round."""
    rates = {name: [] for name in ways}
    for at in range(rounds):
        order = list(ways)
        for name in order[at % len(order) :] + order[: at % len(order)]:
            rates[name].append(ways[name]())
            print(f"{title}, round {at + 1}, {name}: {rates[name][-1]:.0f} positions/s", file=sys.stderr)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--distillkit", type=Path, metavar="CHECKOUT")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder with decode, if it is built")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    size, classes, positions = MADE_UP_BYTES, CLASSES, POSITIONS
    if options.cache:
        manifest = json.loads((options.cache / "manifest.json").read_text())
        positions = sum(shard.get("positions") or shard["rows"] for shard in manifest["shards"])
        size = -(-sum(shard["bytes"] for shard in manifest["shards"]) // positions)
        classes = manifest["classes"]
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        cache = [str(options.cache.resolve()), "7"] if options.cache else []
        single = {"ours": ours(cache, options.programs), "NumPy": numpy_gather(Path(folder) / "records", size, positions)}
        tokens = {"ours": ours([str(TOKENS), "7", str(TOKENS * ROWS_OF_TOKENS)], options.programs)}
        if options.distillkit:
            theirs, of_tokens = (DistillKit(options.distillkit, classes) for classes in (classes, CLASSES))
            has_datasets = importlib.util.find_spec("datasets") is not None
            if not has_datasets:
                print("left out: DistillKit's files, which need datasets", file=sys.stderr)
            for preset in PRESETS:
                single[f"DistillKit, {preset}"] = theirs.in_memory(preset, 1, BATCH)
                tokens[f"DistillKit, {preset}"] = of_tokens.in_memory(preset, ROWS_OF_TOKENS, TOKENS)
                if has_datasets:
                    path = Path(folder) / f"{preset.replace(' ', '')}.parquet"
                    tokens[f"DistillKit, {preset}, from its files"] = of_tokens.from_files(preset, path)
        rates = {"a position": in_turns(single, options.rounds, "a position")}
        if options.distillkit:
            title = f"{TOKENS} tokens"
            rates[title] = in_turns(tokens, options.rounds, title)
    (options.out / "decode.json").write_text(json.dumps({"record_bytes": size, "rates": rates}, indent=1) + "\n")
    print(f"Records of {size} bytes.")
    for title, ways in rates.items():
        print(f"\n| a row is {title}; beside | ours / theirs |\n|---|---|")
        for name in list(ways)[1:]:
            print(f"| {name} | {spread([own / other for own, other in zip(ways['ours'], ways[name])], 2)} |")


if __name__ == "__main__":
    main()
