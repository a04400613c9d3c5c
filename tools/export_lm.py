#!/usr/bin/env python3
"""Turns a causal language model into a teacher that kd-cache runs, and checks that both agree.

    python3 tools/export_lm.py MODEL OUT [--format onnx|torchscript] [--split-head] [--dtype f32|f16|bf16]

MODEL: a folder in Hugging Face's form, or a .gguf file. Writes into OUT

    model.onnx or model.pt    [batch, sequence] tokens to logits [batch, sequence, vocabulary]; what of an ONNX
                              model is over 2 GB lies beside it in model.onnx.data
    head.onnx or head.pt      with --split-head: hidden states [n, hidden] to logits [n, vocabulary]; the model's
                              output is then `hidden` [batch, sequence, hidden]
    tokenizer.json            the tokenizer, where it has that form; tokenizer_config.json: what begins and ends a text;
                              chat_template.jinja: what lays out chats (dataset.chat), where it has one

The inputs, int64 [batch, sequence], both sizes open, in this order:

    input_ids         the tokens; padding at the right
    attention_mask    1 for a token, 0 for padding
    position_ids      from 0 in each document. Where it does not go up by one a new document begins, and no token
                      sees the tokens of another document: packed rows give what each document alone would.

There is no key-value cache in it, and no device: a TorchScript module runs wherever it is loaded.

The export is then run by ONNX Runtime or libtorch and compared with the original: random tokens, real ones (--text),
padded rows and packed rows. The original is always given one document alone, in single precision: in a half type
its own answers are no nearer to the truth than the export's. The largest difference of logits and the
share of positions with the same first token are printed; the exit code is 1 where they are worse than
--tolerance and --agreement. Where a model's layers see a window only, give a --length beyond it. Nothing is fetched
from a hub. Needs

    pip install torch==2.11.0 transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.30.0
    pip install accelerate==1.15.0 gguf==0.19.0          (for a .gguf file)
"""

import argparse
import inspect
import sys
import warnings
from pathlib import Path

from language_model import load, write_tokenizer

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# Largest difference from the original's logits in single precision: rounding of the type, grown through the layers.
TOLERANCES = {"f32": 2e-3, "f16": 1.0, "bf16": 16.0}
# Least share of positions whose largest logit is the same token's; random tokens have many near the largest.
AGREEMENTS = {"f32": 0.999, "f16": 0.95, "bf16": 0.8}
# Above this, weights lie beside the model: a protobuf file holds less than 2 GiB.
INLINE_BYTES = 1_900_000_000


class Refused(Exception):
    """The model cannot be exported faithfully."""


def check_supported(model):
    """Refuses what the masks made here do not describe."""
    takes = inspect.signature(model.forward).parameters
    if "position_ids" not in takes:
        raise Refused(f"{type(model).__name__} takes no position_ids: packed documents cannot restart their positions")
    if getattr(model.config, "alibi", False):
        raise Refused(f"{type(model).__name__} with alibi goes by distances in the row, not by position_ids: packed documents cannot restart")
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise Refused(f"layers of type {', '.join(sorted(unknown))}: expected full_attention or sliding_attention")
    rope = getattr(model.config, "rope_parameters", None) or {}
    for one in [rope, *[value for value in rope.values() if isinstance(value, dict)]]:
        if one.get("rope_type") in ("dynamic", "longrope"):
            raise Refused(f"rope_type {one['rope_type']!r} depends on the length of the row: no fixed graph has it")


def attention_masks(model, input_ids, attention_mask, position_ids):
    """What each query may see, additive [batch, 1, sequence, sequence], in the form the model takes it.

    Made of the inputs alone, so that neither a length nor a device becomes a constant of the graph, and so that the
    borders of documents are in it, which a model's own mask has or has not by its version.
    """
    import torch

    lowest = torch.finfo(model.dtype).min
    before = torch.cat([position_ids[:, :1] - 1, position_ids[:, :-1]], dim=1)
    document = (position_ids - before != 1).long().cumsum(1)
    at = torch.ones_like(input_ids).cumsum(1)
    query, key = at[:, :, None], at[:, None, :]
    visible = (key < query) & (document[:, :, None] == document[:, None, :]) & (attention_mask[:, None, :] > 0)
    # A token always sees itself, padding too: a row of nothing but the lowest number can turn NaN in half
    # precision, and a NaN at a padded key is NaN even at weight 0.
    itself = key == query
    window = getattr(model.config, "sliding_window", None)
    if getattr(model.config, "use_sliding_window", None) is False:
        window = None

    def additive(seen):
        return (~(seen | itself)).to(model.dtype)[:, None] * lowest

    full = additive(visible)
    kinds = getattr(model.config, "layer_types", None)
    if kinds is None:
        return full if window is None else additive(visible & (query - key < window))
    if "sliding_attention" not in kinds:
        # Some models pick a layer's mask by its type, some take one for all.
        source = inspect.getsource(type(model.base_model).forward)
        return {"full_attention": full} if "isinstance(causal_mask_mapping" in source else full
    return {"full_attention": full, "sliding_attention": additive(visible & (query - key < window))}


