"""A measure as a program (schemas/metric-command.md): the share of predictions whose class is the label.

The file of predictions is the last argument; the first may ask for something that the file must have beside: `top`,
whose first class is the predicted one, or `logits`, whose softmax is its probability.
"""

import sys

import numpy as np
import pyarrow.parquet as pq


def main():
    *asked, path = sys.argv[1:]
    table = pq.read_table(path)
    predicted, label = (np.array(table[name].to_pylist(), dtype=object) for name in ("class", "label"))
    if "top" in asked:
        assert all(top[0] == own for top, own in zip(table["top_classes"].to_pylist(), predicted))
    if "logits" in asked:
        logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
        softmax = np.exp(logits - logits.max(1, keepdims=True))
        softmax /= softmax.sum(1, keepdims=True)
        np.testing.assert_allclose(softmax.max(1), table["probability"].to_numpy(), atol=1e-5)
    there = [own is not None for own in label]
    print(f"{table.num_rows} predictions, of {sum(there)} the label is known")
    print(float((predicted == label)[there].mean()))


if __name__ == "__main__":
    main()
