#!/usr/bin/env python3
"""The main job on real data: run the teacher once, then train students from the cache.

    make demo                        sets up, builds, and runs this
    python3 tools/demo.py            after `make build`
    python3 tools/demo.py --device cuda

Everything lands in out/demo: `cache/` (60,000 training images), `cache-test/` (the test images, from which
agreement with the teacher is measured), `runs/` (a folder for each student), `result.svg` and `summary.json`.
Nothing here computes: kd-cache and kd-train do, and this reads their JSON reports.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
# Labels are dear, images are not: how many of the training images have a label in the second twin.
FEW = 2000
# Says that a folder is this demo's, to be removed by the next.
MARK = ".kd-cache-demo"


def programs():
    """The folder of the release programs, wherever cargo puts it."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE,
    )
    return Path(json.loads(metadata.stdout)["target_directory"]) / "release"


def run(command, quiet=False):
    """Runs a program of ours and gives its JSON report; its progress goes to the terminal."""
    command = [str(word) for word in command]
    command += ["--format", "json"] + (["--quiet"] if quiet else [])
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode != 0:
        print(f"demo: error: exit code {done.returncode} from: {' '.join(command)}", file=sys.stderr)
        raise SystemExit(done.returncode if done.returncode > 0 else 1)
    return json.loads(done.stdout)


def clear(folder, names):
    """Makes `folder` anew, so that all times are this run's; removes only what an earlier demo made."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        print(f"demo: error: {folder} holds something that no demo made; give another --out", file=sys.stderr)
        sys.exit(2)
    (folder / MARK).touch()
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("summary.json", "result.svg"):
        (folder / name).unlink(missing_ok=True)


def students():
    """What is compared: (target, temperature, labelled samples, settings)."""
    yield "labels", None, 60_000, ["--set", "loss.weights={ cross_entropy = 1.0 }"]
    yield "labels", None, FEW, [
        "--set", "loss.weights={ cross_entropy = 1.0 }",
        "--set", f"dataset.limit={FEW}",
        # Fewer samples, smaller batches, more epochs: they need them, and are still the quickest.
        "--set", "train.batch=64", "--set", "train.epochs=60", "--set", "optimizer.learning_rate=0.001",
    ]
    for temperature in TEMPERATURES:
        yield "cache", temperature, 0, ["--set", f"loss.temperature={temperature:g}"]


def train(student, seed, arguments, folder, tools):
    """Trains one student and gives kd-train's report."""
    target, temperature, labelled, settings = student
    name = f"cache-t{temperature:g}" if target == "cache" else f"labels-{labelled}"
    cache = ["--cache", folder / "cache"] if target == "cache" else []
    report = run(
        [
            tools / "kd-train", *cache, "--config", "configs/train/fashion-mnist.toml",
            "--out", folder / "runs" / f"{name}-seed{seed}",
            "--set", f"seed={seed}", "--set", f"train.device={arguments.device}",
            "--set", f"validation.test.cache={json.dumps(str(folder / 'cache-test'))}", *settings,
        ],
        quiet=True,
    )
    test = report["validation"]["test"]
    print(
        f"  {describe(target, temperature, labelled):<28} seed {seed}: accuracy {test['accuracy']:.4f},"
        f" {report['seconds']:.1f} s",
        file=sys.stderr,
    )
    return report


