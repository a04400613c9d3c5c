#!/usr/bin/env python3
"""Reads a cache with pyarrow and NumPy, and trains from it with PyTorch; shares no code with the library.

    tools/read_cache.py CACHE                              every target at T = 1, as JSON; sampled ones at theirs
    tools/read_cache.py CACHE --sample 7 --temperature 4   one target at T = 4
    tools/read_cache.py CACHE --verify                     first compares every digest, and every row with the rules
    tools/read_cache.py CACHE --check EXPECTED             compares the targets with an expected.json of
                                                           tests/fixtures instead

Written from schemas/format-v1.md to format-v5.md alone; sections are the first's unless they are called 3.1, 3.2, …,
which are the third's, and likewise 4.1, … and 5.1, …. This one file is the whole reader: copy it into your project. It needs
NumPy and pyarrow, PyTorch for the two last lines only, and Pillow where images are resized:

    cache = Cache("my-cache")                      maps the shards when they are first touched
    rows = cache.rows_of(sample_ids)               targets are found by sample (and view), never by order
    batch = cache.batch(rows, temperature=4)       "ids", "log_probs", "tail_log_mass", …
    p = cache.dense(rows, temperature=4)           every class's probability

    x = cache.features("pooled", rows)             a feature of the teacher, where the cache keeps some
    tokens = cache.tokens(rows)                    of a dataset of tokens: what each row was predicted on
    x = cache.prepare(image, sample, view)         of images: the teacher's input, resized, cut and scaled as it was
    batch = cache.torch_batch(rows, device)        as stored: serves every temperature
    loss = kl_loss(student(inputs), batch, cache, temperature=4)

A row is a sample. It has one target, or in a dataset of tokens one for each of its tokens, and whatever is returned
has the targets of all `rows` one after the other: those of rows[i] are offsets[i] to offsets[i + 1] of
cache.offsets(rows). Where heads differ in size, each has the first `counts` of its k places; the others hold its
first class again, with a logit and a log-probability of -inf.

A DataLoader is quickest with whole batches, which it asks a dataset with `__getitems__` for; workers map the files themselves:

    class Distilled(torch.utils.data.Dataset):
        def __init__(self, images, cache):
            self.images, self.cache = images, cache

        def __len__(self):
            return len(self.images)

        def __getitems__(self, samples):
            x = torch.stack([self.images[sample] for sample in samples])
            return x, self.cache.torch_batch(self.cache.rows_of(samples))

    def whole(batch):
        return batch

    for x, batch in DataLoader(Distilled(images, cache), 256, shuffle=True, num_workers=2, collate_fn=whole, pin_memory=True):
        loss = kl_loss(student(x.cuda()), batch.to("cuda"), cache, temperature=4)

Where the cache has several views of each image (`[augment]` in its config), the student is to see the part that the teacher saw. Which
one that is depends on seed, sample and view alone, and `prepare` cuts it out; epoch e takes view e mod cache.views:

    class Views(torch.utils.data.Dataset):
        def __init__(self, files, cache):  # files[i] is that of sample i: kd-cache samples lists them
            self.files, self.cache, self.view = files, cache, 0

        def __len__(self):
            return len(self.files)

        def __getitems__(self, samples):
            x = [self.cache.prepare(Image.open(self.files[sample]), sample, self.view) for sample in samples]
            return torch.from_numpy(np.stack(x)), self.cache.torch_batch(self.cache.rows_of(samples, self.view))

    loader = DataLoader(Views(files, cache), 256, shuffle=True, num_workers=8, collate_fn=whole)
    for epoch in range(epochs):
        loader.dataset.view = epoch % cache.views  # workers are told as an epoch begins; not those of persistent_workers=True
        for x, batch in loader:
            loss = kl_loss(student(x), batch, cache, temperature=4)

`prepare` takes what PIL's Image.open gives, or an array of bytes, [height, width] or [height, width, channels], and gives a float32 array
in the manifest's layout, with views and without. Where the file decodes to the same bytes, as lossless ones do, it is the teacher's
input to the bit, but for one or two bytes in a hundred of a resized image, which are off by one, seldom by two. Decoders of JPEG
differ by a unit or two, and by some more where colours have half the size; 16 bits of a PPM differ by one, and a GIF whose first frame is
smaller than its screen has other colours around it. `cache.view(sample, view, height, width)` is a view's part
in pixels, for pipelines of your own.

Positions that are not to count (padding, prompts) are left out on both sides: kl_loss(logits[mask], batch.of(mask), …).

Random rows are quickest out of Arrow shards of floats, which are mapped and gathered from. Quantized ones, the default for tokens, are
unpacked number by number, which in NumPy takes tens of milliseconds a call, however few rows it has: ask for many rows at once, or
`kd-cache convert FROM TO --form arrow --values f32` (every target the same to the bit; f16: half as large). Parquet shards are decoded
whole when targets in them are first touched, and kept.
"""

import argparse
import hashlib
import json
import math
import operator
import re
import sys
import warnings
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


def ranges(starts, lengths):
    """The numbers from each of `starts` on, as many as `lengths` says, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


class Targets(NamedTuple):
    """What is stored of n targets: no temperature is applied."""

    ids: np.ndarray  # [n, k], as stored
    values: np.ndarray  # [n, k], as stored or float32: logits relative to the largest; -inf beyond `counts`
    curve: np.ndarray  # [n, nodes]; [n, 0] when the head holds every class
    codes: np.ndarray  # [n, rank], int8; [n, 0] in a cache of rank 0
    counts: np.ndarray  # [n], int64: classes in each head, from 1 to k


class TorchBatch(NamedTuple):
    """What is stored of a batch of targets, as tensors: no temperature is applied."""

    ids: "torch.Tensor"  # [n, k], int64
    values: "torch.Tensor"  # [n, k], float32: logits relative to the largest; -inf beyond `counts`
    curve: "torch.Tensor"  # [n, nodes], float32; [n, 0] when the head holds every class
    codes: "torch.Tensor"  # [n, rank], float32; [n, 0] in a cache of rank 0
    counts: "torch.Tensor"  # [n], int64: classes in each head

    def to(self, device, non_blocking=True):
        """The same on another device."""
        return TorchBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def of(self, which):
        """Some of the targets: `which` is a mask over all n, or places."""
        return TorchBatch(*(tensor[which] for tensor in self))


class View(NamedTuple):
    """What is seen of an image, in pixels, and whether left and right change places."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


class Lists(NamedTuple):
    """A column of lists: that of row i is items[offsets[i]:offsets[i + 1]]."""

    offsets: np.ndarray  # [rows + 1]
    items: np.ndarray

    def of(self, rows):
        """The lists of `rows`, one after the other."""
        starts = self.offsets[rows].astype(np.int64)
        return self.items[ranges(starts, self.lengths(rows))]

    def lengths(self, rows):
        return self.offsets[rows + 1].astype(np.int64) - self.offsets[rows]


# ---- sections 3.4 and 3.5: numbers as bits ------------------------------------------------------

LONGEST_WORD = 12
ANCHOR_POSITIONS = 64


class Code:
    """A code of whole numbers. The next twelve bits, whatever of them the word is, find an entry."""

    def __init__(self, lengths, precision, what):
        lengths = np.asarray(lengths).astype(np.int64)
        if len(lengths) == 1:
            require(lengths[0] == 0, f"{what}: expected length 0 of its one word, found {lengths[0]}")
        else:
            sound = (1 <= lengths).all() and (lengths <= LONGEST_WORD).all()
            require(sound, f"{what}: expected code lengths from 1 to {LONGEST_WORD}, found {lengths.tolist()}")
            filled = int((1 << (LONGEST_WORD - lengths)).sum())
            room = 1 << LONGEST_WORD
            require(filled == room, f"{what}: expected a complete code, found lengths that fill {filled} of {room} words")
        exponent, step = np.divmod(np.arange(len(lengths)), 1 << precision)
        base = ((step + (1 << precision)) << exponent) - (1 << precision)
        entries = base << 16 | exponent << 8 | lengths
        # Words count up by length and then bucket, and so do the entries, were the words read from the highest bit.
        by_word = np.argsort(lengths, kind="stable")
        highest_first = np.repeat(entries[by_word], 1 << (LONGEST_WORD - lengths[by_word]))
        bits = np.arange(1 << LONGEST_WORD)
        reverse = sum(((bits >> bit) & 1) << (LONGEST_WORD - 1 - bit) for bit in range(LONGEST_WORD))
        self.table = highest_first[reverse]

    def read(self, words, at):
        """The numbers that begin at the bits `at`, and where the next ones do. `words` are 64 bits from every byte."""
        bits = words.take(at >> 3, mode="clip") >> (at & 7)
        entry = self.table[bits & ((1 << LONGEST_WORD) - 1)]
        length, extra = entry & 0xFF, (entry >> 8) & 0xFF
        numbers = (entry >> 16) + ((bits >> length) & ((1 << extra) - 1))
        return numbers, at + (length + extra)


def buckets(largest, precision):
    exponent = (largest + (1 << precision)).bit_length() - 1 - precision
    return (exponent << precision) + ((largest + (1 << precision)) >> exponent) - (1 << precision) + 1


