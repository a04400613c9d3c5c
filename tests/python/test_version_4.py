"""tools/read_cache.py on format version 4: steps that grow, sampled targets, and what it refuses of them."""

import json
import shutil
import struct
import tempfile
import unittest
from collections import Counter
from pathlib import Path

import fixture
import numpy as np
import read_cache
from read_cache import Cache, CacheError, kl_loss

V4 = fixture.FIXTURES / "v4"


def logits(classes, positions):
    """The formula of tests/synthetic/mod.rs."""
    n, j = np.arange(positions)[:, None], np.arange(classes)[None, :]
    return ((n * n * 131 + j * j * 57 + n * j * 29 + 7) % 997).astype(np.float32) / np.float32(83) - np.float32(6)


def chacha8(key, words):
    """So many 32-bit words of the generator in section 3: RFC 8439's block, 8 rounds, a counter of 64 bits."""
    rotated = lambda x, by: (x << by | x >> (32 - by)) & 0xFFFFFFFF
    out, counter = [], 0

    def quarter(s, a, b, c, d):
        for to, add, turn, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[to] = (s[to] + s[add]) & 0xFFFFFFFF
            s[turn] = rotated(s[turn] ^ s[to], by)

    while len(out) < words:
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        state = list(start)
        for _ in range(4):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(state, a, b, c, d)
            for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(state, a, b, c, d)
        out += [(x + y) & 0xFFFFFFFF for x, y in zip(state, start)]
        counter += 1
    return out[:words]


class Steps(unittest.TestCase):
    def test_every_target_is_what_the_reference_gives(self):
        read_cache.check(Cache(V4 / "steps" / "cache", verify=True), fixture.load("v4/steps/expected.json"))

    def test_logits_are_off_by_half_the_step_at_them(self):
        cache = Cache(V4 / "steps" / "cache")
        z = logits(cache.classes, cache.positions).astype(np.float64)
        raw = cache.raw(range(cache.rows))
        there = np.arange(cache.k) < raw.counts[:, None]
        true = np.take_along_axis(z, raw.ids.astype(np.int64), 1) - z.max(1, keepdims=True)
        step = 0.125 * np.sqrt(1 - 2 * 0.25 * np.minimum(true, raw.values.astype(np.float64))[there] / 0.125)
        self.assertTrue((abs(raw.values[there] - true[there]) <= step / 2 + 1e-6).all())


class Draws(unittest.TestCase):
    def setUp(self):
        self.caches = [Cache(V4 / name / "cache", verify=True) for name in ("packed", "lists")]

    def test_every_target_is_what_was_drawn(self):
        for cache in self.caches:
            read_cache.check(cache, fixture.load("v4/packed/expected.json"))

    def test_draws_are_those_of_the_text(self):
        cache = self.caches[0]
        z = logits(cache.classes, cache.positions).astype(np.float64)
        raw = cache.raw(range(cache.rows))
        for at in range(cache.positions):
            row, position = divmod(at, 7)
            key = struct.pack("<QQHI", cache.manifest["seed"], row, 0, position).ljust(32, b"\0")
            words = chacha8(key, 2 * cache.draws)
            uniform = [((high << 32 | low) >> 11) * 2.0**-53 for low, high in zip(words[::2], words[1::2])]
            sums = np.cumsum(np.exp((z[at] - z[at].max()) / cache.drawn_at))
            drawn = Counter(int(np.searchsorted(sums, u * sums[-1], side="right")) for u in uniform)
            wanted = sorted(drawn.items(), key=lambda pair: (-pair[1], pair[0]))
            count = raw.counts[at]
            self.assertEqual(raw.ids[at, :count].tolist(), [class_ for class_, _ in wanted])
            p = np.exp(cache.batch([row], cache.drawn_at)["log_probs"][position, :count])
            np.testing.assert_allclose(p, [times / cache.draws for _, times in wanted], atol=1e-7)

    def test_another_temperature_is_refused(self):
        for cache in self.caches:
            for use in (cache.batch, cache.dense):
                with self.assertRaisesRegex(CacheError, "drawn at 2.0"):
                    use([0], 1.0)

    def test_the_loss_is_the_divergence_from_what_was_drawn(self):
        try:
            import torch
        except ImportError:
            self.skipTest("PyTorch is not installed")
        cache = self.caches[1]
        batch, p = cache.torch_batch(range(cache.rows)), cache.dense(range(cache.rows), 2.0)
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
        student = torch.from_numpy(logits(cache.classes, cache.positions)[::-1].copy()).double().requires_grad_()
        log_q = (student / 2).log_softmax(-1)
        p = torch.from_numpy(p)
        wanted = 4 * (torch.xlogy(p, p) - p * log_q).sum(-1).mean()
        found = kl_loss(student, batch, cache, temperature=2.0)
        self.assertLess(abs(found - wanted).item(), 1e-6)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, wanted)]
        torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-6)
        with self.assertRaisesRegex(CacheError, "drawn at 2.0"):
            kl_loss(student, batch, cache, temperature=4.0)


class Refusing(unittest.TestCase):
    def changed(self, name, **changes):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        shutil.copytree(V4 / name / "cache", folder / "cache")
        path = folder / "cache" / "manifest.json"
        manifest = json.loads(path.read_text())
        for place, value in changes.items():
            room, key = place.split("__")
            manifest[room][key] = value
            if value is None:
                del manifest[room][key]
        path.write_text(json.dumps(manifest))
        return folder / "cache"

    def test_manifests(self):
        for name, changes, words in (
            ("packed", {"head__draws": 0}, "head.draws"),
            ("packed", {"head__draws": 70000}, "head.draws"),
            ("packed", {"head__temperature": 0}, "head.temperature"),
            ("packed", {"head__temperature": None}, "not a manifest"),
            ("packed", {"head__mass": 0.5}, "head.mass"),
            ("packed", {"storage__values": "f16"}, "storage.values: expected one of counts"),
            ("packed", {"storage__codebook": None}, "storage.codebook"),
            ("steps", {"storage__step_growth": 1.5}, "storage.step_growth"),
            ("steps", {"storage__step_growth": None}, "at most 3"),
            ("steps", {"storage__values": "counts"}, "storage.values: expected one of f16"),
        ):
            with self.subTest(changes), self.assertRaisesRegex(CacheError, words):
                Cache(self.changed(name, **changes))

    def test_numbers_that_are_no_draws(self):
        for name in ("packed", "lists"):
            cache = Cache(self.changed(name, head__draws=11))
            with self.assertRaisesRegex(CacheError, "sum to 11"):
                cache.raw(range(cache.rows))


if __name__ == "__main__":
    unittest.main()
