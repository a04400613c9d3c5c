#!/usr/bin/env python3
"""Makes the small models and the slice of Fashion-MNIST in tests/fixtures.

    python3 tools/make_test_models.py            (after tools/setup.sh has fetched the data)

They are committed, so that tests need neither this script nor what it needs:

    pip install torch==2.11.0 onnx==1.23.2 numpy

Every teacher is the same classifier, 4x4 average pooling and one linear layer, fitted to the slice; what
differs is the form of its input or output. Every language model is likewise the same one, a layer of attention
with random weights. tests/fixtures/README.md says which file is for which test.

    python3 tools/make_test_models.py --language-models      makes those alone, without the data
    python3 tools/make_test_models.py --features             those with features, of the weights in linear.onnx
    python3 tools/make_test_models.py --types                those whose inputs are of other types, of the same weights
"""

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "fashion-mnist"
FIXTURES = ROOT / "tests" / "fixtures"
TRAIN, TEST, CLASSES, CELLS = 512, 256, 10, 49


def idx(path):
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    # No name and no time in the gzip header: the same bytes whenever it is made.
    path.write_bytes(gzip.compress(header + np.ascontiguousarray(array).tobytes(), 9, mtime=0))


def slice_of_data():
    out = FIXTURES / "fashion-mnist"
    out.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            write_idx(out / f"{part}-{what}.gz", idx(DATA / f"{part}-{what}.gz")[:count])
    return idx(out / "train-images-idx3-ubyte.gz"), idx(out / "train-labels-idx1-ubyte.gz")


