#!/usr/bin/env python3
"""An ONNX language model as teacher that is asked once: what it says is kept in half precision, and said again.

    [teacher]
    kind = "command"
    command = ["python3", "tools/teacher_remembered.py", "--store", "FOLDER"]
    path = "MODEL.onnx"

For experiments that ask one teacher about the same rows again and again, as tools/compare_targets.py does: each token
takes two bytes for each class in FOLDER (13 GB for 131,072 tokens of 49,152 classes). Kept are logits less the largest
of their position, so that rounding is 0.0005 of what is near it. Needs onnxruntime, numpy and pyarrow. The protocol is
schemas/teacher-command.md; one program at a time may use FOLDER.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime

from teacher_program import Conversation


def documents(places):
    """Where the documents of a row begin and end: a place that does not go on from the one before begins one."""
    begins = [0, *(np.flatnonzero(np.diff(places) != 1) + 1), len(places)]
    return list(zip(begins[:-1], begins[1:]))


class Model:
    def __init__(self, path, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {one.name for one in self.session.get_inputs()}
        self.output = "logits" if "logits" in (named := [one.name for one in self.session.get_outputs()]) else named[0]
        self.classes = next(one.shape[-1] for one in self.session.get_outputs() if one.name == self.output)

    def logits(self, tokens):
        """Of one document, [positions, classes]."""
        given = {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "position_ids": np.arange(len(tokens), dtype=np.int64)[None],
        }
        given = {name: value for name, value in given.items() if name in self.inputs}
        return self.session.run([self.output], given)[0][0]


class Store:
    """Rows' logits one after another, and where each begins, by a digest of its tokens and places."""

    def __init__(self, folder, digest, classes):
        folder.mkdir(parents=True, exist_ok=True)
        self.classes, self.file, self.index = classes, folder / f"{digest[:16]}.f16", folder / f"{digest[:16]}.jsonl"
        self.begins, self.positions = {}, 0
        if self.index.exists():
            for line in self.index.read_text().splitlines():
                one = json.loads(line)
                self.begins[one["row"]] = one["at"]
                self.positions = one["at"] + one["positions"]
        # Of a row that was cut short nothing is kept.
        with open(self.file, "ab") as opened:
            opened.truncate(self.positions * classes * 2)

    def row(self, tokens, places, compute):
        key = hashlib.sha256(tokens.tobytes() + places.tobytes()).hexdigest()
        if key not in self.begins:
            with open(self.file, "ab") as opened:
                for begin, end in documents(places):
                    logits = compute(tokens[begin:end])
                    (logits - logits.max(-1, keepdims=True)).astype(np.float16).tofile(opened)
            self.begins[key] = self.positions
            with open(self.index, "a") as opened:
                line = {"row": key, "at": self.positions, "positions": len(tokens)}
                opened.write(json.dumps(line) + "\n")
            self.positions += len(tokens)
        at = self.begins[key]
        shape = (len(tokens), self.classes)
        return np.memmap(self.file, np.float16, "r", offset=at * self.classes * 2, shape=shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    conversation = Conversation("teacher_remembered")
    model = Model(options.model, int(conversation.about.get("threads", "0")))
    with open(options.model, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    store = Store(options.store, digest, model.classes)

    def logits(question):
        for row in zip(question["input_ids"], question["position_ids"]):
            tokens, places = (np.array(one.as_py(), np.int64) for one in row)
            yield store.row(tokens, places, model.logits)

    # Another teacher than the model itself, by its rounding.
    digest = f"sha256:{hashlib.sha256(f'{digest} f16'.encode()).hexdigest()}"
    conversation.answer(model.classes, "f16", digest, f"onnxruntime {onnxruntime.__version__}, remembered", logits)


if __name__ == "__main__":
    main()
