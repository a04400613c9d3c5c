#!/usr/bin/env python3
"""What a training step from a cache costs beside the same step on labels alone, as ratios of runs that alternate.

    tools/bench_steps.py --cache DIR --config TRAIN.toml --out FOLDER [--name NAME] [--set KEY=VALUE]...
                         [--tails prior,shape] [--also KEY=VALUE]... [--rounds 5] [--every 20] [--programs BIN]
                         [--online CACHE.toml [--cache-set KEY=VALUE]...]

Each round trains one run for each tail handling and one on labels alone (loss.weights = { cross_entropy = 1 }), the order
turning from round to round; weights of the others are the config's. With --also there is one more for each tail, with that
key: train.channels_last=true, say. A run has three lines of --every steps, of which the
first is not counted: libraries load and memory is claimed in it. A ratio is seconds a sample over seconds a sample on
labels, of one round; printed are the median, the least and the largest over the rounds, as a row of a Markdown table.
With --online, for language models, the order stays and each round also has a run with the teacher of CACHE.toml in every
step (benches/online.rs); a second table then says how many times as long a sample takes online, beside what it would take
were a step from the cache as quick as one on labels, (teacher + labels) / labels. Numbers go to FOLDER/NAME.json. Run it on
a machine that does nothing else.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from rate_distortion import ROOT, bench, sets, spread

LINES = 3
ONLINE = "online"
TEACHER = "teacher"
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
    if options.online and own is LABELS:
        shutil.rmtree(options.out / ONLINE, ignore_errors=True)
        run.rename(options.out / ONLINE)
    else:
        shutil.rmtree(run)
    return statistics.mean(1 / line["samples_per_second"] for line in lines[1:])


def online(options):
    """Seconds a sample of a run with the teacher in every step, and those of the teacher alone, in the folder of a run on
    labels, whose config it takes."""
    command = [*bench("online", options.programs), (options.out / ONLINE).resolve(), options.cache.resolve()]
    command = [str(word) for word in [*command, options.online.resolve(), "1", *options.cache_set]]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("bench_steps: error: benches/online.rs failed")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    return report["seconds"] / report["samples"], report["teacher_seconds"] / report["samples"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="steps")
    parser.add_argument("--tails", default="prior,shape", help="several by commas")
    parser.add_argument("--also", action="append", default=[], metavar="KEY=VALUE", help="each tail once more, with it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of kd-train, perhaps of online too")
    parser.add_argument("--every", type=int, default=20, help="steps in a line")
    parser.add_argument("--online", type=Path, metavar="CACHE.toml", help="config that the cache was built with")
    parser.add_argument("--cache-set", action="append", default=[], metavar="KEY=VALUE", help="of CACHE.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    arms = {"labels": LABELS} | {tail: [f"loss.tail={tail}"] for tail in options.tails.split(",")}
    also = [(tail, key) for key in options.also for tail in options.tails.split(",")]
    arms |= {f"{tail}, {key}": [f"loss.tail={tail}", key] for tail, key in also}
    if options.online:
        # After the labels, whose run it begins with.
        arms |= {ONLINE: None}
    times = {arm: [] for arm in [*arms, *([TEACHER] if options.online else [])]}
    for at in range(options.rounds):
        order = list(arms)
        turned = order if options.online else order[at % len(order) :] + order[: at % len(order)]
        for arm in turned:
            if arm == ONLINE:
                for name, seconds in zip((ONLINE, TEACHER), online(options)):
                    times[name].append(seconds)
            else:
                times[arm].append(seconds_per_sample(options, arm, arms[arm]))
            print(f"round {at + 1}, {arm}: {1 / times[arm][-1]:.1f} samples/s", file=sys.stderr)
    cells, tails = [options.name], [arm for arm in arms if arm not in ("labels", ONLINE)]
    for arm in tails:
        ratios = [own / labels for own, labels in zip(times[arm], times["labels"])]
        cells.append(spread(ratios, 3))
    (options.out / f"{options.name}.json").write_text(json.dumps(times, indent=1) + "\n")
    print("| step | " + " | ".join(tails) + " |\n" + "|---" * len(cells) + "|")
    print("| " + " | ".join(cells) + " |")
    if options.online:
        ideal = [(teacher + labels) / labels for teacher, labels in zip(times[TEACHER], times["labels"])]
        print(f"\n| target | times as long online | of the ideal {statistics.median(ideal):.2f} |\n|---|---|---|")
        for tail in tails:
            longer = [taken / own for taken, own in zip(times[ONLINE], times[tail])]
            of_ideal = [longer / ideal for longer, ideal in zip(longer, ideal)]
            print(f"| {tail} | {spread(longer, 2)} | {spread(of_ideal, 3)} |")


if __name__ == "__main__":
    main()
