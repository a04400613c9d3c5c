"""tools/teacher_remembered.py: what is kept is what was said, document by document, and each row is computed once."""

import sys
import tempfile
import types
import unittest
from pathlib import Path

import fixture

try:
    import numpy as np
    import pyarrow  # noqa: F401
except ImportError:
    np = None

CLASSES = 7


@unittest.skipIf(np is None, "numpy and pyarrow are not installed")
class Remembered(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sys.path.insert(0, str(fixture.ROOT / "tools"))
        # The tool's own model is not asked here.
        sys.modules.setdefault("onnxruntime", types.ModuleType("onnxruntime"))
        import teacher_remembered

        cls.tool = teacher_remembered

    def setUp(self):
        self.asked = []

    def logits(self, tokens):
        """Of a token and of its place in its document alone."""
        self.asked.append(tokens.tolist())
        places = np.arange(len(tokens))
        return np.sin(tokens[:, None] * 1.7 + places[:, None] * 0.3 + np.arange(CLASSES)[None]).astype(np.float32) * 20

    def test_documents_begin_where_places_do(self):
        for places, expected in (
            ([0, 1, 2], [(0, 3)]),
            ([0, 1, 0, 0, 1], [(0, 2), (2, 3), (3, 5)]),
            ([0], [(0, 1)]),
            # A row that begins within a document.
            ([5, 6, 0], [(0, 2), (2, 3)]),
        ):
            self.assertEqual(self.tool.documents(np.array(places)), expected)

    def test_each_row_is_computed_once_and_is_there_again(self):
        rows = [([3, 1, 4, 1, 5], [0, 1, 0, 1, 2]), ([9, 2, 6], [0, 1, 2]), ([3, 1, 4, 1, 5], [0, 1, 2, 3, 4])]
        rows = [tuple(np.array(part, np.int64) for part in row) for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            store = self.tool.Store(Path(folder), "d" * 64, CLASSES)
            first = [np.array(store.row(*row, self.logits)) for row in rows]
            # The same tokens as one document are another row.
            self.assertEqual(self.asked, [[3, 1], [4, 1, 5], [9, 2, 6], [3, 1, 4, 1, 5]])
            self.assertFalse((first[0] == first[2]).all())
            for (tokens, places), found in zip(rows, first):
                parts = self.tool.documents(places)
                wanted = np.concatenate([self.logits(tokens[begin:end]) for begin, end in parts])
                wanted -= wanted.max(-1, keepdims=True)
                self.assertEqual(found.dtype, np.float16)
                self.assertLessEqual(np.abs(found - wanted).max(), np.abs(wanted).max() * 2.0**-11)
                self.assertTrue((found.max(-1) == 0).all())
            self.asked.clear()
            # A row that was cut short by a kill is dropped, and those before it are kept.
            with open(store.file, "ab") as opened:
                opened.write(b"half a row")
            again = self.tool.Store(Path(folder), "d" * 64, CLASSES)
            for row, found in zip(rows, first):
                self.assertTrue((np.array(again.row(*row, self.logits)) == found).all())
            self.assertEqual(self.asked, [])
            new = (np.array([8], np.int64), np.array([0], np.int64))
            self.assertEqual(np.array(again.row(*new, self.logits)).shape, (1, CLASSES))
            self.assertEqual(self.asked, [[8]])


if __name__ == "__main__":
    unittest.main()