class Linear(torch.nn.Module):
    """Logits of a batch [N, 1, 28, 28]."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x):
        cells = torch.nn.functional.avg_pool2d(x, 4).flatten(1)
        return torch.nn.functional.linear(cells, self.weight, self.bias)


class Softmax(Linear):
    def forward(self, x):
        cells = torch.nn.functional.avg_pool2d(x, 4).flatten(1)
        return torch.nn.functional.linear(cells, self.weight, self.bias).softmax(-1)


class Pair(Linear):
    """Two outputs, as detection and embedding models have."""

    def forward(self, x):
        cells = torch.nn.functional.avg_pool2d(x, 4).flatten(1)
        return cells, torch.nn.functional.linear(cells, self.weight, self.bias)


class Parts(Linear):
    """A dictionary of outputs, one of them a map [N, 7, 1, 7]."""

    def forward(self, x):
        pooled = torch.nn.functional.avg_pool2d(x, 4)
        cells = pooled.flatten(1)
        logits = torch.nn.functional.linear(cells, self.weight, self.bias)
        return {"cells": cells, "rows": pooled.transpose(1, 2), "logits": logits}


def fit(images, labels):
    """Logistic regression on the pooled slice, full batch, from zero: no randomness."""
    x = torch.from_numpy(images.copy()).float()[:, None] / 255
    cells = torch.nn.functional.avg_pool2d(x, 4).flatten(1).double()
    weight = torch.zeros(CLASSES, CELLS, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(CLASSES, dtype=torch.double, requires_grad=True)
    target = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        logits = cells @ weight.T + bias
        loss = torch.nn.functional.cross_entropy(logits, target) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    accuracy = (cells @ weight.T + bias).argmax(1).eq(target).double().mean().item()
    print(f"linear teacher: {accuracy:.3f} on the slice it was fitted to")
    return weight.detach().float(), bias.detach().float()


def onnx_model(name, weight, bias, after=(), output=("logits", TensorProto.FLOAT, ["batch", CLASSES]), **change):
    """`after`: nodes that turn "scores" [batch, classes] into the output."""
    batch = change.get("batch", "batch")
    channels = change.get("channels", 1)
    input_type = change.get("input_type", TensorProto.FLOAT)
    constants = [
        numpy_helper.from_array(weight.numpy().T.copy(), "weight"),
        numpy_helper.from_array(bias.numpy(), "bias"),
        *[numpy_helper.from_array(array, key) for key, array in change.get("constants", {}).items()],
    ]
    source = "input"
    nodes = []
    if input_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["input"], ["as_float"], to=TensorProto.FLOAT))
        source = "as_float"
    if channels != 1:
        nodes.append(helper.make_node("ReduceMean", [source], ["grey"], axes=[1], keepdims=1))
        source = "grey"
    nodes += [
        helper.make_node("AveragePool", [source], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["cells"], axis=1),
        helper.make_node("Gemm", ["cells", "weight", "bias"], ["scores" if after else output[0]]),
        *after,
    ]
    outputs = [helper.make_tensor_value_info(*output)]
    outputs += [helper.make_tensor_value_info(*extra) for extra in change.get("more_outputs", [])]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", input_type, [batch, channels, 28, 28])],
        outputs,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="kd-cache tests")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FIXTURES / "teachers" / f"{name}.onnx")


def teachers(weight, bias):
    (FIXTURES / "teachers").mkdir(parents=True, exist_ok=True)
    node = helper.make_node
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    onnx_model("linear", weight, bias)
    onnx_model(
        "softmax", weight, bias, [node("Softmax", ["scores"], ["probabilities"], axis=-1)],
        ("probabilities", float_, ["batch", CLASSES]),
    )
    onnx_model(
        "log_softmax", weight, bias, [node("LogSoftmax", ["scores"], ["log_probabilities"], axis=-1)],
        ("log_probabilities", float_, ["batch", CLASSES]),
    )
    # Class 3 is never predicted: its probability is exactly 0.
    mask = np.zeros(CLASSES, np.float32)
    mask[3] = -np.inf
    onnx_model(
        "zero_probability", weight, bias,
        [node("Add", ["scores", "mask"], ["masked"]), node("Softmax", ["masked"], ["probabilities"], axis=-1)],
        ("probabilities", float_, ["batch", CLASSES]), constants={"mask": mask},
    )
    # The square root, or the logarithm, of (0.6 - mean of the image) is no finite number for bright images.
    limit = {"limit": np.array(0.6, np.float32)}
    darkness = [
        node("ReduceMean", ["cells"], ["mean"], axes=[1], keepdims=1),
        node("Sub", ["limit", "mean"], ["darkness"]),
    ]
    onnx_model(
        "nan", weight, bias, [*darkness, node("Sqrt", ["darkness"], ["root"]), node("Add", ["scores", "root"], ["logits"])],
        constants=limit,
    )
    onnx_model(
        "infinite", weight, bias,
        [*darkness, node("Relu", ["darkness"], ["positive"]), node("Log", ["positive"], ["log"]),
         node("Sub", ["scores", "log"], ["logits"])],
        constants=limit,
    )
    onnx_model(
        "classes", weight, bias, [node("Cast", ["scores"], ["logits"], to=int_)], ("logits", int_, ["batch", CLASSES])
    )
    onnx_model(
        "map", weight, bias, [node("Unsqueeze", ["scores", "axes"], ["logits"])],
        ("logits", float_, ["batch", CLASSES, 1]), constants={"axes": np.array([2], np.int64)},
    )
    onnx_model(
        "half", weight, bias, [node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT16)],
        ("logits", TensorProto.FLOAT16, ["batch", CLASSES]),
    )
    onnx_model("colour", weight, bias, channels=3)
    onnx_model("bytes", weight, bias, input_type=TensorProto.UINT8)
    onnx_model("batch_of_4", weight, bias, batch=4, output=("logits", float_, [4, CLASSES]))
    onnx_model("seven", weight[:7], bias[:7], output=("logits", float_, ["batch", 7]))
    onnx_model("two_outputs", weight, bias, more_outputs=[("cells", float_, ["batch", CELLS])])
    for name, kind in (("linear", Linear), ("softmax", Softmax), ("pair", Pair)):
        torch.jit.script(kind(weight, bias)).save(str(FIXTURES / "teachers" / f"{name}.pt"))


def with_features(weight, bias):
    """Teachers that give more than logits, and a student that gives its features."""
    float_ = TensorProto.FLOAT
    onnx_model(
        "features", weight, bias,
        [helper.make_node("Transpose", ["pooled"], ["rows"], perm=[0, 2, 1, 3]),
         helper.make_node("Identity", ["scores"], ["logits"])],
        more_outputs=[("cells", float_, ["batch", CELLS]), ("rows", float_, ["batch", 7, 1, 7])],
    )
    torch.jit.script(Parts(weight, bias)).save(str(FIXTURES / "teachers" / "parts.pt"))
    torch.manual_seed(0)
    torch.jit.script(StudentPair()).save(str(FIXTURES / "students" / "pair.pt"))


def with_types(weight, bias):
    """Teachers whose inputs are of other types of floats, as exports of models in half precision are."""
    for name, kind in (("takes_f16", TensorProto.FLOAT16), ("takes_bf16", TensorProto.BFLOAT16), ("takes_f64", TensorProto.DOUBLE)):
        onnx_model(name, weight, bias, input_type=kind)
    for name, kind in (("takes_f16", torch.float16), ("takes_bf16", torch.bfloat16), ("takes_f64", torch.float64)):
        torch.jit.script(Linear(weight.to(kind), bias.to(kind))).save(str(FIXTURES / "teachers" / f"{name}.pt"))


class Student(torch.nn.Module):
    """Convolution, batch norm, dropout: what differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(8 * 7 * 7, CLASSES)

    def forward(self, x):
        x = torch.nn.functional.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.dropout(x))


