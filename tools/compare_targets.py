#!/usr/bin/env python3
"""What a student learns from each kind of target: the same language model, tokens and steps, only the target differs.

    tools/compare_targets.py --out FOLDER [--arms NAME,NAME…] [--seeds 0]
                             [--cache-config FILE] [--train-config FILE] [--cache KEY=VALUE]… [--train KEY=VALUE]…

It builds the caches that the arms need (CACHE: the text, the teacher and its tokenizer), trains a student for each
arm and seed, and measures all of them on the other part of the documents, against targets of 8,192 classes a position.
At the end it prints one Markdown table and writes it to FOLDER/table.md, and the numbers to FOLDER/results.json. What
is there already is not made again, and an arm's figures are the mean over all its seeds in FOLDER, with their spread.
Nothing here computes: kd-cache, kd-train and benches/online.rs do.

    labels          cross-entropy on the tokens that follow, no teacher
    online          the teacher runs in every step, and its full softmax is the target (benches/online.rs)
    r0 r8 r32       our cache: 12 classes, curve, and a tail model of rank 0, 8, 32
    top12           12 classes, renormalised
    bucket128       128 classes, and one bucket for what is left over, tempered like a class
    sampled         draws from the softmax (random-sampling KD), so many that a position has the bytes of r8
    sampled50       50 of them, as the literature has

An arm is NAME or NAME@T; without T it is at T = 1. On a machine where the teacher is slow, tools/teacher_remembered.py
asks it once for all caches and arms (--cache teacher.kind=command --cache 'teacher.command=[…]').
Bytes are those of the targets' columns per position in Arrow form. Seconds a step are those of the last epoch: for
timings, run it on a machine that does nothing else, with --train train.max_steps=20 and a folder of its own.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from rate_distortion import ROOT, bench, run, sets, sizes

ARMS = "labels,r0,r8,r32,top12,bucket128,sampled50,sampled,online,r0@2,r8@2,r32@2,bucket128@2,online@2"
# Of each kind of target: the cache it is read from, and how.
KINDS = {
    "labels": ("r0", "prior"),
    "online": ("r0", "prior"),
    "r0": ("r0", "prior"),
    "r8": ("r8", "shape"),
    "r32": ("r32", "shape"),
    "top12": ("r0", "renormalize"),
    "bucket128": ("head128", "bucket"),
    "sampled": ("sampled", "renormalize"),
    "sampled50": ("sampled50", "renormalize"),
}
SAYS = {
    "labels": "labels only",
    "online": "online, full softmax",
    "r0": "**head 12, curve, prior (r = 0)**",
    "r8": "**head 12, curve, shape r = 8**",
    "r32": "**head 12, curve, shape r = 32**",
    "top12": "top 12, renormalised",
    "bucket128": "top 128, leftover bucket",
    "sampled": "random sampling, bytes of r = 8",
    "sampled50": "random sampling, 50 draws",
}
RANKS = {"r0": (12, 0), "r8": (12, 8), "r32": (12, 32), "head128": (128, 0)}
MEASURES = ("cross_entropy", "perplexity", "kl", "agreement", "calibration_error")


class Experiment:
    def __init__(self, options):
        self.options = options
        self.out = options.out
        self.base = ["--config", options.cache_config, *sets(options.cache)]

    def train_cache(self, name):
        """The cache `name` over the training part of the documents."""
        cache = self.out / "caches" / name
        if name in RANKS:
            k, rank = RANKS[name]
            run("build", *self.base, *sets([f"head.k={k}", f"tail.rank={rank}"]), "--out", cache)
        elif not (cache / "manifest.json").exists():
            draws = 50 if name == "sampled50" else self.equal_draws()
            run("build", *self.base, *sets(self.drawn(draws)), "--out", cache)
        return cache

    @staticmethod
    def drawn(draws):
        return [f"head={{ draws = {draws} }}", "tail={}", "storage.values=counts"]

    def equal_draws(self):
        """How many draws have the bytes of r8, found on a few rows."""
        goal, _ = sizes(self.train_cache("r8"))
        low, high = 1, 512
        while high - low > 1:
            draws = (low + high) // 2
            probe = self.out / "caches" / f"probe-{draws}"
            run("build", *self.base, *sets([*self.drawn(draws), "dataset.limit=4"]), "--out", probe)
            bytes_here, _ = sizes(probe)
            low, high = (draws, high) if bytes_here <= goal else (low, draws)
        return low

    def validation_cache(self):
        """Targets that are as good as the teacher itself at T = 1."""
        cache = self.out / "caches" / "validation"
        own = ["head.k=8192", "tail.rank=0", "tail.fit_samples=2048", "storage.values=f16"]
        own += ["dataset.split.part=validation", f"dataset.limit={self.options.validation_rows}"]
        run("build", *self.base, *sets(own), "--out", cache)
        return cache

    def arm(self, name, seed):
        """Trains and measures one student."""
        kind, _, temperature = name.partition("@")
        temperature = float(temperature or 1)
        folder = self.out / "runs" / f"{name.replace('@', '-t')}-seed{seed}"
        # A run whose measures were written down is done.
        done = folder.with_suffix(".json")
        if done.exists():
            return json.loads(done.read_text())
        cache, tail = KINDS[kind]
        cache = self.train_cache(cache)
        if kind == "online":
            step = self.online(folder, cache, temperature, seed)
        else:
            step = self.from_cache(folder, cache, kind, tail, temperature, seed)
        measured = train("eval", folder, "--set", f"validation.documents.cache={self.out}/caches/validation")
        found = measured["validation"]["documents"]
        per_position = None if kind in ("labels", "online") else sizes(cache)[0]
        result = {"arm": name, "seed": seed, "temperature": temperature, "bytes": per_position, "seconds_per_step": step}
        result |= {key: found[key] for key in MEASURES}
        done.write_text(json.dumps(result) + "\n")
        return result

    def from_cache(self, folder, cache, kind, tail, temperature, seed):
        weights = "{ kl = 0.0, cross_entropy = 1.0 }" if kind == "labels" else "{ kl = 1.0, cross_entropy = 0.0 }"
        own = [f"loss.temperature={temperature}", f"loss.tail={tail}", f"loss.weights={weights}"]
        own += [f"seed={seed}", "validation={}", *self.options.train]
        config = ["--config", self.options.train_config, *sets(own)]
        train("--cache", cache, *config, "--out", folder, "--overwrite")
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        before = epochs[-2]["step"] if len(epochs) > 1 else 0
        return epochs[-1]["seconds"] / (epochs[-1]["step"] - before)

    def online(self, folder, cache, temperature, seed):
        """Puts the weights of the student that learned online into a copy of its twin's folder."""
        self.arm("labels", seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.out / "runs" / f"labels-seed{seed}", folder)
        command = bench("online", ROOT / "target/release")
        command += [folder.resolve(), cache.resolve(), Path(self.options.cache_config).resolve(), temperature]
        # Logits of few positions at a time: what libtorch makes of them then stays in the processor's cache.
        told = output([*command, *self.options.cache, "teacher.chunk=64"])
        report = json.loads(told.splitlines()[-1])
        return report["seconds"] / report["steps"]


