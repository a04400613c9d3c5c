"""Shards are plain Arrow and Parquet files: other tools open them with no code of ours, and find what the format says."""

import importlib.util
import tempfile
import unittest

import fixture
import numpy as np
from read_cache import Cache

SHARD = fixture.CACHE / "shards" / "00001.arrow"
COLUMNS = ["sample_id", "view", "label", "head_ids", "head_values", "tail_curve"]


def needs(package):
    there = importlib.util.find_spec(package) is not None
    return unittest.skipUnless(there, f"this python3 has no {package} (tools/setup.sh installs it)")


class OtherTools(unittest.TestCase):
    """The second shard: rows 5 to 9."""

    def setUp(self):
        self.expected = fixture.load("v1/expected.json")

    def hold(self, names, rows):
        """Names of the columns, and each row as Python values."""
        self.assertEqual(list(names), COLUMNS)
        self.assertEqual(len(rows), 5)
        curves = Cache(fixture.CACHE).raw(range(5, 10))[2]
        for row, (values, curve) in enumerate(zip(rows, curves), start=5):
            sample, view, label, ids, logits, found = values
            self.assertEqual((sample, view, label), (self.expected["samples"][row], 0, self.expected["labels"][row]))
            self.assertEqual(list(ids), self.expected["head_ids"][row])
            # 11 bits of logits.
            np.testing.assert_allclose(logits, self.expected["head_values"][row], rtol=2.0**-11)
            np.testing.assert_array_equal(np.array(found, np.float16), curve)

    def test_pyarrow(self):
        import pyarrow as pa

        with pa.memory_map(str(SHARD)) as source:
            table = pa.ipc.open_file(source).read_all()
        kinds = ["uint64", "uint16", "uint32", *(f"fixed_size_list<item: {kind} not null>" for kind in ("uint8", "halffloat", "halffloat"))]
        sizes = ["", "", "", "[4]", "[4]", "[5]"]
        self.assertEqual([str(field.type) for field in table.schema], [a + b for a, b in zip(kinds, sizes)])
        self.hold(table.column_names, list(zip(*table.to_pydict().values())))

    @needs("polars")
    def test_polars(self):
        import polars

        frame = polars.read_ipc(SHARD)
        self.hold(frame.columns, frame.rows())
        self.assertEqual(polars.scan_ipc(fixture.CACHE / "shards" / "*.arrow").select(polars.len()).collect().item(), 12)

    @needs("duckdb")
    def test_duckdb(self):
        import duckdb
        import pyarrow as pa

        with pa.memory_map(str(SHARD)) as source:
            shard = pa.ipc.open_file(source).read_all()
        # DuckDB has no half precision: such columns are widened first, or built with storage.values = "f32".
        kinds = [pa.list_(pa.float32(), kind.list_size) if "halffloat" in str(kind) else kind for kind in shard.schema.types]
        shard = shard.cast(pa.schema(list(zip(shard.column_names, kinds))))
        found = duckdb.sql("SELECT * FROM shard")
        self.hold(found.columns, found.fetchall())
        self.assertEqual(duckdb.sql("SELECT max(label) FROM shard").fetchone()[0], max(self.expected["labels"][5:10]))

    @needs("datasets")
    def test_hugging_face_datasets(self):
        import datasets

        datasets.disable_progress_bars()
        with tempfile.TemporaryDirectory() as folder:
            found = datasets.load_dataset("arrow", data_files=str(SHARD), split="train", cache_dir=folder)
            self.hold(found.column_names, [tuple(row.values()) for row in found])


PARQUET = fixture.LISTS / "shards" / "00001.parquet"
# Section 3 of schemas/format-v3.md, for heads that differ in size and a dataset of tokens.
PARQUET_COLUMNS = {
    "sample_id": "uint64",
    "view": "uint16",
    "label": "uint32",
    "tokens": "list<item: uint8 not null>",
    "documents": "list<item: uint32 not null>",
    "head_counts": "list<item: uint16 not null>",
    "head_ids": "list<item: uint8 not null>",
    "head_values": "list<item: uint16 not null>",
    "tail_curve": "list<item: int16 not null>",
    "tail_code": "list<item: int8 not null>",
}

# A head's probabilities at T = 1, in SQL: `$step` and `$curve_step` are storage.step and storage.curve_step of the
# manifest, `$nodes` is how many tail.nodes there are, the last of which is 1. A row has a list of all its positions'
# heads, one after the other, each as long as head_counts says.
HEAD_PROBABILITIES = """
WITH positions AS (
    SELECT *, unnest(range(1, len(head_counts) + 1)) AS position FROM read_parquet($shards)
), heads AS (
    SELECT sample_id, position, tail_curve,
        coalesce(list_sum(head_counts[:position - 1]), 0)::BIGINT + 1 AS first,
        list_sum(head_counts[:position])::BIGINT AS last, head_ids, head_values
    FROM positions
), weights AS (
    SELECT sample_id, position, head_ids[first:last] AS ids,
        list_transform(head_values[first:last], lambda s: exp(-$step * s)) AS weights,
        exp(tail_curve[$nodes * position] * $curve_step) AS rest
    FROM heads
)
SELECT sample_id, position - 1, ids, list_transform(weights, lambda w: w / (list_sum(weights) + rest))
FROM weights ORDER BY ALL
"""


