#!/usr/bin/env python3
"""Raw logits out of a cache that keeps them all, for benches that ask what smaller caches lose.

    kd-cache build --config CONFIG --out all --set head.k=V --set storage.values=f32
    tools/cache_to_logits.py all OUT [--measure 1536] [--seed 0]

Any teacher will do, of images or of tokens, as long as its classes are few enough to be kept. Writes OUT/fit.f32 and
OUT/measure.f32: little-endian single precision, [positions, V], relative to each position's largest; `measure` is
drawn at random, `fit` is the rest, so that nothing that is fitted to one has seen the other. They are what
tools/compare_codecs.py reads.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from read_cache import Cache

# Rows that are in memory at once.
ROWS = 4096


def write(cache, rows, classes, path):
    """The logits of `rows` in the order of the classes."""
    with open(path, "wb") as file:
        for start in range(0, len(rows), ROWS):
            raw = cache.raw(rows[start : start + ROWS])
            logits = np.empty((len(raw.ids), classes), dtype="<f4")
            np.put_along_axis(logits, raw.ids.astype(np.int64), raw.values.astype("<f4"), axis=1)
            file.write(logits.tobytes())
    print(f"{path}: {len(rows)} positions of {classes} classes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--measure", type=int, default=1536, help="rows to measure on (default 1536)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cache = Cache(options.cache)
    k, classes = cache.manifest["head"]["k"], cache.manifest["classes"]
    if k != classes:
        sys.exit(f"cache_to_logits: error: {options.cache} keeps {k} of {classes} classes, all are needed; "
                 f"build one with head.k={classes}")
    count = cache.rows
    if not 0 < options.measure < count:
        sys.exit(f"cache_to_logits: error: --measure: expected 1 to {count - 1}, found {options.measure}")
    rows = np.random.default_rng(options.seed).permutation(count)
    options.out.mkdir(parents=True, exist_ok=True)
    write(cache, np.sort(rows[options.measure :]), classes, options.out / "fit.f32")
    write(cache, np.sort(rows[: options.measure]), classes, options.out / "measure.f32")


if __name__ == "__main__":
    main()
