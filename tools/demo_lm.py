#!/usr/bin/env python3
"""A language model on real text: run the teacher once, then train a small student from the cache, and its twin on labels.

    make demo-lm                     sets up, builds, and runs this
    python3 tools/demo_lm.py         after tools/setup.sh --language-model and cargo build --release
    python3 tools/demo_lm.py --device cuda --rows 2000 --set-train student.hidden_size=512

The teacher is SmolLM2-135M, the text the Python documentation (configs/cache/smollm2-python-docs.toml). Student and twin
begin with the same weights and see the same tokens in the same order; the student learns what the teacher says of each
position, its twin which token follows. Both are measured on documents that neither they nor the tail model saw.

Everything lands in out/demo-lm: `cache/`, `cache-validation/`, `runs/` and `summary.json`. Nothing here computes:
kd-cache and kd-train do, and this reads their JSON reports.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from demo import clear, programs, run
from rate_distortion import sets

CACHE_CONFIG, TRAIN_CONFIG = "configs/cache/smollm2-python-docs.toml", "configs/train/smollm2-python-docs.toml"
TEACHER = ["dataset.tokenizer=data/smollm2-135m/tokenizer.json", "teacher.path=data/smollm2-135m/model.onnx"]
# A student that two cores train in minutes.
STUDENT = ["student.hidden_size=128", "student.num_hidden_layers=2", "student.num_attention_heads=4", "train.batch=2"]
PROMPT = "The following example"
TARGETS = {
    "cache": "{ kl = 1.0, cross_entropy = 0.0 }",
    "labels": "{ kl = 0.0, cross_entropy = 1.0 }",
}


def table(summary):
    lines = [
        f"teacher     SmolLM2-135M, run once over {summary['positions']:,} positions in"
        f" {summary['build_seconds']:.0f} s ({summary['positions_per_second']:,.0f} positions/s)",
        f"cache       {summary['bytes_per_position']:.1f} bytes per position, its token among them, and"
        f" {summary['bytes_once'] / 1e6:.1f} MB once: {summary['k']} of {summary['classes']:,} classes exact, the rest as"
        f" a curve and {summary['rank']} bytes",
        "",
        "learned from   perplexity   KL to the teacher   agreement (%)   calibration error   seconds",
    ]
    for row in summary["rows"]:
        lines.append(
            f"{row['target']:<12} {row['perplexity']:>12.1f} {row['kl']:>19.3f} {100 * row['agreement']:>15.1f}"
            f" {row['calibration_error']:>19.4f} {row['seconds']:>9.0f}"
        )
    student, twin = summary["rows"]
    lower = student["perplexity"] < twin["perplexity"]
    lines += [
        f"on {summary['validation_positions']:,} positions of other documents; {summary['parameters']:,} parameters,"
        f" {summary['epochs']} epochs, the best epoch of each by perplexity",
        "",
        f"The student from the cache has {'a lower' if lower else 'no lower'} perplexity than its twin on labels:"
        f" {student['perplexity']:.1f} against {twin['perplexity']:.1f}.",
        "",
        *(f"{row['target']}: {row['says']!r}" for row in summary["rows"]),
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, for teacher and students (default cpu)")
    parser.add_argument("--rows", type=int, default=96, help="rows of 512 tokens to learn from (default 96)")
    parser.add_argument("--validation-rows", type=int, default=16, help="and to be measured on (default 16)")
    parser.add_argument("--epochs", type=int, default=6, help="(default 6)")
    parser.add_argument("--out", type=Path, default=Path("out/demo-lm"), help="folder for all results (default out/demo-lm)")
    parser.add_argument("--set-train", action="append", default=[], metavar="KEY=VALUE", help="for kd-train")
    options = parser.parse_args()
    begun = time.monotonic()
    tools = programs()
    folder = Path(os.path.abspath(options.out))
    clear(folder, ("cache", "cache-validation", "runs"))

    def build(out, rows, *more):
        own = [*TEACHER, f"teacher.device={options.device}", f"dataset.limit={rows}", *more]
        return run([tools / "kd-cache", "build", "--config", CACHE_CONFIG, "--out", out, *sets(own)])

    print("demo: the teacher reads the documentation once", file=sys.stderr)
    cache, validation = folder / "cache", folder / "cache-validation"
    built = build(cache, options.rows)
    print("demo: and other documents, to measure students against it", file=sys.stderr)
    tested = build(validation, options.validation_rows, "dataset.split.part=validation", f"tail.from={cache}")
    print("demo: a student and its twin; no teacher runs from here on", file=sys.stderr)
    rows = []
    for target, weights in TARGETS.items():
        out = folder / "runs" / target
        own = [f"loss.weights={weights}", f"train.epochs={options.epochs}", f"train.device={options.device}", *STUDENT]
        own += ["tokenizer=data/smollm2-135m/tokenizer.json", f"validation.documents.cache={validation}"]
        own += ["train.select_by=documents.perplexity", *options.set_train]
        trained = run([tools / "kd-train", "--cache", cache, "--config", TRAIN_CONFIG, "--out", out, *sets(own)])
        says = run([tools / "kd-train", "generate", out, "--prompt", PROMPT, "--max-new-tokens", 24, "--temperature", 0.7])
        found = trained["validation"]["documents"]
        keys = ("perplexity", "kl", "agreement", "calibration_error")
        rows.append({"target": target, "seconds": trained["seconds"], "says": says["text"], **{k: found[k] for k in keys}})
    inspected = built["cache"]
    manifest = json.loads((cache / "manifest.json").read_text())
    in_shards = sum(shard["bytes"] for shard in manifest["shards"])
    summary = {
        "positions": inspected["positions"],
        "validation_positions": tested["cache"]["positions"],
        "build_seconds": built["seconds"],
        "positions_per_second": built["positions_per_second"],
        "bytes_once": inspected["bytes"] - in_shards,
        "bytes_per_position": in_shards / inspected["positions"],
        **{key: inspected[key] for key in ("k", "classes", "rank")},
        "parameters": trained["parameters"],
        "epochs": options.epochs,
        "rows": rows,
        "seconds": time.monotonic() - begun,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print()
    print(table(summary))
    print(f"\n{summary['seconds']:.0f} s in all; summary.json and all runs are in {os.path.relpath(folder)}")


if __name__ == "__main__":
    main()
