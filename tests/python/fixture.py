"""The fixtures of the format's versions, the reader, and its meaning once more: slowly, a position at a time.

The functions here follow section 5 of schemas/format-v1.md, 2 of format-v2.md and 3 to 7 of format-v3.md, with plain
Python numbers, and share nothing with the reader but the columns of versions 1 and 2.
"""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import slow_bits

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
CACHE = FIXTURES / "v1" / "cache"
WITH_SHAPE = FIXTURES / "v2" / "cache"
PACKED = FIXTURES / "v3" / "packed" / "cache"
LISTS = FIXTURES / "v3" / "lists" / "cache"
ANCHORS = FIXTURES / "v3" / "anchors" / "cache"

sys.path.insert(0, str(ROOT / "tools"))


@functools.cache
def target():
    """Where programs are built, if that can be told."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return Path(json.loads(metadata.stdout)["target_directory"]) if metadata.returncode == 0 else None


def program(name):
    """A built program, if there is one."""
    path = target() / "release" / name if target() else None
    return path if path and path.exists() else None


def load(name):
    """A JSON file of the fixtures."""
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


def between(points, beta):
    """Lagrange's weights at `beta` of the polynomial through all `points`."""
    return [math.prod((beta - q) / (p - q) for q in points if q != p) for p in points]


def single(x):
    """Rounded to single precision."""
    return pa.scalar(x, pa.float64()).cast(pa.float32(), safe=False).as_py()


def arrow_rows(path):
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all().to_pylist()


@functools.lru_cache(maxsize=None)
def positions(folder):
    """Ids, logits, curve and code of every position of a cache of version 3: a list for each row."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    storage, k, rank = manifest["storage"], manifest["head"]["k"], manifest["tail"]["rank"]
    nodes = len(manifest["tail"]["nodes"])
    packed = storage["form"] == "arrow"
    layout = slow_bits.Layout.of(manifest, *arrow_rows(folder / "codebook.arrow")) if packed else None
    found = []
    for shard in manifest["shards"]:
        file = folder / shard["file"]
        for row in arrow_rows(file) if packed else pa.parquet.read_table(file).to_pylist():
            n = len(row["tokens"])
            if packed:
                stored = slow_bits.read_row(layout, row["targets"], n)
            else:
                stored, first = [], 0
                for at in range(n):
                    count = row["head_counts"][at] if "head_counts" in row else k
                    head = slice(first, first + count)
                    curve, code = (row.get(name, [])[at * size :][:size] for name, size in (("tail_curve", nodes), ("tail_code", rank)))
                    stored.append((row["head_ids"][head], row["head_values"][head], curve, code))
                    first += count
            step, curve_step = storage["step"], storage["curve_step"]
            found.append([(ids, [single(-step * s) for s in head], [single(curve_step * t) for t in curve], code) for ids, head, curve, code in stored])
    return found


def stored(cache, row, position):
    """Ids, logits, curve and code of one position."""
    if cache.layout != "fixed":
        return positions(cache.folder)[row][position]
    further = [*(["tail_curve"] if cache.has_tail else []), *(["tail_code"] if cache.rank else [])]
    ids, values, *further = (column[0].tolist() for column in cache.gather([row], "head_ids", "head_values", *further))
    return ids, values, further[0] if cache.has_tail else [], further[1] if cache.rank else []


def mass(cache, row, temperature, position=0):
    """Σ exp over the tail of a position at `temperature`."""
    ids, _, curve, _ = stored(cache, row, position)
    w = between([0.0, *map(float, cache.nodes)], 1 / temperature)
    g = w[0] * math.log(cache.classes - len(ids)) + sum(w * g for w, g in zip(w[1:], curve))
    return math.exp(g)


def decode(cache, row, temperature, tail, position=0):
    """Class ids, their probabilities, and the mass of everything else."""
    ids, values, _, _ = stored(cache, row, position)
    e = [math.exp(v / temperature) for v in values]
    rest = 0.0
    if cache.has_tail and tail in ("shape", "prior", "uniform"):
        rest = mass(cache, row, temperature, position)
    elif cache.has_tail and tail == "bucket":
        rest = mass(cache, row, 1.0, position) ** (1 / temperature)
    z = sum(e) + rest
    return ids, [x / z for x in e], rest / z


def dense(cache, row, temperature, tail, position=0):
    """Every class's probability."""
    ids, probabilities, rest = decode(cache, row, temperature, tail, position)
    w = between([0.0, *map(float, cache.nodes)], 1 / temperature)
    u = [1.0] * cache.classes
    if cache.has_tail and tail in ("shape", "prior"):
        code, table = [], cache.prior
        if tail == "shape" and cache.rank:
            code, table = stored(cache, row, position)[3], cache.shape
        basis = cache.basis if len(code) else [()] * cache.classes
        u = [
            math.exp(
                sum(w * float(b) for w, b in zip(w[1:], weights))
                + sum(float(d) * int(c) for d, c in zip(directions, code)) / temperature
            )
            for weights, directions in zip(table, basis)
        ]
    for i in ids:
        u[i] = 0.0
    p = [rest * x / sum(u) if rest else 0.0 for x in u]
    for i, x in zip(ids, probabilities):
        p[i] = x
    return p


def divergence(cache, row, temperature, tail, student, position=0):
    """T² · KL from a position's target to a student, in nats."""
    q = [math.exp(s / temperature) for s in student]
    q = [x / sum(q) for x in q]
    if tail == "bucket":
        ids, p, rest = decode(cache, row, temperature, tail, position)
        pairs = [*zip(p, (q[i] for i in ids)), (rest, 1 - sum(q[i] for i in ids))]
    else:
        pairs = zip(dense(cache, row, temperature, tail, position), q)
    return temperature**2 * sum(p * math.log(p / q) for p, q in pairs if p)
