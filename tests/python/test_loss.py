"""kl_loss of tools/read_cache.py against our own loss (tests/numerics.rs), its definition and finite differences."""

import importlib.util
import itertools
import unittest

import fixture
import numpy as np
from read_cache import TAILS, Cache, CacheError, TorchBatch, kl_loss

# A look, not an import: PyTorch takes seconds to load, and is loaded where it is used.
TORCH = importlib.util.find_spec("torch") is not None
STEP = 1e-5


def open_caches():
    return {"v1": Cache(fixture.CACHE), "v2": Cache(fixture.WITH_SHAPE)}


class Rows:
    """A dataset as the reader's first lines have it, of rows alone."""

    def __init__(self, cache):
        self.cache = cache

    def __len__(self):
        return self.cache.rows

    def __getitems__(self, rows):
        return self.cache.torch_batch(rows)


def whole(batch):
    return batch


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Reference(unittest.TestCase):
    """The numbers of our loss follow from what the reader decodes, with no PyTorch at all."""

    def test_losses_and_gradients_are_those_of_the_decoded_targets(self):
        caches, reference = open_caches(), fixture.load("reference/kl_python.json")
        rows, student = reference["rows"], np.array(reference["student"])
        self.assertEqual(len(reference["cases"]), 2 * 3 * len(TAILS))
        for case in reference["cases"]:
            cache, t, tail = caches[case["cache"]], case["temperature"], case["tail"]
            with self.subTest(cache=case["cache"], t=t, tail=tail):
                per_row = [fixture.divergence(cache, row, t, tail, s) for row, s in zip(rows, student.tolist())]
                np.testing.assert_allclose(np.mean(per_row), case["loss"], rtol=1e-5, atol=1e-5)
                # d/ds T² KL(p ‖ softmax(s / T)) = T (softmax(s / T) - p), a bucket's mass being spread as the
                # student spreads it.
                q, p = softmax(student / t), cache.dense(rows, t, tail)
                if tail == "bucket":
                    batch = cache.batch(rows, t, tail)
                    off_head = q.copy()
                    np.put_along_axis(off_head, batch["ids"], 0.0, axis=1)
                    p = np.exp(batch["tail_log_mass"])[:, None] * off_head / off_head.sum(1, keepdims=True)
                    np.put_along_axis(p, batch["ids"], np.exp(batch["log_probs"]), axis=1)
                np.testing.assert_allclose(t * (q - p) / len(rows), case["gradient"], atol=1e-5)


