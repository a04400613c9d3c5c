"""tools/read_cache.py on format version 5: features, against the formula of tests/synthetic and the fixtures' numbers."""

import json
import shutil
import tempfile
import unittest
from pathlib import Path

import fixture
import numpy as np
import read_cache
from read_cache import Cache, CacheError

V5 = fixture.FIXTURES / "v5"
CACHES = ("fixed", "packed", "lists")
WIDTHS = {"pooled": 3, "last_hidden": 5}


def vectors(feature, width, positions):
    """The formula of tests/synthetic/mod.rs; those of position 2 are zeros."""
    n, j = np.arange(positions)[:, None], np.arange(width)[None, :]
    x = ((n * n * 17 + j * 57 + n * j * 29 + feature * 101) % 211) / 16 - 6
    return np.where(n == 2, 0.0, x)


class Features(unittest.TestCase):
    def test_they_are_off_by_their_rounding(self):
        for name in CACHES:
            cache = Cache(V5 / name / "cache", verify=True)
            for at, (feature, width) in enumerate(WIDTHS.items()):
                wanted = vectors(at, width, cache.positions)
                found = cache.features(feature, range(cache.rows))
                self.assertEqual((found.shape, found.dtype), (wanted.shape, np.float32))
                most = abs(wanted) / 2048 if feature == "pooled" else abs(wanted).max(1, keepdims=True) / 254
                self.assertTrue((abs(found - wanted) <= most + 1e-6).all(), f"{name}: {feature}")

    def test_they_are_what_the_reference_gives(self):
        expected = fixture.load("v5/packed/expected.json")
        for name in ("packed", "lists"):
            read_cache.check(Cache(V5 / name / "cache", verify=True), expected)

    def test_rows_come_in_the_order_asked_for(self):
        for name in CACHES:
            cache = Cache(V5 / name / "cache")
            rows = [7, 0, 11, 7]
            whole = cache.features("last_hidden", range(cache.rows))
            offsets = cache.offsets(range(cache.rows))
            wanted = np.concatenate([whole[offsets[row] : offsets[row + 1]] for row in rows])
            self.assertTrue((cache.features("last_hidden", rows) == wanted).all())
            self.assertEqual(cache.features("last_hidden", []).shape, (0, 5))


class Refusing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "cache"
        shutil.copytree(V5 / "fixed" / "cache", self.folder)

    def test_manifests(self):
        path = self.folder / "manifest.json"
        text = path.read_text()
        for change, words in (
            (lambda features: features.clear(), "expected at most 4 without features"),
            (lambda features: features[0].update(name="Pooled"), "expected names of a to z"),
            (lambda features: features[0].update(name="last_hidden"), "each once"),
            (lambda features: features[0].update(values="f32"), "values: f32"),
            (lambda features: features[0].update(width=0), "a width of at least 1"),
            (lambda features: features[0].update(width=4), "expected columns"),
            (lambda features: features.pop(), "expected columns"),
        ):
            manifest = json.loads(text)
            change(manifest["features"])
            path.write_text(json.dumps(manifest))
            with self.assertRaisesRegex(CacheError, words):
                Cache(self.folder).raw([0])
        path.write_text(text.replace('"format_version": 5', '"format_version": 1'))
        with self.assertRaisesRegex(CacheError, "expected columns"):
            Cache(self.folder).raw([0])
        path.write_text(text)
        with self.assertRaisesRegex(CacheError, "no feature 'other'; it keeps pooled, last_hidden"):
            Cache(self.folder).features("other", [0])


if __name__ == "__main__":
    unittest.main()