def wrappers(model, split_head):
    """(body, head or None): modules of tensors in, tensors out."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.base_model if split_head else model

        def forward(self, input_ids, attention_mask, position_ids):
            masks = attention_masks(model, input_ids, attention_mask, position_ids)
            return self.model(
                input_ids=input_ids, attention_mask=masks, position_ids=position_ids, use_cache=False, return_dict=False
            )[0]

    class Hidden(torch.nn.Module):
        """Stands in for the layers: what the model does to the last hidden state is then all that is left of it,
        whether that is one product or scales and caps too."""

        def forward(self, *_, inputs_embeds, **__):
            output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)
            # Mixtures of experts look for it.
            output.router_logits = None
            return output

        @property
        def decoder(self):
            # OPT's layers are one deeper.
            return self

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, hidden):
            return self.model(inputs_embeds=hidden[None], use_cache=False, return_dict=False)[0][0]

    body = Body().eval()
    if not split_head:
        return [(body, None)]
    # One after the other: the head's model is the same object with its layers taken out.
    def head():
        setattr(model, model.base_model_prefix, Hidden())
        return Head().eval()

    return [(body, None), (None, head)]


def examples(model):
    """Tokens of the shape of real ones, for tracing: two rows, of which one is padded and one is packed."""
    import torch

    ids = torch.arange(3, 3 + 2 * 21).reshape(2, 21) % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, 17:] = 0
    positions = torch.arange(21).repeat(2, 1)
    positions[0, 9:] -= 9
    return ids, mask, positions


def bytes_of(module):
    # A tied weight is there once.
    tensors = {id(one): one for one in [*module.parameters(), *module.buffers()]}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def write_onnx(module, inputs, names, output, dims, path):
    import onnx
    import torch

    external = bytes_of(module) > INLINE_BYTES
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    with warnings.catch_warnings():
        # Of names of sizes that several inputs share.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names,
                output_names=[output],
                dynamic_shapes=tuple(dims for _ in names),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise Refused("PyTorch's exporter has no ONNX for the model; try --format torchscript") from error
    program.save(str(path), external_data=external)
    onnx.checker.check_model(str(path))


def free_of_devices(module):
    """Takes the device of the trace out of the graphs: each constant becomes the device of the graph's own input."""
    import torch

    for graph in [one.graph for one in module.modules() if one._c._has_method("forward")]:
        tensors = [i for i in graph.inputs() if i.type().isSubtypeOf(torch._C.TensorType.get())]
        for node in graph.findAllNodes("prim::Constant"):
            if node.output().type().kind() != "DeviceObjType":
                continue
            if not tensors:
                raise Refused("a device is a constant of a part that takes no tensor; export to ONNX instead")
            device = graph.create("prim::device", [tensors[0]])
            device.output().setType(torch._C.DeviceObjType.get())
            device.insertBefore(node)
            node.output().replaceAllUsesWith(device.output())
            node.destroy()


def write_torchscript(module, inputs, path):
    import torch

    with warnings.catch_warnings():
        # "might cause the trace to be incorrect": what the check of the files is for.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, inputs, check_trace=False, strict=False)
    free_of_devices(traced)
    traced.save(str(path))
    written = torch.jit.load(str(path))
    parts = [one for one in written.modules() if one._c._has_method("forward")]
    if bound := [one.original_name for one in parts if "torch.device(" in one.code]:
        raise Refused(f"a device is a constant of {', '.join(bound)} in {path}; export to ONNX instead")


