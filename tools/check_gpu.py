#!/usr/bin/env python3
"""Holds a GPU against the CPU of the same machine: teachers, training, and the speed of both.

    tools/setup.sh --cuda && make build && python3 tools/check_gpu.py
    python3 tools/check_gpu.py --programs bin --data data/fashion-mnist     where nothing was built

What must hold: caches built on either device decode to the same targets within 1e-3 (single precision, sums in
another order), and students of either device measure within a point of each other, those whose images lie otherwise in
memory within two. Exit code 1 where it does not. The figures go to standard output, or with --record into benches/runs/<date>-<device>/gpu.json.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import demo

ROOT = Path(__file__).resolve().parent.parent
TEACHERS = (("onnx", "fashion-mnist.onnx"), ("torchscript", "fashion-mnist.pt"))
RESNET = 'student={ kind = "resnet18", width = 16 }'
# A ResNet on a CPU takes minutes an epoch: it is measured on the GPU alone.
STUDENTS = (
    ("mlp", ['student={ kind = "mlp", hidden = [128] }'], ("cpu", "gpu")),
    ("resnet18", [RESNET], ("gpu",)),
    ("resnet18-channels-last", [RESNET, "train.channels_last=true"], ("gpu",)),
)


def name_of_gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main():
    parser = argparse.ArgumentParser(description="Compare a GPU with the CPU: targets, students, speed.")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default cuda)")
    parser.add_argument("--programs", type=Path, help="folder of kd-cache and kd-train (default: as cargo built them)")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "fashion-mnist", help="folder of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each student (default 2)")
    parser.add_argument("--limit", type=int, default=60_000, help="training images used (default all)")
    parser.add_argument("--runtimes", default="onnx,torchscript", help="of teachers, by commas (an ONNX Runtime for CPUs has no GPU)")
    parser.add_argument("--record", action="store_true", help="write benches/runs/<date>-<device>/gpu.json")
    arguments = parser.parse_args()
    tools = (arguments.programs or demo.programs()).resolve()
    data = arguments.data.resolve()
    devices = {"cpu": "cpu", "gpu": arguments.device}

    def dataset(key, part):
        return [
            "--set", f"{key}.images={data / f'{part}-images-idx3-ubyte.gz'}",
            "--set", f"{key}.labels={data / f'{part}-labels-idx1-ubyte.gz'}",
        ]

    train_set = [*dataset("dataset", "train"), "--set", f"dataset.limit={arguments.limit}"]
    report = {"device": name_of_gpu(), "teachers": [], "students": []}
    sound = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)

        def build(kind, file, role):
            out = scratch / f"{kind}-{role}"
            built = demo.run([
                tools / "kd-cache", "build", "--config", "configs/cache/fashion-mnist.toml", "--out", out, *train_set,
                "--set", f"teacher.kind={kind}", "--set", f"teacher.path=configs/teachers/{file}",
                "--set", f"teacher.device={devices[role]}", "--set", "teacher.batch=512", "--set", "head.k=10",
            ], quiet=True)
            return out, built

        def train(name, keys, cache, role):
            out = scratch / f"{name}-{role}"
            run = demo.run([
                tools / "kd-train", "--cache", cache, "--config", "configs/train/fashion-mnist.toml", "--out", out,
                *train_set, *dataset("validation.test.dataset", "t10k"), "--set", f"train.device={devices[role]}",
                "--set", f"train.epochs={arguments.epochs}", *(word for key in keys for word in ("--set", key)),
            ], quiet=True)
            with (out / "metrics.jsonl").open() as lines:
                epochs = [json.loads(line) for line in lines]
            return {
                "accuracy": run["validation"]["test"]["accuracy"],
                "samples_per_second": max(epoch["samples_per_second"] for epoch in epochs),
            }

        for kind, file in (teacher for teacher in TEACHERS if teacher[0] in arguments.runtimes.split(",")):
            cache, slow = build(kind, file, "cpu")
            fast_cache, fast = build(kind, file, "gpu")
            # The GPU's cache against the CPU's teacher: what differs is the device alone.
            measured = demo.run([
                tools / "kd-cache", "fidelity", fast_cache, "--config", "configs/cache/fashion-mnist.toml", *train_set,
                "--set", f"teacher.kind={kind}", "--set", f"teacher.path=configs/teachers/{file}",
            ], quiet=True)
            rms = max(row["rms"] for row in measured["rows"])
            sound &= rms < 1e-3
            rates = {"cpu": slow["samples_per_second"], "gpu": fast["samples_per_second"]}
            report["teachers"].append({"kind": kind, "samples_per_second": rates, "rms_to_cpu": rms})
        for name, keys, roles in STUDENTS:
            both = {role: train(name, keys, cache, role) for role in roles}
            if len(both) == 2:
                sound &= abs(both["cpu"]["accuracy"] - both["gpu"]["accuracy"]) < 0.01
            report["students"].append({"student": name, **both})
        usual, laid = (row["gpu"]["accuracy"] for row in report["students"] if row["student"].startswith("resnet18"))
        sound &= abs(usual - laid) < 0.02
    report["sound"] = sound
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.record:
        folder = ROOT / "benches" / "runs" / f"{datetime.date.today()}-{report['device'].split(',')[0].replace(' ', '-').lower()}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(text + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