def output(command):
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"compare_targets: error: {' '.join(command)} ended with {done.returncode}")
    return done.stdout


def train(*arguments):
    """A report of kd-train's as JSON; its progress goes to standard error."""
    return json.loads(output([ROOT / "target/release/kd-train", *arguments, "--format", "json"]))


def cell(results, key, form):
    values = [result[key] for result in results]
    if values[0] is None:
        return "–"
    text = format(statistics.mean(values), form)
    return text if len(values) < 2 else f"{text} ±{format(statistics.stdev(values), form)}"


def table(results, arms):
    lines = ["| target | T | bytes | cross-entropy | perplexity | KL to the teacher | agreement | ECE | s / step |"]
    lines.append("|" + "---|" * 9)
    for arm in arms:
        here = [result for result in results if result["arm"] == arm]
        kind, _, temperature = arm.partition("@")
        cells = [SAYS[kind], "–" if kind == "labels" else temperature or "1"]
        forms = {"bytes": ".1f", "cross_entropy": ".4f", "perplexity": ".2f", "kl": ".4f"}
        forms |= {"agreement": ".4f", "calibration_error": ".4f", "seconds_per_step": ".3f"}
        lines.append("| " + " | ".join(cells + [cell(here, key, form) for key, form in forms.items()]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache-config", default=ROOT / "configs/cache/smollm2-python-docs.toml")
    parser.add_argument("--train-config", default=ROOT / "configs/train/smollm2-python-docs.toml")
    parser.add_argument("--arms", default=ARMS, help="several by commas")
    parser.add_argument("--seeds", default="0", help="several by commas")
    parser.add_argument("--validation-rows", type=int, default=40)
    parser.add_argument("--cache", action="append", default=[], metavar="KEY=VALUE", help="for kd-cache build")
    parser.add_argument("--train", action="append", default=[], metavar="KEY=VALUE", help="for kd-train")
    options = parser.parse_args()
    options.out = options.out.resolve()
    arms = options.arms.split(",")
    if unknown := [arm for arm in arms if arm.partition("@")[0] not in KINDS]:
        sys.exit(f"compare_targets: error: no such arm: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    (options.out / "runs").mkdir(parents=True, exist_ok=True)
    experiment = Experiment(options)
    experiment.validation_cache()
    for seed in map(int, options.seeds.split(",")):
        for arm in arms:
            experiment.arm(arm, seed)
    # Of each arm every seed that is there, whenever it was made.
    results = [json.loads(file.read_text()) for file in sorted((options.out / "runs").glob("*.json"))]
    results = [result for result in results if result["arm"] in arms]
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results, arms)
    (options.out / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
