#!/usr/bin/env python3
"""Reads a cache with pyarrow and NumPy, and trains from it with PyTorch; shares no code with the library.

    tools/read_cache.py CACHE                              every target at T = 1, as JSON
    tools/read_cache.py CACHE --sample 7 --temperature 4   one target at T = 4
    tools/read_cache.py CACHE --verify                     first compares every digest
    tools/read_cache.py CACHE --check EXPECTED             compares the targets with a file made by
                                                           tools/fixture_v1.py instead

Written from schemas/format-v1.md and format-v2.md alone; the sections named below are the first's. This one file is the whole
reader: copy it into your project. It needs NumPy and pyarrow, and PyTorch for the two last lines only:

    cache = Cache("my-cache")                      maps the shards when they are first touched
    rows = cache.rows_of(sample_ids)               targets are found by sample, never by order
    batch = cache.batch(rows, temperature=4)       "ids", "log_probs", "tail_log_mass"
    p = cache.dense(rows, temperature=4)           every class's probability

    batch = cache.torch_batch(rows, device)        as stored: serves every temperature
    loss = kl_loss(student(inputs), batch, cache, temperature=4)
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa

TAILS = ("shape", "prior", "uniform", "bucket", "renormalize")
# Numbers of log-weights or targets that are worked on at once.
CHUNK = 1 << 23


class CacheError(Exception):
    """A cache that is not what the format says, or that does not hold what it is asked for."""


def require(holds, problem):
    if not holds:
        raise CacheError(problem)


def log_sum_exp(values):
    """Over the last axis, which is kept."""
    largest = values.max(axis=-1, keepdims=True)
    return largest + np.log(np.exp(values - largest).sum(axis=-1, keepdims=True))


class TorchBatch(NamedTuple):
    """What is stored of a batch of targets, as tensors: no temperature is applied."""

    ids: "torch.Tensor"  # [n, k], int64
    values: "torch.Tensor"  # [n, k], float32: logits relative to the largest
    curve: "torch.Tensor"  # [n, nodes], float32; [n, 0] when the head holds every class
    codes: "torch.Tensor"  # [n, rank], float32; [n, 0] in a cache of rank 0


class Cache:
    """An open cache: a target is a row, and rows are numbered through all shards from 0.

    manifest, classes (V), k, nodes, rows; sample_ids and labels of all rows are read when first asked for.
    """

    def __init__(self, folder, verify=False):
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        require(path.exists(), f"{folder} holds no complete cache: manifest.json is missing")
        try:
            self.read_manifest(json.loads(path.read_text(encoding="utf-8")), path)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{path}: not a manifest of version 1 or 2: {type(error).__name__}: {error}") from error
        if verify:
            for entry in [*self.manifest["shards"], *([self.manifest["tail"]["model"]] if self.has_tail else [])]:
                self.verify(entry)
        self.starts = np.cumsum([0, *(shard["rows"] for shard in self.manifest["shards"])])
        self.rows = int(self.starts[-1])
        self.shards = [None] * len(self.manifest["shards"])
        self.prior = self.shape = self.basis = None
        if self.has_tail:
            self.read_tail_model()
        self.read_ids = self.read_labels = self.tail_tensors = None

    def __reduce__(self):
        # A worker process maps the files itself, and is not sent their contents.
        return (Cache, (self.folder,))

    @property
    def has_tail(self):
        return self.k < self.classes

    # ---- section 6 ----------------------------------------------------------------------------

    def read_manifest(self, m, path):
        found = (m.get("format"), m.get("format_version"))
        known = found in (("kd-cache", 1), ("kd-cache", 2))
        require(known, f"{path}: expected format kd-cache, version 1 or 2, found {found}")
        self.manifest = m
        self.classes, self.k = m["classes"], m["head"]["k"]
        self.nodes = np.array(m["tail"]["nodes"], dtype=np.float64)
        self.labelled = m["dataset"].get("labels") is not None
        require(m["complete"] is True, "the manifest says that the cache is not complete")
        require(2 <= self.classes < 2**32, f"classes: {self.classes}")
        require(1 <= self.k <= self.classes, f"head.k: expected 1 to {self.classes}, found {self.k}")
        rising = bool(np.all(np.diff(self.nodes) > 0)) and 1 <= len(self.nodes) <= 16
        sound = rising and self.nodes[0] > 0 and 1.0 in self.nodes and np.isfinite(self.nodes).all()
        require(sound, f"tail.nodes: {self.nodes}")
        ids = "u8" if self.classes <= 256 else "u16" if self.classes <= 65536 else "u32"
        require(m["storage"]["ids"] == ids, f"storage.ids: expected {ids}, found {m['storage']['ids']}")
        require(m["storage"]["form"] == "arrow", f"storage.form: {m['storage']['form']}")
        require(m["storage"]["values"] in ("f16", "f32"), f"storage.values: {m['storage']['values']}")
        require(m["storage"]["shard_samples"] >= 1, "storage.shard_samples: expected at least 1")
        self.rank = m["tail"]["rank"]
        most = 128 if self.has_tail and m["format_version"] == 2 else 0
        sound = (self.rank > 0) == (m["format_version"] == 2) and 0 <= self.rank <= most
        require(sound, f"tail.rank: expected {'1 to' if most else 'at most'} {most}, found {self.rank}")
        require(m["views"] == 1 and m["positions"] == m["samples"], "expected one view of each sample")
        require(not self.has_tail or m["tail"].get("model"), "tail.model is missing, and k < classes")
        after = 0
        for shard in m["shards"]:
            require(shard["rows"] >= 1 and shard["first_sample"] >= after, f"{shard['file']}: rows out of order")
            after = shard["first_sample"] + shard["rows"]
        rows = sum(shard["rows"] for shard in m["shards"])
        require(rows == m["positions"] < 2**63, f"shards: expected {m['positions']} rows, found {rows}")
        for entry in [*m["shards"], *([m["tail"]["model"]] if self.has_tail else [])]:
            self.path(entry["file"])

    def path(self, file):
        parts = PurePosixPath(file).parts
        sound = parts and not file.startswith("/") and not {".", ".."} & set(file.split("/"))
        require(sound, f"{file!r} is no path inside the cache")
        return self.folder / file

    def verify(self, entry):
        digest, size = hashlib.sha256(), 0
        with open(self.path(entry["file"]), "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
                size += len(part)
        found = "sha256:" + digest.hexdigest()
        require(size == entry["bytes"], f"{entry['file']}: expected {entry['bytes']} bytes, found {size}")
        require(found == entry["digest"], f"{entry['file']}: expected {entry['digest']}, found {found}")

    # ---- sections 3 and 4 ---------------------------------------------------------------------

    def map_columns(self, file, schema, rows):
        """The columns of one file as arrays over the mapped bytes: nothing is copied."""
        path = self.path(file)
        # Mapping an empty file is an error of its own, in other words.
        require(path.stat().st_size > 0, f"{file}: expected an Arrow IPC file, found 0 bytes")
        try:
            with pa.memory_map(str(path)) as source:
                whole = source.read_buffer()
                reader = pa.ipc.open_file(source)
                require(reader.num_record_batches == 1, f"{file}: {reader.num_record_batches} record batches")
                require(reader.schema.equals(schema), f"{file}: expected columns {schema}, found {reader.schema}")
                batch = reader.get_batch(0)
            batch.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise CacheError(f"{file}: no sound Arrow IPC file: {error}") from error
        require(batch.num_rows == rows, f"{file}: expected {rows} rows, found {batch.num_rows}")
        columns = {}
        for field, column in zip(schema, batch.columns):
            length = field.type.list_size if pa.types.is_fixed_size_list(field.type) else None
            values = column if length is None else column.flatten()
            require(column.null_count == 0 and values.null_count == 0, f"{file}: {field.name}: nulls")
            require(len(values) == rows * (length or 1), f"{file}: {field.name}: {len(values)} values")
            data = values.buffers()[-1]
            # What was compressed has been unpacked somewhere else.
            mapped = whole.address <= data.address and data.address + data.size <= whole.address + whole.size
            require(mapped, f"{file}: {field.name}: compressed, or not inside the file")
            array = values.to_numpy(zero_copy_only=True)
            columns[field.name] = array if length is None else array.reshape(rows, length)
        return columns

    def shard(self, index):
        if self.shards[index] is None:
            entry = self.manifest["shards"][index]
            self.shards[index] = self.map_columns(entry["file"], self.shard_schema(), entry["rows"])
        return self.shards[index]

    def shard_schema(self):
        m = self.manifest
        ids = {"u8": pa.uint8(), "u16": pa.uint16(), "u32": pa.uint32()}[m["storage"]["ids"]]
        values = {"f16": pa.float16(), "f32": pa.float32()}[m["storage"]["values"]]
        columns = [("sample_id", pa.uint64()), ("view", pa.uint16())]
        columns += [("label", pa.uint32())] if self.labelled else []
        columns += [("head_ids", self.list_of(ids, self.k)), ("head_values", self.list_of(values, self.k))]
        columns += [("tail_curve", self.list_of(values, len(self.nodes)))] if self.has_tail else []
        columns += [("tail_code", self.list_of(pa.int8(), self.rank))] if self.rank else []
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])

    @staticmethod
    def list_of(item, length):
        return pa.list_(pa.field("item", item, nullable=False), length)

    def read_tail_model(self):
        at_nodes = self.list_of(pa.float32(), len(self.nodes))
        columns = [("prior", at_nodes)]
        columns += [("shape", at_nodes), ("basis", self.list_of(pa.float16(), self.rank))] if self.rank else []
        schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])
        model = self.map_columns(self.manifest["tail"]["model"]["file"], schema, self.classes)
        finite = all(np.isfinite(column).all() for column in model.values())
        require(finite, "the tail model has weights that are not finite")
        self.prior, self.shape, self.basis = model["prior"], model.get("shape"), model.get("basis")

    # ---- rows ---------------------------------------------------------------------------------

    @property
    def sample_ids(self):
        """The sample of every row, rising: [rows], uint64."""
        if self.read_ids is None:
            ids = np.concatenate([self.shard(at)["sample_id"] for at in range(len(self.shards))])
            require((ids[1:] > ids[:-1]).all(), "sample ids do not rise; kd-cache verify says where")
            self.read_ids = ids
        return self.read_ids

    @property
    def labels(self):
        """The label of every row: [rows], uint32; None when the dataset has none."""
        if self.read_labels is None and self.labelled:
            labels = np.concatenate([self.shard(at)["label"] for at in range(len(self.shards))])
            require((labels < self.classes).all(), f"a label is not below {self.classes}; kd-cache verify says where")
            self.read_labels = labels
        return self.read_labels

    @staticmethod
    def whole_numbers(numbers, what):
        numbers = np.atleast_1d(np.asarray(numbers))
        sound = not numbers.size or numbers.ndim == 1 and numbers.dtype.kind in "iu" and numbers.min() >= 0
        require(sound, f"{what}: expected a list of whole numbers from 0 on, found {numbers}")
        return numbers

    def rows_of(self, samples):
        """The rows of `samples`, in that order: [n], int64."""
        ids = self.sample_ids
        # As the ids are stored: of two kinds of integer NumPy would make floats.
        samples = self.whole_numbers(samples, "sample ids").astype(np.uint64)
        # Ids without gaps, as rising ones over a whole dataset are, need no search.
        gapless = ids[-1] - ids[0] == len(ids) - 1
        at = np.maximum(samples, ids[0]) - ids[0] if gapless else np.searchsorted(ids, samples)
        at = np.minimum(at, len(ids) - 1).astype(np.int64)
        missing = samples[ids[at] != samples]
        require(not missing.size, f"the cache has no sample {', '.join(map(str, missing[:5]))}")
        return at

    def gather(self, rows, *names):
        """Columns of `rows`, in that order, each a copy in the type it is stored in."""
        rows = self.whole_numbers(rows, "rows").astype(np.int64)
        require((rows < self.rows).all(), f"rows go from 0 to {self.rows - 1}")
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        # Rows of one shard are fetched together; a table of chunks would be searched for every row.
        order = np.argsort(shard, kind="stable")
        touched, first = np.unique(shard[order], return_index=True)
        like = self.shard(touched[0] if touched.size else 0)
        out = [np.empty((len(rows), *like[name].shape[1:]), like[name].dtype) for name in names]
        for index, here in zip(touched, np.split(order, first[1:])):
            at = rows[here] - self.starts[index]
            for column, name in zip(out, names):
                column[here] = self.shard(index)[name][at]
        return out

    def raw(self, rows):
        """Targets of `rows` as stored: ids [n, k], values [n, k], curve [n, nodes], codes [n, rank]; without a
        tail the curve is [n, 0], without a shape the codes are.

        Ids are below the number of classes and all numbers finite, whatever a stranger's shard holds.
        """
        further = [*(["tail_curve"] if self.has_tail else []), *(["tail_code"] if self.rank else [])]
        ids, values, *further = self.gather(rows, "head_ids", "head_values", *further)
        curve = further[0] if self.has_tail else np.empty((len(ids), 0), values.dtype)
        codes = further[-1] if self.rank else np.empty((len(ids), 0), np.int8)
        usable = (ids < self.classes).all(-1) & np.isfinite(values).all(-1) & np.isfinite(curve).all(-1)
        if not usable.all():
            row = np.atleast_1d(np.asarray(rows))[np.argmin(usable)]
            raise CacheError(f"row {row}: expected class ids below {self.classes} and finite values")
        return ids, values, curve, codes

    # ---- section 5 ----------------------------------------------------------------------------

    def weights(self, beta):
        """With which values at 0 and at the nodes give the value at `beta`: [1 + nodes]."""
        x = np.concatenate([[0.0], self.nodes])
        hit = np.abs(x - beta) < 1e-12
        if hit.any():
            return hit.astype(np.float64)
        differences = x[:, None] - x[None, :]
        np.fill_diagonal(differences, 1.0)
        c = 1.0 / ((beta - x) * differences.prod(axis=1))
        return c / c.sum()

    def curve_weights(self, temperature, tail):
        """(c, w) such that log Σ exp over the tail is c + curve · w; None where `tail` knows no tail."""
        require(tail in TAILS, f"tail: expected one of {', '.join(TAILS)}, found {tail!r}")
        require(np.isfinite(temperature) and temperature > 0, f"temperature {temperature} is not a positive, finite number")
        if not self.has_tail or tail == "renormalize":
            return None
        beta, factor = 1.0 / temperature, 1.0
        if tail == "bucket":
            # What is left over at T = 1, tempered like a class.
            beta, factor = 1.0, beta
        covered = beta <= self.nodes[-1] * (1 + 1e-12)
        require(covered, f"temperature {temperature} is below {1 / self.nodes[-1]}, the lowest the tail nodes cover")
        w = self.weights(beta) * factor
        return w[0] * np.log(self.classes - self.k), w[1:]

    def batch(self, rows, temperature, tail="shape"):
        """The targets of `rows` at a temperature, as arrays.

        "ids": [n, k], int64; "log_probs": [n, k], of those classes; "tail_log_mass": [n], of all others
        together (-inf where they have no mass). "shape", "prior" and "uniform" are the same here: they differ
        in how that mass is spread.
        """
        tail_at = self.curve_weights(temperature, tail)
        return self.decode(self.raw(rows), temperature, tail_at)

    @staticmethod
    def decode(raw, temperature, tail_at):
        """`batch` of what `raw` gives, with `tail_at` of `curve_weights`."""
        ids, values, curve, _ = raw
        scaled = values.astype(np.float64) / temperature
        log_z = log_sum_exp(scaled)
        mass = np.full(len(ids), -np.inf)
        if tail_at is not None:
            mass = tail_at[0] + curve.astype(np.float64) @ tail_at[1]
            log_z = np.logaddexp(log_z, mass[:, None])
            mass = mass - log_z[:, 0]
        return {"ids": ids.astype(np.int64), "log_probs": scaled - log_z, "tail_log_mass": mass}

    def tail_log_weights(self, temperature, tail="shape"):
        """Log-weights of every class, by which the tail's mass is spread: [V], their exponentials sum to 1.

        A position's own weights are these without its head, normalised anew; those of a shape are moved by the
        position's code first (see `position_log_weights`).
        """
        self.curve_weights(temperature, tail)
        require(self.has_tail, "the head holds every class: there is no tail")
        if tail not in ("shape", "prior"):
            return np.full(self.classes, -np.log(self.classes))
        log_weights = self.shape if tail == "shape" and self.rank else self.prior
        b = log_weights.astype(np.float64) @ self.weights(1.0 / temperature)[1:]
        return b - log_sum_exp(b)

    def position_log_weights(self, codes, temperature, tail="shape"):
        """Log-weights of every class for each of `codes`, [n, rank], up to a constant: [n, V]."""
        b = np.tile(self.tail_log_weights(temperature, tail), (len(codes), 1))
        if tail == "shape" and self.rank:
            b += codes.astype(np.float64) @ self.basis.astype(np.float64).T / temperature
        return b

    def dense(self, rows, temperature, tail="shape"):
        """Every class's probability: [n, V]. A bucket's mass, which names no classes, is spread evenly."""
        tail_at, raw = self.curve_weights(temperature, tail), self.raw(rows)
        batch = self.decode(raw, temperature, tail_at)
        p = np.zeros((len(batch["ids"]), self.classes))
        if self.has_tail and tail != "renormalize":
            log_w = self.position_log_weights(raw[3], temperature, tail)
            np.put_along_axis(log_w, batch["ids"], -np.inf, axis=1)
            p = np.exp(log_w - log_sum_exp(log_w) + batch["tail_log_mass"][:, None])
        np.put_along_axis(p, batch["ids"], np.exp(batch["log_probs"]), axis=1)
        return p

    # ---- PyTorch ------------------------------------------------------------------------------

    def torch_batch(self, rows, device="cpu"):
        """What is stored of `rows` as a TorchBatch on `device`."""
        import torch

        ids, values, curve, codes = self.raw(rows)
        kinds = ((ids, np.int64), (values, np.float32), (curve, np.float32), (codes, np.float32))
        return TorchBatch(*(torch.from_numpy(array.astype(kind)).to(device) for array, kind in kinds))

    def torch_tail(self, temperature, tail, device, dtype):
        """Log-weights [V] in double, on `device`, both they and the weights in `dtype`, and the basis over the
        temperature, [rank, V], where the tail has a shape; kept until others are asked for."""
        import torch

        key = (temperature, tail, device, dtype)
        if self.tail_tensors is None or self.tail_tensors[0] != key:
            log_w = torch.from_numpy(self.tail_log_weights(temperature, tail)).to(device)
            basis = None
            if tail == "shape" and self.rank:
                basis = torch.from_numpy(self.basis.astype(np.float64).T / temperature).to(device, dtype)
            self.tail_tensors = (key, log_w, log_w.to(dtype), log_w.exp().to(dtype), basis)
        return self.tail_tensors[1:]


# Up to so many classes the target is written out densely; beyond, a tail that is the same for every position
# enters through one matrix-vector product and no dense target exists. Both are the same number.
DENSE_CLASSES = 4096


def kl_loss(student_logits, batch, cache, temperature, tail="shape", dense=None):
    """T² · mean KL(target ‖ softmax(student_logits / T)) in nats: a scalar with gradients for the logits.

    `student_logits`: [n, V], raw; `batch`: TorchBatch of the same n positions on the same device. "bucket"
    compares k + 1 outcomes, "renormalize" the renormalised head with the student's whole softmax. Everything is
    computed in single precision at least, also under autocast.
    """
    import torch

    tail_at = cache.curve_weights(temperature, tail)
    shape = (len(batch.ids), cache.classes)
    require(tuple(student_logits.shape) == shape, f"student_logits: expected {shape}, found {tuple(student_logits.shape)}")
    dense = cache.classes <= DENSE_CLASSES if dense is None else dense
    dtype = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    device = student_logits.device
    with torch.autocast(device.type, enabled=False):
        scaled = student_logits.to(dtype) / temperature
        head = batch.values.to(dtype) / temperature
        log_z = head.logsumexp(-1, keepdim=True)
        if tail_at is None:
            kl = divergence(head - log_z, scaled.log_softmax(-1).gather(-1, batch.ids))
            return temperature**2 * kl.mean()
        log_tail = tail_at[0] + batch.curve.to(dtype) @ torch.as_tensor(tail_at[1], dtype=dtype, device=device)
        log_z = torch.logaddexp(log_z, log_tail.unsqueeze(-1))
        log_head, log_tail = head - log_z, log_tail - log_z.squeeze(-1)
        if tail == "bucket":
            kl = kl_bucket(scaled, batch.ids, log_head, log_tail)
        else:
            *weights, basis = cache.torch_tail(temperature, tail, device, dtype)
            if basis is not None:
                kl = kl_shape(scaled, batch, log_head, log_tail, weights[1], basis)
            else:
                kl = (kl_dense if dense else kl_product)(scaled, batch.ids, log_head, log_tail, *weights)
        return temperature**2 * kl.mean()


def divergence(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_dense(scaled, ids, log_head, log_tail, _, log_w, __):
    """The target written out over all classes."""
    off_head = log_w.expand_as(scaled).scatter(-1, ids, float("-inf"))
    log_p = (off_head.log_softmax(-1) + log_tail.unsqueeze(-1)).scatter(-1, ids, log_head)
    return divergence(log_p, scaled.log_softmax(-1))


def kl_shape(scaled, batch, log_head, log_tail, log_w, basis):
    """The same with weights of each position's own, so many positions at a time."""
    import torch

    step = max(1, CHUNK // scaled.shape[1])
    parts = []
    for start in range(0, len(scaled), step):
        at = slice(start, start + step)
        moved = torch.addmm(log_w, batch.codes[at].to(log_w.dtype), basis)
        parts.append(kl_dense(scaled[at], batch.ids[at], log_head[at], log_tail[at], None, moved, None))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def kl_product(scaled, ids, log_head, log_tail, exact_log_w, _, w):
    """The same without a dense target. With u_j = w_j / (1 - W), W = Σ_H w, off the head:

    Σ_j u_j log softmax(s)_j = (w · s - Σ_H w s) / (1 - W) - logsumexp(s), and likewise for the weights' own
    entropy. Sums over the head are taken in double precision, because 1 - W may be small.
    """
    log_sum = scaled.logsumexp(-1, keepdim=True)
    on_head = scaled.gather(-1, ids)
    head_log_w = exact_log_w[ids]
    head_w = head_log_w.exp()
    kept = (1.0 - head_w.sum(-1)).clamp_min(sys.float_info.min)
    negative_entropy = (exact_log_w.exp() * exact_log_w).sum()
    entropy = (negative_entropy - (head_w * head_log_w).sum(-1)) / kept - kept.log()
    mean = (scaled @ w).double() - (head_w * on_head.double()).sum(-1)
    log_q = mean / kept - log_sum.squeeze(-1).double()
    tail = log_tail.double().exp() * (log_tail.double() + entropy - log_q)
    return divergence(log_head, on_head - log_sum) + tail.to(scaled.dtype)


def kl_bucket(scaled, ids, log_head, log_tail):
    """The head's classes, and everything else as one outcome."""
    log_q = scaled.log_softmax(-1)
    rest = log_q.scatter(-1, ids, float("-inf")).logsumexp(-1)
    return divergence(log_head, log_q.gather(-1, ids)) + log_tail.exp() * (log_tail - rest)


# ---- the command line ---------------------------------------------------------------------------

# Half precision and, between the nodes, interpolation: twice the largest difference measured on the
# fixture. Means, in which rounding cancels, are held tighter.
TOLERANCE = 5e-4
MEAN_TOLERANCE = 1e-5


def check(cache, expected):
    """Compares a cache with what its logits give; returns the largest difference of each kind."""
    rows = np.arange(cache.rows)
    ids, values, *_ = cache.raw(rows)
    require(cache.sample_ids.tolist() == expected["samples"], "other samples")
    require(cache.labels.tolist() == expected["labels"], "other labels")
    require(ids.tolist() == expected["head_ids"], "other heads")
    rounding = 2.0**-11 if cache.manifest["storage"]["values"] == "f16" else 2.0**-24
    largest = {}

    def compare(kind, found, wanted, tolerance):
        difference = np.abs(np.asarray(found) - np.asarray(wanted))
        largest[kind] = max(largest.get(kind, 0.0), float(difference.max()))
        require((difference <= tolerance).all(), f"{kind}: off by {difference.max():.2e}, more than {np.max(tolerance):.2e}")

    compare("head values", values, expected["head_values"], rounding * np.abs(expected["head_values"]) + 1e-12)
    for at in expected["at"]:
        t = at["temperature"]
        batch = cache.batch(rows, t)
        compare(f"head at T = {t}", np.exp(batch["log_probs"]), at["probabilities"], TOLERANCE)
        compare(f"tail mass at T = {t}", np.exp(batch["tail_log_mass"]), at["tail_mass"], TOLERANCE)
        dense = cache.dense(rows, t)
        compare(f"sum at T = {t}", dense.sum(axis=1), 1.0, 1e-12)
        if (np.abs(cache.nodes - 1 / t) < 1e-12).any():
            np.put_along_axis(dense, batch["ids"], 0.0, axis=1)
            compare(f"mean tail at T = {t}", dense.mean(axis=0), at["mean_tail_mass_by_class"], MEAN_TOLERANCE)
    return largest


def target(cache, row, temperature, dense):
    """One row as plain data."""
    batch = cache.batch([row], temperature)
    label = {} if cache.labels is None else {"label": int(cache.labels[row])}
    return {
        "sample": int(cache.sample_ids[row]),
        "temperature": temperature,
        **label,
        "ids": batch["ids"][0].tolist(),
        "probabilities": np.exp(batch["log_probs"][0]).tolist(),
        "logits": cache.raw([row])[1][0].tolist(),
        "tail_mass": float(np.exp(batch["tail_log_mass"][0])),
        "tail_classes": cache.classes - cache.k,
        **({"dense": cache.dense([row], temperature)[0].tolist()} if dense else {}),
    }


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
        rows = range(cache.rows) if options.sample is None else cache.rows_of(options.sample).tolist()
        temperatures = options.temperature or [1.0]
        json.dump([target(cache, row, t, options.dense) for row in rows for t in temperatures], sys.stdout, indent=1)
        print()
        return 0
    except (CacheError, OSError, KeyError, ValueError) as error:
        print(f"read_cache: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
