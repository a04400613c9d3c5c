#!/usr/bin/env python3
"""Turns a .gguf of a Llama model into an ONNX teacher and a tokenizer.json, without PyTorch.

    python3 tools/gguf_to_onnx.py MODEL.gguf OUT

The graph is written down node by node, with the inputs and the meaning that tools/export_lm.py gives its own:
`input_ids`, `attention_mask` and `position_ids` in, `logits` out, and a new document wherever positions restart. It is
for whoever has a .gguf and no gigabytes of PyTorch; other models and types are for export_lm.py, which also compares
an export with the original. Needs numpy, gguf and onnx:

    pip install numpy gguf==0.19.0 onnx==1.23.2

Takes the architecture `llama` without rope scaling, biases or experts, and tokenizers of the kind `gpt2` (byte-level
BPE). Quantised weights become single precision.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy
import onnx
from gguf import GGUFReader, dequantize
from onnx import TensorProto, helper, numpy_helper

# Below a float's least, so that no sum with a score overflows.
LOWEST = -1e30
# gguf's token types.
CONTROL, USER_DEFINED = 3, 4
# How texts are cut before BPE, by `tokenizer.ggml.pre`: digits one by one, or not.
SPLITS_DIGITS = {"smollm": True, "refact": True, "starcoder": True, "command-r": True, "gpt-2": False}


class Refused(Exception):
    """The model is none that this graph describes."""


class Gguf:
    """Metadata and weights of a file."""

    def __init__(self, path):
        self.reader = GGUFReader(path)
        self.tensors = {one.name: one for one in self.reader.tensors}
        if (found := self.get("general.architecture")) != "llama":
            raise Refused(f"expected the architecture llama, found {found}")
        unknown = [name for name in self.tensors if not name.endswith(".weight") or "exps" in name]
        if unknown or any(key.startswith("llama.rope.scaling") for key in self.reader.fields):
            raise Refused(f"rope scaling, biases or experts: {', '.join(unknown[:3]) or 'llama.rope.scaling'}")

    def get(self, key, otherwise=None):
        field = self.reader.fields.get(key)
        return otherwise if field is None else field.contents()

    def weight(self, name):
        """[out, in], single precision; `None` where the file has none."""
        tensor = self.tensors.get(f"{name}.weight")
        if tensor is None:
            return None
        return numpy.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32)


class Graph:
    """Nodes and constants as they are added; every method gives the name of its result."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def add(self, kind, *inputs, **attributes):
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values, name=None, dtype=numpy.float32):
        values = numpy.asarray(values, dtype=dtype)
        key = name or f"{values.dtype}_{'_'.join(map(str, values.shape))}_{values.tobytes().hex()[:64]}"
        self.constants.setdefault(key, numpy_helper.from_array(values, key))
        return key

    def integers(self, *values):
        return self.constant(values, dtype=numpy.int64)

    def linear(self, x, weight, name):
        return self.add("MatMul", x, self.constant(weight.T, name))

    def norm(self, x, weight, name, epsilon):
        """RMSNorm (Zhang & Sennrich, 2019): x / sqrt(mean(x²) + ε) · w."""
        mean = self.add("ReduceMean", self.add("Mul", x, x), self.integers(-1), keepdims=1)
        root = self.add("Sqrt", self.add("Add", mean, self.constant(epsilon)))
        return self.add("Mul", self.add("Div", x, root), self.constant(weight, name))

    def heads(self, x, count, width):
        """[batch, sequence, count · width] to [batch, count, sequence, width]."""
        split = self.add("Reshape", x, self.integers(0, 0, count, width))
        return self.add("Transpose", split, perm=[0, 2, 1, 3])

    def rotate(self, x, cosine, sine, width):
        """Rotary positions (Su et al., 2021), halves of a head as pairs."""
        axis, half = self.integers(-1), self.integers(width // 2)
        left = self.add("Slice", x, self.integers(0), half, axis)
        right = self.add("Slice", x, half, self.integers(width), axis)
        turned = self.add("Concat", self.add("Neg", right), left, axis=-1)
        return self.add("Add", self.add("Mul", x, cosine), self.add("Mul", turned, sine))

    def mask(self):
        """What each token may see, additive [batch, 1, sequence, sequence]: tokens before it in its own document that
        are no padding, and itself."""
        ids, positions = "input_ids", "position_ids"
        first = self.add("Slice", positions, self.integers(0), self.integers(1), self.integers(1))
        one = self.integers(1)
        before = self.add(
            "Concat",
            self.add("Sub", first, one),
            self.add("Slice", positions, self.integers(0), self.integers(-1), self.integers(1)),
            axis=1,
        )
        begins = self.add("Not", self.add("Equal", self.add("Sub", positions, before), one))
        axis = self.constant(1, dtype=numpy.int64)
        document = self.add("CumSum", self.add("Cast", begins, to=TensorProto.INT64), axis)
        ones = self.add("Add", self.add("Mul", ids, self.integers(0)), one)
        at = self.add("CumSum", ones, axis)

        def pair(x):
            return self.add("Unsqueeze", x, self.integers(2)), self.add("Unsqueeze", x, self.integers(1))

        (query, key), (own, other) = pair(at), pair(document)
        real = self.add("Greater", self.add("Unsqueeze", "attention_mask", self.integers(1)), self.integers(0))
        seen = self.add("And", self.add("Less", key, query), self.add("Equal", own, other))
        seen = self.add("Or", self.add("And", seen, real), self.add("Equal", key, query))
        hidden = self.add("Cast", self.add("Not", seen), to=TensorProto.FLOAT)
        return self.add("Unsqueeze", self.add("Mul", hidden, self.constant(LOWEST)), self.integers(1))


def halves(weight, heads):
    """Rows of q or k in the order of halves: a .gguf has the two of a pair side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def graph_of(gguf):
    """The model, and the number of its tokens."""
    hidden, layers = gguf.get("llama.embedding_length"), gguf.get("llama.block_count")
    heads = gguf.get("llama.attention.head_count")
    shared = gguf.get("llama.attention.head_count_kv", heads)
    width = gguf.get("llama.attention.key_length", hidden // heads)
    epsilon, base = gguf.get("llama.attention.layer_norm_rms_epsilon"), gguf.get("llama.rope.freq_base", 10000.0)
    if gguf.get("llama.rope.dimension_count", width) != width:
        raise Refused("only a part of each head is rotated")
    g = Graph()
    embedding = gguf.weight("token_embd")
    x = g.add("Gather", g.constant(embedding, "embedding"), "input_ids")
    frequencies = base ** (-numpy.arange(0, width, 2, dtype=numpy.float64) / width)
    places = g.add("Unsqueeze", g.add("Cast", "position_ids", to=TensorProto.FLOAT), g.integers(1, 3))
    angles = g.add("Mul", places, g.constant(numpy.concatenate([frequencies, frequencies])))
    cosine, sine, mask = g.add("Cos", angles), g.add("Sin", angles), g.mask()
    scale = g.constant(width**-0.5)
    for layer in range(layers):
        name = f"blk.{layer}"

        def weight(part, name=name):
            found = gguf.weight(f"{name}.{part}")
            if found is None:
                raise Refused(f"no {name}.{part}")
            return found

        h = g.norm(x, weight("attn_norm"), f"{name}.attn_norm", epsilon)
        q = g.heads(g.linear(h, halves(weight("attn_q"), heads), f"{name}.q"), heads, width)
        k = g.heads(g.linear(h, halves(weight("attn_k"), shared), f"{name}.k"), shared, width)
        v = g.heads(g.linear(h, weight("attn_v"), f"{name}.v"), shared, width)
        q, k = g.rotate(q, cosine, sine, width), g.rotate(k, cosine, sine, width)
        # Heads that share keys and values stand one after another.
        grouped = g.integers(0, shared, heads // shared, -1, width)
        q = g.add("Mul", g.add("Reshape", q, grouped), scale)
        k, v = (g.add("Unsqueeze", one, g.integers(2)) for one in (k, v))
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 1, 2, 4, 3]))
        weights = g.add("Softmax", g.add("Add", scores, g.add("Unsqueeze", mask, g.integers(1))), axis=-1)
        mixed = g.add("Reshape", g.add("MatMul", weights, v), g.integers(0, heads, -1, width))
        mixed = g.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = g.add("Reshape", mixed, g.integers(0, 0, heads * width))
        x = g.add("Add", x, g.linear(mixed, weight("attn_output"), f"{name}.output"))
        h = g.norm(x, weight("ffn_norm"), f"{name}.ffn_norm", epsilon)
        gate = g.linear(h, weight("ffn_gate"), f"{name}.gate")
        up = g.linear(h, weight("ffn_up"), f"{name}.up")
        # SwiGLU (Shazeer, 2020).
        inner = g.add("Mul", g.add("Mul", gate, g.add("Sigmoid", gate)), up)
        x = g.add("Add", x, g.linear(inner, weight("ffn_down"), f"{name}.down"))
    x = g.norm(x, gguf.weight("output_norm"), "output_norm", epsilon)
    head = gguf.weight("output")
    # Of a tied head the embedding is the only copy.
    matrix = g.add("Transpose", "embedding", perm=[1, 0]) if head is None else g.constant(head.T, "head")
    g.nodes.append(helper.make_node("MatMul", [x, matrix], ["logits"]))
    return g, embedding.shape[0]


def write_model(gguf, path):
    g, vocabulary = graph_of(gguf)
    shape = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask", "position_ids")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, vocabulary])
    graph = helper.make_graph(g.nodes, "llama", inputs, [output], list(g.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="kd-cache")
    model.ir_version = 10
    large = sum(len(one.raw_data) for one in g.constants.values()) > 1_900_000_000
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=large, location=path.name + ".data")
    onnx.checker.check_model(str(path))


def write_tokenizer(gguf, path):
    kind, pre = gguf.get("tokenizer.ggml.model"), gguf.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in SPLITS_DIGITS:
        raise Refused(f"a tokenizer of kind {kind}, {pre}; expected gpt2, one of {', '.join(SPLITS_DIGITS)}")
    tokens, types = gguf.get("tokenizer.ggml.tokens"), gguf.get("tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = [{"type": "Digits", "individual_digits": True}] if SPLITS_DIGITS[pre] else []
    added = [
        {
            "id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": types[at] == CONTROL,
        }
        for at, token in enumerate(tokens)
        if types[at] in (CONTROL, USER_DEFINED)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in gguf.get("tokenizer.ggml.merges")],
        },
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    ids = {"bos_token": gguf.get("tokenizer.ggml.bos_token_id"), "eos_token": gguf.get("tokenizer.ggml.eos_token_id")}
    config = {name: tokens[at] for name, at in ids.items() if at is not None}
    config |= {"model_max_length": gguf.get("llama.context_length"), "chat_template": gguf.get("tokenizer.chat_template")}
    config = {name: value for name, value in config.items() if value is not None}
    path.with_name("tokenizer_config.json").write_text(json.dumps(config) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".gguf file")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        gguf = Gguf(options.model)
        write_tokenizer(gguf, options.out / "tokenizer.json")
        write_model(gguf, options.out / "model.onnx")
    except Refused as problem:
        sys.exit(f"gguf_to_onnx: error: {options.model}: {problem}; tools/export_lm.py may know it")


if __name__ == "__main__":
    main()