def context(rank):
    """Which code a rank has."""
    return rank if rank < 16 else 11 + rank.bit_length()


def unzigzag(numbers):
    return (numbers >> 1) ^ -(numbers & 1)


class Codebook:
    """What packed positions are written with, and how they are read."""

    @staticmethod
    def tables(cache):
        """How many codes each table has, the largest number, and the precision."""
        ranks, nodes = context(cache.k - 1) + 1, len(cache.nodes) if cache.has_tail else 0
        return {
            "ids": (ranks, cache.classes - 1, 1),
            "falls": (ranks, 65535, 2),
            "curve": (nodes, 131071, 2),
            "tail_codes": (cache.rank, 255, 3),
            "counts": (int(cache.variable), cache.k - 1, 2),
        }

    def __init__(self, cache, columns, file):
        self.cache, self.order = cache, columns["order"][0]
        seen = np.zeros(cache.classes, bool)
        seen[self.order[self.order < cache.classes]] = True
        require(seen.all(), f"{file}: order: expected each of {cache.classes} classes once")
        self.codes = {}
        for name, (count, largest, precision) in self.tables(cache).items():
            lengths = columns[name][0].reshape(count, -1) if count else ()
            self.codes[name] = [Code(row, precision, f"{file}: {name}, code {at}") for at, row in enumerate(lengths)]
        # Section 3.4: what the nodes above one, and β = 0, foretell of it.
        self.foretell = []
        nodes = [float(beta) for beta in cache.nodes] if cache.has_tail else []
        for at, beta in enumerate(nodes):
            x = [0.0, *nodes[at + 1 :]]
            weights = [1.0] * len(x)
            for a, b in ((a, b) for a in range(len(x)) for b in range(len(x)) if a != b):
                weights[a] *= (beta - x[b]) / (x[a] - x[b])
            self.foretell.append(weights)

    def unpack(self, data, lengths, positions, name_of):
        """Rows of `positions` positions each, from their `lengths` bytes of `data`, which follow one another:
        counts [n], ids [n, k], steps of the values [n, k] and of the curve [n, nodes], codes [n, rank]. `name_of`
        has the words for the i-th row.

        The first positions of all blocks of 64 are read together, number by number, then the second ones, and so on.
        """

        def hold(sound, rows, expected, found):
            if not sound.all():
                at = int(np.argmin(sound))
                raise CacheError(f"{name_of(int(rows[at]))}: expected {expected}, found {found[at]}")

        cache, n = self.cache, int(positions.sum())
        anchors = np.maximum(positions - 1, 0) // ANCHOR_POSITIONS
        byte_ends = np.cumsum(lengths)
        starts = byte_ends - lengths
        fits = lengths >= 4 * anchors
        hold(fits, np.arange(len(lengths)), "4 bytes for each anchor, one in 64 positions", lengths)
        words = np.concatenate([data, np.zeros(8, np.uint8)])
        words = np.ndarray(len(data) + 1, "<i8", words, strides=(1,)).astype(np.int64)
        # Blocks: a row's first begins where its anchors end, the others where those say.
        in_row = np.where(positions > 0, anchors + 1, 0)
        row = np.repeat(np.arange(len(positions)), in_row)
        block = ranges(np.zeros(len(positions), np.int64), in_row)
        anchor = words.take(starts[row] + 4 * (block - 1), mode="clip") & 0xFFFFFFFF
        at = 8 * (starts + 4 * anchors)[row] + np.where(block > 0, anchor, 0)
        end = 8 * byte_ends[row]
        size = np.minimum(positions[row] - ANCHOR_POSITIONS * block, ANCHOR_POSITIONS)
        first = (np.cumsum(positions) - positions)[row] + ANCHOR_POSITIONS * block
        # Where the block must end, if another follows.
        following = np.append(at[1:], 0)
        follows = np.append(row[1:] == row[:-1], False)
        # The longest blocks first: those that still have positions are then a slice.
        order = np.argsort(-size, kind="stable")
        blocks = (at, end, size, first, following, follows, row, block)
        at, end, size, first, following, follows, row, block = (numbers[order] for numbers in blocks)

        nodes, rank = len(self.foretell), cache.rank
        counts = np.full(n, cache.k)
        places, steps = np.zeros((n, cache.k), np.int64), np.zeros((n, cache.k), np.int64)
        curve, codes = np.zeros((n, nodes), np.int64), np.zeros((n, rank), np.int64)
        for position in range(int(size.max(initial=0))):
            live = int(np.searchsorted(-size, -position, side="left"))
            out, begin = first[:live] + position, at[:live].copy()
            here = begin
            if cache.variable:
                head, here = self.codes["counts"][0].read(words, here)
                hold(head < cache.k, row, f"a head of at most {cache.k} classes", head + 1)
                counts[out] = head + 1
            longest = int(counts[out].max(initial=0))
            with_rank = [self.having(counts[out], j) for j in range(longest)]
            for table, name, least in ((places, "ids", 0), (steps, "falls", 1)):
                for j in range(least, longest):
                    which = with_rank[j]
                    read, next_here = self.codes[name][context(j)].read(words, here[which])
                    if isinstance(which, slice):
                        here = next_here
                    else:
                        here[which] = next_here
                    table[out[which], j] = read
            at_zero = np.floor(np.log(cache.classes - counts[out]) / cache.curve_step + 0.5) if nodes else None
            for node in reversed(range(nodes)):
                left, here = self.codes["curve"][node].read(words, here)
                weights = self.foretell[node]
                foretold = weights[0] * at_zero
                for weight, above in zip(weights[1:], range(node + 1, nodes)):
                    foretold = foretold + weight * curve[out, above]
                foretold = np.clip(np.floor(foretold + 0.5), -32768, 32767).astype(np.int64)
                curve[out, node] = np.clip(foretold + unzigzag(left), -32768, 32767)
            for i in range(rank):
                read, here = self.codes["tail_codes"][i].read(words, here)
                codes[out, i] = np.clip(unzigzag(read), -128, 127)
            at[:live] = here
            wanted = f"more bits, for position {position} of a block of {ANCHOR_POSITIONS}"
            hold(here <= end[:live], row, wanted, np.maximum(end[:live] - begin, 0))
        off = np.where(follows, following - at, 0)
        hold(off == 0, row, "anchors where the position before them ends, 0 bits off", off)
        padding = np.where(follows, 0, end - at)
        hold(padding < 8, row, "less than 8 bits after its last position", padding)
        left = (words.take(at >> 3, mode="clip") >> (at & 7)) & ((1 << padding) - 1)
        hold(left == 0, row, "zeros after its last position", left)
        highest = places.max(axis=1, initial=0)
        of_position = np.repeat(np.arange(len(positions)), positions)
        hold(highest < cache.classes, of_position, f"places of classes below {cache.classes}", highest)
        # What falls beyond the last step stays there.
        steps = np.minimum(np.cumsum(steps, axis=1), 65535)
        return counts, self.order[places], steps, curve, codes

    @staticmethod
    def having(counts, rank):
        """Which heads have a rank; all of them as a slice, which copies nothing."""
        has = counts > rank
        return slice(None) if has.all() else np.flatnonzero(has)


# ---- section 3.9: what the teacher saw of an image ----------------------------------------------

WORD = 2**64 - 1
CROP_TRIES = 10
# What red, green and blue weigh in grey, of 65,536.
LUMA = np.array([19595, 38470, 7471])


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def uniform(seed, sample, view):
    """Numbers from 0 to below 1, without end."""
    state = mix(mix(mix(seed ^ 0x76696577) ^ sample) ^ view)
    while True:
        state = state + 0x9E3779B97F4A7C15 & WORD
        yield (mix(state) >> 11) / 2**53


def random_part(crop, random, height, width):
    """Top, left, height and width of a part of random place, size and shape; after ten tries of one in the middle."""
    (small, large), (narrow, wide) = crop["scale"], crop["ratio"]
    for _ in range(CROP_TRIES):
        area = height * width * (small + (large - small) * next(random))
        ratio = math.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * next(random))
        # round() takes halves to the even number.
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            return int(next(random) * (height - h + 1)), int(next(random) * (width - w + 1)), h, w
    h, w = height, width
    if width / height < narrow:
        h = min(max(round(width / narrow), 1), height)
    elif width / height > wide:
        w = min(max(round(height * wide), 1), width)
    return (height - h) // 2, (width - w) // 2, h, w


def resized(pixels, height, width, interpolation):
    """[height, width, channels], by Pillow: rows first, whatever order its version has, and each channel by itself."""
    if pixels.shape[:2] == (height, width):
        return pixels
    try:
        from PIL import Image
    except ImportError as error:
        raise CacheError("resizing an image needs Pillow: pip install pillow") from error
    method = Image.Resampling[interpolation.upper()]
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, -1, 0)]
    planes = [plane.resize((width, plane.height), method).resize((width, height), method) for plane in planes]
    return np.stack(planes, axis=-1)