class StudentPair(Student):
    """Logits, and what they are made of."""

    def forward(self, x):
        x = torch.nn.functional.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.dropout(x)), x


class StudentReturning(Student):
    """Logits, and a loss of its own: the mean square of what its head is given."""

    def forward(self, x):
        x = torch.nn.functional.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(x), (x * x).mean()


class StudentTied(torch.nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(28 * 28, CLASSES)
        self.second = torch.nn.Linear(CLASSES, CLASSES)
        self.third = torch.nn.Linear(CLASSES, CLASSES)
        self.third.weight = self.second.weight

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


class StudentOfTokens(torch.nn.Module):
    """The least language model: what follows a token, whatever was before it."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.head = torch.nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, tokens):
        return self.head(self.tokens(tokens))


class StudentSoftmax(Student):
    """Probabilities where logits are wanted."""

    def forward(self, x):
        x = torch.nn.functional.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(self.dropout(x)).softmax(-1)


def students():
    (FIXTURES / "students").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.jit.script(Student()).save(str(FIXTURES / "students" / "small.pt"))
    torch.jit.script(StudentReturning()).save(str(FIXTURES / "students" / "returning.pt"))
    torch.jit.script(StudentTied()).save(str(FIXTURES / "students" / "tied.pt"))
    torch.jit.script(StudentOfTokens()).save(str(FIXTURES / "students" / "tokens.pt"))
    # What students must not do.
    torch.manual_seed(0)
    torch.jit.script(StudentSoftmax()).save(str(FIXTURES / "students" / "softmax.pt"))
    traced = torch.jit.trace(Student().train(), torch.zeros(4, 1, 28, 28), check_trace=False)
    traced.save(str(FIXTURES / "students" / "traced.pt"))
    torch.jit.script(Student().half()).save(str(FIXTURES / "students" / "half.pt"))


VOCABULARY, HIDDEN, PLACES = 50, 8, 16


class Causal(torch.nn.Module):
    """Logits of rows of tokens. A document begins where the places do not go up by one."""

    def __init__(self, weights):
        super().__init__()
        for name, weight in weights.items():
            self.register_buffer(name, weight)

    def hidden(self, input_ids, attention_mask, position_ids):
        x = self.tokens[input_ids] + self.places[position_ids]
        before = torch.cat([position_ids[:, :1] - 1, position_ids[:, :-1]], dim=1)
        document = (position_ids - before != 1).long().cumsum(1)
        at = torch.ones_like(input_ids).long().cumsum(1)
        query, key = at[:, :, None], at[:, None, :]
        seen = (key < query) & (document[:, :, None] == document[:, None, :]) & (attention_mask[:, None, :] > 0)
        scores = (x @ self.query) @ (x @ self.key).transpose(1, 2)
        scores = scores.masked_fill(~(seen | (key == query)), -1e9)
        return x + scores.softmax(-1) @ (x @ self.value)

    def forward(self, input_ids, attention_mask, position_ids):
        return self.hidden(input_ids, attention_mask, position_ids) @ self.head


class CausalBody(Causal):
    """Without its head."""

    def forward(self, input_ids, attention_mask, position_ids):
        return self.hidden(input_ids, attention_mask, position_ids)


class CausalIds(Causal):
    """Of tokens alone: one document a row, and padding is whatever it is. Logits first, then hidden states."""

    def forward(self, tokens):
        hidden = self.hidden(tokens, torch.ones_like(tokens), torch.ones_like(tokens).cumsum(1) - 1)
        return hidden @ self.head, hidden


class As(torch.nn.Module):
    """A model that answers in another type."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, input_ids, attention_mask, position_ids):
        return self.model(input_ids, attention_mask, position_ids).to(self.dtype)


class CausalHead(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.register_buffer("head", weights["head"])

    def forward(self, hidden):
        return hidden.to(torch.float32) @ self.head


def language_models():
    teachers = FIXTURES / "teachers"
    draw = torch.Generator().manual_seed(0)
    shapes = {"tokens": (VOCABULARY, HIDDEN), "places": (PLACES, HIDDEN), "head": (HIDDEN, VOCABULARY)}
    shapes |= {name: (HIDDEN, HIDDEN) for name in ("query", "key", "value")}
    weights = {name: torch.randn(*shape, generator=draw) / 2 for name, shape in shapes.items()}

    # What each document alone gives, in double precision.
    exact = Causal({name: weight.double() for name, weight in weights.items()})
    documents = [torch.randint(VOCABULARY, (length,), generator=draw) for length in (12, 5, 3, 1, 4)]
    logits = [exact(one[None], torch.ones_like(one[None]), torch.arange(len(one))[None])[0] for one in documents]
    expected = {
        "documents": [one.tolist() for one in documents],
        "logits": [[[round(value, 9) for value in row] for row in one.tolist()] for one in logits],
    }
    (FIXTURES / "reference" / "causal.json").write_text(json.dumps(expected) + "\n")

    names = ["input_ids", "attention_mask", "position_ids"]
    ids = torch.randint(VOCABULARY, (2, 12), generator=draw)
    rows = (ids, torch.ones_like(ids), torch.arange(12).repeat(2, 1))
    open_sizes = {0: "batch", 1: "length"}

    def write(name, model, inputs, input_names, output_names, axes=open_sizes):
        path = teachers / f"{name}.onnx"
        torch.onnx.export(
            model.eval(), inputs, str(path), input_names=input_names, output_names=output_names, opset_version=17,
            dynamic_axes={one: axes for one in [*input_names, *output_names]} if axes else None, dynamo=False,
        )
        onnx.checker.check_model(onnx.load(path), full_check=True)

    causal, body, head = Causal(weights), CausalBody(weights), CausalHead(weights)
    write("causal", causal, rows, names, ["logits"])
    write("causal_fixed", causal, rows, names, ["logits"], None)
    write("causal_body", body, rows, names, ["hidden"])
    write("causal_head", head, (torch.zeros(3, HIDDEN),), ["hidden"], ["logits"], {0: "positions"})
    write("causal_body_f16", As(body, torch.float16), rows, names, ["hidden"])
    write("causal_head_f16", head, (torch.zeros(3, HIDDEN).half(),), ["hidden"], ["logits"], {0: "positions"})
    for word, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)):
        write(f"causal_{word}", As(causal, dtype), rows, names, ["logits"])
    write("causal_int32", CausalIds(weights), (ids.int(),), ["tokens"], ["logits", "hidden"])
    cache = ["past_key_values.0.key", "past_key_values.0.value"]
    for name, more in (("causal_past", cache), ("causal_types", ["token_type_ids"])):
        model = onnx.load(teachers / "causal.onnx")
        for one in more:
            sizes = ["batch", 1, "past", HIDDEN] if "past" in one else ["batch", "length"]
            kind = TensorProto.FLOAT if "past" in one else TensorProto.INT64
            model.graph.input.append(helper.make_tensor_value_info(one, kind, sizes))
        onnx.save(model, teachers / f"{name}.onnx")
    scripted = {"causal": causal, "causal_body": body, "causal_head": head, "causal_ids": CausalIds(weights)}
    for name, model in scripted.items():
        torch.jit.script(model).save(str(teachers / f"{name}.pt"))


def main():
    if sys.argv[1:] == ["--language-models"]:
        language_models()
        return 0
    if sys.argv[1:] in (["--features"], ["--types"]):
        constants = onnx.load(FIXTURES / "teachers" / "linear.onnx").graph.initializer
        named = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in constants}
        make = with_features if sys.argv[1] == "--features" else with_types
        make(named["weight"].T.contiguous(), named["bias"])
        return 0
    images, labels = slice_of_data()
    weight, bias = fit(images, labels)
    teachers(weight, bias)
    with_features(weight, bias)
    with_types(weight, bias)
    students()
    language_models()
    return 0


if __name__ == "__main__":
    sys.exit(main())
