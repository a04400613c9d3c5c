#!/usr/bin/env python3
"""A ResNet-50 teaches a ResNet-18, from labels to the exported student: the walk-through of MIGRATING.md.

    python3 tools/walkthrough_resnet.py                    after `make build`; minutes on two cores
    python3 tools/walkthrough_resnet.py --full --device cuda
    python3 tools/walkthrough_resnet.py --scripted resnet18.pt

A ResNet-50 learns Fashion-MNIST from labels and is exported as TorchScript; it looks once at the training images and once at
the test images; a ResNet-18 learns from that cache at T = 4, weights 0.7 (KL) and 0.3 (labels), and its twin from labels
alone. The twins begin with the same weights and see the same images in the same order. With --full everything is as the
configs have it (configs/train/resnet50-teacher.toml, configs/cache/resnet50-fashion-mnist.toml,
configs/train/resnet50-to-resnet18.toml); without, networks are narrower, images fewer and epochs too, so that a CPU is
enough.

Everything lands in out/walkthrough-resnet: `teacher/`, `cache/`, `cache-test/`, `runs/` and `summary.json`. Nothing here
computes: kd-cache and kd-train do, and this reads their JSON reports.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from demo import clear, programs, run
from rate_distortion import sets

TEACHER_CONFIG = "configs/train/resnet50-teacher.toml"
CACHE_CONFIG = "configs/cache/resnet50-fashion-mnist.toml"
STUDENT_CONFIG = "configs/train/resnet50-to-resnet18.toml"
TEST = [
    "dataset.images=data/fashion-mnist/t10k-images-idx3-ubyte.gz",
    "dataset.labels=data/fashion-mnist/t10k-labels-idx1-ubyte.gz",
]
# What the configs have.
FULL = {"samples": 60_000, "test_samples": 10_000, "epochs": 30, "teacher_epochs": 30, "width": 64, "batch": 128}
# What two cores do in minutes.
SMALL = {"samples": 1000, "test_samples": 1000, "epochs": 8, "teacher_epochs": 10, "width": 8, "batch": 32}
WARMUP_EPOCHS = 5


def size(options, epochs):
    """Keys of a training config that say how much is done; a short run warms up in a quarter of it."""
    return [
        f"train.epochs={epochs}",
        f"schedule.warmup_epochs={min(WARMUP_EPOCHS, epochs / 4):g}",
        f"train.batch={options.batch}",
        f"train.device={options.device}",
        f"dataset.limit={options.samples}",
        f"validation.test.dataset.limit={options.test_samples}",
        *threads(options, "train"),
    ]


def threads(options, table):
    return [] if options.threads is None else [f"{table}.threads={options.threads}"]


def student(options):
    """The student: built in, or the module of --scripted."""
    if options.scripted is None:
        return [f"student.width={options.width}"]
    path = json.dumps(str(options.scripted.resolve()))
    return [f'student={{ kind = "torchscript", path = {path}, classes = 10 }}']


def table(summary):
    cache = summary["cache"]
    lines = [
        f"{summary['samples']:,} training and {summary['test_samples']:,} test images, networks {summary['width']} wide,"
        f" {summary['teacher_epochs']} and {summary['epochs']} epochs, on {summary['device']}",
        f"cache   {cache['bytes'] / 1e6:.2f} MB, {cache['bytes_per_position']:.1f} bytes per image, made in"
        f" {summary['build_seconds']:.0f} s",
        "",
        f"{'':<40} weights   accuracy (%)   KL to the teacher   agreement (%)   seconds",
    ]
    for row in summary["rows"]:
        kl, agreement = (
            (f"{row['kl']:.4f}", f"{100 * row['agreement']:.2f}") if row["kl"] is not None else ("–", "–")
        )
        lines.append(
            f"{row['name']:<36} {row['parameters']:>11,} {100 * row['accuracy']:>14.2f} {kl:>19} {agreement:>15}"
            f" {row['seconds']:>9.0f}"
        )
    lines.append("each after its last epoch; KL at T = 1")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, for teacher and students (default cpu)")
    parser.add_argument("--full", action="store_true", help="the configs' own size, for a GPU")
    for key, small in SMALL.items():
        flag = "--" + key.replace("_", "-")
        parser.add_argument(flag, type=int, help=f"(default {small}, with --full {FULL[key]})")
    parser.add_argument("--threads", type=int, help="of libtorch; 1 on a machine that is busy (default one per core)")
    parser.add_argument("--scripted", type=Path, help="a TorchScript student, input [n, 1, 28, 28], in place of the built-in one")
    parser.add_argument(
        "--out", type=Path, default=Path("out/walkthrough-resnet"), help="folder for all results (default out/walkthrough-resnet)"
    )
    parser.add_argument("--programs", type=Path, help="folder of kd-cache and kd-train (default: as cargo built them)")
    options = parser.parse_args()
    for key, value in (FULL if options.full else SMALL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
        elif getattr(options, key) < 1:
            parser.error(f"--{key.replace('_', '-')}: expected at least 1")
    begun = time.monotonic()
    tools = (options.programs or programs()).resolve()
    folder = Path(os.path.abspath(options.out))
    clear(folder, ("teacher", "cache", "cache-test", "runs"))

    def train(config, out, own, cache=None):
        cached = [] if cache is None else ["--cache", cache]
        return run([tools / "kd-train", *cached, "--config", config, "--out", out, *sets(own)])

    def build(out, samples, more=()):
        own = [f"teacher.path={json.dumps(str(folder / 'teacher/student.pt'))}", f"teacher.device={options.device}"]
        own += [f"dataset.limit={samples}", *threads(options, "teacher"), *more]
        return run([tools / "kd-cache", "build", "--config", CACHE_CONFIG, "--out", out, *sets(own)])

    print("walk-through: a ResNet-50 learns from labels", file=sys.stderr)
    own = [*size(options, options.teacher_epochs), f"student.width={options.width}"]
    teacher = train(TEACHER_CONFIG, folder / "teacher", own)
    print("walk-through: it looks at each training image once, and at the test images", file=sys.stderr)
    built = build(folder / "cache", options.samples)
    build(folder / "cache-test", options.test_samples, TEST)
    print("walk-through: a ResNet-18 and its twin; no teacher runs from here on", file=sys.stderr)
    test_cache = f"validation.test.cache={json.dumps(str(folder / 'cache-test'))}"
    own = [*size(options, options.epochs), *student(options), test_cache]
    taught = train(STUDENT_CONFIG, folder / "runs/cache", own, folder / "cache")
    twin = train(STUDENT_CONFIG, folder / "runs/labels", [*own, "loss.weights={ cross_entropy = 1.0 }"])

    rows = []
    named = [("ResNet-50, the teacher", teacher), ("ResNet-18 from the cache", taught), ("ResNet-18, its twin on labels", twin)]
    for name, report in named:
        test = report["validation"]["test"]
        rows.append({
            "name": name, "parameters": report["parameters"], "seconds": report["seconds"],
            "accuracy": test["accuracy"], "kl": test.get("kl"), "agreement": test.get("agreement"),
        })
    summary = {
        **{key: getattr(options, key) for key in SMALL},
        "device": options.device,
        "threads": options.threads,
        "cache": run([tools / "kd-cache", "inspect", folder / "cache"]),
        "build_seconds": built["seconds"],
        "rows": rows,
        "seconds": time.monotonic() - begun,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print()
    print(table(summary))
    print(f"\n{summary['seconds']:.0f} s in all; summary.json and all runs are in {os.path.relpath(folder)}")


if __name__ == "__main__":
    main()
