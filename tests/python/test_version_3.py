"""tools/read_cache.py on format version 3: bits, lists, tokens, heads that differ, and what it refuses of them."""

import contextlib
import io
import itertools
import json
import random
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import fixture
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import read_cache
import slow_bits
from read_cache import TAILS, Cache, CacheError, Code

# Section 3 in Arrow's words; what a cache does not have is left out.
COLUMNS = {
    "sample_id": pa.uint64(),
    "view": pa.uint16(),
    "label": pa.uint32(),
    "tokens": pa.list_(pa.field("item", pa.uint8(), nullable=False)),
    "documents": pa.list_(pa.field("item", pa.uint32(), nullable=False)),
    "head_counts": pa.list_(pa.field("item", pa.uint16(), nullable=False)),
    "head_ids": pa.list_(pa.field("item", pa.uint8(), nullable=False)),
    "head_values": pa.list_(pa.field("item", pa.float32(), nullable=False)),
    "tail_curve": pa.list_(pa.field("item", pa.float32(), nullable=False)),
    "tail_code": pa.list_(pa.field("item", pa.int8(), nullable=False)),
    "targets": pa.binary(),
}


def columns_of(rows, **kinds):
    """A record batch of rows, all with the same keys."""
    kinds = {name: {**COLUMNS, **kinds}[name] for name in COLUMNS if name in rows[0]}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    arrays = [pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write(path, batch):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)


def write_fixed(path, columns):
    """A file of fixed_size_lists: name, item type, one list for each row."""
    kinds = {name: pa.list_(pa.field("item", kind, nullable=False), len(rows[0])) for name, kind, rows in columns}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    write(path, pa.RecordBatch.from_arrays([pa.array(rows, kinds[name]) for name, _, rows in columns], schema=schema))


def write_codebook(path, layout):
    tables = [(name, pa.uint8(), [sum(codes, [])]) for name, codes in layout.lengths.items() if codes]
    write_fixed(path, [("order", pa.uint32(), [layout.order]), *tables])


class Folder(unittest.TestCase):
    """A copy of the fixture that may be spoiled."""

    source = fixture.PACKED

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "cache"
        shutil.copytree(self.source, self.folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())

    def save(self, **changes):
        """The manifest, with changes of this moment."""
        m = json.loads(json.dumps(self.manifest))
        for place, value in changes.items():
            *parents, key = place.split("__")
            inner = m
            for part in parents:
                inner = inner[int(part) if part.isdigit() else part]
            if value is None:
                inner.pop(key, None)
            else:
                inner[key] = value
        (self.folder / "manifest.json").write_text(json.dumps(m))

    def rows(self):
        """Every row of the fixture as Python values."""
        return [row for shard in self.manifest["shards"] for row in fixture.arrow_rows(self.folder / shard["file"])]

    def refused(self, words, use=lambda cache: cache.raw(np.arange(cache.rows)), **options):
        with self.assertRaisesRegex(CacheError, words):
            use(Cache(self.folder, **options))


