#!/usr/bin/env python3
"""Reads a cache with pyarrow and NumPy; shares no code with the library.

    tools/read_cache.py CACHE                              every target at T = 1, as JSON
    tools/read_cache.py CACHE --sample 7 --temperature 4   one target at T = 4
    tools/read_cache.py CACHE --verify                     first compares every digest
    tools/read_cache.py CACHE --check EXPECTED             compares the targets with a file made by
                                                           tools/fixture_v1.py instead

Written from schemas/format-v1.md alone; the sections named below are its sections. As a module:

    cache = Cache("my-cache")
    cache.head(row, t)     class ids, their probabilities, the tail's mass
    cache.dense(row, t)    every class's probability
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa


class CacheError(Exception):
    pass


def require(holds, problem):
    if not holds:
        raise CacheError(problem)


class Cache:
    def __init__(self, folder, verify=False):
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        require(path.exists(), f"{folder} holds no complete cache: manifest.json is missing")
        self.manifest = m = json.loads(path.read_text(encoding="utf-8"))
        found = (m.get("format"), m.get("format_version"))
        require(found == ("kd-cache", 1), f"{path}: expected format kd-cache, version 1, found {found}")
        self.classes, self.k = m["classes"], m["head"]["k"]
        self.nodes = np.array(m["tail"]["nodes"], dtype=np.float64)
        self.check_manifest()
        if verify:
            for entry in [*m["shards"], *([m["tail"]["model"]] if self.has_tail else [])]:
                self.verify(entry)
        self.read_shards()
        self.prior = self.read_prior() if self.has_tail else None

    @property
    def has_tail(self):
        return self.k < self.classes

    # ---- section 6 ----------------------------------------------------------------------------

    def check_manifest(self):
        m = self.manifest
        require(m["complete"] is True, "the manifest says that the cache is not complete")
        require(2 <= self.classes < 2**32, f"classes: {self.classes}")
        require(1 <= self.k <= self.classes, f"head.k: expected 1 to {self.classes}, found {self.k}")
        rising = bool(np.all(np.diff(self.nodes) > 0)) and 1 <= len(self.nodes) <= 16
        require(rising and self.nodes[0] > 0 and 1.0 in self.nodes, f"tail.nodes: {self.nodes}")
        ids = "u8" if self.classes <= 256 else "u16" if self.classes <= 65536 else "u32"
        require(m["storage"]["ids"] == ids, f"storage.ids: expected {ids}, found {m['storage']['ids']}")
        require(m["storage"]["form"] == "arrow", f"storage.form: {m['storage']['form']}")
        require(m["storage"]["values"] in ("f16", "f32"), f"storage.values: {m['storage']['values']}")
        require(m["storage"]["shard_samples"] >= 1, "storage.shard_samples: expected at least 1")
        require(m["tail"]["rank"] == 0, f"tail.rank: expected 0, found {m['tail']['rank']}")
        require(m["views"] == 1 and m["positions"] == m["samples"], "expected one view of each sample")
        require(not self.has_tail or m["tail"].get("model"), "tail.model is missing, and k < classes")
        after = 0
        for shard in m["shards"]:
            require(shard["rows"] >= 1 and shard["first_sample"] >= after, f"{shard['file']}: rows out of order")
            after = shard["first_sample"] + shard["rows"]
        rows = sum(shard["rows"] for shard in m["shards"])
        require(rows == m["positions"], f"shards: expected {m['positions']} rows, found {rows}")

    def path(self, file):
        parts = PurePosixPath(file).parts
        sound = parts and not file.startswith("/") and not {".", ".."} & set(file.split("/"))
        require(sound, f"{file!r} is no path inside the cache")
        return self.folder / file

    def verify(self, entry):
        content = self.path(entry["file"]).read_bytes()
        found = "sha256:" + hashlib.sha256(content).hexdigest()
        require(len(content) == entry["bytes"], f"{entry['file']}: expected {entry['bytes']} bytes, found {len(content)}")
        require(found == entry["digest"], f"{entry['file']}: expected {entry['digest']}, found {found}")

    # ---- sections 3 and 4 ---------------------------------------------------------------------

    def batch(self, file, schema, rows):
        with pa.memory_map(str(self.path(file))) as source:
            reader = pa.ipc.open_file(source)
            require(reader.num_record_batches == 1, f"{file}: {reader.num_record_batches} record batches")
            require(reader.schema.equals(schema), f"{file}: expected columns {schema}, found {reader.schema}")
            batch = reader.get_batch(0)
            batch.validate(full=True)
        require(batch.num_rows == rows, f"{file}: expected {rows} rows, found {batch.num_rows}")
        require(all(column.null_count == 0 for column in batch.columns), f"{file}: nulls")
        return batch

    def lists(self, batch, name, length):
        return batch.column(name).flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, length)

    def read_shards(self):
        m = self.manifest
        ids = {"u8": pa.uint8(), "u16": pa.uint16(), "u32": pa.uint32()}[m["storage"]["ids"]]
        values = {"f16": pa.float16(), "f32": pa.float32()}[m["storage"]["values"]]
        labelled = m["dataset"].get("labels") is not None

        def list_of(item, length):
            return pa.list_(pa.field("item", item, nullable=False), length)

        columns = [("sample_id", pa.uint64()), ("view", pa.uint16())]
        columns += [("label", pa.uint32())] if labelled else []
        columns += [("head_ids", list_of(ids, self.k)), ("head_values", list_of(values, self.k))]
        columns += [("tail_curve", list_of(values, len(self.nodes)))] if self.has_tail else []
        schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])
        batches = [self.batch(shard["file"], schema, shard["rows"]) for shard in m["shards"]]
        join = np.concatenate
        self.sample_ids = join([batch.column("sample_id").to_numpy() for batch in batches])
        self.labels = join([batch.column("label").to_numpy() for batch in batches]) if labelled else None
        self.ids = join([self.lists(batch, "head_ids", self.k) for batch in batches])
        self.values = join([self.lists(batch, "head_values", self.k) for batch in batches]).astype(np.float64)
        require(self.ids.max() < self.classes, f"a class id is not below {self.classes}")
        if self.has_tail:
            curves = [self.lists(batch, "tail_curve", len(self.nodes)) for batch in batches]
            self.curve = join(curves).astype(np.float64)

    def read_prior(self):
        inner = pa.list_(pa.field("item", pa.float32(), nullable=False), len(self.nodes))
        schema = pa.schema([pa.field("prior", inner, nullable=False)])
        batch = self.batch(self.manifest["tail"]["model"]["file"], schema, self.classes)
        prior = self.lists(batch, "prior", len(self.nodes)).astype(np.float64)
        require(np.isfinite(prior).all(), "the tail model has weights that are not finite")
        return prior

    # ---- section 5 ----------------------------------------------------------------------------

    def weights(self, beta):
        x = np.concatenate([[0.0], self.nodes])
        hit = np.abs(x - beta) < 1e-12
        if hit.any():
            return hit.astype(np.float64)
        differences = x[:, None] - x[None, :]
        np.fill_diagonal(differences, 1.0)
        c = 1.0 / ((beta - x) * differences.prod(axis=1))
        return c / c.sum()

    def head(self, row, temperature):
        """Class ids of the head, their probabilities, and the mass of all other classes."""
        beta = 1.0 / temperature
        e = np.exp(beta * self.values[row])
        tail = 0.0
        if self.has_tail:
            require(beta <= self.nodes[-1] * (1 + 1e-12), f"T = {temperature} is below {1 / self.nodes[-1]}")
            w = self.weights(beta)
            tail = np.exp(w[0] * np.log(self.classes - self.k) + w[1:] @ self.curve[row])
        z = e.sum() + tail
        return self.ids[row], e / z, tail / z

    def dense(self, row, temperature):
        """Every class's probability."""
        ids, probabilities, mass = self.head(row, temperature)
        p = np.zeros(self.classes)
        if self.has_tail:
            b = self.prior @ self.weights(1.0 / temperature)[1:]
            b[ids] = -np.inf
            q = np.exp(b - b.max())
            p = mass * q / q.sum()
        p[ids] = probabilities
        return p

    def target(self, row, temperature):
        ids, probabilities, mass = self.head(row, temperature)
        label = {} if self.labels is None else {"label": int(self.labels[row])}
        return {
            "sample": int(self.sample_ids[row]),
            "temperature": temperature,
            **label,
            "ids": ids.tolist(),
            "probabilities": probabilities.tolist(),
            "logits": self.values[row].tolist(),
            "tail_mass": float(mass),
            "tail_classes": self.classes - self.k,
        }