class Exported:
    """The files as they were written, run by the runtime that kd-cache runs them with."""

    def __init__(self, out, form, split_head, dtype):
        import torch

        suffix = ".onnx" if form == "onnx" else ".pt"
        parts = ["model", "head"] if split_head else ["model"]
        if form == "onnx":
            import onnxruntime

            # Only a GPU has kernels for bf16; what it does to single precision is no reference.
            device = "CUDA" if dtype == "bf16" else "CPU"
            if (provider := f"{device}ExecutionProvider") not in onnxruntime.get_available_providers():
                raise Refused(
                    f"{out} is written but not checked: ONNX Runtime runs {dtype} on a GPU only, and this one has "
                    f"no {provider}; check it where there is one, or export f32 or f16"
                )
            self.parts = []
            for part in parts:
                session = onnxruntime.InferenceSession(str(out / (part + suffix)), providers=[provider])
                names = [one.name for one in session.get_inputs()]

                def run(*tensors, session=session, names=names):
                    # Not by NumPy, which has no bfloat16.
                    values = {name: onnxruntime.OrtValue.from_dlpack(one.contiguous()) for name, one in zip(names, tensors)}
                    return torch.from_dlpack(session.run_with_ort_values(None, values)[0])

                self.parts.append(run)
        else:
            self.parts = [torch.jit.load(str(out / (part + suffix))) for part in parts]

    def __call__(self, ids, mask, positions):
        hidden = self.parts[0](ids, mask, positions)
        if len(self.parts) == 1:
            return hidden
        return self.parts[1](hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


def trials(tokenizer, vocabulary, text, length):
    """(name, rows): each row a list of documents' tokens; a shorter row is padded by whoever runs it."""
    import torch

    draw = torch.Generator().manual_seed(0)

    def random(count):
        return torch.randint(vocabulary, (count,), generator=draw).tolist()

    yield "random tokens", [[random(length)] for _ in range(2)]
    yield "one token", [[random(1)]]
    yield "random tokens, padded and packed", [
        [random(length // 2), random(3), random(length // 4)],
        [random(7)],
        [random(length // 3), random(length // 3)],
    ]
    real = tokenizer(text).input_ids if text else []
    if len(real) >= 3 * length:
        yield "real tokens", [[real[:length]], [real[length : 2 * length]]]
        rest = real[2 * length : 3 * length]
        yield "real tokens, padded and packed", [
            [rest[: length // 2], rest[length // 2 :]],
            [rest[: length // 3]],
        ]


def pack(rows):
    import torch

    width = max(sum(map(len, row)) for row in rows)
    ids, mask, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for at, row in enumerate(rows):
        used = sum(map(len, row))
        ids[at, :used] = torch.tensor([token for document in row for token in document])
        mask[at, :used] = 1
        positions[at, :used] = torch.tensor([place for document in row for place in range(len(document))])
    return ids, mask, positions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hugging Face folder or .gguf file")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--format", choices=["onnx", "torchscript"], default="onnx")
    parser.add_argument("--split-head", action="store_true", help="write the head to a file of its own")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of weights and logits")
    parser.add_argument("--text", type=Path, default=Path(__file__), help="text for the check's real tokens")
    parser.add_argument("--length", type=int, default=256, help="tokens in the check's rows")
    parser.add_argument("--tolerance", type=float, help=f"largest difference of logits allowed {TOLERANCES}")
    parser.add_argument("--agreement", type=float, help=f"least share of equal first tokens {AGREEMENTS}")
    args = parser.parse_args()
    tolerance = TOLERANCES[args.dtype] if args.tolerance is None else args.tolerance
    agreement = AGREEMENTS[args.dtype] if args.agreement is None else args.agreement

    import torch

    try:
        with torch.no_grad():
            return export(args, tolerance, agreement)
    except Refused as problem:
        print(f"export_lm: error: {problem}", file=sys.stderr)
        return 1


def export(args, tolerance, agreement) -> int:
    import torch

    tokenizer, model = load(args.model)
    check_supported(model)
    args.out.mkdir(parents=True, exist_ok=True)
    if not write_tokenizer(tokenizer, args.out):
        print("export_lm: warning: the tokenizer has no tokenizer.json; none is written", file=sys.stderr)

    # The original's answers first: exporting takes the model apart.
    text = args.text.read_text(encoding="utf-8", errors="replace")
    asked = list(trials(tokenizer, model.config.vocab_size, text, args.length))
    answers = [
        [[model(input_ids=torch.tensor([document]), use_cache=False).logits[0] for document in row] for row in rows]
        for _, rows in asked
    ]

    if args.dtype != "f32":
        del model
        _, model = load(args.model, DTYPES[args.dtype])

    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    for body, head in wrappers(model, args.split_head):
        if body is not None:
            module, inputs, name, output = body, examples(model), "model", "hidden" if args.split_head else "logits"
            names, dims = ["input_ids", "attention_mask", "position_ids"], {0: batch, 1: sequence}
        else:
            hidden = model.get_output_embeddings().weight.shape[1]
            module, inputs, name, output = head(), (torch.zeros(5, hidden, dtype=model.dtype),), "head", "logits"
            names, dims = ["hidden"], {0: torch.export.Dim("positions")}
        if args.format == "onnx":
            write_onnx(module, inputs, names, output, dims, args.out / f"{name}.onnx")
        else:
            write_torchscript(module, inputs, args.out / f"{name}.pt")

    exported = Exported(args.out, args.format, args.split_head, args.dtype)
    failed = False
    for (name, rows), expected in zip(asked, answers):
        found = exported(*pack(rows)).float()
        worst, same, count = 0.0, 0, 0
        for row, documents in zip(found, expected):
            whole = torch.cat(documents).float()
            part = row[: len(whole)]
            worst = max(worst, (part - whole).abs().max().item())
            same += (part.argmax(-1) == whole.argmax(-1)).sum().item()
            count += len(whole)
        # Not a number is over every tolerance.
        bad = not (worst <= tolerance and same >= agreement * count)
        failed |= bad
        print(
            f"{name}: {count} positions, logits differ by at most {worst:.2e} (allowed {tolerance:.0e}), "
            f"first token the same for {same / count:.2%} (least {agreement:.1%}){': FAILED' if bad else ''}"
        )
    files = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in sorted(args.out.iterdir()))
    print(f"{args.out}: {files}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
