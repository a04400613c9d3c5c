"""What the teacher saw of an image (section 9 of schemas/format-v3.md): the table's draws, torchvision's bytes, and a build's own inputs."""

import hashlib
import importlib.util
import itertools
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import fixture
import numpy as np
import read_cache
from read_cache import Cache, CacheError, View

KD_CACHE = fixture.program("kd-cache")
IMAGES = fixture.FIXTURES / "images"
CROP = {"scale": [0.08, 1.0], "ratio": [0.75, 1.3333333333333333]}
PLAIN = {"scale": 1.0, "mean": [0.0], "std": [1.0], "layout": "nhwc"}
with_pillow = unittest.skipUnless(importlib.util.find_spec("PIL"), "this python3 has no Pillow")


def digested(part):
    text = json.dumps(part, separators=(",", ":"))
    return {**part, "digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest()}


def views(number, seed=5, crop=CROP, flip=0.5):
    """An `augment`."""
    crop = {"random_resized_crop": crop} if crop else {}
    return {"views": number, "seed": seed, **crop, "horizontal_flip": flip}


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def cache(self, preprocess=(), augment=None, shape=(0, 0, 3), change=lambda manifest: None):
        """A cache without shards of two images."""
        number = augment["views"] if augment else 1
        m = fixture.load("v1/cache/manifest.json")
        m.update(classes=3, head={"k": 3}, samples=2, views=number, positions=2 * number)
        m["dataset"]["sample_shape"] = list(shape)
        m["shards"] = [{**m["shards"][0], "rows": 2 * number}]
        # Geometry stands before the rest, which is the order that the digest is of.
        m["preprocess"] = digested({**{key: value for key, value in dict(preprocess).items() if key not in PLAIN}, **PLAIN, **dict(preprocess)})
        if augment:
            m.update(format_version=3, augment=digested(augment))
        change(m)
        (self.folder / "manifest.json").write_text(json.dumps(m), encoding="utf-8")
        return Cache(self.folder)


class Drawing(Folder):
    def test_the_table_of_the_format(self):
        text = (fixture.ROOT / "schemas" / "format-v3.md").read_text(encoding="utf-8")
        line = r"\| (\d+) \| ([\d.]+), ([\d.]+) \| (\d+) \| (\d+) \| (\d+) × (\d+) \| (\d+), (\d+) \| (\d+) × (\d+) \| (yes|no) \|"
        rows = re.findall(line, text)
        self.assertEqual(len(rows), 10)
        for seed, least, most, *numbers, flip in rows:
            sample, view, height, width, *part = map(int, numbers)
            crop = {**CROP, "scale": [float(least), float(most)]}
            found = self.cache({"size": [8, 8]}, views(65535, int(seed), crop)).view(sample, view, height, width)
            self.assertEqual(found, View(*part, flip == "yes"))
        first, second = itertools.islice(read_cache.uniform(5, 0, 0), 2)
        self.assertIn(f"u_1 = {first!r} and u_2 = {second!r}", text)

    def test_draws_are_those_that_the_library_pins(self):
        cache = self.cache({"size": [8, 8]}, views(4))
        found = [cache.view(*row, 375, 500) for row in ((0, 0), (0, 1), (1, 0), (np.uint64(1281166), np.uint16(3)))]
        wanted = [(119, 271, 143, 165, True), (5, 42, 341, 448, False), (21, 51, 286, 311, False), (2, 61, 335, 407, True)]
        self.assertEqual(found, wanted)
        cache = self.cache({"size": [8, 8]}, views(4, crop={**CROP, "scale": [1.0, 1.0]}))
        found = [cache.view(3, 0, *size)[:4] for size in ((30, 1000), (1000, 30), (1, 1))]
        self.assertEqual(found, [(0, 480, 30, 40), (480, 0, 40, 30), (0, 0, 1, 1)])

    def test_draws_are_of_the_ranges_and_fill_them(self):
        cache, n = self.cache({"size": [8, 8]}, views(4)), 20000
        top, left, height, width, flip = np.array([cache.view(sample, 1, 500, 500) for sample in range(n)]).T
        self.assertTrue((top + height <= 500).all() and (left + width <= 500).all())
        self.assertLess(abs(flip.mean() - 0.5), 4 * math.sqrt(0.25 / n))
        area, ratio = height * width / 250000, width / height
        self.assertTrue(0.079 < area.min() < 0.085 and 0.95 < area.max() <= 1.0, (area.min(), area.max()))
        self.assertTrue(0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35, (ratio.min(), ratio.max()))
        self.assertLess(abs((ratio < 1).mean() - 0.5), 0.03)

    def test_without_a_random_part_all_of_the_image_is_seen(self):
        self.assertEqual(self.cache().view(7, 0, 20, 30), (0, 0, 20, 30, False))
        found = {self.cache({"crop": 8}, views(9, crop=None)).view(7, view, 20, 30) for view in range(9)}
        self.assertEqual(found, {(0, 0, 20, 30, False), (0, 0, 20, 30, True)})


class Preparing(Folder):
    """What needs no resizing needs no Pillow."""

    def setUp(self):
        super().setUp()
        without = mock.patch.dict(sys.modules, {"PIL": None})
        without.start()
        self.addCleanup(without.stop)

    def test_channels_go_first_or_stay_last(self):
        image = np.array([0, 10, 2, 20, 4, 30], np.uint8).reshape(1, 3, 2)
        two = {"scale": 0.5, "mean": [1.0, 5.0], "std": [1.0, 2.0]}
        for keys, shape, wanted in (
            ({**two, "layout": "nchw"}, (2, 1, 3), [-1.0, 0.0, 1.0, 0.0, 2.5, 5.0]),
            ({**two, "layout": "nhwc"}, (1, 3, 2), [-1.0, 0.0, 0.0, 2.5, 1.0, 5.0]),
            ({"scale": 0.5, "layout": "flat"}, (6,), [0.0, 5.0, 1.0, 10.0, 2.0, 15.0]),
        ):
            found = self.cache(keys, shape=(1, 3, 2)).prepare(image)
            self.assertEqual((found.shape, found.dtype, found.ravel().tolist()), (shape, np.float32, wanted))
            self.assertTrue(found.flags.c_contiguous and found.flags.writeable)

    def test_arrays_of_two_dimensions_and_others(self):
        grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
        for layout, shape in (("nchw", (1, 2, 3)), ("nhwc", (2, 3, 1)), ("flat", (6,))):
            found = self.cache({"layout": layout}, shape=(2, 3)).prepare(grey)
            self.assertEqual((found.shape, found.ravel().tolist()), (shape, list(range(6))))
        self.assertEqual(self.cache({"layout": "flat"}, shape=(6,)).prepare(grey.ravel()).tolist(), list(range(6)))
        # Rounded once, from double precision.
        third = self.cache({"scale": 0.00392156862745098, "mean": [0.1307], "std": [0.3081]}, shape=(1, 256))
        wanted = [np.float32((byte * 0.00392156862745098 - 0.1307) / 0.3081) for byte in range(256)]
        self.assertEqual(third.prepare(np.arange(256, dtype=np.uint8)[None]).ravel().tolist(), wanted)

    def test_samples_and_views_are_whole_numbers(self):
        cache = self.cache({"crop": 4}, views(3, crop=None))
        self.assertEqual(cache.view(np.uint64(7), np.uint8(1), 4, 5), cache.view(7, 1, 4, 5))
        for sample, view in ((3.9, 0), ("3", 0), (3, 1.5), (3, np.array([0, 1]))):
            with self.subTest(sample=sample, view=view), self.assertRaises(TypeError):
                cache.view(sample, view, 4, 5)

    def test_colours_become_grey_and_grey_three_channels(self):
        pixels = [255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3, 200, 100, 50, 255, 255, 255, 17, 17, 17]
        colours = np.array(pixels, np.uint8).reshape(1, 7, 3)
        # Numbers of PIL's convert("L").
        self.assertEqual(self.cache({"channels": 1, "crop": 1}).prepare(colours).shape, (1, 1, 1))
        grey = self.cache({"channels": 1}, shape=(1, 7, 3)).prepare(colours)
        self.assertEqual(grey.ravel().tolist(), [76, 150, 29, 2, 124, 255, 17])
        three = self.cache({"channels": 3}, shape=(1, 2)).prepare(np.array([[7, 9]], np.uint8))
        self.assertEqual(three.tolist(), [[[7, 7, 7], [9, 9, 9]]])

    def test_the_middle_begins_at_the_even_half_and_lacks_what_is_black(self):
        def cut(height, width, side):
            image = np.broadcast_to(np.arange(1, height * width + 1, dtype=np.uint8).reshape(height, width, 1), (height, width, 3))
            return self.cache({"crop": side}).prepare(image)[..., 0].astype(int).tolist()

        # Halves of 1, 3 and 5 columns are 0, 2 and 2.
        self.assertEqual([cut(2, width, 2)[0][0] for width in (3, 5, 7)], [1, 3, 3])
        self.assertEqual(cut(1, 2, 3), [[0, 0, 0], [1, 2, 0], [0, 0, 0]])
        self.assertEqual(cut(3, 1, 2), [[1, 0], [2, 0]])

    def test_a_mirror_turns_each_row_and_keeps_pixels_whole(self):
        image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
        cache = self.cache(augment=views(9, crop=None), shape=(2, 3, 3))
        found = {cache.view(1, view, 2, 3).flip: cache.prepare(image, 1, view).tolist() for view in range(9)}
        self.assertEqual(found, {False: image.tolist(), True: image[:, ::-1].tolist()})

    def test_a_part_that_has_the_size_already_is_cut_out(self):
        quarter = {"scale": [0.25, 0.25], "ratio": [1.0, 1.0]}
        cache = self.cache({"crop": 4, "resize": 5}, views(3, crop=quarter))
        image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
        for view in range(3):
            top, left, height, width, flip = cache.view(0, view, 8, 8)
            self.assertEqual((height, width), (4, 4))
            wanted = image[top : top + 4, left : left + 4]
            np.testing.assert_array_equal(cache.prepare(image, 0, view), wanted[:, ::-1] if flip else wanted)

    def test_what_cannot_be_prepared_says_why(self):
        image = np.zeros((4, 5, 3), np.uint8)
        with self.assertRaisesRegex(CacheError, "tokens"):
            Cache(fixture.PACKED).prepare(image)
        augmented = self.cache({"crop": 4}, views(3, crop=None))
        for ask, words in (
            (lambda: augmented.prepare(image), "sample: expected the image's sample id"),
            (lambda: augmented.prepare(image, 0, 3), "view: expected 0 to 2, found 3"),
            (lambda: augmented.view(0, -1, 4, 5), "view: expected 0 to 2, found -1"),
            (lambda: augmented.view(2**64, 0, 4, 5), "sample: expected 0 to"),
            (lambda: augmented.view(0, 0, 0, 5), "0 × 5 pixels"),
            (lambda: augmented.prepare(image[..., :1], 0), r"expected bytes, any × any × 3, found uint8, \(4, 5, 1\)"),
            (lambda: augmented.prepare(image.astype(np.float32), 0), "found float32"),
            (lambda: self.cache().prepare(image, view=1), "view: expected 0 to 0, found 1"),
            (lambda: self.cache(shape=(4, 5)).prepare(image), r"expected bytes, 4 × 5, found uint8, \(4, 5, 3\)"),
            (lambda: self.cache({"channels": 3}, shape=(4, 5, 2)).prepare(image[..., :2]), "preprocess.channels = 3: found 2 channels"),
            (lambda: self.cache({"mean": [0.0, 0.0]}).prepare(image), "expected 1 value or 3, found 2 and 1"),
            (lambda: self.cache(shape=(4,)).prepare(image[:, 0, 0]), "expected 2 or 3 dimensions, found 1"),
            (lambda: self.cache(augment=views(2)).prepare(image, 0), "expected crop or size"),
            (lambda: self.cache({"crop": 4}, views(2, crop={**CROP, "scale": [0.0, 1.0]})).prepare(image, 0), "expected shares of the area"),
            (lambda: self.cache({"size": [2, 2]}).prepare(image), "needs Pillow"),
            (lambda: self.cache(change=lambda m: m.pop("preprocess")).prepare(image), "from another tool"),
            (lambda: self.cache(change=lambda m: m["preprocess"].update(scale=0.5)).prepare(image), "preprocess: expected sha256"),
            (lambda: self.cache({"crop": 4}, views(2), change=lambda m: m["augment"].update(seed=6)).view(0, 0, 4, 5), "augment: expected sha256"),
        ):
            with self.subTest(words), self.assertRaisesRegex(CacheError, words):
                ask()

    def test_digests_are_over_numbers_as_they_are_written(self):
        # 1e-5, as the builder writes it, is 1e-05 in Python.
        cache = self.cache({"scale": 0.5})
        text = (self.folder / "manifest.json").read_text(encoding="utf-8")
        other = hashlib.sha256(b'{"scale":1e-5,"mean":[0.0],"std":[1.0],"layout":"nhwc"}').hexdigest()
        text = text.replace(cache.manifest["preprocess"]["digest"], f"sha256:{other}").replace('"scale": 0.5', '"scale": 1e-5')
        (self.folder / "manifest.json").write_text(text, encoding="utf-8")
        self.assertEqual(Cache(self.folder).recipe()["scale"], 1e-5)


def kernel(x, interpolation):
    x = abs(x)
    if interpolation == "bilinear":
        return max(1 - x, 0.0)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def one_pass(pixels, length, interpolation):
    """The first dimension as one of `length`, by the text."""
    n, support = len(pixels), {"bilinear": 1, "bicubic": 2}[interpolation]
    reach = max(n / length, 1)
    rows = []
    for i in range(length):
        at = (i + 0.5) * n / length
        inside = range(max(math.floor(at - support * reach), 0), min(math.ceil(at + support * reach), n))
        weights = [kernel((j + 0.5 - at) / reach, interpolation) for j in inside]
        rows.append((inside, [weight / sum(weights) for weight in weights]))
    largest = max(max(weights) for _, weights in rows)
    bits = next((p for p in range(21) if math.floor(largest * 2 ** (p + 1) + 0.5) >= 2**15), 21)
    out = []
    for inside, weights in rows:
        whole = [int(math.copysign(math.floor(abs(weight) * 2**bits + 0.5), weight)) for weight in weights]
        total = sum(weight * pixels[j].astype(np.int64) for weight, j in zip(whole, inside))
        out.append(np.clip((total + 2 ** (bits - 1)) >> bits, 0, 255))
    return np.array(out, np.uint8)


def resized(pixels, height, width, interpolation):
    """`read_cache.resized` by the text, which is what the builder computes: slowly, and without Pillow."""
    if pixels.shape[1] != width:
        pixels = one_pass(pixels.swapaxes(0, 1), width, interpolation).swapaxes(0, 1)
    return pixels if len(pixels) == height else one_pass(pixels, height, interpolation)


def picture(height, width, seed):
    """Waves with an edge and noise, of whole numbers."""
    y, x, channel = np.ogrid[:height, :width, :3]
    noise = np.random.default_rng(seed).integers(0, 24, (height, width, 3))
    return ((x * (5 + channel) + y * (7 - channel) + 90 * (x + 2 * y > width) + noise) % 256).astype(np.uint8)


@with_pillow
class WithPillow(Folder):
    def test_sizes_and_pixels_are_torchvisions(self):
        from PIL import Image

        with Image.open(IMAGES / "geometry" / "source.png") as file:
            source = file.copy()
        for case in fixture.load("images/geometry.json")["cases"]:
            shape = tuple(case["output"]) + (3,)
            found = self.cache(case["preprocess"], shape=(43, 61, 3)).prepare(source)
            wanted = np.fromfile(IMAGES / "geometry" / case["file"], np.uint8)
            np.testing.assert_array_equal(found, wanted.reshape(shape), case["file"])

    def test_numbers_of_colours_are_no_brightness(self):
        from PIL import Image

        ramp = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
        palette = Image.fromarray(ramp).quantize(16)
        self.assertEqual(palette.mode, "P")
        self.assertNotEqual(np.asarray(palette).tolist(), ramp.tolist())
        self.assertEqual(self.cache(shape=(4, 4)).prepare(palette)[..., 0].tolist(), ramp.tolist())

    def test_files_are_decoded_as_the_builder_decodes_them(self):
        from PIL import Image

        cache = self.cache({"crop": 8})
        for name, size in fixture.load("images/decoded.json")["sizes"].items():
            with Image.open(IMAGES / "decoded" / name) as image:
                found = cache.bytes_of(image).astype(int)
            off = abs(found - np.fromfile(IMAGES / "decoded" / f"{name}.rgb", np.uint8).reshape(*size, 3))
            # The bytes are another Pillow's.
            self.assertLessEqual(off.max(), 4 if name.endswith(".jpg") else 2 if name == "lossy.webp" else 0, name)
        sixteen = Image.fromarray(np.array([[0x12FF, 0xFE00]], np.uint16))
        self.assertEqual(cache.bytes_of(sixteen).tolist(), [[[0x12] * 3, [0xFE] * 3]])
        grey = self.cache({"resize": 2}, shape=(4, 4))
        self.assertEqual(grey.prepare(Image.new("L", (4, 4), 9)).tolist(), [[[9], [9]]] * 2)
        with self.assertRaisesRegex(CacheError, r"expected bytes, 4 × 4, found uint8, \(4, 4, 3\)"):
            grey.prepare(Image.new("RGB", (4, 4)))

    def test_resized_bytes_are_the_texts_but_for_few(self):
        for size, to in (((60, 45), (24, 20)), ((9, 13), (40, 50)), ((50, 20), (20, 50)), ((31, 31), (31, 12))):
            for interpolation in ("bilinear", "bicubic"):
                image = picture(*size, 3)
                off = abs(read_cache.resized(image, *to, interpolation).astype(int) - resized(image, *to, interpolation))
                self.assertTrue(off.max() <= 2 and (off > 0).mean() < 0.02, f"{size} {to} {interpolation}: {off.max()}, {(off > 0).mean()}")


# A teacher (schemas/teacher-command.md) that writes down what it is asked; the last argument is the file.
TEACHER = """
import sys
import numpy as np, pyarrow as pa
questions = pa.ipc.open_stream(sys.stdin.buffer)
kind = pa.list_(pa.field("item", pa.float32(), False), 2)
about = {"protocol": "1", "dtype": "f32", "digest": "sha256:" + "0" * 64, "runtime": "a test's"}
schema = pa.schema([pa.field("logits", kind, False)], {f"kd_cache.{key}": value for key, value in about.items()})
with open(sys.argv[1], "wb") as out, pa.ipc.new_stream(sys.stdout.buffer, schema) as answers:
    ready = pa.RecordBatch.from_pylist([], schema)
    answers.write_batch(ready)
    sys.stdout.flush()
    for question in questions:
        out.write(np.asarray(question["inputs"].flatten(), np.float32).tobytes())
        out.flush()
        zeros = pa.array(np.zeros(2 * question.num_rows, np.float32))
        answers.write_batch(pa.record_batch([pa.FixedSizeListArray.from_arrays(zeros, type=kind)], schema=schema))
        answers.write_batch(ready)
        sys.stdout.flush()
"""
SIZES = ((43, 61), (70, 20), (9, 17), (48, 64), (30, 100))


@unittest.skipUnless(KD_CACHE, "kd-cache is not built: cargo build --release")
class Builder(Folder):
    """Inputs that a build gave its teacher, to the bit."""

    def inputs(self, name, dataset, recipe):
        """A built cache, and the inputs of its rows."""
        (self.folder / "teacher.py").write_text(TEACHER, encoding="utf-8")
        told, out = self.folder / "inputs", self.folder / name
        config = f"""
[dataset]
{dataset}
[teacher]
kind = "command"
command = [{json.dumps(sys.executable)}, "{self.folder}/teacher.py"]
path = "{told}"
batch = 4
[head]
k = 2
{recipe}
"""
        (self.folder / "cache.toml").write_text(config, encoding="utf-8")
        command = [KD_CACHE, "build", "--config", self.folder / "cache.toml", "--out", out, "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return Cache(out, verify=True), np.fromfile(told, np.float32)

    def hold(self, cache, told, images):
        with mock.patch.object(read_cache, "resized", resized):
            found = [cache.prepare(image, sample, view) for sample, image in enumerate(images) for view in range(cache.views)]
        self.assertEqual(len(found), cache.rows)
        # Before the rows there may have been a question to find out about the teacher.
        np.testing.assert_array_equal(np.stack(found).ravel(), told[-found[0].size * len(found) :])

    def test_images_of_any_size(self):
        images = [picture(*size, at) for at, size in enumerate(SIZES)]
        (self.folder / "images").mkdir()
        for at, image in enumerate(images):
            head = f"P6 {image.shape[1]} {image.shape[0]} 255\n".encode()
            (self.folder / "images" / f"{at}.ppm").write_bytes(head + image.tobytes())
        normal = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"
        for at, recipe in enumerate(
            (
                f"[preprocess]\nsize = [24, 32]\n{normal}\n[augment]\nviews = 4\nseed = 9\nrandom_resized_crop = {{}}\nhorizontal_flip = 0.5",
                f'[preprocess]\nresize = 40\ncrop = 33\ninterpolation = "bicubic"\nlayout = "nhwc"\n{normal}',
                '[preprocess]\nchannels = 1\ncrop = 31\nlayout = "flat"\n[augment]\nviews = 3\nhorizontal_flip = 0.4',
                '[preprocess]\nresize = 30\ncrop = 20\ninterpolation = "bicubic"\n[augment]\nviews = 2\nseed = 9223372036854775807\n'
                "random_resized_crop = { scale = [0.5, 1.0], ratio = [1.0, 1.0] }",
            )
        ):
            with self.subTest(at):
                self.hold(*self.inputs(f"cache-{at}", f'kind = "folder"\npath = "{self.folder}/images"', recipe), images)

    def test_arrays_of_one_size(self):
        images = np.stack([picture(14, 11, seed)[..., 0] for seed in range(6)])
        (self.folder / "images").write_bytes(struct.pack(">I3I", 0x0803, *images.shape) + images.tobytes())
        dataset = f'kind = "idx"\nimages = "{self.folder}/images"'
        self.hold(*self.inputs("cache", dataset, "[augment]\nviews = 3\nrandom_resized_crop = {}"), images)


if __name__ == "__main__":
    unittest.main()