@unittest.skipUnless(TORCH, "this python3 has no torch: kl_loss is not run")
class Loss(unittest.TestCase):
    def setUp(self):
        import torch

        self.torch = torch
        self.cache = Cache(fixture.CACHE)
        self.reference = fixture.load("reference/kl_python.json")
        self.rows = self.reference["rows"]

    def student(self, dtype):
        return self.torch.tensor(self.reference["student"], dtype=dtype, requires_grad=True)

    def test_losses_and_gradients_are_ours(self):
        caches = open_caches()
        batches = {name: cache.torch_batch(self.rows) for name, cache in caches.items()}
        for dtype in (self.torch.float32, self.torch.float64):
            for dense in (True, False):
                for case in self.reference["cases"]:
                    name, t, tail = case["cache"], case["temperature"], case["tail"]
                    with self.subTest(cache=name, dtype=dtype, dense=dense, t=t, tail=tail):
                        student = self.student(dtype)
                        loss = kl_loss(student, batches[name], caches[name], t, tail, dense=dense)
                        self.assertEqual(loss.shape, ())
                        loss.backward()
                        np.testing.assert_allclose(loss.item(), case["loss"], rtol=1e-5, atol=1e-5)
                        np.testing.assert_allclose(student.grad.numpy(), case["gradient"], rtol=1e-5, atol=1e-5)

    def test_gradients_are_finite_differences(self):
        batch = self.cache.torch_batch(self.rows)
        for tail in TAILS:
            for dense in (True, False):
                student = self.student(self.torch.float64)
                kl_loss(student, batch, self.cache, 2.5, tail, dense).backward()
                for at in np.ndindex(2, self.cache.classes):
                    moved = [np.array(self.reference["student"]) for _ in range(2)]
                    moved[0][at] += STEP
                    moved[1][at] -= STEP
                    up, down = (
                        kl_loss(self.torch.from_numpy(s), batch, self.cache, 2.5, tail, dense).item() for s in moved
                    )
                    self.assertAlmostEqual((up - down) / (2 * STEP), student.grad[at].item(), delta=1e-8)

    def test_both_forms_are_one_number_and_the_size_decides(self):
        for t in (1.0, 3.5, 8.0):
            for tail in ("prior", "uniform"):
                student = self.student(self.torch.float64)
                batch = self.cache.torch_batch(self.rows)
                dense, product = (kl_loss(student, batch, self.cache, t, tail, form) for form in (True, False))
                self.assertAlmostEqual(dense.item(), product.item(), places=12)
                self.assertEqual(kl_loss(student, batch, self.cache, t, tail).item(), dense.item())
                exact = [
                    fixture.divergence(self.cache, row, t, tail, s) for row, s in zip(self.rows, self.reference["student"])
                ]
                self.assertAlmostEqual(dense.item(), np.mean(exact), places=10)

    def test_it_is_zero_where_the_student_is_the_target(self):
        batch = self.cache.torch_batch(self.rows)
        for tail in ("prior", "uniform", "bucket"):
            student = 4.0 * np.log(self.cache.dense(self.rows, 4.0, tail))
            for dense in (True, False):
                loss = kl_loss(self.torch.from_numpy(student), batch, self.cache, 4.0, tail, dense)
                self.assertAlmostEqual(loss.item(), 0.0, places=10)

    def test_half_precision_students_are_taken_in_single(self):
        batch = self.cache.torch_batch(self.rows)
        for dense in (True, False):
            student = self.student(self.torch.bfloat16)
            single = student.detach().float().requires_grad_()
            with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
                loss = kl_loss(student, batch, self.cache, 2.0, dense=dense)
            self.assertEqual(loss.item(), kl_loss(single, batch, self.cache, 2.0, dense=dense).item())
            loss.backward()
            self.assertEqual(student.grad.dtype, self.torch.bfloat16)

    def test_some_positions_and_each_of_them(self):
        torch = self.torch
        for cache, dense, tail in itertools.product(open_caches().values(), (True, False), TAILS):
            batch, student = cache.torch_batch(self.rows), self.student(torch.float64)
            each = kl_loss(student, batch, cache, 2.5, tail, dense, reduction="none")
            self.assertEqual(each.shape, (len(self.rows),))
            for reduction, expected in (("sum", each.sum()), ("mean", each.mean())):
                found = kl_loss(student, batch, cache, 2.5, tail, dense, reduction)
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
            mask = torch.tensor([True, False, True, True, False, False])
            some = kl_loss(student[mask], batch.of(mask).to("cpu"), cache, 2.5, tail, dense, reduction="none")
            torch.testing.assert_close(some, each[mask], rtol=1e-12, atol=1e-12)
            # A batch may have nothing to learn from.
            none = kl_loss(student[mask & ~mask], batch.of(mask & ~mask), cache, 2.5, tail, dense)
            none.backward()
            self.assertEqual((none.item(), student.grad.abs().sum().item()), (0.0, 0.0))

    def test_whole_batches_come_from_workers(self):
        from torch.utils.data import DataLoader

        for method in ("fork", "spawn"):
            loader = DataLoader(
                Rows(self.cache), 2, num_workers=2, collate_fn=whole, multiprocessing_context=method
            )
            found = [torch_batch for torch_batch in loader]
            self.assertTrue(all(isinstance(batch, TorchBatch) for batch in found))
            expected = self.cache.torch_batch(np.arange(self.cache.rows))
            for at, tensor in enumerate(expected):
                self.assertTrue(self.torch.equal(self.torch.cat([batch[at] for batch in found]), tensor))

    def test_what_does_not_fit_is_refused(self):
        batch = self.cache.torch_batch(self.rows)
        self.assertEqual([tensor.dtype for tensor in batch], [self.torch.int64, *3 * [self.torch.float32], self.torch.int64])
        self.assertIsInstance(batch, TorchBatch)
        student = self.student(self.torch.float32)
        for ask, words in (
            (lambda: kl_loss(student[:3], batch, self.cache, 2.0), r"expected \(6, 20\), found \(3, 20\)"),
            (lambda: kl_loss(student, batch, self.cache, 0.5), "below 1"),
            (lambda: kl_loss(student, batch, self.cache, 2.0, tail="tail"), "expected one of"),
            (lambda: kl_loss(student, batch, self.cache, 2.0, reduction="all"), "reduction: expected one of mean, sum, none"),
            (lambda: kl_loss(student.unsqueeze(0), batch, self.cache, 2.0), r"found \(1, 6, 20\): .*batch.of\(mask\)"),
        ):
            with self.subTest(words), self.assertRaisesRegex(CacheError, words):
                ask()


