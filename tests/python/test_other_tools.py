"""Shards are plain Arrow files: other tools open them with no code of ours, and find what the format says."""

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


if __name__ == "__main__":
    unittest.main()
