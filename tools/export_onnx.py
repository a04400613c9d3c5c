#!/usr/bin/env python3
"""Turns a TorchScript model (a run's student.pt, say) into ONNX, and checks that both agree.

    python3 tools/export_onnx.py student.pt student.onnx --shape 1,28,28
    python3 tools/export_onnx.py student.pt student.onnx --tokens 49152

With --shape the ONNX model takes `input` [batch, SHAPE] and gives `logits` [batch, classes]; with --tokens it takes
`input_ids` [batch, length], whole numbers below the one given, and gives `logits` [batch, length, classes]. Batch and
length are left open. It is then run beside the TorchScript model on inputs of several sizes, in onnxruntime, or where
that is not installed in onnx's own reference; where a logit differs by more than --tolerance times the largest one
(times 1 where all are smaller), it fails. Needs PyTorch and onnx:

    pip install torch==2.11.0 onnx==1.23.2 onnxruntime==1.30.0

`kd-train export RUN --to onnx` runs this.
"""

import argparse
import importlib
import json
import sys
import warnings

# What is not installed, and an answer that differs.
LACKS, DIFFERS = 3, 1
# Rows, and tokens in a row, of the inputs on which both are compared.
ROWS = (1, 2, 7)
LENGTHS = (1, 5, 12)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="export_onnx.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="TorchScript file")
    parser.add_argument("onnx", help="ONNX file to write")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--shape", help="shape of one image, e.g. 1,28,28")
    kind.add_argument("--tokens", type=int, metavar="N", help="the model takes tokens, of which there are N")
    parser.add_argument("--opset", type=int, default=17, help="ONNX operator set (default 17)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference allowed (default 1e-4)")
    parser.add_argument("--json", action="store_true", help="say what was compared as JSON")
    return parser.parse_args(arguments)


def lacking():
    """Packages that cannot be imported, and why."""
    found = []
    for name in ("numpy", "torch", "onnx"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            found.append(f"{name} ({error})")
    return found


def session(path):
    """A function from inputs by name to logits, and what runs it."""
    import onnx

    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        reference = ReferenceEvaluator(path)
        return lambda feed: reference.run(None, feed)[0], f"onnx reference {onnx.__version__}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    runtime = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feed: runtime.run(None, feed)[0], f"onnxruntime {onnxruntime.__version__}"


def main() -> int:
    args = parse(sys.argv[1:])
    missing = lacking()
    if missing:
        print(f"error: {sys.executable} lacks {', '.join(missing)}", file=sys.stderr)
        return LACKS

    import numpy as np
    import onnx
    import torch

    warnings.filterwarnings("ignore")
    generator = np.random.default_rng(0)
    if args.tokens is not None:
        name, open_sizes = "input_ids", {0: "batch", 1: "length"}
        inputs = [generator.integers(0, args.tokens, [r, n]) for r in ROWS for n in LENGTHS]
        example = torch.zeros([2, 3], dtype=torch.int64)
    else:
        name, open_sizes = "input", {0: "batch"}
        shape = [int(d) for d in args.shape.split(",")]
        inputs = [generator.standard_normal([rows, *shape]).astype(np.float32) for rows in ROWS]
        example = torch.zeros([2, *shape])

    module = torch.jit.load(args.model, map_location="cpu").eval()

    def logits(inputs):
        """Of a student that returns a tuple they are the first; the others are what losses looked at while it learned."""
        with torch.no_grad():
            answer = module(inputs)
        return answer if isinstance(answer, torch.Tensor) else answer[0]

    with torch.no_grad():
        answer = module(example)
    others = [] if isinstance(answer, torch.Tensor) else [f"other_{place}" for place in range(1, len(answer))]
    # Frozen weights stay constants of the graph: shapes are folded where they can be.
    torch.onnx.export(
        module,
        (example,),
        args.onnx,
        input_names=[name],
        output_names=["logits", *others],
        dynamic_axes={name: open_sizes, "logits": open_sizes},
        opset_version=args.opset,
        dynamo=False,
    )
    if others:
        onnx.utils.extract_model(args.onnx, args.onnx, [name], ["logits"])
    onnx.checker.check_model(onnx.load(args.onnx), full_check=True)

    run, runtime = session(args.onnx)
    worst = 0.0  # as a share of the largest logit
    for value in inputs:
        found = run({name: value})
        expected = logits(torch.from_numpy(value)).numpy()
        if found.shape != expected.shape:
            print(f"error: shapes differ: TorchScript {expected.shape}, ONNX {found.shape}", file=sys.stderr)
            return DIFFERS
        scale = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(found.astype(np.float64) - expected).max()) / scale
        # What is no number is no agreement.
        worst = max(worst, difference if difference == difference else float("inf"))
    if not worst <= args.tolerance:
        print(
            f"error: a logit differs by {worst:.2e} in {runtime}, more than the tolerance of {args.tolerance:.0e}",
            file=sys.stderr,
        )
        return DIFFERS
    if args.json:
        print(json.dumps({"runtime": runtime, "largest_difference": worst, "tolerance": args.tolerance}))
    else:
        print(f"{args.onnx}: logits as the TorchScript model's to {worst:.1e} in {runtime}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