def rows(arguments, folder, tools):
    """Trains every student with every seed, as many at a time as were asked for."""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [
            (student, [pool.submit(train, student, seed, arguments, folder, tools) for seed in range(arguments.seeds)])
            for student in students()
        ]
        try:
            return [row(student, [report.result() for report in reports]) for student, reports in runs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def row(student, reports):
    """What the seeds of one student come to."""
    target, temperature, labelled, _ = student
    accuracies = [report["validation"]["test"]["accuracy"] for report in reports]
    return {
        "target": target,
        "temperature": temperature,
        "labelled_samples": labelled,
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "agreement": statistics.mean(report["validation"]["test"]["agreement"] for report in reports),
        "seeds": len(reports),
        "seconds": statistics.mean(report["seconds"] for report in reports),
    }


def describe(target, temperature, labelled):
    if target == "cache":
        return f"cache, T = {temperature:g}, no labels"
    return f"labels, {labelled:,} of them"


def spread(row):
    return "     " if row["accuracy_std"] is None else f"±{100 * row['accuracy_std']:.2f}"


def table(summary):
    cache = summary["cache"]
    lines = [
        f"teacher     {100 * summary['teacher_accuracy']:.2f} % test accuracy, run once over {cache['samples']:,} images"
        f" in {summary['build_seconds']:.1f} s ({summary['samples_per_second']:,.0f} samples/s)",
        f"cache       {cache['bytes'] / 1e6:.2f} MB, {cache['bytes_per_position']:.1f} bytes per sample:"
        f" {cache['k']} of {cache['classes']} classes exact, the rest as a curve",
        "",
        "target   labels used   T   test accuracy (%)   agreement (%)   seconds",
    ]
    for one in summary["rows"]:
        temperature = "–" if one["temperature"] is None else f"{one['temperature']:g}"
        lines.append(
            f"{one['target']:<8} {one['labelled_samples']:>11,}   {temperature}"
            f"      {100 * one['accuracy_mean']:>6.2f} {spread(one)}          {100 * one['agreement']:>6.2f}"
            f"    {one['seconds']:>6.1f}"
        )
    lines.append(
        f"mean{'' if summary['rows'][0]['seeds'] == 1 else ' ± standard deviation'} over"
        f" {summary['rows'][0]['seeds']} seeds; seconds per student, {summary['jobs']} at a time; agreement with the"
        " teacher's top class"
    )
    return "\n".join(lines)


def verdict(rows):
    """What the numbers say, whatever they say."""
    best = max((row for row in rows if row["target"] == "cache"), key=lambda row: row["accuracy_mean"])
    lines = []
    for twin in (row for row in rows if row["target"] == "labels"):
        gain = best["accuracy_mean"] - twin["accuracy_mean"]
        noise = max(best["accuracy_std"] or 0.0, twin["accuracy_std"] or 0.0)
        told = "more than the spread over seeds" if abs(gain) > noise else "within the spread over seeds"
        lines.append(
            f"The student from the cache at T = {best['temperature']:g} is {100 * abs(gain):.2f} points"
            f" {'better' if gain > 0 else 'worse'} than its twin on {twin['labelled_samples']:,} labels: {told}."
        )
    return "\n".join(lines)


def picture(summary, path):
    """Draws `path`; says why when it cannot."""
    packages = subprocess.run([ROOT / "tools" / "setup.sh", "--python"], stdout=subprocess.PIPE, text=True)
    sys.path.append(packages.stdout.strip())
    try:
        import matplotlib
    except ImportError as error:
        print(f"demo: no picture: {error} (tools/setup.sh installs matplotlib where it can)", file=sys.stderr)
        return False
    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = summary["rows"]
    cached = [row for row in rows if row["target"] == "cache"]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    at = range(len(cached))
    axes.errorbar(
        at, [100 * row["accuracy_mean"] for row in cached],
        yerr=[100 * (row["accuracy_std"] or 0) for row in cached],
        marker="o", capsize=4, color="tab:blue", label="from the cache, no labels",
    )
    for row, colour in zip((row for row in rows if row["target"] == "labels"), ("tab:orange", "tab:red")):
        mean, deviation = 100 * row["accuracy_mean"], 100 * (row["accuracy_std"] or 0)
        axes.axhline(mean, color=colour, linestyle="--", label=f"{row['labelled_samples']:,} labels, no teacher")
        axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.15)
    axes.axhline(100 * summary["teacher_accuracy"], color="grey", linewidth=1, label="teacher")
    axes.set_xticks(list(at), [f"{row['temperature']:g}" for row in cached])
    axes.set_xlabel("softmax temperature of the cached targets")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(
        f"Fashion-MNIST: one teacher pass, {summary['cache']['bytes'] / 1e6:.1f} MB,"
        f" {rows[0]['seeds']} seeds", fontsize=10,
    )
    axes.legend(fontsize=8)
    figure.savefig(path)
    return True


def main():
    parser = argparse.ArgumentParser(
        description="Fashion-MNIST: run the teacher once, train students from the cache at several temperatures."
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N, for teacher and students (default cpu)")
    parser.add_argument("--seeds", type=int, default=3, help="students trained for each row (default 3)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for all results (default out/demo)")
    parser.add_argument("--jobs", type=int, help="students trained at a time (default 2 on a CPU with 2 cores or more)")
    arguments = parser.parse_args()
    if arguments.jobs is None:
        # One student uses one thread; a GPU is kept for one at a time, so that its seconds mean something.
        arguments.jobs = min(2, os.cpu_count() or 1) if arguments.device == "cpu" else 1
    if arguments.seeds < 1 or arguments.jobs < 1:
        parser.error("--seeds and --jobs: expected at least 1")
    begun = time.monotonic()
    tools = programs()
    folder = Path(os.path.abspath(arguments.out))
    clear(folder, ("cache", "cache-test", "runs"))

    def build(config, out):
        built = run(
            [tools / "kd-cache", "build", "--config", config, "--out", out,
             "--set", f"teacher.device={arguments.device}"]
        )
        built["cache"] = run([tools / "kd-cache", "inspect", out])
        return built

    print("demo: the teacher looks at each training image once", file=sys.stderr)
    built = build("configs/cache/fashion-mnist.toml", folder / "cache")
    print("demo: and at the test images, to measure students against it", file=sys.stderr)
    tested = build("configs/cache/fashion-mnist-test.toml", folder / "cache-test")
    print("demo: students; no teacher runs from here on", file=sys.stderr)
    summary = {
        "teacher_accuracy": tested["cache"]["teacher_accuracy"],
        "cache": built["cache"],
        "build_seconds": built["seconds"],
        "samples_per_second": built["samples_per_second"],
        "rows": rows(arguments, folder, tools),
        "device": arguments.device,
        "jobs": arguments.jobs,
    }
    summary["seconds"] = time.monotonic() - begun
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    drawn = picture(summary, folder / "result.svg")
    shown = arguments.out
    print()
    print(table(summary))
    print()
    print(verdict(summary["rows"]))
    print(f"\n{summary['seconds']:.0f} s in all; {'result.svg, ' if drawn else ''}summary.json and all runs are in {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
