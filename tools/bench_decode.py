#!/usr/bin/env python3
"""How fast targets are read at random and decoded, beside DistillKit's decoder and beside NumPy, in turns.

    tools/bench_decode.py --out FOLDER [--cache DIR] [--distillkit CHECKOUT] [--programs BIN] [--rounds 5]

Needs NumPy, and torch for DistillKit, whose own code is run from CHECKOUT. All of them use one thread.

* ours: benches/decode.rs on the cache (without one, its made-up cache), gathering and decoding batches of 256 at T = 2.
* NumPy: `records[rows]`, batches of 256 random rows of a memory-mapped file of as many equal records, each of the
  bytes that one position of the cache takes. Nothing is decoded.
* DistillKit: `LogprobCompressor.decompress_to_sparse` of batches of 256 positions that lie in memory, k = 50 as in its
  README's budget preset, and k = 12 exact values; then probabilities and the mass that is left, at T = 2 as its loss has them.

A ratio is positions a second over theirs in the same round. Numbers go to FOLDER/decode.json.
"""

import argparse
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
POSITIONS = 1 << 20
LEAST = 1.0
TEMPERATURE = 2.0
# Of the made-up cache of benches/decode.rs: ids and logits of 12 classes, five nodes in half precision, sample and label.
MADE_UP_BYTES = 12 * 4 + 5 * 2 + 8 + 4
PRESETS = {
    "DistillKit, k = 50": {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]},
    "DistillKit, k = 12": {"k": 12, "exact_k": 12, "polynomial_terms": []},
}


def rate(batch):
    """Positions a second of calls that take a second together."""
    batch()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < LEAST:
        batch()
        done += BATCH
    return done / (time.perf_counter() - begun)


def numpy_gather(path, size, positions):
    with open(path, "wb") as file:
        for _ in range(16):
            file.write(os.urandom(-(-positions // 16) * size))
    records = numpy.memmap(path, dtype=numpy.dtype((numpy.void, size)), mode="r")
    records[numpy.arange(positions)]  # every page once
    # Drawn beforehand, as ours are.
    order = numpy.random.default_rng(0).permutation(positions)
    batches = itertools.cycle(numpy.resize(order, -(-positions // BATCH) * BATCH).reshape(-1, BATCH))
    return lambda: records[next(batches)]


def distillkit(checkout, classes, settings):
    sys.path.insert(0, str(checkout))
    import torch
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    torch.set_num_threads(1)
    config = DistributionQuantizationConfig(
        d=classes, exact_dtype="bfloat16", term_dtype="float32", residual_bins=[], delta_encoding=False, normalize_t=False,
        **settings,
    )
    compressor = LogprobCompressor(config=config)
    rows = compressor.compress(torch.log_softmax(torch.randn(1, BATCH, classes) * 2.5, -1))

    def batch():
        with torch.no_grad():
            ids, log_p = compressor.decompress_to_sparse(rows)
            log_p = log_p.float()
            left = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(1e-8).log()
            return ids, torch.softmax(torch.cat([log_p, left], -1) / TEMPERATURE, -1)

    return batch


def ours(cache, programs):
    command = [*bench("decode", programs), *([str(cache.resolve()), "7"] if cache else [])]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit("bench_decode: error: benches/decode.rs failed")
    return statistics.median(json.loads(run.stdout.strip().splitlines()[-1])["at random, decoded"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--distillkit", type=Path, metavar="CHECKOUT")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder with decode, if it is built")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    size, classes, positions = MADE_UP_BYTES, 49_152, POSITIONS
    if options.cache:
        manifest = json.loads((options.cache / "manifest.json").read_text())
        positions = sum(shard.get("positions") or shard["rows"] for shard in manifest["shards"])
        size = -(-sum(shard["bytes"] for shard in manifest["shards"]) // positions)
        classes = manifest["classes"]
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        ways = {"NumPy": numpy_gather(Path(folder) / "records", size, positions)}
        for name, settings in PRESETS.items() if options.distillkit else []:
            ways[name] = distillkit(options.distillkit, classes, settings)
        rates = {name: [] for name in ["ours", *ways]}
        for at in range(options.rounds):
            order = list(rates)
            for name in order[at % len(order) :] + order[: at % len(order)]:
                rates[name].append(ours(options.cache, options.programs) if name == "ours" else rate(ways[name]))
                print(f"round {at + 1}, {name}: {rates[name][-1]:.0f} positions/s", file=sys.stderr)
    (options.out / "decode.json").write_text(json.dumps({"record_bytes": size, "rates": rates}, indent=1) + "\n")
    print(f"Records of {size} bytes.\n\n| beside | ours / theirs |\n|---|---|")
    for name in ways:
        ratios = [own / other for own, other in zip(rates["ours"], rates[name])]
        print(f"| {name} | {spread(ratios, 2)} |")


if __name__ == "__main__":
    main()