@unittest.skipUnless(TORCH, "this python3 has no torch: kl_loss is not run")
class Positions(unittest.TestCase):
    """Rows of many positions with heads that differ, against the decoded targets in double precision."""

    def setUp(self):
        import torch

        self.torch = torch
        self.caches = {name: Cache(path) for name, path in (("packed", fixture.PACKED), ("lists", fixture.LISTS), ("anchors", fixture.ANCHORS))}

    def student(self, cache, n):
        at = np.arange(n)[:, None] * 31 + np.arange(cache.classes)[None, :] * 17
        return (at * at % 101) / 25.0 - 2.0

    def test_losses_and_gradients_are_those_of_the_decoded_targets(self):
        for (name, cache), t, tail in itertools.product(self.caches.items(), (1.0, 3.5, 200.0), TAILS):
            rows = [0] if cache.rows == 1 else [11, 4, 4, 0]
            batch = cache.torch_batch(rows)
            z = self.student(cache, len(batch.ids))
            places = [(row, position) for row in rows for position in range(len(z) // len(rows))]
            exact = np.mean([fixture.divergence(cache, row, t, tail, s, position) for (row, position), s in zip(places, z.tolist())])
            q, p = softmax(z / t), cache.dense(rows, t, tail)
            if tail == "bucket":
                found = cache.batch(rows, t, tail)
                there = np.arange(cache.k) < found["counts"][:, None]
                on_head = np.zeros_like(q, bool)
                at, place = np.nonzero(there)
                on_head[at, found["ids"][at, place]] = True
                p = np.where(on_head, p, np.exp(found["tail_log_mass"])[:, None] * q / np.where(on_head, 0, q).sum(1, keepdims=True))
            for dtype, dense in itertools.product((self.torch.float32, self.torch.float64), (True, False)):
                with self.subTest(cache=name, t=t, tail=tail, dtype=dtype, dense=dense):
                    student = self.torch.tensor(z, dtype=dtype, requires_grad=True)
                    loss = kl_loss(student, batch, cache, t, tail, dense)
                    loss.backward()
                    # Single precision loses a divergence's digits to T².
                    near = {"rtol": 1e-10} if dtype == self.torch.float64 else {"rtol": 1e-5, "atol": 1e-6 * t * t}
                    np.testing.assert_allclose(loss.item(), exact, **near)
                    exactly = 1e-12 if dtype == self.torch.float64 else 1e-6
                    np.testing.assert_allclose(student.grad.numpy(), t * (q - p) / len(z), atol=exactly * max(t, 1))

    def test_a_batch_says_how_long_its_heads_are(self):
        cache = self.caches["packed"]
        batch = cache.torch_batch([0, 1])
        self.assertEqual(batch.counts.tolist(), [1, 4] * 7)
        self.assertTrue((batch.values[0, 1:] == -self.torch.inf).all())
        self.assertTrue(batch.values[1].isfinite().all())


if __name__ == "__main__":
    unittest.main()