class Reading(unittest.TestCase):
    def test_every_target_is_what_the_reference_gives(self):
        for cache, name in ((fixture.PACKED, "packed"), (fixture.LISTS, "packed"), (fixture.ANCHORS, "anchors")):
            with self.subTest(cache=cache.parent.name):
                read_cache.check(Cache(cache, verify=True), fixture.load(f"v3/{name}/expected.json"))

    def test_heads_are_those_of_the_logits(self):
        # The formula of tests/synthetic/mod.rs; every other head has one class.
        for name, k in ((fixture.PACKED, 4), (fixture.ANCHORS, 18)):
            cache = Cache(name)
            n, j = np.arange(cache.positions)[:, None], np.arange(cache.classes)[None, :]
            z = ((n * n * 131 + j * j * 57 + n * j * 29 + 7) % 997).astype(np.float32) / np.float32(83) - np.float32(6)
            raw = cache.raw(range(cache.rows))
            self.assertEqual(raw.counts.tolist(), [k if at % 2 else 1 for at in range(cache.positions)])
            head = np.argsort(-z, axis=1, kind="stable")[:, :k]
            there = np.arange(k) < raw.counts[:, None]
            np.testing.assert_array_equal(raw.ids, np.where(there, head, head[:, :1]))
            values = np.take_along_axis(z, head, 1) - z.max(1, keepdims=True)
            self.assertLessEqual(abs(raw.values - values)[there].max(), 0.125 / 2 + 1e-6)
            self.assertTrue((raw.values[~there] == -np.inf).all())

    def test_many_rows_at_once_are_each_position_by_definition(self):
        rows = [7, 0, 11, 4, 7]
        for path, t, tail in itertools.product((fixture.PACKED, fixture.LISTS), (1.0, 3.5), TAILS):
            with self.subTest(cache=path.parent.name, t=t, tail=tail):
                cache = Cache(path)
                batch, dense = cache.batch(rows, t, tail), cache.dense(rows, t, tail)
                self.assertEqual(batch["offsets"].tolist(), [0, 7, 14, 21, 28, 35])
                for at, row in enumerate(rows):
                    for position in range(7):
                        i = 7 * at + position
                        ids, probabilities, rest = fixture.decode(cache, row, t, tail, position)
                        count = batch["counts"][i]
                        self.assertEqual(batch["ids"][i, :count].tolist(), ids)
                        np.testing.assert_allclose(np.exp(batch["log_probs"][i, :count]), probabilities, rtol=1e-11)
                        self.assertTrue((batch["log_probs"][i, count:] == -np.inf).all())
                        np.testing.assert_allclose(np.exp(batch["tail_log_mass"][i]), rest, rtol=1e-11)
                        wanted = fixture.dense(cache, row, t, tail, position)
                        np.testing.assert_allclose(dense[i], wanted, rtol=1e-10)

    def test_rows_come_in_any_order_and_no_rows_too(self):
        for path in (fixture.PACKED, fixture.LISTS, fixture.ANCHORS):
            cache = Cache(path)
            whole, offsets = cache.raw(range(cache.rows)), cache.offsets(range(cache.rows))
            rows = [cache.rows - 1, 0, cache.rows // 2, 0]
            some = cache.raw(rows)
            wanted = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
            for found, column in zip(some, whole):
                np.testing.assert_array_equal(found, column[wanted])
            self.assertEqual(cache.raw([]).ids.shape, (0, cache.k))
            self.assertEqual((cache.tokens([]), cache.dense([], 2.0).shape), ([], (0, cache.classes)))

    def test_few_bytes_at_a_time_are_the_same(self):
        whole = Cache(fixture.PACKED).raw(range(12))
        with mock.patch.object(read_cache, "CHUNK", 64):
            some = Cache(fixture.PACKED).raw(range(12))
            Cache(fixture.PACKED, verify=True)
        for found, wanted in zip(some, whole):
            np.testing.assert_array_equal(found, wanted)

    def test_tokens_and_documents(self):
        for path in (fixture.PACKED, fixture.LISTS):
            cache = Cache(path)
            self.assertEqual([t.tolist() for t in cache.tokens([2, 0])], [[2, 9, 16, 3, 10, 17, 4], [0, 7, 14, 1, 8, 15, 2]])
            self.assertEqual([d.tolist() for d in cache.documents([11])], [[0, 3]])
        with self.assertRaisesRegex(CacheError, "not made of tokens"):
            Cache(fixture.CACHE).tokens([0])

    def test_bits_are_mapped_and_never_copied_whole(self):
        column = Cache(fixture.PACKED).shard(0)["targets"].items
        while isinstance(column, np.ndarray):
            self.assertFalse(column.flags.owndata)
            column = column.base

    def test_the_command_line_prints_positions(self):
        out = io.StringIO()
        arguments = ["read_cache.py", str(fixture.LISTS), "--sample", "3", "--temperature", "2", "--dense"]
        with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(out):
            self.assertEqual(read_cache.main(), 0)
        found = json.loads(out.getvalue())
        self.assertEqual([(x["position"], x["token"]) for x in found], list(enumerate([13, 0, 7, 14, 1, 8, 15])))
        self.assertEqual([x["tail_classes"] for x in found], [16, 19] * 3 + [16])
        for x in found:
            self.assertAlmostEqual(sum(x["dense"]), 1.0)


class ListsInArrow(Folder):
    """The fixture's targets as lists in Arrow files, with floats, written here."""

    def make(self, values, kind, variable=True):
        cache = Cache(fixture.PACKED)
        for shard, entry in zip(self.manifest["shards"], range(3)):
            rows = []
            for at in range(int(cache.starts[entry]), int(cache.starts[entry + 1])):
                raw = cache.raw([at])
                there = np.arange(cache.k) < raw.counts[:, None]
                head = {"head_counts": raw.counts.tolist()} if variable else {}
                if not variable:
                    # What fills a short head is as good a class as any, with a logit that is finite.
                    there[:] = True
                    raw = raw._replace(values=np.maximum(raw.values, -9))
                lists = {"head_ids": raw.ids[there].tolist(), "head_values": raw.values[there].astype(kind)}
                tail = {"tail_curve": raw.curve.reshape(-1).astype(kind), "tail_code": raw.codes.reshape(-1).tolist()}
                row = fixture.arrow_rows(self.folder / shard["file"])[at - int(cache.starts[entry])]
                rows.append({**row, **head, **lists, **tail})
                del rows[-1]["targets"]
            item = pa.list_(pa.field("item", pa.from_numpy_dtype(kind), nullable=False))
            write(self.folder / shard["file"], columns_of(rows, head_values=item, tail_curve=item))
        mass = {} if variable else {"head__mass": None}
        self.save(storage__values=values, storage__step=None, storage__curve_step=None, storage__codebook=None, **mass)
        return Cache(self.folder)

    def test_they_are_the_same_targets(self):
        whole = Cache(fixture.PACKED).raw(range(12))
        for values, kind in (("f16", np.float16), ("f32", np.float32)):
            with self.subTest(values):
                cache = self.make(values, kind)
                raw = cache.raw(range(12))
                self.assertEqual((cache.layout, raw.values.dtype, raw.curve.dtype), ("lists", kind, kind))
                for found, wanted in zip(raw, whole):
                    np.testing.assert_array_equal(found, wanted)
                np.testing.assert_array_equal(cache.tokens([4])[0], Cache(fixture.PACKED).tokens([4])[0])
                shutil.copytree(fixture.PACKED, self.folder, dirs_exist_ok=True)

    def test_heads_of_one_size_have_no_counts(self):
        cache = self.make("f32", np.float32, variable=False)
        self.assertFalse(cache.variable)
        self.assertEqual(cache.raw([5]).counts.tolist(), [4] * 7)

    def test_what_is_refused(self):
        self.make("f32", np.float32)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        shard = self.folder / "shards/00001.arrow"
        rows = fixture.arrow_rows(shard)

        def spoil(name, change):
            spoiled = [dict(row) for row in rows]
            spoiled[2][name] = change(list(spoiled[2][name]))
            write(shard, columns_of(spoiled))

        for name, change, words in (
            ("head_counts", lambda x: [0, *x[1:]], "head_counts: expected 1 to 4, found 0 to 4"),
            ("head_counts", lambda x: [5, *x[1:]], "head_counts: expected 1 to 4, found 1 to 5"),
            ("head_counts", lambda x: x[:-1], r"row 2: head_counts: expected 7 items, found 6"),
            ("head_ids", lambda x: x[:-1], "row 2: head_ids: expected"),
            ("head_values", lambda x: [*x, 0.0], "row 2: head_values: expected"),
            ("tail_curve", lambda x: x[1:], "row 2: tail_curve: expected 35 items, found 34"),
            ("tail_code", lambda x: [], "row 2: tail_code: expected 14 items, found 0"),
            ("tokens", lambda x: x[:-1], "expected 35 positions, found 34"),
            ("head_ids", lambda x: [20, *x[1:]], "row 7: expected class ids below 20"),
            ("head_values", lambda x: [float("nan"), *x[1:]], "row 7: expected class ids below 20 and finite"),
            ("tail_curve", lambda x: [float("inf"), *x[1:]], "row 7: expected class ids below 20 and finite"),
        ):
            with self.subTest(words):
                spoil(name, change)
                self.refused(words)
        for name, change, words in (
            ("tokens", lambda x: [20, *x[1:]], "row 7: expected tokens below 20, found 20"),
            ("documents", lambda x: [1, 3], "row 7: expected documents"),
            ("documents", lambda x: [0, 7], "row 7: expected documents"),
            ("documents", lambda x: [0, 3, 3], "row 7: expected documents"),
            ("documents", lambda x: [], "row 7: expected documents"),
            ("head_ids", lambda x: [x[-1]] * len(x), "row 2, position [01]: a class is in the head twice"),
            ("head_values", lambda x: [-1.0, *x[1:]], "row 2, position 0: expected the largest logit"),
            ("tail_code", lambda x: [-128, *x[1:]], "row 2, position 0: tail code"),
            ("tail_curve", lambda x: [9.0, *x[1:]], "row 2, position 0: tail curve"),
            ("tail_curve", lambda x: [x[0], x[0] + 0.1, *x[2:]], "row 2, position 0: tail curve"),
        ):
            with self.subTest(words):
                spoil(name, change)
                Cache(self.folder).raw([7])
                entry = self.manifest["shards"][1]
                with mock.patch.object(Cache, "verify", lambda self, entry: None):
                    self.refused(words, use=lambda cache: None, verify=True)
                self.assertEqual(entry["rows"], 5)


class RandomBits(Folder):
    """Rows under codes, classes and heads drawn at random, against the decoder that reads a bit at a time."""

    CASES = 12

    def lengths(self, draw, words):
        """A complete code: a word is split in two until there are as many as needed."""
        lengths = [0]
        while len(lengths) < words:
            at = draw.choice([at for at, length in enumerate(lengths) if length < 12])
            lengths[at] += 1
            lengths.append(lengths[at])
        draw.shuffle(lengths)
        return lengths

    def layout(self, draw):
        # With these, any bits are a row: the last bucket of places and of sizes ends at the largest of them.
        classes = draw.choice([6, 14, 30, 62, 254, 1022])
        k = draw.choice([k for k in (1, 2, 3, 4, 6, 8, 12, 16, 20, 28) if k <= classes])
        what = {
            "classes": classes,
            "k": k,
            "variable": draw.random() < 0.5 and k < classes,
            "nodes": sorted({1.0, *draw.sample([0.05, 0.125, 0.25, 0.5, 0.75, 1.5], draw.randrange(5))}),
            "rank": draw.choice([0, 1, 5]) if k < classes else 0,
            "curve_step": draw.choice([0.01, 0.0625, 0.3]),
        }
        empty = type("Empty", (), what)
        lengths = {}
        for name, (codes, largest, p) in slow_bits.tables(empty).items():
            words = slow_bits.bucket_of(largest, p)[0] + 1
            lengths[name] = [self.lengths(draw, words) for _ in range(codes)]
        order = list(range(classes))
        draw.shuffle(order)
        return slow_bits.Layout(order, lengths, **what)

    def make(self, layout, rows, positions):
        """A cache of one shard with these rows of bits."""
        tail = layout.k < layout.classes
        write_codebook(self.folder / "codebook.arrow", layout)
        zeros = [[0.0] * len(layout.nodes)] * layout.classes
        shape = [("shape", pa.float32(), zeros), ("basis", pa.float16(), [[np.float16(0)] * layout.rank] * layout.classes)]
        write_fixed(self.folder / "tail_model.arrow", [("prior", pa.float32(), zeros), *(shape if layout.rank else [])])
        shards = [{**self.manifest["shards"][0], "rows": len(rows), "positions": sum(positions)}]
        each = [
            {"sample_id": at, "view": 0, "label": 0, "tokens": [0] * n, "documents": [0] if n else [], "targets": bits}
            for at, (bits, n) in enumerate(zip(rows, positions))
        ]
        write(self.folder / "shards/00000.arrow", columns_of(each))
        self.save(
            classes=layout.classes,
            head={"k": layout.k, **({"mass": 0.9} if layout.variable else {})},
            tail={"nodes": layout.nodes, "rank": layout.rank, "fit_samples": 1, **({"model": self.manifest["tail"]["model"]} if tail else {})},
            storage__curve_step=layout.curve_step,
            storage__ids="u8" if layout.classes <= 256 else "u16",
            shards=shards,
            samples=len(rows),
            positions=sum(positions),
        )
        return Cache(self.folder)

    def hold(self, cache, layout, wanted, rows):
        """What the reader makes of rows, and what was to come of it."""
        raw = cache.raw(rows)
        steps = {"values": self.manifest["storage"]["step"], "curve": layout.curve_step}
        for at, (ids, s, t, c) in enumerate(position for row in rows for position in wanted[row]):
            self.assertEqual((raw.counts[at], raw.ids[at, : len(ids)].tolist()), (len(ids), ids))
            self.assertEqual(raw.values[at, : len(ids)].tolist(), [float(np.float32(-steps["values"] * x)) for x in s])
            self.assertEqual(raw.curve[at].tolist(), [float(np.float32(steps["curve"] * x)) for x in t])
            self.assertEqual(raw.codes[at].tolist(), c)

    def test_any_bits_are_what_the_slow_decoder_reads(self):
        for seed in range(self.CASES):
            with self.subTest(seed):
                draw = random.Random(seed)
                layout = self.layout(draw)
                positions = [draw.choice([0, 1, 5, 63, 64, 65, 129, 200]) for _ in range(5)]
                wanted, rows = [], []
                for n in positions:
                    taken = []

                    def bits():
                        while True:
                            taken.append(draw.getrandbits(1))
                            yield taken[-1]

                    stream, each, ends = bits(), [], [0]
                    for _ in range(n):
                        each.append(layout.read_position(stream))
                        ends.append(len(taken))
                    wanted.append(each)
                    rows.append(slow_bits.row_of([taken[a:b] for a, b in zip(ends, ends[1:])]))
                    self.assertEqual(slow_bits.read_row(layout, rows[-1], n), each)
                cache = self.make(layout, rows, positions)
                for some in ([0, 1, 2, 3, 4], [4, 1, 1], [2]):
                    self.hold(cache, layout, wanted, some)

    def test_what_is_written_is_read(self):
        for seed in range(self.CASES):
            with self.subTest(seed):
                draw = random.Random(1000 + seed)
                layout = self.layout(draw)
                positions = [draw.choice([1, 64, 66, 130]) for _ in range(3)]

                def position():
                    count = draw.randint(1, layout.k) if layout.variable else layout.k
                    s = sorted(draw.choice([draw.randrange(40), draw.randrange(65536)]) for _ in range(count - 1))
                    nodes = len(layout.nodes) if layout.k < layout.classes else 0
                    t = [draw.choice([draw.randint(-60, 60), -32768, 32767, draw.randint(-32768, 32767)]) for _ in range(nodes)]
                    return draw.sample(range(layout.classes), count), [0, *s], t, [draw.randint(-127, 127) for _ in range(layout.rank)]

                wanted = [[position() for _ in range(n)] for n in positions]
                rows = [slow_bits.row_of([layout.write_position(x) for x in each]) for each in wanted]
                self.hold(self.make(layout, rows, positions), layout, wanted, [2, 0, 1])

    def test_bits_that_are_no_row(self):
        draw = random.Random(7)
        layout = self.layout(draw)
        while not (layout.variable and layout.rank and layout.k == 12):
            layout = self.layout(draw)
        target = (layout.order[:12], list(range(12)), [3] * len(layout.nodes), [1] * layout.rank)
        one = layout.write_position(target)
        row = slow_bits.row_of([one] * 130)
        self.make(layout, [row], [130]).raw([0])
        anchor = len(one) * 64

        def anchored(*places):
            return b"".join(place.to_bytes(4, "little") for place in places) + row[8:]

        for bits, words in (
            (row[:-1], "00000.arrow: row 0: expected more bits, for position 1 of a block"),
            (row[:300], "00000.arrow: row 0: expected more bits, for position"),
            (b"", "row 0: expected 4 bytes for each anchor, one in 64 positions, found 0"),
            (row + b"\0", "row 0: expected less than 8 bits after its last position"),
            (anchored(anchor - len(one), 2 * anchor), f"row 0: expected anchors where .* off, found -{len(one)}"),
            (anchored(2**32 - 1, 2 * anchor), "row 0: expected more bits, for position 0 of a block of 64, found 0"),
        ):
            with self.subTest(words, size=len(bits)):
                self.make(layout, [bits], [130])
                self.refused(words)
        self.assertNotEqual(len(one) * 3 % 8, 0)
        three = slow_bits.row_of([one] * 3)
        self.make(layout, [three[:-1] + bytes([three[-1] | 0x80])], [3])
        self.refused("row 0: expected zeros after its last position, found")
        # One class less in the longest head, and this one is too long.
        whole, layout.k = layout.lengths, 11
        layout.lengths = {**whole, "ids": whole["ids"][:11], "falls": whole["falls"][:11]}
        self.make(layout, [three], [3])
        self.refused("row 0: expected a head of at most 11 classes, found 12")
        layout.lengths, layout.k = whole, 12
        # One class less, and the last place is none.
        full = (layout.order[-1:] + layout.order[:11], *target[1:])
        bits = slow_bits.row_of([layout.write_position(full)])
        layout.classes, lost = layout.classes - 1, layout.order.pop()
        layout.order = [class_id - (class_id > lost) for class_id in layout.order]
        self.make(layout, [bits], [1])
        self.refused(f"row 0: expected places of classes below {layout.classes}, found {layout.classes}")


class Codes(unittest.TestCase):
    def test_lengths_that_are_no_code_are_refused(self):
        for lengths, words in (
            ([1, 2], "complete"),
            ([1, 1, 1], "complete"),
            ([0, 1], "from 1 to 12"),
            ([13, *range(1, 14)], "from 1 to 12"),
            ([1], "length 0"),
        ):
            with self.subTest(lengths), self.assertRaisesRegex(CacheError, words):
                Code(lengths, 1, "here")

    def test_buckets_are_those_of_the_text(self):
        for p in (1, 2, 3):
            for largest in (*range(300), 65535, 131071, 2**32 - 2):
                bucket, _, _ = slow_bits.bucket_of(largest, p)
                self.assertEqual(read_cache.buckets(largest, p), bucket + 1)
        for rank in range(70000):
            self.assertEqual(read_cache.context(rank), slow_bits.context(rank))


class Refusing(Folder):
    def test_manifests(self):
        for change, words in (
            ({"format_version": 6}, "versions 1 to 5, found"),
            ({"format_version": 2}, "storage.values: expected one of f16, f32, found quantized"),
            ({"head__mass": 0}, "head.mass"),
            ({"head__mass": 1.5}, "head.mass"),
            ({"head__mass": "most"}, "not a manifest"),
            ({"tail__rank": 129}, "tail.rank: expected at most 128"),
            ({"storage__step": 0.001}, "storage.step: expected 0.002 to 2"),
            ({"storage__curve_step": 3}, "storage.curve_step: expected 0.002 to 2"),
            ({"storage__step": float("nan")}, "storage.step: expected 0.002 to 2"),
            ({"storage__step": None}, "KeyError"),
            ({"storage__codebook": None}, "storage.codebook is missing"),
            ({"storage__codebook__file": "../codebook.arrow"}, "no path inside"),
            ({"storage__form": "feather"}, "storage.form"),
            ({"dataset__tokens__vocabulary": 0}, "vocabulary: 0"),
            ({"dataset__tokens__vocabulary": 2**32}, "vocabulary: 4294967296"),
            ({"dataset__tokens": None}, "one view of each sample"),
            ({"positions": 83}, "expected 83 positions, found 84"),
            ({"shards__1__positions": None}, "KeyError"),
            ({"samples": 13}, "expected 13 rows, found 12"),
        ):
            with self.subTest(change):
                self.save(**change)
                self.refused(words)

    def test_shards_with_columns_of_older_versions_have_an_older_version(self):
        shutil.copytree(fixture.CACHE, self.folder, dirs_exist_ok=True)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.save(format_version=3)
        self.refused("format_version: expected 1 or 2")

    def test_codebooks(self):
        path = self.folder / "codebook.arrow"
        (whole,) = fixture.arrow_rows(path)
        kinds = {name: pa.uint32() if name == "order" else pa.uint8() for name in whole}
        for name, change, words in (
            ("order", lambda x: [x[1], *x[1:]], "codebook.arrow: order: expected each of 20 classes once"),
            ("order", lambda x: [20, *x[1:]], "codebook.arrow: order: expected each of 20 classes once"),
            ("order", lambda x: x[:-1], "expected columns"),
            ("ids", lambda x: [0, *x[1:]], "codebook.arrow: ids, code 0: expected code lengths from 1 to 12"),
            ("falls", lambda x: [x[0] + 1, *x[1:]], "codebook.arrow: falls, code 0: expected a complete code"),
            ("curve", lambda x: [*x[:-1], 13], "codebook.arrow: curve, code 4: expected code lengths from 1 to 12"),
            ("counts", lambda x: [1] * len(x), "codebook.arrow: counts, code 0: expected a complete code"),
            ("tail_codes", lambda x: [*x, 1], "expected columns"),
        ):
            with self.subTest(name=name, words=words):
                spoiled = {**whole, name: change(list(whole[name]))}
                write_fixed(path, [(key, kinds[key], [values]) for key, values in spoiled.items()])
                self.refused(words, use=lambda cache: None)
        path.unlink()
        self.refused("codebook.arrow is missing: have it from another copy", use=lambda cache: None)

    def test_offsets_out_of_range(self):
        path = self.folder / "shards/00000.arrow"
        whole = path.read_bytes()
        targets = [row["targets"] for row in fixture.arrow_rows(path)]
        ends = np.cumsum([0, *map(len, targets)]).astype("<i4")
        at = whole.index(ends.tobytes())
        for change, words in (
            (lambda o: o + [0, 0, 0, 0, 0, 10**6], "no sound Arrow IPC file"),
            (lambda o: o * [1, -1, 1, 1, 1, 1], "no sound Arrow IPC file"),
            (lambda o: o + [0, 0, 100, 0, 0, 0], "no sound Arrow IPC file"),
            (lambda o: o + [1, 0, 0, 0, 0, 0], "targets: offsets do not span"),
            (lambda o: o - [0, 0, 0, 0, 0, 1], "row 4: expected more bits, for position 6"),
        ):
            changed = bytearray(whole)
            changed[at : at + ends.nbytes] = change(ends).astype("<i4").tobytes()
            path.write_bytes(changed)
            with self.subTest(words):
                self.refused(words)

    def test_no_change_of_a_byte_ends_in_anything_but_an_error_or_a_number(self):
        for file in ("shards/00000.arrow", "codebook.arrow"):
            path = self.folder / file
            whole = path.read_bytes()
            for at in range(0, len(whole), 5):
                changed = bytearray(whole)
                changed[at] ^= 0xFF
                path.write_bytes(changed)
                with contextlib.suppress(CacheError):
                    self.assertTrue(np.isfinite(Cache(self.folder).dense(range(12), 2.0)).all())
            path.write_bytes(whole)

    def test_what_only_verify_sees(self):
        path = self.folder / "codebook.arrow"
        path.write_bytes(path.read_bytes() + b"more")
        self.refused("codebook.arrow: expected 3034 bytes, found 3038", use=lambda cache: None, verify=True)


class RefusingParquet(Folder):
    source = fixture.LISTS

    def test_files(self):
        path = self.folder / "shards/00001.parquet"
        whole, table = path.read_bytes(), pa.parquet.read_table(path)
        nullable = pa.schema([table.schema.field(0).with_nullable(True), *list(table.schema)[1:]])
        for spoil, words in (
            (lambda: pa.parquet.write_table(table.slice(1), path), "expected 5 rows, found 4"),
            (lambda: pa.parquet.write_table(table.drop_columns("head_counts"), path), "expected columns"),
            (lambda: pa.parquet.write_table(table.cast(nullable), path), "expected columns"),
            (lambda: path.write_bytes(whole[: len(whole) // 2]), "00001.parquet: no sound Parquet file"),
            (lambda: path.write_bytes(b""), "00001.parquet: no sound Parquet file"),
        ):
            with self.subTest(words):
                spoil()
                self.refused(words)
        # Row groups, pages and compression are the writer's choice.
        pa.parquet.write_table(table, path, row_group_size=2, compression="gzip", store_schema=True)
        np.testing.assert_array_equal(Cache(self.folder).raw(range(12)).ids, Cache(fixture.LISTS).raw(range(12)).ids)


if __name__ == "__main__":
    unittest.main()
