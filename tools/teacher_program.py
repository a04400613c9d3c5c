"""What programs share that are a language model's teacher (schemas/teacher-command.md): the two streams of the protocol."""

import os
import sys

import pyarrow as pa

# Positions in one record batch of an answer.
CHUNK = 256
TYPES = {"f32": pa.float32(), "f16": pa.float16(), "bf16": pa.uint16()}


class Conversation:
    """Questions about rows of tokens, and answers to them, until there are no more questions.

    Made first of all: from then on standard output is the stream's alone, and whatever a library prints goes to
    standard error.
    """

    def __init__(self, program):
        self.stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self.questions = pa.ipc.open_stream(sys.stdin.buffer)
        # What is said of the questions, by its key without `kd_cache.`.
        metadata = {key.decode(): value.decode() for key, value in self.questions.schema.metadata.items()}
        self.about = {key.removeprefix("kd_cache."): value for key, value in metadata.items()}
        if self.about.get("protocol") != "1" or self.about.get("input") != "tokens":
            sys.exit(f"{program}: error: expected to be asked about tokens in protocol 1, found {metadata}")

    def answer(self, classes, dtype, digest, runtime, logits):
        """Answers every question: `logits(question)` gives arrays [positions, classes] of the numbers TYPES[dtype]."""
        numbers = pa.list_(pa.field("item", TYPES[dtype], False), classes)
        metadata = {"protocol": "1", "dtype": dtype, "digest": digest, "runtime": runtime}
        metadata = {f"kd_cache.{key}": value for key, value in metadata.items()}
        schema = pa.schema([pa.field("logits", numbers, False)], metadata)
        with pa.ipc.new_stream(self.stream, schema) as answers:
            # Says that a question is waited for.
            ready = pa.RecordBatch.from_pylist([], schema)
            answers.write_batch(ready)
            self.stream.flush()
            for question in self.questions:
                for array in logits(question):
                    for begin in range(0, len(array), CHUNK):
                        values = pa.array(array[begin : begin + CHUNK].reshape(-1), TYPES[dtype])
                        column = pa.FixedSizeListArray.from_arrays(values, type=numbers)
                        answers.write_batch(pa.record_batch([column], schema=schema))
                answers.write_batch(ready)
                self.stream.flush()
