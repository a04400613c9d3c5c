"""The fixtures of the format's versions, the reader, and its meaning once more: slowly, a row at a time.

The functions here follow section 5 of schemas/format-v1.md, and 2 of format-v2.md, with plain Python numbers, and share nothing with
the reader but what is stored.
"""

import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
CACHE = FIXTURES / "v1" / "cache"
WITH_SHAPE = FIXTURES / "v2" / "cache"

sys.path.insert(0, str(ROOT / "tools"))


def load(name):
    """A JSON file of the fixtures."""
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


def between(points, beta):
    """Lagrange's weights at `beta` of the polynomial through all `points`."""
    return [math.prod((beta - q) / (p - q) for q in points if q != p) for p in points]


def mass(cache, row, temperature):
    """Σ exp over the tail of `row` at `temperature`."""
    (curve,) = cache.gather([row], "tail_curve")
    w = between([0.0, *map(float, cache.nodes)], 1 / temperature)
    g = w[0] * math.log(cache.classes - cache.k) + sum(w * float(g) for w, g in zip(w[1:], curve[0]))
    return math.exp(g)


def decode(cache, row, temperature, tail):
    """Class ids, their probabilities, and the mass of everything else."""
    ids, values = cache.gather([row], "head_ids", "head_values")
    e = [math.exp(float(v) / temperature) for v in values[0]]
    rest = 0.0
    if cache.has_tail and tail in ("shape", "prior", "uniform"):
        rest = mass(cache, row, temperature)
    elif cache.has_tail and tail == "bucket":
        rest = mass(cache, row, 1.0) ** (1 / temperature)
    z = sum(e) + rest
    return [int(i) for i in ids[0]], [x / z for x in e], rest / z


def dense(cache, row, temperature, tail):
    """Every class's probability."""
    ids, probabilities, rest = decode(cache, row, temperature, tail)
    w = between([0.0, *map(float, cache.nodes)], 1 / temperature)
    u = [1.0] * cache.classes
    if cache.has_tail and tail in ("shape", "prior"):
        code, table = [], cache.prior
        if tail == "shape" and cache.rank:
            code, table = cache.gather([row], "tail_code")[0][0], cache.shape
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


def divergence(cache, row, temperature, tail, student):
    """T² · KL from a row's target to a student, in nats."""
    q = [math.exp(s / temperature) for s in student]
    q = [x / sum(q) for x in q]
    if tail == "bucket":
        ids, p, rest = decode(cache, row, temperature, tail)
        pairs = [*zip(p, (q[i] for i in ids)), (rest, 1 - sum(q[i] for i in ids))]
    else:
        pairs = zip(dense(cache, row, temperature, tail), q)
    return temperature**2 * sum(p * math.log(p / q) for p, q in pairs if p)
