#!/usr/bin/env python3
"""What the cache in tests/fixtures/v1 must decode to, from the raw logits and by definition.

    tools/fixture_v1.py > tests/fixtures/v1/expected.json

Knows nothing of caches: it has the formula of the logits (the one in tests/synthetic/mod.rs) and
the definition of a softmax, and needs NumPy only.
"""

import json

import numpy as np

SAMPLES, CLASSES, K = 12, 20, 4
TEMPERATURES = [1.0, 2.0, 3.5, 8.0]


def logits():
    n = np.arange(SAMPLES)[:, None]
    j = np.arange(CLASSES)[None, :]
    residue = (n * n * 131 + j * j * 57 + n * j * 29 + 7) % 997
    # In single precision, as the library is given them.
    return residue.astype(np.float32) / np.float32(83) - np.float32(6)


def main():
    z = logits()
    # By falling logit, ties by rising id.
    head = np.argsort(-z, axis=1, kind="stable")[:, :K]
    rows = np.arange(SAMPLES)[:, None]
    in_tail = np.ones_like(z, dtype=bool)
    in_tail[rows, head] = False
    shifted = z.astype(np.float64) - z.max(axis=1, keepdims=True).astype(np.float64)
    at = []
    for t in TEMPERATURES:
        p = np.exp(shifted / t)
        p /= p.sum(axis=1, keepdims=True)
        at.append(
            {
                "temperature": t,
                "probabilities": p[rows, head].tolist(),
                "tail_mass": np.where(in_tail, p, 0).sum(axis=1).tolist(),
                "mean_tail_mass_by_class": np.where(in_tail, p, 0).mean(axis=0).tolist(),
            }
        )
    expected = {
        "samples": list(range(SAMPLES)),
        "labels": [n * 7 % CLASSES for n in range(SAMPLES)],
        "head_ids": head.tolist(),
        "head_values": shifted[rows, head].tolist(),
        "at": at,
    }
    print(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