# Half precision and, between the nodes, interpolation: twice the largest difference measured on the
# fixture. Means, in which rounding cancels, are held tighter.
TOLERANCE = 5e-4
MEAN_TOLERANCE = 1e-5


def check(cache, expected):
    """Compares a cache with what its logits give; returns the largest difference of each kind."""
    require(cache.sample_ids.tolist() == expected["samples"], "other samples")
    require(cache.labels.tolist() == expected["labels"], "other labels")
    require(cache.ids.tolist() == expected["head_ids"], "other heads")
    rounding = 2.0**-11 if cache.manifest["storage"]["values"] == "f16" else 2.0**-24
    rows = range(len(cache.sample_ids))
    largest = {}

    def compare(kind, found, wanted, tolerance):
        difference = np.abs(np.asarray(found) - np.asarray(wanted))
        largest[kind] = max(largest.get(kind, 0.0), float(difference.max()))
        require((difference <= tolerance).all(), f"{kind}: off by {difference.max():.2e}, more than {np.max(tolerance):.2e}")

    compare("head values", cache.values, expected["head_values"], rounding * np.abs(expected["head_values"]) + 1e-12)
    for at in expected["at"]:
        t = at["temperature"]
        at_node = bool((np.abs(cache.nodes - 1 / t) < 1e-12).any())
        heads = [cache.head(row, t) for row in rows]
        compare(f"head at T = {t}", [p for _, p, _ in heads], at["probabilities"], TOLERANCE)
        compare(f"tail mass at T = {t}", [mass for _, _, mass in heads], at["tail_mass"], TOLERANCE)
        dense = np.array([cache.dense(row, t) for row in rows])
        compare(f"sum at T = {t}", dense.sum(axis=1), 1.0, 1e-12)
        if at_node:
            for row in rows:
                dense[row, cache.ids[row]] = 0.0
            compare(f"mean tail at T = {t}", dense.mean(axis=0), at["mean_tail_mass_by_class"], MEAN_TOLERANCE)
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--temperature", type=float, action="append", help="may be given several times; default 1")
    parser.add_argument("--sample", type=int, help="default: every sample")
    parser.add_argument("--dense", action="store_true", help="add every class's probability")
    parser.add_argument("--verify", action="store_true", help="compare sizes and digests first")
    parser.add_argument("--check", metavar="EXPECTED", help="compare with a file made by tools/fixture_v1.py")
    options = parser.parse_args()
    try:
        cache = Cache(options.cache, verify=options.verify or bool(options.check))
        if options.check:
            largest = check(cache, json.loads(Path(options.check).read_text(encoding="utf-8")))
            print("read_cache: every target is as expected; largest differences: ", end="")
            print(", ".join(f"{kind} {value:.1e}" for kind, value in largest.items()))
            return 0
        rows = range(len(cache.sample_ids))
        if options.sample is not None:
            rows = np.flatnonzero(cache.sample_ids == options.sample).tolist()
            require(rows, f"the cache has no sample {options.sample}")
        targets = []
        for row in rows:
            for t in options.temperature or [1.0]:
                require(np.isfinite(t) and t > 0, f"temperature {t} is not a positive, finite number")
                dense = {"dense": cache.dense(row, t).tolist()} if options.dense else {}
                targets.append({**cache.target(row, t), **dense})
        json.dump(targets, sys.stdout, indent=1)
        print()
        return 0
    except (CacheError, OSError, KeyError, ValueError, pa.ArrowException) as error:
        print(f"read_cache: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
