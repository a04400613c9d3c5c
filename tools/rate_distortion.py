#!/usr/bin/env python3
"""What each byte buys: caches of several head sizes and ranks, their bytes in both forms, their errors.

    tools/rate_distortion.py --config CACHE.toml --out FOLDER [--variants 12:0,12:8,12:32,50:8] [--positions 2048]
                             [--temperatures 1,2,4] [--set KEY=VALUE]... [--fit KEY=VALUE]...

For each variant (head.k:tail.rank) it builds OUT/kK-rR with quantized values, converts it to Parquet, measures its
fidelity against the teacher, and at the end prints one Markdown table and writes it to OUT/table.md, and the numbers
to OUT/results.json (tools/plot_codecs.py draws them). What is there already is not built again. Bytes are those of
the targets' columns per position: ids, logits, curve and code; the files that are kept once for the cache (tail model,
encoder, codebook), sample ids and tokens are told apart. Errors are of the best tail handling the cache has, over
positions that fidelity draws from it.

With --fit the tail model and the codes come from other data, the config with those keys changed: so errors and bytes
are of samples that nothing was fitted to. A text dataset, for one:

    --fit dataset.split.part=train --set dataset.split.part=validation --set dataset.split.validation=0.2
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What each position costs, by the names of the columns in either form.
TARGETS = {"targets", "head_counts", "head_ids", "head_values", "tail_curve", "tail_code"}
ONCE = {"tail_model", "encoder", "codebook"}


def run(*arguments):
    """A verb's report as JSON; its progress goes to standard error."""
    command = [str(ROOT / "target/release/kd-cache"), *map(str, arguments), "--format", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"rate_distortion: error: {' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)


def sizes(cache):
    """Bytes a position of the targets, and bytes that are kept once."""
    columns = run("report", cache)["size"]["columns"]
    per_position = sum(c["bytes_per_position"] for c in columns if c["column"] in TARGETS)
    return per_position, sum(c["bytes"] for c in columns if c["column"] in ONCE)


def sets(pairs):
    return [word for pair in pairs for word in ("--set", pair)]


def bench(name, programs):
    """The command that runs a bench: a program of its name in the folder, or cargo."""
    own = programs / name
    return [own.resolve()] if own.is_file() else ["cargo", "bench", "--profile", "release", "--bench", name, "--"]


def spread(values, digits):
    """Median, least and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def measure(options, k, rank):
    cache = options.out / f"k{k}-r{rank}"
    parquet = options.out / f"k{k}-r{rank}-parquet"
    config = ["--config", options.config, *sets(options.set)]
    variant = [f"head.k={k}", f"tail.rank={rank}", "storage.values=quantized"]
    if options.fit:
        fitted = options.out / f"k{k}-r{rank}-fit"
        run("build", *config, *sets([*variant, *options.fit]), "--out", fitted, "--fit-only")
        variant.append(f"tail.from={fitted}")
    built = run("build", *config, *sets(variant), "--out", cache)
    run("convert", cache, parquet, "--form", "parquet")
    fidelity = run("fidelity", cache, *config, "--samples", options.positions, "--temperatures", options.temperatures)
    best = "shape" if any(row["tail"] == "shape" for row in fidelity["rows"]) else "prior"
    errors = [row for row in fidelity["rows"] if row["tail"] == best]
    (arrow, once), (parquet_bytes, _) = sizes(cache), sizes(parquet)
    return {
        "name": f"kd-cache, k = {k}, r = {rank}",
        "k": k,
        "rank": rank,
        "bytes": {"arrow": arrow, "parquet": parquet_bytes},
        "once": once,
        "positions": built["cache"]["positions"],
        "errors": {f"{row['temperature']:g}": {key: row[key] for key in ("rms", "kl", "drift")} for row in errors},
    }


def line(result):
    cells = [f"{e['rms']:.4f} / {e['kl']:.3f} / {e['drift']:.3f}" for e in result["errors"].values()]
    cells = [f"{result['positions']:,}", *cells]
    size = f"{result['bytes']['arrow']:.2f} | {result['bytes']['parquet']:.2f} | {result['once'] / 1e6:.2f}"
    return f"| {result['k']} | {result['rank']} | {size} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="12:0,12:8,12:32,50:8", help="head.k:tail.rank, several by commas")
    parser.add_argument("--positions", type=int, default=2048, help="positions that fidelity measures")
    parser.add_argument("--temperatures", default="1,2,4")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in kd-cache")
    parser.add_argument("--fit", action="append", default=[], metavar="KEY=VALUE", help="what to fit tail models to")
    options = parser.parse_args()
    variants = [tuple(map(int, variant.split(":"))) for variant in options.variants.split(",")]
    options.out.mkdir(parents=True, exist_ok=True)
    temperatures = options.temperatures.split(",")
    head = ["k", "rank", "Arrow, B", "Parquet, B", "once, MB", "positions"]
    head += [f"T = {t}: rms / KL / drift" for t in temperatures]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    results = []
    for k, rank in variants:
        results.append(measure(options, k, rank))
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join([*table, *map(line, results)]) + "\n"
    (options.out / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
