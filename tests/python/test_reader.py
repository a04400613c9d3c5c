"""tools/read_cache.py on the fixture: what it reads, what it means by it, and what it refuses."""

import contextlib
import io
import itertools
import json
import pickle
import shutil
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import fixture
import numpy as np
import pyarrow as pa
import read_cache
from read_cache import TAILS, Cache, CacheError

TEMPERATURES = (1.0, 2.0, 3.5, 8.0)


def write(path, batch, **options):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_batch(batch)


def read(path):
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).get_batch(0)


def replaced(batch, name, values):
    """`batch` with other numbers in a column."""
    at = batch.schema.get_field_index(name)
    kind = batch.schema.field(at).type
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(values.reshape(-1), type=kind.value_type)
        column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    else:
        column = pa.array(values, type=kind)
    return pa.RecordBatch.from_arrays([*batch.columns[:at], column, *batch.columns[at + 1 :]], schema=batch.schema)


class Reading(unittest.TestCase):
    def setUp(self):
        self.cache = Cache(fixture.CACHE, verify=True)
        self.expected = fixture.load("v1/expected.json")

    def test_every_target_is_what_the_logits_give(self):
        self.assertEqual(self.cache.labels.tolist(), self.expected["labels"])
        self.assertEqual(self.cache.sample_ids.tolist(), self.expected["samples"])
        # Raises where it is not; the largest difference is that of half precision between the nodes.
        self.assertLess(max(read_cache.check(self.cache, self.expected).values()), 1e-3)

    def test_many_rows_at_once_are_each_row_by_definition(self):
        # Any order, across shards, and one row twice.
        rows = [7, 0, 11, 4, 5, 7]
        for cache, t, tail in itertools.product((self.cache, Cache(fixture.WITH_SHAPE)), TEMPERATURES, TAILS):
            with self.subTest(rank=cache.rank, t=t, tail=tail):
                batch, dense = cache.batch(rows, t, tail), cache.dense(rows, t, tail)
                for at, row in enumerate(rows):
                    ids, probabilities, rest = fixture.decode(cache, row, t, tail)
                    self.assertEqual(batch["ids"][at].tolist(), ids)
                    np.testing.assert_allclose(np.exp(batch["log_probs"][at]), probabilities, rtol=1e-12)
                    np.testing.assert_allclose(np.exp(batch["tail_log_mass"][at]), rest, rtol=1e-11)
                    np.testing.assert_allclose(dense[at], fixture.dense(cache, row, t, tail), rtol=1e-11)
                np.testing.assert_allclose(dense.sum(axis=1), 1.0, rtol=1e-12)

    def test_columns_are_the_mapped_bytes_themselves(self):
        for column in self.cache.shard(1).values():
            base = column
            while isinstance(base, np.ndarray):
                self.assertFalse(base.flags.owndata)
                base = base.base
        # Only what is touched is mapped.
        cache = Cache(fixture.CACHE)
        cache.raw([11])
        self.assertEqual([shard is None for shard in cache.shards], [True, True, False])

    def test_a_worker_process_is_sent_the_path_alone(self):
        self.cache.raw([0])
        sent = pickle.dumps(self.cache)
        self.assertLess(len(sent), 1000)
        np.testing.assert_array_equal(pickle.loads(sent).raw([3])[1], self.cache.raw([3])[1])

    def test_rows_are_found_by_sample(self):
        self.assertEqual(self.cache.rows_of([11, 0, 5]).tolist(), [11, 0, 5])
        self.assertEqual(self.cache.rows_of(np.array([3], np.uint64)).tolist(), [3])
        self.assertEqual(self.cache.rows_of([]).tolist(), [])
        self.assertEqual(self.cache.batch([], 2.0)["log_probs"].shape, (0, 4))
        for samples, words in (([3, 12], "no sample 12"), ([-1], "from 0 on"), ([0.5], "whole numbers"), ([2**64 - 1], "no sample 18446744073709551615")):
            with self.subTest(samples), self.assertRaisesRegex(CacheError, words):
                self.cache.rows_of(samples)

    def test_rows_are_found_by_sample_where_ids_have_gaps(self):
        self.cache.read_ids = self.cache.sample_ids * np.uint64(2**59) + np.uint64(3)
        for row in (0, 4, 11):
            self.assertEqual(self.cache.rows_of([row * 2**59 + 3]).tolist(), [row])
        for sample in (0, 2, 4, 2**59, 11 * 2**59 + 4, 2**64 - 1):
            with self.assertRaisesRegex(CacheError, f"no sample {sample}"):
                self.cache.rows_of([sample])

    def test_questions_without_an_answer(self):
        for ask, words in (
            (lambda: self.cache.batch([0], 0.5), "temperature 0.5 is below 1"),
            (lambda: self.cache.batch([0], float("nan")), "not a positive, finite number"),
            (lambda: self.cache.dense([0], -1.0), "not a positive, finite number"),
            (lambda: self.cache.dense([0], 2.0, tail="flat"), "expected one of shape, prior"),
            (lambda: self.cache.raw([12]), "rows go from 0 to 11"),
            (lambda: self.cache.raw([-1]), "from 0 on"),
        ):
            with self.subTest(words), self.assertRaisesRegex(CacheError, words):
                ask()
        # What an imported cache says of its tails beside T = 1 is a guess, and said to be one.
        self.cache.nodes = np.array([1.0])
        with self.assertWarnsRegex(UserWarning, "tails at T = 1 alone"):
            self.cache.curve_weights(2.0, "shape")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.cache.curve_weights(1.0, "shape")
            self.cache.curve_weights(2.0, "renormalize")
        # What needs no curve is known at any temperature.
        self.assertAlmostEqual(self.cache.dense([0], 0.5, tail="renormalize").sum(), 1.0)


