#!/usr/bin/env python3
"""Turns a TorchScript model (a run's student.pt, say) into ONNX, and checks that both agree.

    python3 tools/export_onnx.py student.pt teacher.onnx --shape 1,28,28

The ONNX model takes `input` [batch, SHAPE] and gives `logits` [batch, classes], float32, with the
batch left open. Needs PyTorch, onnx and onnxruntime:

    pip install torch==2.11.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.30.0
"""

import argparse
import sys

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="TorchScript file")
    parser.add_argument("onnx", help="ONNX file to write")
    parser.add_argument("--shape", required=True, help="shape of one input, e.g. 1,28,28")
    parser.add_argument("--opset", type=int, default=17, help="ONNX operator set (default 17)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of logits allowed")
    args = parser.parse_args()

    import onnx
    import onnxruntime
    import torch

    shape = [int(d) for d in args.shape.split(",")]
    module = torch.jit.load(args.model, map_location="cpu").eval()
    # Frozen weights stay constants of the graph: shapes are folded where they can be.
    example = torch.zeros([2, *shape])
    torch.onnx.export(
        module,
        (example,),
        args.onnx,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=args.opset,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(args.onnx), full_check=True)

    session = onnxruntime.InferenceSession(args.onnx, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    worst = 0.0
    for batch in (1, 2, 7):
        inputs = generator.standard_normal([batch, *shape]).astype(np.float32)
        (found,) = session.run(None, {"input": inputs})
        with torch.no_grad():
            expected = module(torch.from_numpy(inputs)).numpy()
        if found.shape != expected.shape:
            print(f"error: shapes differ: TorchScript {expected.shape}, ONNX {found.shape}", file=sys.stderr)
            return 1
        worst = max(worst, float(np.abs(found - expected).max()))
    if worst > args.tolerance:
        print(f"error: logits differ by {worst:.2e}, more than {args.tolerance:.0e}", file=sys.stderr)
        return 1
    print(f"{args.onnx}: logits as the TorchScript model's to {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
