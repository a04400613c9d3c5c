"""A teacher as a program (schemas/teacher-command.md), whose logits anybody can compute: for tests.

Its arguments, the model among them, are how it behaves: a type of logits (f32, f16, bf16, f64), `pieces` (an answer in
record batches of two rows), `masked` (all classes but three, as is advised where a logit would be −∞), `random` and `among` (answers of the moment, or of the batch), or a fault: `dies`, `prints`, `short`, `long`, `undigested`, `shape`, `ignorant` (of features).
"""

import hashlib
import json
import sys

import numpy as np
import pyarrow as pa

CLASSES = 50


def logits(a, b):
    """[n, CLASSES] from two whole numbers a row, all of them exact in bfloat16."""
    j = np.arange(CLASSES)
    return (((a[:, None] * 31 + b[:, None] * 17 + j * (j + 7)) % 97) / 8 - 6).astype(np.float32)


def main():
    behaviour = sys.argv[1:]
    if "prints" in behaviour:
        print("loading the model", flush=True)
    questions = pa.ipc.open_stream(sys.stdin.buffer)
    about = {key.decode(): value.decode() for key, value in questions.schema.metadata.items()}
    assert about["kd_cache.protocol"] == "1", about
    dtype = next((word for word in behaviour if word in ("f16", "bf16", "f64")), "f32")
    stored = {"f32": pa.float32(), "f16": pa.float16(), "bf16": pa.uint16(), "f64": pa.float64()}[dtype]
    metadata = {
        "kd_cache.protocol": "1",
        "kd_cache.dtype": dtype,
        "kd_cache.digest": "sha256:" + hashlib.sha256(b"a test's").hexdigest(),
        "kd_cache.runtime": "a test's program",
    }
    if "undigested" in behaviour:
        del metadata["kd_cache.digest"]
    kind = pa.list_(stored) if "shape" in behaviour else pa.list_(pa.field("item", stored, False), CLASSES)
    # What is asked for beside logits: `sums`, the two numbers and their sum.
    features = json.loads(about.get("kd_cache.features", "[]")) if "ignorant" not in behaviour else []
    vector = pa.list_(pa.field("item", pa.float32(), False), 3)
    schema = pa.schema([pa.field("logits", kind, False), *(pa.field(name, vector, False) for name in features)], metadata)
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as answers:
        # Ready for a question.
        answers.write_batch(pa.RecordBatch.from_pylist([], schema))
        sys.stdout.flush()
        for at, question in enumerate(questions):
            if "dies" in behaviour and at == 7:
                print("out of memory, as far as a test can tell", file=sys.stderr)
                sys.exit(7)
            if about["kd_cache.input"] == "tokens":
                a, b = (np.array(question[name].flatten()) for name in ("input_ids", "position_ids"))
            else:
                flat = np.array(question["inputs"].flatten()).reshape(question.num_rows, -1)
                assert flat.shape[1] == np.prod([int(n) for n in about["kd_cache.shape"].split(",")])
                a = np.round(flat.sum(1) * 255).astype(np.int64)
                b = np.zeros_like(a)
            rows = logits(a, b)
            sums = np.stack([a, b, a + b], axis=1).astype(np.float32)
            if "short" in behaviour:
                rows = rows[:-1]
            if "long" in behaviour:
                rows = np.concatenate([rows, rows])
            if "random" in behaviour:
                rows = rows + np.random.default_rng().normal(size=rows.shape).astype(np.float32)
            if "among" in behaviour:
                rows = rows - rows.mean(0)
            if "masked" in behaviour:
                rows[:, 3:] = -1e9
            if dtype == "bf16":
                rows = (rows.view(np.uint32) >> 16).astype(np.uint16)
            step = 2 if "pieces" in behaviour else max(1, len(rows))
            for start in range(0, len(rows), step):
                part = rows[start : start + step].astype(stored.to_pandas_dtype())
                column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel(), stored), type=schema[0].type)
                vectors = pa.array(sums[start : start + step].ravel(), pa.float32())
                vectors = [pa.FixedSizeListArray.from_arrays(vectors, type=vector) for _ in features]
                answers.write_batch(pa.record_batch([column, *vectors], schema=schema))
            answers.write_batch(pa.RecordBatch.from_pylist([], schema))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
