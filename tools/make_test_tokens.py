#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers/ and tests/fixtures/tokens/: a small tokenizer, and the same documents
in every form that token datasets come in.

    python3 tools/make_test_tokens.py

They are committed, so that tests need neither this script nor what it needs:

    pip install tokenizers==0.23.3 numpy==2.4.6 pyarrow==26.0.1

The ids that the tests expect are what the Python package gives, written down beside the tokenizer.
"""

import json
import shutil
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures"
END = "<|endoftext|>"
# Accents, a script without spaces, an emoji beyond 16 bits, code, line ends of two kinds, runs of spaces
# and digits, and the text of a special token.
DOCUMENTS = [
    "The teacher runs once; the student reads what it said.\nThe cache keeps it small.\n",
    "for i in range(100):\n    total += weights[i] * 3.14159\n\treturn total  # 2024-01-01\r\n",
    "Übergrößen kosten naïve Käufer 1 000 €, sagt man.",
    "先生は一度だけ走る。生徒は何度でも読む。",
    "a",
    "🦀 crabs don't panic!   They return errors…   ",
    f"A document may speak of {END} and go on.",
    "The student reads. The student reads again. The student learns the shape of the tail.",
]
TRAINING = DOCUMENTS * 3 + ["the teacher and the student share the cache", "return errors, do not panic"] * 4


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TRAINING,
        trainers.BpeTrainer(
            vocab_size=330,
            show_progress=False,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    # Not special, and behind the vocabulary.
    tokenizer.add_tokens([AddedToken("<tail>", normalized=False)])
    return tokenizer


def expected(tokenizer):
    texts = DOCUMENTS + ["", " ", "\n\n\n", "<tail>the<tail>", f"{END}{END}", "x" * 300]
    return [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]


def main():
    folder = FIXTURES / "tokenizers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer()
    (folder / "bpe.expected.json").write_text(json.dumps(expected(tokenizer), indent=1) + "\n")
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in DOCUMENTS]
    end = tokenizer.token_to_id(END)
    # What its last user left in it, to be ignored: a cut, a filling and a token before each text.
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, end)])
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=16, pad_id=end, pad_token=END)
    tokenizer.save(str(folder / "bpe.json"), pretty=False)

    folder = FIXTURES / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "text").mkdir(parents=True)
    for number, text in enumerate(DOCUMENTS):
        (folder / f"text/{number}.txt").write_bytes(text.encode())
    lines = [json.dumps({"id": n, "text": text}, ensure_ascii=n % 2 == 0) for n, text in enumerate(DOCUMENTS)]
    (folder / "documents.jsonl").write_text("\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:]))
    # The document that speaks of the separator would be cut at it in a stream: there it is left out.
    streamed = [tokens for tokens in ids if end not in tokens]
    flat = [token for tokens in streamed for token in [*tokens, end]]
    numpy.array(flat, "<u2").tofile(folder / "ids_u16.bin")
    numpy.array(flat, "<u4").tofile(folder / "ids_u32.bin")
    numpy.save(folder / "ids.npy", numpy.array(flat, "<i8"))
    width = 16
    numpy.save(folder / "ids_2d.npy", numpy.array(flat[: 8 * width], "<u2").reshape(8, width))
    strings = pyarrow.table({"n": range(len(ids)), "text": DOCUMENTS})
    pyarrow.parquet.write_table(strings, folder / "text.parquet", compression="zstd")
    lists = pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))
    table = pyarrow.table({"n": range(len(ids)), "input_ids": lists})
    pyarrow.parquet.write_table(table, folder / "ids.parquet", compression="snappy")
    with pyarrow.ipc.new_stream(str(folder / "ids_stream.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    with pyarrow.ipc.new_file(str(folder / "ids_file.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    with pyarrow.ipc.new_file(str(folder / "ids_lz4.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    print(f"{len(DOCUMENTS)} documents, {sum(map(len, ids))} tokens of {tokenizer.get_vocab_size()}, end {end}")


if __name__ == "__main__":
    main()
