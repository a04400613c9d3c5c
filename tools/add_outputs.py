#!/usr/bin/env python3
"""Makes inner tensors of an ONNX model outputs of its graph, so that `[[features]]` of a cache's config can name them.

    python3 tools/add_outputs.py teacher.onnx                                 lists the tensors, with their shapes
    python3 tools/add_outputs.py teacher.onnx out.onnx pooled=/ReduceMean_output_0

Each NAME=TENSOR adds an output NAME. Nothing that was there changes: nodes, weights (in files beside the model too) and outputs stay, and a check runs
both models on the same inputs where onnxruntime is installed. Needs onnx:

    pip install onnx==1.23.2 onnxruntime==1.30.0
"""

import argparse
import os
import sys


def tensors(model):
    """Outputs of nodes with their types, as far as shapes can be inferred, in the order of the graph."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in [*graph.value_info, *graph.output]}
    names = [name for node in graph.node if node.op_type != "Constant" for name in node.output if name]
    return {name: known.get(name) for name in names}


def describe(value):
    if value is None:
        return "unknown"
    from onnx import TensorProto

    tensor = value.type.tensor_type
    sizes = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} [{', '.join(sizes)}]"


def add(model, wanted):
    """Adds the outputs `wanted`, names by tensors."""
    from onnx import helper

    found = tensors(model)
    taken = {value.name for value in [*model.graph.output, *model.graph.input]} | set(found)
    for name, tensor in wanted.items():
        if found.get(tensor) is None:
            sys.exit(f"error: {tensor}: no inner tensor of that name whose type is known; give no outputs to list them")
        if name in taken:
            sys.exit(f"error: {name}: the model has a tensor of that name; choose another")
        taken.add(name)
        model.graph.node.append(helper.make_node("Identity", [tensor], [name]))
        output = model.graph.output.add()
        output.CopyFrom(found[tensor])
        output.name = name


def compare(before, after):
    """Largest difference of the outputs that both have, on seeded inputs; None where it cannot be run."""
    try:
        import numpy as np
        import onnxruntime
    except ImportError:
        return None
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (before, after)]
    inputs, generator = {}, np.random.default_rng(0)
    for value in sessions[0].get_inputs():
        if value.type not in ("tensor(float)", "tensor(float16)"):
            return None
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        inputs[value.name] = generator.standard_normal(shape).astype(np.float16 if "16" in value.type else np.float32)
    names = [value.name for value in sessions[0].get_outputs()]
    first, second = (session.run(names, inputs) for session in sessions)
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", nargs="?")
    parser.add_argument("outputs", nargs="*", metavar="NAME=TENSOR")
    options = parser.parse_args()

    import onnx

    # Weights in files beside it stay there: their shapes are all that is wanted of them.
    model = onnx.load(options.model, load_external_data=False)
    if not options.outputs:
        for name, value in tensors(model).items():
            print(f"{name}  {describe(value)}")
        return 0
    beside = any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer)
    folders = [os.path.dirname(os.path.abspath(path)) for path in (options.model, options.out)]
    if beside and folders[0] != folders[1]:
        sys.exit(f"error: {options.out}: weights lie in files beside {options.model}, where both models look for them; write to {folders[0]}")
    add(model, dict(one.split("=", 1) if "=" in one else (one, one) for one in options.outputs))
    onnx.save(model, options.out)
    onnx.checker.check_model(options.out, full_check=True)
    off = compare(options.model, options.out)
    said = "not run beside the old one" if off is None else f"its other outputs off by {off:.1e} at most"
    print(f"{options.out}: outputs {', '.join(output.name for output in model.graph.output)}; {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
