#!/usr/bin/env python3
"""What a training step from a cache costs beside the same step on labels alone, as ratios of runs that alternate.

    tools/bench_steps.py --cache DIR --config TRAIN.toml --out FOLDER [--name NAME] [--set KEY=VALUE]...
                         [--tails prior,shape] [--rounds 5] [--every 20] [--programs BIN]

Each round trains one run for each tail handling and one on labels alone (loss.weights = { cross_entropy = 1 }), the order
turning from round to round; weights of the others are the config's. A run has three lines of --every steps, of which the
first is not counted: libraries load and memory is claimed in it. A ratio is seconds a sample over seconds a sample on
labels, of one round; printed are the median, the least and the largest over the rounds, as a row of a Markdown table.
Numbers go to FOLDER/NAME.json. Run it on a machine that does nothing else.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from rate_distortion import ROOT, sets

LINES = 3
LABELS = ["loss.weights={ cross_entropy = 1.0 }", "loss.features=[]"]


def seconds_per_sample(options, arm, own):
    """Of the last lines of one short run."""
    run = options.out / "run"
    shutil.rmtree(run, ignore_errors=True)
    keys = [f"tracking.every={options.every}", f"train.max_steps={LINES * options.every}", "train.epochs=1000"]
    keys += ["validation={}", "train.select_by=last", *options.set, *own]
    command = [options.programs / "kd-train", "--cache", options.cache, "--config", options.config, "--out", run]
    command = [str(word) for word in [*command, *sets(keys), "--quiet", "--format", "json"]]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        sys.exit(f"bench_steps: error: the run of {arm} failed")
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    shutil.rmtree(run)
    return statistics.mean(1 / line["samples_per_second"] for line in lines[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="steps")
    parser.add_argument("--tails", default="prior,shape", help="several by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of kd-train")
    parser.add_argument("--every", type=int, default=20, help="steps in a line")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    arms = {"labels": LABELS} | {tail: [f"loss.tail={tail}"] for tail in options.tails.split(",")}
    times = {arm: [] for arm in arms}
    for at in range(options.rounds):
        order = list(arms)
        for arm in order[at % len(order) :] + order[: at % len(order)]:
            times[arm].append(seconds_per_sample(options, arm, arms[arm]))
            print(f"round {at + 1}, {arm}: {1 / times[arm][-1]:.1f} samples/s", file=sys.stderr)
    cells = [options.name]
    for arm in list(arms)[1:]:
        ratios = [own / labels for own, labels in zip(times[arm], times["labels"])]
        cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    (options.out / f"{options.name}.json").write_text(json.dumps(times, indent=1) + "\n")
    print("| step | " + " | ".join(list(arms)[1:]) + " |\n" + "|---" * len(arms) + "|")
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