def middle(pixels, side):
    """The square in the middle; what lies outside of the image is black."""
    lacking = [max(side - length, 0) for length in pixels.shape[:2]]
    pixels = np.pad(pixels, [*((n // 2, n - n // 2) for n in lacking), (0, 0)])
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


class Cache:
    """An open cache: a sample (a view of it, where there are many) is a row, and rows are numbered through all
    shards from 0.

    manifest, classes (V), k (of the largest head), nodes, rows, positions (targets in all rows together); sample_ids
    and labels of all rows are read when first asked for.
    """

    def __init__(self, folder, verify=False):
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        begun = "; its build is not finished: the same command goes on" if (self.folder / "build").exists() else ""
        require(path.exists(), f"{folder} holds no complete cache: manifest.json is missing{begun}")
        try:
            self.read_manifest(json.loads(path.read_text(encoding="utf-8")), path)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{path}: not a manifest of versions 1 to 5: {type(error).__name__}: {error}") from error
        if verify:
            for entry in self.entries():
                self.verify(entry)
        self.starts = np.cumsum([0, *(shard["rows"] for shard in self.manifest["shards"])])
        self.rows = int(self.starts[-1])
        self.shards = [None] * len(self.manifest["shards"])
        self.prior = self.shape = self.basis = None
        if self.has_tail:
            self.read_tail_model()
        self.codebook = None
        if self.whole:
            self.read_codebook()
        self.read_ids = self.read_labels = self.tail_tensors = self.checked_recipe = None
        if verify:
            for index in range(len(self.shards)):
                self.verify_rules(index)

    def __reduce__(self):
        # A worker process maps the files itself, and is not sent their contents.
        return (Cache, (self.folder,))

    @property
    def has_tail(self):
        return self.k < self.classes and self.draws is None

    # ---- section 6 ----------------------------------------------------------------------------

    def read_manifest(self, m, path):
        found = (m.get("format"), m.get("format_version"))
        known = found[0] == "kd-cache" and found[1] in (1, 2, 3, 4, 5)
        later = isinstance(found[1], int) and found[1] > 5
        hint = "; a newer kd-cache has a newer read_cache.py" if later else ""
        require(known, f"{path}: expected format kd-cache, versions 1 to 5, found {found}{hint}")
        version = found[1]
        self.draws, self.drawn_at = (m["head"].get(name) if version >= 4 else None for name in ("draws", "temperature"))
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
        self.form, values = m["storage"]["form"], m["storage"]["values"]
        later = version >= 3
        require(self.form in (("arrow", "parquet") if later else ("arrow",)), f"storage.form: {self.form}")
        known = ("f16", "f32", *(("quantized",) if later else ()))
        known = known if self.draws is None else ("counts",)
        require(values in known, f"storage.values: expected one of {', '.join(known)}, found {values}")
        require(m["storage"]["shard_samples"] >= 1, "storage.shard_samples: expected at least 1")
        self.rank = m["tail"]["rank"]
        least, most = {1: (0, 0), 2: (1, 128)}.get(version, (0, 128))
        most = most if self.has_tail else 0
        sound = least <= self.rank <= most
        require(sound, f"tail.rank: expected {f'{least} to' if least else 'at most'} {most}, found {self.rank}")
        self.read_features(m)
        self.read_later_versions(m, later)
        self.augment = m.get("augment") if later else None
        self.views = self.augment["views"] if self.augment else 1
        sound = m["views"] == self.views >= 1 and (self.vocabulary or m["positions"] == m["samples"] * self.views)
        expected = "one view" if self.views == 1 else f"{self.views} views"
        found = f"{m['views']} of {m['samples']} samples with {m['positions']} positions in all"
        require(sound, f"views: expected {expected} of each sample, with a position each, found {found}")
        require(not self.has_tail or m["tail"].get("model"), "tail.model is missing, and k < classes")
        after = 0
        for shard in m["shards"]:
            require(shard["rows"] >= 1 and shard["first_sample"] >= after, f"{shard['file']}: rows out of order")
            after = shard["first_sample"] + -(-shard["rows"] // self.views)
        rows = sum(shard["rows"] for shard in m["shards"])
        expected = m["samples"] * self.views
        require(rows == expected < 2**63, f"shards: expected {expected} rows, found {rows}")
        self.positions = sum(shard["positions"] if self.vocabulary else shard["rows"] for shard in m["shards"])
        expected = m["positions"]
        require(self.positions == expected < 2**63, f"shards: expected {expected} positions, found {self.positions}")
        for entry in self.entries():
            self.path(entry["file"])

    def read_features(self, m):
        """Section 5.1."""
        self.feature_list = m.get("features", []) if m["format_version"] == 5 else []
        names = [feature["name"] for feature in self.feature_list]
        for feature in self.feature_list:
            name, width = feature["name"], feature["width"]
            sound = re.fullmatch("[a-z0-9_]{1,48}", name) and names.count(name) == 1
            require(sound, f"features: expected names of a to z, digits and _, each once, found {name!r}")
            require(feature["values"] in ("f16", "i8"), f"features: {name}: values: {feature['values']}")
            require(1 <= width < 2**31, f"features: {name}: expected a width of at least 1, found {width}")

    def read_later_versions(self, m, later):
        """Sections 3.1 and 4.1, and which of the layouts of section 3.3 shards have."""
        mass = m["head"].get("mass") if later else None
        tokens = m["dataset"].get("tokens") if later else None
        self.variable, self.vocabulary = mass is not None or self.draws is not None, None
        if self.draws is not None:
            require(mass is None, "head.mass: expected none, because targets are sampled")
            require(1 <= self.draws <= 65535, f"head.draws: expected 1 to 65535, found {self.draws}")
            sound = math.isfinite(self.drawn_at) and self.drawn_at > 0
            require(sound, f"head.temperature: expected a positive, finite number, found {self.drawn_at}")
        elif self.variable:
            sound = 0 < mass <= 1 and self.has_tail
            require(sound, f"head.mass: expected above 0, at most 1, and k < classes, found {mass}")
        if tokens is not None:
            self.vocabulary = tokens["vocabulary"]
            require(1 <= self.vocabulary < 2**32, f"dataset.tokens.vocabulary: {self.vocabulary}")
        self.quantized = m["storage"]["values"] == "quantized"
        # Whether values are whole numbers.
        self.whole = self.quantized or self.draws is not None
        if self.quantized:
            self.step, self.curve_step = m["storage"]["step"], m["storage"]["curve_step"]
            for name in ("step", "curve_step"):
                found = m["storage"][name]
                require(0.002 <= found <= 2, f"storage.{name}: expected 0.002 to 2, found {found}")
            self.growth = m["storage"].get("step_growth", 0.0) if m["format_version"] >= 4 else 0.0
            require(0 <= self.growth <= 1, f"storage.step_growth: expected 0 to 1, found {self.growth}")
        if self.whole:
            require(m["storage"].get("codebook"), "storage.codebook is missing, and values are whole numbers")
        if self.whole and self.form == "arrow":
            self.layout = "packed"
        else:
            fixed = self.form == "arrow" and not self.variable and self.vocabulary is None
            self.layout = "fixed" if fixed else "lists"
        if m["format_version"] == 5:
            require(self.feature_list, "format_version: expected at most 4 without features, found 5")
            return
        if m["format_version"] == 4:
            own = self.draws is not None or m["storage"].get("step_growth") is not None
            require(own, "format_version: expected at most 3 without head.draws and storage.step_growth, found 4")
            return
        lowest = not later or self.layout != "fixed" or m.get("augment") is not None
        require(lowest, "format_version: expected 1 or 2 for shards with columns of version 1 or 2, found 3")

    def entries(self):
        """Files beside the manifest."""
        m = self.manifest
        model = [m["tail"]["model"]] if self.has_tail else []
        encoder = [m["tail"]["encoder"]] if m["tail"].get("encoder") else []
        return [*m["shards"], *model, *encoder, *([m["storage"]["codebook"]] if self.whole else [])]

    def path(self, file):
        parts = PurePosixPath(file).parts
        sound = parts and not file.startswith("/") and not {".", ".."} & set(file.split("/"))
        require(sound, f"{file!r} is no path inside the cache")
        return self.folder / file

    def existing(self, file):
        path = self.path(file)
        require(path.exists(), f"{file} is missing: have it from another copy, or run the command that built the cache again")
        return path

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
        """The columns of an Arrow file as arrays, or `Lists` of them, over the mapped bytes: nothing is copied."""
        path = self.existing(file)
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
        columns = self.arrays(file, schema, rows, batch.num_rows, batch.columns)
        for name, column in zip(schema.names, batch.columns):
            for data in filter(None, column.buffers()):
                # What was compressed has been unpacked somewhere else. Empty buffers lie anywhere.
                mapped = whole.address <= data.address and data.address + data.size <= whole.address + whole.size
                require(mapped or not data.size, f"{file}: {name}: compressed, or not inside the file")
            if isinstance(columns[name], Lists):
                offsets, items = columns[name]
                require(offsets[0] == 0 and offsets[-1] == len(items), f"{file}: {name}: offsets do not span its items")
        return columns

    def decode_columns(self, file, schema, rows, names=None):
        """The columns of a Parquet file, or those of `names`, decoded."""
        import pyarrow.parquet

        path = self.existing(file)
        try:
            table = pa.parquet.ParquetFile(path).read(columns=names)
            found = table.schema.remove_metadata()
            require(found.equals(schema), f"{file}: expected columns {schema}, found {found}")
            columns = [column.combine_chunks() for column in table.columns]
            columns = [c if isinstance(c, pa.Array) else pa.concat_arrays(c.chunks) for c in columns]
            for column in columns:
                column.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise CacheError(f"{file}: no sound Parquet file: {error}") from error
        return self.arrays(file, schema, rows, table.num_rows, columns)

    def column(self, index, name):
        """A column of numbers of a shard, of which nothing else is decoded."""
        if self.shards[index] is not None or self.form == "arrow":
            return self.shard(index)[name]
        entry, schema = self.manifest["shards"][index], self.shard_schema()
        return self.decode_columns(entry["file"], pa.schema([schema.field(name)]), entry["rows"], [name])[name]

    @staticmethod
    def arrays(file, schema, rows, found, columns):
        require(found == rows, f"{file}: expected {rows} rows, found {found}")
        arrays = {}
        for field, column in zip(schema, columns):
            length = field.type.list_size if pa.types.is_fixed_size_list(field.type) else None
            offsets = None
            if pa.types.is_list(field.type):
                offsets, values = column.offsets.to_numpy(zero_copy_only=True), column.values
            elif pa.types.is_binary(field.type):
                _, offsets, data = column.buffers()
                offsets = np.frombuffer(offsets, np.int32, rows + 1, 4 * column.offset)
                # A buffer may be padded; that of no bytes may be absent.
                values = pa.array([], pa.uint8())
                if data is not None:
                    values = pa.Array.from_buffers(pa.uint8(), int(offsets[-1]), [None, data])
            else:
                values = column if length is None else column.flatten()
            require(column.null_count == 0 and values.null_count == 0, f"{file}: {field.name}: nulls")
            array = values.to_numpy(zero_copy_only=True)
            if offsets is not None:
                arrays[field.name] = Lists(offsets, array)
                continue
            require(len(array) == rows * (length or 1), f"{file}: {field.name}: {len(array)} values")
            arrays[field.name] = array if length is None else array.reshape(rows, length)
        return arrays

    def shard(self, index):
        """The columns of a shard by name; where rows are lists or bits, also where their positions begin."""
        if self.shards[index] is None:
            entry = self.manifest["shards"][index]
            read = self.decode_columns if self.form == "parquet" else self.map_columns
            columns = read(entry["file"], self.shard_schema(), entry["rows"])
            self.check_lists(columns, entry)
            self.shards[index] = columns
        return self.shards[index]

    def check_lists(self, columns, entry):
        """Section 3.8: lists as long as the positions of their row ask for."""
        if self.layout == "fixed":
            return
        rows = np.arange(entry["rows"])
        positions = np.ones_like(rows)
        if self.vocabulary is not None:
            positions = columns["tokens"].lengths(rows)
            found = int(positions.sum())
            require(found == entry["positions"], f"{entry['file']}: expected {entry['positions']} positions, found {found}")
        columns["row_positions"] = np.concatenate([[0], np.cumsum(positions)])
        if self.vocabulary is not None:
            for feature in self.feature_list:
                self.hold_lengths(entry, columns, "feature_" + feature["name"], feature["width"] * positions)
                if feature["values"] == "i8":
                    self.hold_lengths(entry, columns, "scale_" + feature["name"], positions)
        if self.layout != "lists":
            return
        heads = self.k * positions
        if self.variable:
            self.hold_lengths(entry, columns, "head_counts", positions)
            counts = columns["head_counts"].of(rows).astype(np.int64)
            sound = ((1 <= counts) & (counts <= self.k)).all()
            require(sound, f"{entry['file']}: head_counts: expected 1 to {self.k}, found {counts.min()} to {counts.max()}")
            heads = np.diff(np.concatenate([[0], np.cumsum(counts)])[columns["row_positions"]])
        self.hold_lengths(entry, columns, "head_ids", heads)
        self.hold_lengths(entry, columns, self.head_name, heads)
        if self.has_tail:
            self.hold_lengths(entry, columns, "tail_curve", len(self.nodes) * positions)
        if self.rank:
            self.hold_lengths(entry, columns, "tail_code", self.rank * positions)

    @staticmethod
    def hold_lengths(entry, columns, name, wanted):
        wrong = np.flatnonzero(columns[name].lengths(np.arange(len(wanted))) != wanted)[:1]
        if wrong.size:
            found = columns[name].lengths(wrong)[0]
            raise CacheError(f"{entry['file']}: row {wrong[0]}: {name}: expected {wanted[wrong[0]]} items, found {found}")

    @property
    def head_name(self):
        """The column of a head's values."""
        return "head_values" if self.draws is None else "head_draws"

    def shard_schema(self):
        m, kinds = self.manifest, {"u8": pa.uint8(), "u16": pa.uint16(), "u32": pa.uint32()}
        ids = kinds[m["storage"]["ids"]]
        floats = {"f16": pa.float16(), "f32": pa.float32()}
        values = floats.get(m["storage"]["values"], pa.uint16())
        curve = floats.get(m["storage"]["values"], pa.int16())
        columns = [("sample_id", pa.uint64()), ("view", pa.uint16())]
        columns += [("label", pa.uint32())] if self.labelled else []
        if self.vocabulary is not None:
            size = self.vocabulary
            token = kinds["u8" if size <= 256 else "u16" if size <= 65536 else "u32"]
            columns += [("tokens", self.list_of(token)), ("documents", self.list_of(pa.uint32()))]
        if self.layout == "packed":
            columns += [("targets", pa.binary())]
        else:
            fixed = self.layout == "fixed"
            columns += [("head_counts", self.list_of(pa.uint16()))] if self.variable else []
            head = self.k if fixed else -1
            columns += [("head_ids", self.list_of(ids, head)), (self.head_name, self.list_of(values, head))]
            columns += [("tail_curve", self.list_of(curve, len(self.nodes) if fixed else -1))] if self.has_tail else []
            columns += [("tail_code", self.list_of(pa.int8(), self.rank if fixed else -1))] if self.rank else []
        return self.schema(columns + [column for feature in self.feature_list for column in self.feature_columns(feature)])

    def feature_columns(self, feature):
        """Section 5.2."""
        name, of_tokens = feature["name"], self.vocabulary is not None
        whole = feature["values"] == "i8"
        vectors = self.list_of(pa.int8() if whole else pa.float16(), -1 if of_tokens else feature["width"])
        scale = self.list_of(pa.float32()) if of_tokens else pa.float32()
        return [("feature_" + name, vectors), *([("scale_" + name, scale)] if whole else [])]

    @staticmethod
    def schema(columns):
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])

    @staticmethod
    def list_of(item, length=-1):
        """Lists of `length` items, or of any number."""
        return pa.list_(pa.field("item", item, nullable=False), length)

    def read_tail_model(self):
        at_nodes = self.list_of(pa.float32(), len(self.nodes))
        columns = [("prior", at_nodes)]
        columns += [("shape", at_nodes), ("basis", self.list_of(pa.float16(), self.rank))] if self.rank else []
        model = self.map_columns(self.manifest["tail"]["model"]["file"], self.schema(columns), self.classes)
        finite = all(np.isfinite(column).all() for column in model.values())
        require(finite, "the tail model has weights that are not finite")
        self.prior, self.shape, self.basis = model["prior"], model.get("shape"), model.get("basis")

    def read_codebook(self):
        """Section 3.6. Parquet is read without it, and it is checked nevertheless."""
        file = self.manifest["storage"]["codebook"]["file"]
        columns = [("order", self.list_of(pa.uint32(), self.classes))]
        for name, (count, largest, precision) in Codebook.tables(self).items():
            columns += [(name, self.list_of(pa.uint8(), count * buckets(largest, precision)))] if count else []
        self.codebook = Codebook(self, self.map_columns(file, self.schema(columns), 1), file)

    # ---- rows ---------------------------------------------------------------------------------

    @property
    def sample_ids(self):
        """The sample of every row, rising: [rows], uint64."""
        if self.read_ids is None:
            ids = np.concatenate([self.column(at, "sample_id") for at in range(len(self.shards))])
            require(self.rises(ids), "sample ids do not rise; kd-cache verify says where")
            self.read_ids = ids
        return self.read_ids

    @property
    def labels(self):
        """The label of every row: [rows], uint32; None when the dataset has none."""
        if self.read_labels is None and self.labelled:
            labels = np.concatenate([self.column(at, "label") for at in range(len(self.shards))])
            require((labels < self.classes).all(), f"a label is not below {self.classes}; kd-cache verify says where")
            self.read_labels = labels
        return self.read_labels

    @staticmethod
    def whole_numbers(numbers, what):
        numbers = np.atleast_1d(np.asarray(numbers))
        sound = not numbers.size or numbers.ndim == 1 and numbers.dtype.kind in "iu" and numbers.min() >= 0
        require(sound, f"{what}: expected a list of whole numbers from 0 on, found {numbers}")
        return numbers

    def rises(self, ids):
        """Whether samples rise, and each has all its views."""
        if len(ids) % self.views:
            return False
        by_sample = ids.reshape(-1, self.views)
        return bool((by_sample[1:, 0] > by_sample[:-1, 0]).all() and (by_sample == by_sample[:, :1]).all())

    def rows_of(self, samples, view=0):
        """The rows of one view of `samples`, in that order: [n], int64. Epoch e of training takes e mod views."""
        require(0 <= view < self.views, f"view: expected 0 to {self.views - 1}, found {view}")
        ids = self.sample_ids[:: self.views]
        # As the ids are stored: of two kinds of integer NumPy would make floats.
        samples = self.whole_numbers(samples, "sample ids").astype(np.uint64)
        # Ids without gaps, as rising ones over a whole dataset are, need no search.
        gapless = ids[-1] - ids[0] == len(ids) - 1
        at = np.maximum(samples, ids[0]) - ids[0] if gapless else np.searchsorted(ids, samples)
        at = np.minimum(at, len(ids) - 1).astype(np.int64)
        missing = samples[ids[at] != samples]
        require(not missing.size, f"the cache has no sample {', '.join(map(str, missing[:5]))}")
        return at * self.views + view

    def by_shard(self, rows):
        """`rows` as an array, and for each shard that they are in: its columns, which of `rows`, and their places in it.

        Rows of one shard are fetched together; a table of chunks would be searched for every row.
        """
        rows = self.whole_numbers(rows, "rows").astype(np.int64)
        require((rows < self.rows).all(), f"rows go from 0 to {self.rows - 1}")
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(shard, kind="stable")
        touched, first = np.unique(shard[order], return_index=True)
        parts = zip(touched, np.split(order, first[1:]))
        return rows, [(int(index), here, rows[here] - self.starts[index]) for index, here in parts]

    def gather(self, rows, *names):
        """Columns of `rows`, in that order, each a copy in the type it is stored in; no columns of lists."""
        rows, parts = self.by_shard(rows)
        like = self.shard(parts[0][0] if parts else 0)
        out = [np.empty((len(rows), *like[name].shape[1:]), like[name].dtype) for name in names]
        for index, here, at in parts:
            for column, name in zip(out, names):
                column[here] = self.shard(index)[name][at]
        return out

    def offsets(self, rows):
        """Where the targets of each of `rows` begin among those of all of them, and the last ones end: [n + 1]."""
        rows, parts = self.by_shard(rows)
        lengths = np.ones(len(rows), np.int64)
        if self.vocabulary is not None:
            for index, here, at in parts:
                starts = self.shard(index)["row_positions"]
                lengths[here] = starts[at + 1] - starts[at]
        return np.concatenate([[0], np.cumsum(lengths)])

    def tokens(self, rows):
        """The tokens of each of `rows`, a target for each: a list of arrays."""
        tokens = self.lists(rows, "tokens")
        for row, found in zip(np.atleast_1d(rows), tokens):
            sound = (found < self.vocabulary).all()
            require(sound, f"row {row}: expected tokens below {self.vocabulary}, found {found.max(initial=0)}")
        return tokens

    def documents(self, rows):
        """Where documents begin among the tokens of each of `rows`: a list of arrays, which rise from 0."""
        documents = self.lists(rows, "documents")
        for row, found, length in zip(np.atleast_1d(rows), documents, np.diff(self.offsets(rows))):
            begun = found[:1].tolist() == ([0] if length else []) and (found < length).all()
            sound = begun and (found[1:] > found[:-1]).all()
            require(sound, f"row {row}: expected documents that rise from 0 to below {length}, found {found}")
        return documents

    def lists(self, rows, name):
        require(self.vocabulary is not None, "the samples of this cache are not made of tokens")
        rows, parts = self.by_shard(rows)
        out = [None] * len(rows)
        for index, here, at in parts:
            column = self.shard(index)[name]
            for to, row in zip(here, at):
                out[to] = column.items[column.offsets[row] : column.offsets[row + 1]]
        return out

    def features(self, name, rows):
        """The teacher's vectors for all positions of `rows`: [n, width], float32, finite."""
        found = [feature for feature in self.feature_list if feature["name"] == name]
        known = ", ".join(feature["name"] for feature in self.feature_list) or "none"
        require(found, f"the cache keeps no feature {name!r}; it keeps {known}")
        numbers, scales = self.feature_numbers(found[0], rows)
        vectors = numbers.astype(np.float64)
        if scales is not None:
            vectors *= scales.astype(np.float64)[:, None]
        vectors = vectors.astype(np.float32)
        require(np.isfinite(vectors).all(), f"feature {name}: expected finite numbers; kd-cache verify says where")
        return vectors

    def feature_numbers(self, feature, rows):
        """Section 5.2: vectors of `rows` as stored, [n, width], and their scales, [n], or None."""
        name = feature["name"]
        names = ["feature_" + name] + (["scale_" + name] if feature["values"] == "i8" else [])
        if self.vocabulary is None:
            numbers, *scales = self.gather(rows, *names)
            return numbers, scales[0] if scales else None
        lists = [self.lists(rows, column) for column in names]
        columns = [np.concatenate(found) if found else np.empty(0, np.float32) for found in lists]
        return columns[0].reshape(-1, feature["width"]), columns[1] if len(columns) > 1 else None

    def raw(self, rows):
        """The `Targets` of `rows` as stored.

        Ids are below the number of classes and all numbers of a head finite, whatever a stranger's shard holds.
        """
        if self.layout == "fixed":
            further = [*(["tail_curve"] if self.has_tail else []), *(["tail_code"] if self.rank else [])]
            ids, values, *further = self.gather(rows, "head_ids", "head_values", *further)
            curve = further[0] if self.has_tail else np.empty((len(ids), 0), values.dtype)
            codes = further[-1] if self.rank else np.empty((len(ids), 0), np.int8)
            targets = Targets(ids, values, curve, codes, np.full(len(ids), self.k))
        else:
            targets = self.raw_lists(rows)
        in_head = np.arange(self.k) < targets.counts[:, None]
        usable = (targets.ids < self.classes).all(-1) & np.isfinite(targets.curve).all(-1)
        usable &= (np.isfinite(targets.values) | ~in_head).all(-1)
        if not usable.all():
            at = int(np.argmin(usable))
            row = np.atleast_1d(np.asarray(rows))[np.searchsorted(self.offsets(rows), at, side="right") - 1]
            raise CacheError(f"row {row}: expected class ids below {self.classes} and finite values")
        return targets

    def raw_lists(self, rows):
        """`raw` of rows whose targets are lists or bits."""
        offsets = self.offsets(rows)
        rows, parts = self.by_shard(rows)
        kind = np.float16 if self.manifest["storage"]["values"] == "f16" else np.float32
        n, nodes = int(offsets[-1]), len(self.nodes) if self.has_tail else 0
        ids = np.zeros((n, self.k), {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32}[self.manifest["storage"]["ids"]])
        values, curve = np.zeros((n, self.k), kind), np.zeros((n, nodes), kind)
        codes, counts = np.zeros((n, self.rank), np.int8), np.full(n, self.k)
        for index, here, at in parts:
            for some, of in self.portions(index, here, at):
                to = ranges(offsets[some], offsets[some + 1] - offsets[some])
                read = self.unpack if self.layout == "packed" else self.unlist
                counts[to], ids[to], values[to], curve[to], codes[to] = read(index, of)
        beyond = np.arange(self.k) >= counts[:, None]
        np.copyto(ids, ids[:, :1], where=beyond)
        values[beyond] = -np.inf
        return Targets(ids, values, curve, codes, counts)

    def portions(self, index, here, at):
        """The same rows, not too many bytes at once where they are unpacked."""
        if self.layout != "packed":
            return [(here, at)]
        part = np.cumsum(self.shard(index)["targets"].lengths(at)) // (CHUNK // 8)
        cuts = np.flatnonzero(np.diff(part)) + 1
        return zip(np.split(here, cuts), np.split(at, cuts))

    def dequantized(self, steps, curve):
        """Sections 3.2 and 4.2: computed in double precision, and rounded to single."""
        steps = steps.astype(np.float64)
        values, curve = -self.step * (steps + self.growth * steps**2 / 2), self.curve_step * curve.astype(np.float64)
        return values.astype(np.float32), curve.astype(np.float32)

    def of_draws(self, drawn, in_head):
        """Section 4.3: logits of how often each class was drawn, computed in double precision."""
        drawn = np.where(in_head, drawn, 0)
        sound = ((drawn > 0) == in_head).all(1) & (drawn[:, 1:] <= drawn[:, :-1]).all(1) & (drawn.sum(1) == self.draws)
        if not sound.all():
            at = int(np.argmin(sound))
            found = drawn[at][in_head[at]].tolist()
            raise CacheError(f"expected positive numbers that fall and sum to {self.draws} draws, found {found}")
        log = np.log(np.maximum(drawn, 1) / drawn[:, :1])
        return (self.drawn_at * log).astype(np.float32)

    def unpack(self, index, at):
        """Counts, ids, values, curve and codes of rows `at` of a shard of bits."""
        shard, file = self.shard(index), self.manifest["shards"][index]["file"]
        starts = shard["row_positions"]
        data, lengths = shard["targets"].of(at), shard["targets"].lengths(at)
        positions = starts[at + 1] - starts[at]
        counts, ids, steps, curve, codes = self.codebook.unpack(data, lengths, positions, lambda i: f"{file}: row {at[i]}")
        if self.draws is None:
            return (counts, ids, *self.dequantized(steps, curve), codes)
        in_head = np.arange(self.k) < counts[:, None]
        # Section 4.4: the largest count follows from what the others have less.
        first = (self.draws + np.where(in_head, steps, 0).sum(1)) // counts
        return counts, ids, self.of_draws(first[:, None] - steps, in_head), np.empty((len(ids), 0), np.float32), codes

    def unlist(self, index, at):
        """The same of a shard of lists."""
        shard = self.shard(index)
        starts = shard["row_positions"]
        n = int((starts[at + 1] - starts[at]).sum())
        counts = shard["head_counts"].of(at).astype(np.int64) if self.variable else np.full(n, self.k)
        in_head = np.arange(self.k) < counts[:, None]
        heads = []
        for name in ("head_ids", self.head_name):
            column = shard[name]
            heads.append(np.zeros((n, self.k), column.items.dtype))
            heads[-1][in_head] = column.of(at)
        ids, values = heads
        curve = shard["tail_curve"].of(at).reshape(n, -1) if self.has_tail else np.empty((n, 0), np.float32)
        codes = shard["tail_code"].of(at).reshape(n, -1) if self.rank else np.empty((n, 0), np.int8)
        if self.quantized:
            values, curve = self.dequantized(values, curve)
        elif self.draws is not None:
            values = self.of_draws(values.astype(np.int64), in_head)
        return counts, ids, values, curve, codes

    # ---- section 3.9 --------------------------------------------------------------------------

    def recipe(self):
        """`preprocess` of the manifest; it and `augment` are what their digests are of."""
        if self.checked_recipe is None:
            require(self.vocabulary is None, "the samples of this cache are tokens, not images: cache.tokens has them")
            recipe, augment = self.manifest.get("preprocess"), self.augment
            require(recipe, "the manifest does not say how samples were prepared: the targets come from another tool")
            for name in ("preprocess", *(["augment"] if augment else [])):
                self.verify_digest(name)
            crop = (augment or {}).get("random_resized_crop") or {"scale": [1, 1], "ratio": [1, 1]}
            (small, large), (narrow, wide) = crop["scale"], crop["ratio"]
            sound = 0 < small <= large <= 1 and 0 < narrow <= wide < math.inf
            require(sound, f"augment.random_resized_crop: expected shares of the area and positive ratios, found {crop}")
            self.checked_recipe = recipe
        return self.checked_recipe

    def verify_digest(self, name):
        # Numbers count as they are written, and so are read as text.
        text = (self.folder / "manifest.json").read_text(encoding="utf-8")
        part = json.loads(text, parse_float=lambda number: f"<{number}>")[name]
        said = part.pop("digest")
        compact = re.sub('"<(.*?)>"', r"\1", json.dumps(part, separators=(",", ":")))
        found = "sha256:" + hashlib.sha256(compact.encode()).hexdigest()
        require(found == said, f"{name}: expected {found}, the digest of its keys, found {said}: the manifest was edited")

    def view(self, sample, view, height, width):
        """The `View` that is seen of an image of `height` × `width`. Where nothing is cut out at random it is the whole image,
        which is then resized and cut as without views."""
        self.recipe()
        view = operator.index(view)
        require(0 <= view < self.views, f"view: expected 0 to {self.views - 1}, found {view}")
        require(height >= 1 and width >= 1, f"an image of {height} × {width} pixels")
        if self.augment is None:
            return View(0, 0, height, width, False)
        require(sample is not None, "sample: expected the image's sample id, by which its views are drawn")
        sample = operator.index(sample)
        require(0 <= sample <= WORD, f"sample: expected 0 to 2^64 - 1, found {sample}")
        random = uniform(self.augment["seed"], sample, view)
        flip = next(random) < self.augment["horizontal_flip"]
        crop = self.augment.get("random_resized_crop")
        part = random_part(crop, random, height, width) if crop else (0, 0, height, width)
        return View(*part, flip)

    def prepare(self, image, sample=None, view=0):
        """The teacher's input for a view of an image: float32, in the manifest's layout, without the batch's dimension.

        `image`: one of PIL, or an array of bytes of a sample's shape, images being [height, width] or [height, width, channels].
        `sample` is its id, which is needed where the cache has views.
        """
        recipe = self.recipe()
        values = self.bytes_of(image)
        if values.ndim in (2, 3):
            values = self.seen(values.reshape(*values.shape[:2], -1), sample, view)
        require(values.ndim == 3 or recipe["layout"] == "flat", f"an image: expected 2 or 3 dimensions, found {values.ndim}")
        values = values.reshape(-1, 1) if recipe["layout"] == "flat" else values
        mean, std = np.array(recipe["mean"], np.float64), np.array(recipe["std"], np.float64)
        sound = len(mean) == len(std) and len(mean) in (1, values.shape[-1])
        require(sound, f"preprocess.mean and .std: expected 1 value or {values.shape[-1]}, found {len(mean)} and {len(std)}")
        values = ((values.astype(np.float64) * recipe["scale"] - mean) / std).astype(np.float32)
        if recipe["layout"] == "flat":
            return values.ravel()
        return np.ascontiguousarray(values.transpose(2, 0, 1) if recipe["layout"] == "nchw" else values)

    def bytes_of(self, image):
        """An image as the builder reads it from its file: bytes of the shape of a sample."""
        shape = self.manifest["dataset"]["sample_shape"]
        if hasattr(image, "convert"):
            if image.mode.startswith("I"):
                # Of 16 bits the upper 8 are kept.
                image = np.asarray(image) >> 8
                image = image.astype(np.uint8) if len(shape) == 2 else np.stack([image.astype(np.uint8)] * 3, axis=-1)
            elif len(shape) == 3 and shape[2] == 3:
                image = image.convert("RGB")
            elif len(shape) == 2 and image.mode == "P":
                # Numbers of colours are no brightness.
                image = image.convert("L")
        found = np.asarray(image)
        fits = found.ndim == len(shape) and all(wanted in (0, length) for wanted, length in zip(shape, found.shape))
        expected = " × ".join(str(length or "any") for length in shape)
        require(fits and found.dtype == np.uint8, f"an image: expected bytes, {expected}, found {found.dtype}, {found.shape}")
        return found

    def seen(self, pixels, sample, view):
        """What is seen of an image [height, width, channels] in one of its views."""
        recipe, (height, width, channels) = self.checked_recipe, pixels.shape
        top, left, part_height, part_width, flip = self.view(sample, view, height, width)
        wanted = recipe.get("channels") or channels
        if wanted != channels:
            require((channels, wanted) in ((1, 3), (3, 1)), f"preprocess.channels = {wanted}: found {channels} channels")
            grey = pixels if channels == 1 else ((pixels @ LUMA + 0x8000) >> 16).astype(np.uint8)[..., None]
            pixels = np.repeat(grey, wanted, axis=-1)
        method, crop = recipe.get("interpolation", "bilinear"), recipe.get("crop")
        if self.augment and self.augment.get("random_resized_crop"):
            shape = self.manifest["dataset"]["sample_shape"][:2]
            known = crop or recipe.get("size") or 0 not in shape
            require(known, "preprocess: expected crop or size, because images have sizes of their own")
            size = (crop, crop) if crop else self.resized_size(*shape)
            pixels = resized(pixels[top : top + part_height, left : left + part_width], *size, method)
        else:
            pixels = resized(pixels, *self.resized_size(height, width), method)
            pixels = middle(pixels, crop) if crop else pixels
        return pixels[:, ::-1] if flip else pixels

    def resized_size(self, height, width):
        """Height and width of an image after resizing."""
        recipe = self.checked_recipe
        if recipe.get("size"):
            return tuple(recipe["size"])
        shorter = recipe.get("resize")
        if not shorter:
            return height, width
        return (shorter * height // width, shorter) if width <= height else (shorter, shorter * width // height)

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
        """(c, w) such that log Σ exp over the tail is c log(V - k) + curve · w, k being a position's own; None where
        `tail` knows no tail."""
        require(tail in TAILS, f"tail: expected one of {', '.join(TAILS)}, found {tail!r}")
        require(np.isfinite(temperature) and temperature > 0, f"temperature {temperature} is not a positive, finite number")
        if self.draws is not None:
            known = temperature == self.drawn_at
            require(known, f"temperature {temperature}: these targets were drawn at {self.drawn_at} and mean nothing at another")
        if not self.has_tail or tail == "renormalize":
            return None
        if self.nodes.tolist() == [1.0] and temperature != 1:
            # What is left over at T = 1 is all that is known of the tails, as in caches that were imported.
            warnings.warn(
                f"{self.folder} knows its tails at T = 1 alone: their mass at {temperature} is a guess (kd-train tells its bounds)",
                stacklevel=3,
            )
        beta, factor = 1.0 / temperature, 1.0
        if tail == "bucket":
            # What is left over at T = 1, tempered like a class.
            beta, factor = 1.0, beta
        covered = beta <= self.nodes[-1] * (1 + 1e-12)
        require(covered, f"temperature {temperature} is below {1 / self.nodes[-1]}, the lowest the tail nodes cover")
        w = self.weights(beta) * factor
        return w[0], w[1:]

    def batch(self, rows, temperature, tail="shape"):
        """The targets of `rows` at a temperature, as arrays.

        "ids": [n, k], int64; "log_probs": [n, k], of those classes; "tail_log_mass": [n], of all others
        together (-inf where they have no mass); "counts": [n], classes in each head, beyond which log_probs are
        -inf; "offsets": [rows + 1], as `offsets` has them. "shape", "prior" and "uniform" are the same here: they
        differ in how the tail's mass is spread.
        """
        tail_at = self.curve_weights(temperature, tail)
        return {**self.decode(self.raw(rows), temperature, tail_at), "offsets": self.offsets(rows)}

    def decode(self, raw, temperature, tail_at):
        """`batch` of what `raw` gives, with `tail_at` of `curve_weights`."""
        scaled = raw.values.astype(np.float64) / temperature
        log_z = log_sum_exp(scaled)
        mass = np.full(len(scaled), -np.inf)
        if tail_at is not None:
            mass = tail_at[0] * np.log(self.classes - raw.counts) + raw.curve.astype(np.float64) @ tail_at[1]
            log_z = np.logaddexp(log_z, mass[:, None])
            mass = mass - log_z[:, 0]
        return {"ids": raw.ids.astype(np.int64), "log_probs": scaled - log_z, "tail_log_mass": mass, "counts": raw.counts}

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
            log_w = self.position_log_weights(raw.codes, temperature, tail)
            np.put_along_axis(log_w, batch["ids"], -np.inf, axis=1)
            p = np.exp(log_w - log_sum_exp(log_w) + batch["tail_log_mass"][:, None])
        # Places beyond a head hold its first class again.
        beyond = np.arange(self.k) >= raw.counts[:, None]
        log_probs = np.where(beyond, batch["log_probs"][:, :1], batch["log_probs"])
        np.put_along_axis(p, batch["ids"], np.exp(log_probs), axis=1)
        return p

    # ---- what costs a pass over all bytes -------------------------------------------------------

    def verify_rules(self, index):
        """What sections 6, 2.4 and 3.8 leave to a verifier, of one shard."""
        entry, shard = self.manifest["shards"][index], self.shard(index)
        file, samples = entry["file"], shard["sample_id"]
        rising = samples[0] == entry["first_sample"] and self.rises(samples)
        require(rising, f"{file}: expected sample ids that rise from {entry['first_sample']}")
        views = np.arange(len(samples)) % self.views
        require((shard["view"] == views).all(), f"{file}: expected views 0 to {self.views - 1} of each sample")
        if self.labelled:
            require((shard["label"] < self.classes).all(), f"{file}: a label is not below {self.classes}")
        positions = entry.get("positions", entry["rows"]) if self.vocabulary else entry["rows"]
        at_once = max(1, CHUNK // 8 * entry["rows"] // (max(positions, 1) * (self.k + len(self.nodes))))
        for first in range(0, entry["rows"], at_once):
            rows = np.arange(first, min(entry["rows"], first + at_once)) + self.starts[index]
            if self.vocabulary is not None:
                self.tokens(rows)
                self.documents(rows)
            self.verify_features(rows, file)
            self.verify_targets(self.raw(rows), lambda at: self.place(rows, at, index))

    def verify_features(self, rows, file):
        """Section 5.4."""
        for feature in self.feature_list:
            numbers, scales = self.feature_numbers(feature, rows)
            if scales is None:
                require(np.isfinite(numbers).all(), f"{file}: feature {feature['name']}: expected finite numbers")
                continue
            require((numbers != -128).all(), f"{file}: feature {feature['name']}: expected -127 to 127, found -128")
            sound = np.isfinite(scales) & (scales >= 0)
            require(sound.all(), f"{file}: feature {feature['name']}: expected finite scales of 0 or more")

    def place(self, rows, at, index):
        offsets = self.offsets(rows)
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        inside = f", position {at - offsets[row]}" if self.vocabulary is not None else ""
        return f"{self.manifest['shards'][index]['file']}: row {rows[row] - self.starts[index]}{inside}"

    def verify_targets(self, raw, place):
        def hold(sound, problem):
            if not sound.all():
                raise CacheError(f"{place(int(np.argmin(sound)))}: {problem}")

        values, curve = raw.values.astype(np.float64), raw.curve.astype(np.float64)
        places = np.arange(self.k)
        in_head = places < raw.counts[:, None]
        # Places beyond a head get numbers that no class has.
        ids = np.sort(np.where(in_head, raw.ids.astype(np.int64), self.classes + places), axis=1)
        hold((ids[:, 1:] != ids[:, :-1]).all(1), "a class is in the head twice")
        hold(values[:, 0] == 0, "expected the largest logit, 0, first")
        hold((values[:, 1:] <= values[:, :-1]).all(1), "logits must fall")
        hold((raw.codes != -128).all(1), "tail code: expected numbers from -127 to 127, found -128")
        if not self.has_tail:
            return
        # Whatever they are kept as now, they may have been half precision before (kd-cache convert).
        precision = 2.0**-11 if self.manifest["storage"]["values"] in ("f16", "f32", "quantized") else 0.0
        step, curve_step = (self.step, self.curve_step) if self.quantized else (0.0, 0.0)
        zero = np.log(self.classes - raw.counts)
        lowest = values[np.arange(len(values)), raw.counts - 1]
        if self.quantized:
            step = step * np.sqrt(1 - 2 * self.growth * lowest / step)
        before = zero
        for beta, g in zip(self.nodes, curve.T):
            slack = 1e-4 + curve_step + beta * step / 2 + precision * (abs(g) + abs(beta * lowest) + abs(before))
            # What is as low as there are steps may have been anything below.
            is_least = g <= -(2**15) * curve_step if self.quantized else np.zeros(len(g), bool)
            hold((g <= zero + beta * lowest + slack) | is_least, f"tail curve at β = {beta}: more than the head permits")
            hold(g <= before + slack, f"tail curve must fall, and rises at β = {beta}")
            before = g

    # ---- PyTorch ------------------------------------------------------------------------------

    def torch_batch(self, rows, device="cpu"):
        """What is stored of `rows` as a TorchBatch on `device`."""
        import torch

        kinds = (np.int64, np.float32, np.float32, np.float32, np.int64)
        return TorchBatch(*(torch.from_numpy(array.astype(kind)).to(device) for array, kind in zip(self.raw(rows), kinds)))

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


def kl_loss(student_logits, batch, cache, temperature, tail="shape", dense=None, reduction="mean"):
    """T² · KL(target ‖ softmax(student_logits / T)) in nats, with gradients for the logits: its mean over the
    positions (0 of none), their "sum", or with reduction="none" each position's, [n].

    `student_logits`: [n, V], raw; `batch`: TorchBatch of the same n positions on the same device. "bucket"
    compares k + 1 outcomes, "renormalize" the renormalised head with the student's whole softmax. Everything is
    computed in single precision at least, also under autocast.
    """
    reduce = {"mean": lambda kl: kl.sum() / max(len(kl), 1), "sum": lambda kl: kl.sum(), "none": lambda kl: kl}
    require(reduction in reduce, f"reduction: expected one of {', '.join(reduce)}, found {reduction!r}")
    expected, found = (len(batch.ids), cache.classes), tuple(student_logits.shape)
    hint = ": a position a row, those that count alone (logits[mask], batch.of(mask))" if len(found) > 2 else ""
    require(found == expected and batch.ids.ndim == 2, f"student_logits: expected {expected}, found {found}{hint}")
    return reduce[reduction](temperature**2 * divergences(student_logits, batch, cache, temperature, tail, dense))


def divergences(student_logits, batch, cache, temperature, tail, dense):
    """KL(target ‖ softmax(student_logits / T)) of each position: [n]."""
    import torch

    tail_at = cache.curve_weights(temperature, tail)
    dense = cache.classes <= DENSE_CLASSES if dense is None else dense
    dtype = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    device = student_logits.device
    with torch.autocast(device.type, enabled=False):
        scaled = student_logits.to(dtype) / temperature
        head = batch.values.to(dtype) / temperature
        in_head = torch.arange(cache.k, device=device) < batch.counts.unsqueeze(-1)
        log_z = head.logsumexp(-1, keepdim=True)
        if tail_at is None:
            return divergence(head - log_z, scaled.log_softmax(-1).gather(-1, batch.ids), in_head)
        log_outside = (cache.classes - batch.counts).to(torch.float64).log().to(dtype)
        weights = torch.as_tensor(tail_at[1], dtype=dtype, device=device)
        log_tail = tail_at[0] * log_outside + batch.curve.to(dtype) @ weights
        log_z = torch.logaddexp(log_z, log_tail.unsqueeze(-1))
        log_head, log_tail = head - log_z, log_tail - log_z.squeeze(-1)
        head = Head(batch.ids, log_head, in_head)
        if tail == "bucket":
            return kl_bucket(scaled, head, log_tail)
        *weights, basis = cache.torch_tail(temperature, tail, device, dtype)
        if basis is not None:
            return kl_shape(scaled, head, batch.codes, log_tail, weights[1], basis)
        if dense:
            return kl_dense(scaled, head, log_tail, weights[1])
        return kl_product(scaled, head, log_tail, weights[0], weights[2])


class Head(NamedTuple):
    """The classes of each head, their target log-probabilities, and which places a head has: [n, k] each."""

    ids: "torch.Tensor"
    log_p: "torch.Tensor"
    there: "torch.Tensor"


def divergence(log_p, log_q, there=None):
    """Over the last axis, of those outcomes that are there."""
    terms = log_p.exp() * (log_p - log_q)
    return (terms if there is None else terms.where(there, 0.0)).sum(-1)


def kl_dense(scaled, head, log_tail, log_w):
    """The target written out over all classes."""
    off_head = log_w.expand_as(scaled).scatter(-1, head.ids, float("-inf"))
    # Places beyond a head hold its first class, and so write the same number again.
    log_head = head.log_p.where(head.there, head.log_p[:, :1])
    log_p = (off_head.log_softmax(-1) + log_tail.unsqueeze(-1)).scatter(-1, head.ids, log_head)
    return divergence(log_p, scaled.log_softmax(-1))


def kl_shape(scaled, head, codes, log_tail, log_w, basis):
    """The same with weights of each position's own, so many positions at a time."""
    import torch

    step = max(1, CHUNK // scaled.shape[1])
    parts = []
    for start in range(0, max(len(scaled), 1), step):
        at = slice(start, start + step)
        moved = torch.addmm(log_w, codes[at].to(log_w.dtype), basis)
        parts.append(kl_dense(scaled[at], Head(*(part[at] for part in head)), log_tail[at], moved))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def kl_product(scaled, head, log_tail, exact_log_w, w):
    """The same without a dense target. With u_j = w_j / (1 - W), W = Σ_H w, off the head:

    Σ_j u_j log softmax(s)_j = (w · s - Σ_H w s) / (1 - W) - logsumexp(s), and likewise for the weights' own
    entropy. Sums over the head are taken in double precision, because 1 - W may be small.
    """
    log_sum = scaled.logsumexp(-1, keepdim=True)
    on_head = scaled.gather(-1, head.ids)
    head_log_w = exact_log_w[head.ids]
    head_w = head_log_w.exp() * head.there
    kept = (1.0 - head_w.sum(-1)).clamp_min(sys.float_info.min)
    negative_entropy = (exact_log_w.exp() * exact_log_w).sum()
    entropy = (negative_entropy - (head_w * head_log_w).sum(-1)) / kept - kept.log()
    mean = (scaled @ w).double() - (head_w * on_head.double()).sum(-1)
    log_q = mean / kept - log_sum.squeeze(-1).double()
    tail = log_tail.double().exp() * (log_tail.double() + entropy - log_q)
    return divergence(head.log_p, on_head - log_sum, head.there) + tail.to(scaled.dtype)


def kl_bucket(scaled, head, log_tail):
    """The head's classes, and everything else as one outcome."""
    log_q = scaled.log_softmax(-1)
    rest = log_q.scatter(-1, head.ids, float("-inf")).logsumexp(-1)
    return divergence(head.log_p, log_q.gather(-1, head.ids), head.there) + log_tail.exp() * (log_tail - rest)


# ---- the command line ---------------------------------------------------------------------------

# Half precision and, between the nodes, interpolation: twice the largest difference measured on the
# fixture. Means, in which rounding cancels, are held tighter.
TOLERANCE = 5e-4
MEAN_TOLERANCE = 1e-5


def check(cache, expected):
    """Compares a cache with what is expected of it; returns the largest difference of each kind."""
    rows = np.arange(cache.rows)
    require(cache.sample_ids.tolist() == expected["samples"], "other samples")
    labels = None if cache.labels is None else cache.labels.tolist()
    require(labels == expected["labels"], "other labels")
    largest = {}

    def compare(kind, found, wanted, tolerance):
        difference = np.abs(np.asarray(found) - np.asarray(wanted))
        most = float(difference.max(initial=0.0))
        largest[kind] = max(largest.get(kind, 0.0), most)
        require((difference <= tolerance).all(), f"{kind}: off by {most:.2e}, more than {np.max(tolerance):.2e}")

    if "targets" in expected:
        check_targets(cache, expected, compare)
        return largest
    ids, values, *_ = cache.raw(rows)
    require(ids.tolist() == expected["head_ids"], "other heads")
    rounding = 2.0**-11 if cache.manifest["storage"]["values"] == "f16" else 2.0**-24
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


def check_targets(cache, expected, compare):
    """Some targets of a cache of version 3 or later, which are exact: they were whole numbers before they were written."""
    rows = np.arange(cache.rows)
    if cache.vocabulary is not None:
        require([row.tolist() for row in cache.tokens(rows)] == expected["tokens"], "other tokens")
        require([row.tolist() for row in cache.documents(rows)] == expected["documents"], "other documents")
    for name, wanted in expected.get("features", {}).items():
        compare(f"feature {name}", cache.features(name, rows), wanted, 0.0)
    offsets, raw = cache.offsets(rows), cache.raw(rows)
    where = [int(offsets[target["row"]]) + target["position"] for target in expected["targets"]]
    for at, target in zip(where, expected["targets"]):
        place, count = f"row {target['row']}, position {target['position']}", int(raw.counts[at])
        require(raw.ids[at, :count].tolist() == target["head_ids"], f"{place}: other classes in the head")
        require(raw.codes[at].tolist() == target["tail_code"], f"{place}: another tail code")
        compare("head values", raw.values[at, :count], target["head_values"], 0.0)
        compare("tail curve", raw.curve[at], target["tail_curve"], 0.0)
    for t in sorted({at["temperature"] for target in expected["targets"] for at in target["at"]}):
        batch, dense = cache.batch(rows, t), cache.dense(rows, t)
        for at, target in zip(where, expected["targets"]):
            (wanted,) = (wanted for wanted in target["at"] if wanted["temperature"] == t)
            count = int(raw.counts[at])
            compare(f"head at T = {t}", np.exp(batch["log_probs"][at, :count]), wanted["probabilities"], 1e-12)
            compare(f"tail mass at T = {t}", np.exp(batch["tail_log_mass"][at]), wanted["tail_mass"], 1e-12)
            compare(f"every class at T = {t}", dense[at], wanted["dense"], 1e-12)


def targets(cache, row, temperature, dense):
    """One row's targets as plain data."""
    batch, raw = cache.batch([row], temperature), cache.raw([row])
    every = cache.dense([row], temperature) if dense else None
    sample = {"sample": int(cache.sample_ids[row]), "temperature": temperature}
    label = {} if cache.labels is None else {"label": int(cache.labels[row])}
    tokens = None if cache.vocabulary is None else cache.tokens([row])[0]
    for at, count in enumerate(raw.counts.tolist()):
        yield {
            **sample,
            **label,
            **({} if tokens is None else {"position": at, "token": int(tokens[at])}),
            "ids": batch["ids"][at, :count].tolist(),
            "probabilities": np.exp(batch["log_probs"][at, :count]).tolist(),
            "logits": raw.values[at, :count].tolist(),
            "tail_mass": float(np.exp(batch["tail_log_mass"][at])),
            "tail_classes": cache.classes - count,
            **({"dense": every[at].tolist()} if dense else {}),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--temperature", type=float, action="append", help="may be given several times; default 1, of sampled targets theirs")
    parser.add_argument("--sample", type=int, help="default: every sample")
    parser.add_argument("--dense", action="store_true", help="add every class's probability")
    parser.add_argument("--verify", action="store_true", help="check sizes, digests and every row's rules first")
    parser.add_argument("--check", metavar="EXPECTED", help="compare with an expected.json of tests/fixtures")
    options = parser.parse_args()
    try:
        cache = Cache(options.cache, verify=options.verify or bool(options.check))
        if options.check:
            largest = check(cache, json.loads(Path(options.check).read_text(encoding="utf-8")))
            print("read_cache: every target is as expected; largest differences: ", end="")
            print(", ".join(f"{kind} {value:.1e}" for kind, value in largest.items()))
            return 0
        rows = range(cache.rows) if options.sample is None else cache.rows_of(options.sample).tolist()
        temperatures = options.temperature or [cache.drawn_at or 1.0]
        found = [x for row in rows for t in temperatures for x in targets(cache, row, t, options.dense)]
        json.dump(found, sys.stdout, indent=1)
        print()
        return 0
    except (CacheError, OSError, KeyError, ValueError) as error:
        print(f"read_cache: error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