class ParquetInOtherTools(unittest.TestCase):
    """The second shard of the lists: rows 5 to 9, of seven positions each."""

    def setUp(self):
        self.expected = fixture.load("v3/packed/expected.json")
        self.manifest = fixture.load("v3/lists/cache/manifest.json")

    def hold(self, names, rows):
        """Names of the columns, and each row as Python values."""
        self.assertEqual(list(names), list(PARQUET_COLUMNS))
        self.assertEqual(len(rows), 5)
        # What the bits of the other form give, a bit at a time.
        positions = fixture.positions(fixture.PACKED)
        step, curve_step = self.manifest["storage"]["step"], self.manifest["storage"]["curve_step"]
        for row, values in enumerate(rows, start=5):
            sample, view, label, tokens, documents, counts, ids, steps, curve, codes = values
            self.assertEqual((sample, view, label), (row, 0, self.expected["labels"][row]))
            self.assertEqual((list(tokens), list(documents)), (self.expected["tokens"][row], self.expected["documents"][row]))
            self.assertEqual(list(counts), [len(position[0]) for position in positions[row]])
            self.assertEqual(list(ids), sum((position[0] for position in positions[row]), []))
            self.assertEqual([-step * s for s in steps], sum((position[1] for position in positions[row]), []))
            self.assertEqual([curve_step * t for t in curve], sum((position[2] for position in positions[row]), []))
            self.assertEqual(list(codes), sum((position[3] for position in positions[row]), []))

    def test_pyarrow(self):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(PARQUET)
        self.assertEqual({field.name: str(field.type) for field in table.schema}, PARQUET_COLUMNS)
        self.assertFalse(any(field.nullable for field in table.schema))
        self.hold(table.column_names, list(zip(*table.to_pydict().values())))

    @needs("polars")
    def test_polars(self):
        import polars

        frame = polars.read_parquet(PARQUET)
        kinds = {
            "uint64": polars.UInt64,
            "uint16": polars.UInt16,
            "uint32": polars.UInt32,
            "uint8": polars.UInt8,
            "int16": polars.Int16,
            "int8": polars.Int8,
        }
        for name, kind in PARQUET_COLUMNS.items():
            item = kinds[kind.removeprefix("list<item: ").removesuffix(" not null>")]
            self.assertEqual(frame.schema[name], polars.List(item) if kind.startswith("list") else item)
        self.hold(frame.columns, frame.rows())
        every = polars.scan_parquet(fixture.LISTS / "shards" / "*.parquet")
        self.assertEqual(every.select(polars.col("tokens").list.len().sum()).collect().item(), 84)

    @needs("duckdb")
    def test_duckdb(self):
        import duckdb

        found = duckdb.sql(f"SELECT * FROM read_parquet('{PARQUET}')")
        kinds = {"uint64": "UBIGINT", "uint32": "UINTEGER", "uint16": "USMALLINT", "uint8": "UTINYINT", "int16": "SMALLINT", "int8": "TINYINT"}
        for name, kind, wanted in zip(found.columns, found.types, PARQUET_COLUMNS.values()):
            item = kinds[wanted.removeprefix("list<item: ").removesuffix(" not null>")]
            self.assertEqual(str(kind), item + "[]" if wanted.startswith("list") else item, name)
        self.hold(found.columns, found.fetchall())

    @needs("duckdb")
    def test_duckdb_computes_probabilities(self):
        import duckdb

        storage = self.manifest["storage"]
        self.assertEqual(self.manifest["tail"]["nodes"][-1], 1)
        what = {
            "shards": str(fixture.LISTS / "shards" / "*.parquet"),
            "step": storage["step"],
            "curve_step": storage["curve_step"],
            "nodes": len(self.manifest["tail"]["nodes"]),
        }
        rows = duckdb.execute(HEAD_PROBABILITIES, what).fetchall()
        self.assertEqual(len(rows), 84)
        cache = Cache(fixture.LISTS)
        for at, (sample, position, ids, probabilities) in enumerate(rows):
            self.assertEqual((sample, position), divmod(at, 7))
            wanted_ids, wanted, _ = fixture.decode(cache, sample, 1.0, "shape", position)
            self.assertEqual(ids, wanted_ids)
            np.testing.assert_allclose(probabilities, wanted, rtol=1e-12)

    @needs("datasets")
    def test_hugging_face_datasets(self):
        import datasets

        datasets.disable_progress_bars()
        with tempfile.TemporaryDirectory() as folder:
            found = datasets.load_dataset("parquet", data_files=str(PARQUET), split="train", cache_dir=folder)
            for name, kind in PARQUET_COLUMNS.items():
                feature = found.features[name]
                item = feature.feature if kind.startswith("list") else feature
                self.assertEqual(item.dtype, kind.removeprefix("list<item: ").removesuffix(" not null>"))
            self.hold(found.column_names, [tuple(row.values()) for row in found])


if __name__ == "__main__":
    unittest.main()
