#!/usr/bin/env python3
"""Writes tests/fixtures/images: image files of every kind, and what PIL and torchvision make of them.

    pip install torch==2.11.0 torchvision==0.26.0 pillow==11.3.0
    tools/make_test_images.py

Pillow 13 resizes some shapes in another order of passes, which moves values by one.

`decoded/NAME` is a file and `decoded/NAME.rgb` the bytes of `Image.open(NAME).convert("RGB")`, row by row.
`geometry/source.png` is an image, and `geometry/*.rgb` what the transforms of torchvision in `geometry.json`
make of it. `decoded.json` and `geometry.json` have the sizes, and the versions that wrote them.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import torchvision
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import InterpolationMode

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "images"
VERSIONS = {"pillow": PIL.__version__, "torchvision": torchvision.__version__}


def picture(width, height, channels=3):
    """Smooth waves with an edge and some noise: what photographs are made of."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rng = np.random.default_rng(0)
    planes = []
    for channel in range(channels):
        wave = 128 + 80 * np.sin(x / (5 + 2 * channel)) * np.cos(y / (7 - channel))
        wave += np.where(x + 2 * y > width, 35, -25) + rng.normal(0, 4, (height, width))
        planes.append(wave)
    return np.clip(np.round(np.stack(planes, -1)), 0, 255).astype(np.uint8)


def decoded():
    folder = ROOT / "decoded"
    folder.mkdir(parents=True, exist_ok=True)
    base = picture(37, 26)
    rgb, grey = Image.fromarray(base), Image.fromarray(base[..., 0])
    alpha = Image.fromarray(np.concatenate([base, base[..., :1]], -1), "RGBA")
    write = {
        "rgb.png": lambda to: rgb.save(to),
        "grey.png": lambda to: grey.save(to),
        "alpha.png": lambda to: alpha.save(to),
        "grey-alpha.png": lambda to: alpha.convert("LA").save(to),
        "palette.png": lambda to: rgb.quantize(32).save(to),
        "palette.gif": lambda to: rgb.quantize(64).save(to),
        "lossless.webp": lambda to: rgb.save(to, lossless=True),
        "lossy.webp": lambda to: rgb.save(to, quality=90),
        "rgb.bmp": lambda to: rgb.save(to),
        "rgb.tiff": lambda to: rgb.save(to),
        "rgb.ppm": lambda to: rgb.save(to),
        "444.jpg": lambda to: rgb.save(to, quality=90, subsampling=0),
        "422.jpg": lambda to: rgb.save(to, quality=90, subsampling=1),
        "420.jpg": lambda to: rgb.save(to, quality=90, subsampling=2),
        "grey.jpg": lambda to: grey.save(to, quality=90),
        "progressive.jpg": lambda to: rgb.save(to, quality=90, progressive=True),
        "cmyk.jpg": lambda to: rgb.convert("CMYK").save(to, quality=95),
        # Lies on its side: neither PIL nor we turn it.
        "turned.jpg": lambda to: rgb.save(to, quality=90, exif=turned(rgb)),
        # Not what it is called.
        "really-png.jpg": lambda to: rgb.save(to, format="PNG"),
    }
    sizes = {}
    for name, save in write.items():
        save(folder / name)
        image = Image.open(folder / name).convert("RGB")
        (folder / f"{name}.rgb").write_bytes(np.asarray(image).tobytes())
        sizes[name] = [image.height, image.width]
    (ROOT / "decoded.json").write_text(json.dumps({"versions": VERSIONS, "sizes": sizes}, indent=1) + "\n")


def turned(image):
    exif = image.getexif()
    exif[0x0112] = 6
    return exif


def geometry():
    folder = ROOT / "geometry"
    folder.mkdir(parents=True, exist_ok=True)
    source = Image.fromarray(picture(61, 43))
    source.save(folder / "source.png")
    modes = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    cases = [
        {"resize": 32},
        {"resize": 32, "crop": 28},
        {"resize": 21, "crop": 20, "interpolation": "bicubic"},
        {"resize": 7},
        {"resize": 96, "crop": 90},
        {"resize": 60, "interpolation": "bicubic"},
        {"resize": 43, "crop": 40},
        {"size": [30, 20]},
        {"size": [17, 80], "interpolation": "bicubic"},
        {"crop": 30},
        {"crop": 50},
        {"crop": 70},
    ]
    out = []
    for case in cases:
        mode = modes[case.get("interpolation", "bilinear")]
        image = source
        if "resize" in case:
            image = F.resize(image, case["resize"], mode)
        if "size" in case:
            image = F.resize(image, case["size"], mode)
        if "crop" in case:
            image = F.center_crop(image, case["crop"])
        name = "-".join(f"{key}-{value}" for key, value in case.items())
        name = name.replace("[", "").replace("]", "").replace(", ", "x")
        (folder / f"{name}.rgb").write_bytes(np.asarray(image).tobytes())
        out.append({"file": f"{name}.rgb", "preprocess": case, "output": [image.height, image.width]})
    (ROOT / "geometry.json").write_text(json.dumps({"versions": VERSIONS, "cases": out}, indent=1) + "\n")


if __name__ == "__main__":
    decoded()
    geometry()
