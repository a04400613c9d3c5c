#!/usr/bin/env python3
"""Cuts a few photographs into many images of the size and kind that image datasets have.

    tools/make_image_folder.py OUT PHOTOS… [--images 5000] [--side 375] [--quality 90] [--seed 0]

PHOTOS are files or folders of them; each gives as many crops as its area allows, of random place,
shape (3:4 to 4:3, as cameras have) and extent (a tenth of the photo to all of it), shrunk until the
shorter side is about `--side` and written as JPEG. OUT gets one folder for each of PHOTOS, which is then
its class, as `dataset.kind = "folder"` reads them. For trying a real teacher where its own data are not
at hand: the crops are what a photograph is, but not what any dataset is distributed like.
"""

import argparse
import random
import sys
from pathlib import Path

from PIL import Image, ImageOps

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
LEAST_SIDE = 160  # Icons and textures are no photographs.


def photos(path):
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())


def open_photo(path):
    """The photo in RGB, or None where it is too small or drawn with few colours."""
    try:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if min(image.size) < LEAST_SIDE:
        return None
    probe = image.resize((64, 64), Image.Resampling.BILINEAR)
    return image if probe.getcolors(1500) is None else None


def crop(image, rng, side):
    area = image.width * image.height * rng.uniform(0.1, 1.0)
    ratio = rng.choice([4 / 3, 3 / 4, 1.0, rng.uniform(0.75, 4 / 3)])
    width = min(round((area * ratio) ** 0.5), image.width)
    height = min(round((area / ratio) ** 0.5), image.height)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    cut = image.crop((left, top, left + width, top + height))
    shrink = min(1.0, side * rng.uniform(0.8, 1.4) / min(cut.size))
    if shrink < 1:
        cut = cut.resize((round(width * shrink), round(height * shrink)), Image.Resampling.LANCZOS)
    return cut


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=5000, help="how many to make")
    parser.add_argument("--side", type=int, default=375, help="typical length of the shorter side")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    found = [(source, file) for source in args.photos for file in photos(source)]
    if not found:
        sys.exit(f"make_image_folder: error: no photographs in {', '.join(map(str, args.photos))}")
    usable = []
    for source, file in found:
        image = open_photo(file)
        if image is not None:
            usable.append((source, file, min(image.width * image.height, 8_000_000)))
    if not usable:
        sys.exit(f"make_image_folder: error: none of {len(found)} files is a photograph of {LEAST_SIDE} pixels")
    total = sum(area for *_, area in usable)
    made = 0
    for at, (source, file, area) in enumerate(usable):
        image, folder = open_photo(file), args.out / source.stem
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(max(1, round(args.images * area / total))):
            name = folder / f"{at:04}-{number:03}.jpg"
            crop(image, rng, args.side).save(name, quality=args.quality)
            made += 1
    print(f"{args.out}: {made} images from {len(usable)} of {len(found)} files")


if __name__ == "__main__":
    main()
