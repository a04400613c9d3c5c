#!/usr/bin/env python3
"""Draws what benches/scaling.rs measured: cost a position against what grows, both axes logarithmic.

    tools/plot_scaling.py SCALING.json --out PLOT.svg

A picture for the build and one for the step; a line for each thing that grows, through the medians, with the least and the
largest. Needs matplotlib.
"""

import argparse
import json
import statistics
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("svg")
    # The same file for the same numbers.
    matplotlib.rcParams["svg.hashsalt"] = "kd-cache"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    results = json.loads(options.results.read_text())
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4))
    for axis, key, title in zip(axes, ("build_us", "step_us"), ("build beside its teacher", "training step")):
        axis.set(xscale="log", yscale="log", title=title, xlabel="size of what grows", ylabel="µs a position")
        for name in dict.fromkeys(result["axis"] for result in results):
            own = [result for result in results if result["axis"] == name]
            middle = [statistics.median(result[key]) for result in own]
            below = [m - min(result[key]) for m, result in zip(middle, own)]
            above = [max(result[key]) - m for m, result in zip(middle, own)]
            axis.errorbar([result["size"] for result in own], middle, [below, above], marker="o", capsize=3, label=name)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
