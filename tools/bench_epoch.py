#!/usr/bin/env python3
"""What a shuffled pass costs where the cache is larger than memory, beside reading it in order, in turns.

    tools/bench_epoch.py --out FOLDER [--gigabytes 3] [--memory 512] [--rounds 3] [--orders shuffled,1024/65536,…]

Linux, as root: each pass is a process in a memory group of its own with --memory MiB, page cache included, and begins with
nothing of the cache in memory. The passes are of benches/epoch.rs: every batch prepared as training does, from a made-up
cache of --gigabytes. Orders are `shuffled` (all samples at once) or BLOCK/BUFFER of train.shuffle. Beside them: the same
pass in the cache's own order, and the bytes of the files read one after another and thrown away.

A ratio is the rate over that of the pass in order, or of the bare reading, in the same round. Numbers go to
FOLDER/epoch.json; the cache stays in FOLDER/cache for the next call.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from rate_distortion import ROOT, spread

ROW_BYTES = 64 * (12 * 4 + 5 * 2 + 2)
GROUP = "kd-cache-bench"


def memory_group(mebibytes):
    """The file that takes in processes."""
    limit = str(mebibytes << 20)
    old = Path("/sys/fs/cgroup/memory")
    group = (old if old.is_dir() else Path("/sys/fs/cgroup")) / GROUP
    group.mkdir(exist_ok=True)
    (group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(limit)
    return group / "cgroup.procs"


def forget(folder):
    """Drops a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def bench():
    """The built bench."""
    command = ["cargo", "bench", "--profile", "release", "--bench", "epoch", "--no-run", "--message-format", "json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in built.stdout.splitlines()]
    return next(line["executable"] for line in lines if line.get("target", {}).get("name") == "epoch" and line.get("executable"))


def environment():
    """As cargo would have it."""
    config = tomllib.loads((ROOT / ".cargo/config.toml").read_text())["env"]
    return os.environ | config | {"LD_LIBRARY_PATH": config["KD_CACHE_TORCH_LIB"]}


def bare(cache):
    """Seconds to read the shards."""
    begun = time.perf_counter()
    total = 0
    for path in sorted((cache / "shards").iterdir()):
        with open(path, "rb", buffering=0) as file:
            while block := file.read(1 << 20):
                total += len(block)
    print(json.dumps({"seconds": time.perf_counter() - begun, "bytes": total}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--memory", type=int, default=512, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--orders", default="4096/65536,1024/65536", help="several by commas")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        return bare(options.bare)
    cache, program, variables = options.out / "cache", bench(), environment()
    if not cache.is_dir():
        options.out.mkdir(parents=True, exist_ok=True)
        rows = str(int(options.gigabytes * 1e9 / ROW_BYTES))
        subprocess.run([program, "write", cache, rows], env=variables, check=True)
    group = memory_group(options.memory)
    commands = {"bare reading": [sys.executable, __file__, "--bare", cache]}
    commands |= {order: [program, "read", cache, order] for order in ["sequential", *options.orders.split(",")]}
    seconds = {name: [] for name in commands}
    for at in range(options.rounds):
        names = list(commands)
        for name in names[at % len(names) :] + names[: at % len(names)]:
            forget(cache)
            run = subprocess.run(
                commands[name], env=variables, stdout=subprocess.PIPE, text=True, check=True,
                preexec_fn=lambda: group.write_text(str(os.getpid())),
            )
            told = json.loads(run.stdout.splitlines()[-1])
            seconds[name].append(told["seconds"])
            print(f"round {at + 1}, {name}: {told['bytes'] / told['seconds'] / 1e6:.0f} MB/s", file=sys.stderr)
    (options.out / "epoch.json").write_text(json.dumps(seconds, indent=1) + "\n")
    total = sum(path.stat().st_size for path in (cache / "shards").iterdir())
    print(f"{total / 1e9:.2f} GB, {options.memory} MiB of memory.\n")
    print("| order | seconds | of the rate in order | of the bare reading's |\n|---|---|---|---|")
    for name, own in seconds.items():
        cells = [f"{statistics.median(own):.2f}"]
        for other in ["sequential", "bare reading"]:
            ratios = [theirs / mine for theirs, mine in zip(seconds[other], own)]
            cells.append(spread(ratios, 2))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
