#!/usr/bin/env python3
"""Draws bytes against errors: results of tools/rate_distortion.py, tools/compare_codecs.py, or both.

    tools/plot_codecs.py RESULTS.json... --out PLOT.svg

A row of pictures for the KL and one for the rms, a column for each temperature; both axes are logarithmic. Caches of
ours are joined by a line in the order of their bytes, those of one head size each. What has infinite KL is drawn at
the upper edge. Needs matplotlib.
"""

import argparse
import json
import re
from pathlib import Path


def read(paths):
    results = []
    for path in paths:
        for result in json.loads(path.read_text()):
            size = result["bytes"]
            # Both forms of one cache have the same errors: the larger is drawn.
            result["bytes"] = max(size.values()) if isinstance(size, dict) else size
            results.append(result)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("svg")
    # The same file for the same numbers.
    matplotlib.rcParams["svg.hashsalt"] = "kd-cache"
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    results = read(options.results)
    temperatures = list(dict.fromkeys(t for result in results for t in result["errors"]))
    figure, axes = pyplot.subplots(2, len(temperatures), figsize=(4.2 * len(temperatures), 7.4), squeeze=False)
    heads = {}
    for result in results:
        ours = re.fullmatch(r"kd-cache, k = (\d+), r = \d+(, step .+)?", result["name"])
        if ours:
            heads.setdefault(int(ours[1]), []).append(result)
    others = [result for result in results if not result["name"].startswith("kd-cache")]
    for column, temperature in enumerate(temperatures):
        for row, (key, title) in enumerate([("kl", "KL from the teacher, nats"), ("rms", "rms of the difference")]):
            axis = axes[row][column]
            axis.set(xscale="log", yscale="log", title=f"T = {temperature}", xlabel="bytes a position")
            if column == 0:
                axis.set_ylabel(title)
            finite = [result["errors"][temperature][key] for result in results if temperature in result["errors"]]
            edge = 1.5 * max(value for value in finite if value is not None)
            for k, ours in sorted(heads.items()):
                ours = sorted(ours, key=lambda result: result["bytes"])
                points = [(one["bytes"], one["errors"][temperature][key]) for one in ours]
                axis.plot(*zip(*points), "o-", label=f"kd-cache, k = {k}")
            for at, other in enumerate(others):
                value = other["errors"].get(temperature, {}).get(key)
                marker = "^" if value is None else "sDvPX*hd"[at % 8]
                axis.plot(other["bytes"], edge if value is None else value, marker, label=other["name"])
            for ticks in (axis.xaxis, axis.yaxis):
                ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                ticks.set_minor_formatter(NullFormatter())
            axis.grid(True, alpha=0.25)
    entries = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            # An infinite value's marker says nothing of the cache.
            if handle.get_marker() != "^" or label not in entries:
                entries[label] = handle
    figure.legend(entries.values(), entries.keys(), loc="lower center", ncols=3, fontsize=8)
    figure.tight_layout(rect=(0, 0.04 + 0.03 * (len(entries) / 3), 1, 1))
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
