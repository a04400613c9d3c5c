"""tools/parquet_to_folder.py: folders count classes as labels do, or nothing is written."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import fixture

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

TOOL = fixture.ROOT / "tools" / "parquet_to_folder.py"
IMAGE = (fixture.FIXTURES / "images" / "decoded" / "rgb.png").read_bytes()


@unittest.skipIf(pa is None, "pyarrow is not installed")
class ParquetToFolder(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def write(self, name, labels, names=None):
        """A file as `datasets` writes it: an image for each label."""
        column = pa.array([{"bytes": IMAGE, "path": None} for _ in labels])
        table = pa.table({"image": column, "label": pa.array(labels, pa.int64())})
        if names:
            about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(table, self.path / name)
        return self.path / name

    def run_tool(self, *arguments):
        return subprocess.run([sys.executable, TOOL, self.path / "out", *arguments], capture_output=True, text=True)

    def refused(self, words, *arguments):
        done = self.run_tool(*arguments)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(words, done.stderr)
        self.assertFalse((self.path / "out").exists())

    def test_folders_are_named_and_numbered_as_the_labels(self):
        files = [self.write("a.parquet", [2, 0], ["cat", "a dog", "emu"]), self.write("b.parquet", [1])]
        done = self.run_tool(*files)
        self.assertEqual(done.returncode, 0, done.stderr)
        written = {str(file.relative_to(self.path / "out")): file.read_bytes() for file in self.path.glob("out/*/*")}
        self.assertEqual(sorted(written), ["00000-cat/0000000001.png", "00001/0000000002.png", "00002-emu/0000000000.png"])
        self.assertEqual(set(written.values()), {IMAGE})

    def test_labels_that_folders_would_count_otherwise_are_refused(self):
        self.refused("found none of [1]", self.write("gap.parquet", [0, 2, 2]))
        self.refused("found none of [2]", self.write("last.parquet", [0, 1], ["cat", "dog", "emu"]))
        self.refused("found -1", self.write("unlabelled.parquet", [0, -1]))
        self.refused("found None", self.write("null.parquet", [0, None]))

    def test_without_labels_all_images_lie_together(self):
        done = self.run_tool(self.write("null.parquet", [None, -1]), "--label", "none")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(list(self.path.glob("out/*.png"))), 2)


if __name__ == "__main__":
    unittest.main()