class WithoutTail(unittest.TestCase):
    """A cache whose head holds every class, made here from the fixture's manifest."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "shards").mkdir()
        self.z = np.array([[3.0, 1.0, -2.0], [0.5, 0.25, -4.0]])
        m = fixture.load("v1/cache/manifest.json")
        m.update(classes=3, head={"k": 3}, samples=2, positions=2)
        del m["tail"]["model"], m["dataset"]["labels"]
        m["storage"]["values"] = "f32"
        m["shards"] = [{**m["shards"][0], "rows": 2}]
        (self.folder / "manifest.json").write_text(json.dumps(m))
        schema = Cache(self.folder).shard_schema()
        empty = {"sample_id": [0, 1], "view": [0, 0], "head_ids": [[0, 1, 2]] * 2, "head_values": (self.z - self.z.max(1, keepdims=True)).tolist()}
        batch = pa.RecordBatch.from_arrays([pa.array(empty[f.name], type=f.type) for f in schema], schema=schema)
        write(self.folder / "shards/00000.arrow", batch)

    def test_the_target_is_the_softmax_at_any_temperature(self):
        cache = Cache(self.folder)
        self.assertIsNone(cache.labels)
        for t in (0.25, 1.0, 3.0):
            p = np.exp(self.z / t)
            for tail in TAILS:
                np.testing.assert_allclose(cache.dense([0, 1], t, tail), p / p.sum(1, keepdims=True), rtol=1e-6)
                self.assertTrue((cache.batch([0, 1], t, tail)["tail_log_mass"] == -np.inf).all())
        with self.assertRaisesRegex(CacheError, "there is no tail"):
            cache.tail_log_weights(1.0)


class Refusing(unittest.TestCase):
    """What section 6 says a reader must check, and what SAFETY.md promises of every row."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "cache"
        shutil.copytree(fixture.CACHE, self.folder)
        self.shard = self.folder / "shards/00001.arrow"

    def refused(self, words, use=lambda cache: cache.raw(np.arange(cache.rows)), **options):
        with self.assertRaisesRegex(CacheError, words):
            use(Cache(self.folder, **options))

    def test_manifests(self):
        path = self.folder / "manifest.json"
        text = path.read_text()
        shards = json.loads(text)["shards"]
        for place, wrong, words in (
            ("format_version", 6, r"versions 1 to 5, found \('kd-cache', 6\); a newer kd-cache"),
            ("format_version", 0, r"versions 1 to 5, found \('kd-cache', 0\)$"),
            ("format_version", 3, "format_version: expected 1 or 2"),
            ("format_version", 2, "tail.rank: expected 1 to 128, found 0"),
            ("complete", False, "not complete"),
            ("classes", 1, "classes: 1"),
            ("classes", "20", "not a manifest"),
            ("head/k", 21, "expected 1 to 20, found 21"),
            ("head/k", 0, "expected 1 to 20, found 0"),
            ("tail/nodes", [0.5, 0.25, 1.0], "tail.nodes"),
            ("tail/nodes", [0.5], "tail.nodes"),
            ("tail/nodes", [1.0, float("inf")], "tail.nodes"),
            ("tail/rank", 8, "tail.rank"),
            ("tail/model", None, "tail.model is missing"),
            ("tail/model/file", "../tail_model.arrow", "no path inside"),
            ("storage/ids", "u16", "expected u8, found u16"),
            ("storage/values", "f8", "storage.values"),
            ("storage/form", "parquet", "storage.form"),
            ("storage/shard_samples", 0, "shard_samples"),
            ("views", 2, "one view"),
            ("samples", 13, "one view"),
            ("positions", 13, "one view"),
            ("shards", shards[:2], "expected 12 rows, found 10"),
            ("shards", [shards[1], shards[0], shards[2]], "out of order"),
            ("shards/0/rows", 0, "out of order"),
            ("shards/0/file", "/etc/passwd", "no path inside"),
            ("shards/0/file", "", "no path inside"),
            ("shards/0", {}, "KeyError"),
            ("dataset", None, "not a manifest"),
        ):
            with self.subTest(place=place, wrong=wrong):
                m = json.loads(text)
                *parents, key = [int(part) if part.isdigit() else part for part in place.split("/")]
                inner = m
                for part in parents:
                    inner = inner[part]
                inner[key] = wrong
                path.write_text(json.dumps(m))
                self.refused(words)
        for wrong in ("", "[]", "{", "null"):
            path.write_text(wrong)
            self.refused("not a manifest")
        path.unlink()
        self.refused("holds no complete cache: manifest.json is missing$")
        (self.folder / "build").mkdir()
        self.refused("its build is not finished")

    def test_files(self):
        batch, whole = read(self.shard), self.shard.read_bytes()
        nullable = pa.schema([batch.schema.field(0).with_nullable(True), *list(batch.schema)[1:]])
        values = np.array(batch["head_values"].to_pylist(), np.float16)
        for spoil, words in (
            (lambda: write(self.shard, batch.slice(1)), "expected 5 rows, found 4"),
            (lambda: write(self.shard, batch.select(batch.schema.names[:-1])), "expected columns"),
            (lambda: write(self.shard, batch.cast(nullable)), "expected columns"),
            (lambda: write(self.shard, batch, compression="zstd"), "compressed"),
            (lambda: write(self.shard, replaced(batch, "head_values", np.where(values == 0, np.nan, values))), "row 5: expected"),
            (lambda: write(self.shard, replaced(batch, "head_ids", np.full((5, 4), 20, np.uint8))), "row 5: expected class ids below 20"),
            (lambda: write(self.shard, replaced(batch, "tail_curve", np.full((5, 5), -np.inf, np.float16))), "finite"),
            (lambda: self.shard.write_bytes(whole[: len(whole) // 2]), "00001.arrow: no sound Arrow IPC"),
            (lambda: self.shard.write_bytes(b""), "found 0 bytes"),
            (lambda: self.shard.unlink(), "00001.arrow is missing: have it from another copy"),
            (lambda: self.shard.write_bytes(b"ARROW1\0\0" + bytes(64)), "00001.arrow: no sound Arrow IPC"),
        ):
            with self.subTest(words):
                spoil()
                self.refused(words)
                self.shard.write_bytes(whole)
        with pa.OSFile(str(self.shard), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch.slice(0, 2))
            file.write_batch(batch.slice(2))
        self.refused("2 record batches")

    def test_tail_models(self):
        path = self.folder / "tail_model.arrow"
        batch = read(path)
        weights = np.array(batch["prior"].to_pylist(), np.float32)
        weights[3, 1] = np.inf
        for wrong, words in ((batch.slice(1), "expected 20 rows, found 19"), (replaced(batch, "prior", weights), "not finite")):
            write(path, wrong)
            self.refused(words, use=lambda cache: None)

    def test_what_a_reader_may_leave_to_kd_cache_verify(self):
        batch, whole = read(self.shard), self.shard.read_bytes()
        write(self.shard, replaced(batch, "sample_id", np.array([5, 6, 6, 8, 9], np.uint64)))
        self.refused("do not rise", use=lambda cache: cache.rows_of([6]))
        write(self.shard, replaced(batch, "label", np.array([1, 2, 20, 3, 4], np.uint32)))
        self.refused("a label is not below 20", use=lambda cache: cache.labels)
        Cache(self.folder).raw([5])
        changed = bytearray(whole)
        changed[-1] ^= 1
        self.shard.write_bytes(changed)
        self.refused("00001.arrow: expected sha256:", use=lambda cache: None, verify=True)
        self.shard.write_bytes(whole + b"more")
        self.refused("00001.arrow: expected 2130 bytes, found 2134", use=lambda cache: None, verify=True)

    def test_no_change_of_a_byte_ends_in_anything_but_an_error_or_a_number(self):
        whole = bytearray(self.shard.read_bytes())
        for at in range(0, len(whole), 3):
            changed = bytearray(whole)
            changed[at] ^= 0xFF
            self.shard.write_bytes(changed)
            with contextlib.suppress(CacheError):
                self.assertEqual(np.isfinite(Cache(self.folder).dense(np.arange(12), 2.0)).all(), True)


class CommandLine(unittest.TestCase):
    def run_with(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.object(sys, "argv", ["read_cache.py", *map(str, arguments)]):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = read_cache.main()
        return code, out.getvalue(), err.getvalue()

    def test_it_prints_checks_and_refuses(self):
        code, out, _ = self.run_with(fixture.CACHE, "--sample", 7, "--temperature", 1, "--temperature", 2, "--dense")
        targets = json.loads(out)
        self.assertEqual((code, [t["temperature"] for t in targets], targets[0]["sample"]), (0, [1.0, 2.0], 7))
        self.assertAlmostEqual(sum(targets[1]["dense"]), 1.0)
        self.assertAlmostEqual(sum(targets[1]["probabilities"]) + targets[1]["tail_mass"], 1.0)
        self.assertEqual(len(json.loads(self.run_with(fixture.CACHE, "--verify")[1])), 12)
        code, out, _ = self.run_with(fixture.CACHE, "--check", fixture.FIXTURES / "v1/expected.json")
        self.assertEqual((code, "every target is as expected" in out), (0, True))
        code, out, err = self.run_with(fixture.CACHE, "--sample", 12)
        self.assertEqual((code, out, "no sample 12" in err), (1, "", True))


if __name__ == "__main__":
    unittest.main()
