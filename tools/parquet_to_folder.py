#!/usr/bin/env python3
"""Writes the images of Parquet files into a folder, as `dataset.kind = "folder"` reads them.

    tools/parquet_to_folder.py OUT FILES… [--image image] [--label label]

For datasets as Hugging Face's `datasets` distributes them: a column of images `struct<bytes, path>` (or plain
bytes) and a column of labels. The bytes are written as they are, not decoded and encoded again. Folders are
called after the class where the file's metadata name it, and numbered so that their order is the labels':
`00042-goldfish/0000000123.jpg`. Classes are what folders there are, so that labels of which some occur in no file, or that say that there is none
(-1), are refused before anything is written. Without a column of labels all images lie in OUT itself. Needs pyarrow.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

KINDS = [(b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\0", "tiff"), (b"MM\0*", "tiff")]


def extension(data, where):
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, name in KINDS:
        if data.startswith(magic):
            return name
    sys.exit(f"parquet_to_folder: error: {where}: expected an image, found bytes that begin {data[:8]!r}")


def class_names(schema, label):
    """The names that `datasets` keeps beside the schema, if it does."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def check_labels(files, column):
    """Refuses labels that folders, which are counted, would give other numbers. Files without the column have none."""
    seen, names = set(), None
    for path in files:
        schema = pq.read_schema(path)
        if column not in schema.names:
            continue
        names = names or class_names(schema, column)
        for batch in pq.ParquetFile(path).iter_batches(1 << 16, columns=[column]):
            seen.update(batch.column(0).unique().to_pylist())
    for label in seen:
        if not isinstance(label, int) or label < 0:
            sys.exit(
                f"parquet_to_folder: error: column {column!r}: expected labels, whole numbers from 0 on, found {label!r}; leave such rows out, "
                "or name a column that there is not, --label none, for images without labels"
            )
    wanted = max(len(names or ()), max(seen, default=-1) + 1)
    missing = [label for label in range(wanted) if label not in seen]
    if seen and missing:
        sys.exit(
            f"parquet_to_folder: error: column {column!r}: expected every label from 0 to {wanted - 1}, found none of {missing[:10]}: folders are "
            "counted, and later classes would get other numbers; give all files of the data set"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--image", default="image", help="column of images")
    parser.add_argument("--label", default="label", help="column of labels")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        sys.exit(f"parquet_to_folder: error: {args.out} is not empty")
    check_labels(args.files, args.label)
    number = 0
    for path in args.files:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        if args.image not in schema.names:
            sys.exit(f"parquet_to_folder: error: {path}: no column {args.image!r} (there are: {', '.join(schema.names)})")
        labelled = args.label in schema.names
        names = class_names(schema, args.label) if labelled else None
        columns = [args.image, *([args.label] if labelled else [])]
        for batch in file.iter_batches(64, columns=columns):
            images = batch.column(args.image)
            if pa.types.is_struct(images.type):
                images = images.field("bytes")
            labels = batch.column(args.label).to_pylist() if labelled else [None] * len(images)
            for image, label in zip(images, labels):
                data = image.as_py()
                if data is None:
                    sys.exit(f"parquet_to_folder: error: {path}: row {number} has no bytes (only a path to a file)")
                folder = args.out
                if labelled:
                    name = re.sub(r"[^\w]+", "-", names[label]).strip("-") if names else ""
                    folder = args.out / f"{label:05}{'-' if name else ''}{name}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:010}.{extension(data, f'{path}, row {number}')}").write_bytes(data)
                number += 1
    print(f"{args.out}: {number} images")


if __name__ == "__main__":
    main()
