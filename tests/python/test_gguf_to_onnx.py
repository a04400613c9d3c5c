"""tools/gguf_to_onnx.py on a model of made-up weights, against the definition of a Llama in NumPy."""

import importlib.util
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

NEEDED = ("gguf", "onnx", "onnxruntime")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TOOLS = Path(__file__).resolve().parents[2] / "tools"

VOCABULARY, HIDDEN, INNER, HEADS, SHARED, LAYERS = 20, 16, 24, 4, 2, 2
WIDTH, BASE, EPSILON = HIDDEN // HEADS, 1000.0, 1e-5


def weights():
    draw = np.random.default_rng(3)

    def matrix(*shape):
        return draw.normal(0, 0.5, shape).astype(np.float32)

    all_of_them = {"token_embd": matrix(VOCABULARY, HIDDEN), "output_norm": matrix(HIDDEN)}
    for layer in range(LAYERS):
        shapes = {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (SHARED * WIDTH, HIDDEN), "attn_v": (SHARED * WIDTH, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER),
        }
        all_of_them |= {f"blk.{layer}.{name}": matrix(*shape) for name, shape in shapes.items()}
    return all_of_them


def write(path, own):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(BASE)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [chr(ord("a") + at) for at in range(VOCABULARY - 4)]
    writer.add_token_list(["<end>", *letters, "ab", "1", "2"])
    writer.add_token_types([3] + [1] * (VOCABULARY - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    for name, values in own.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight


def rotate(x):
    """Rotary positions as llama.cpp applies them: pairs side by side, [sequence, heads, width]."""
    at = np.arange(len(x))[:, None] * BASE ** (-np.arange(0, WIDTH, 2) / WIDTH)
    c, s = np.cos(at)[:, None], np.sin(at)[:, None]
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
    out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
    return out


def logits(own, tokens):
    """A document alone, in double precision, head after head and token after token."""
    w = {name: values.astype(np.float64) for name, values in own.items()}
    x = w["token_embd"][tokens]
    for layer in range(LAYERS):
        part = {name.removeprefix(f"blk.{layer}."): one for name, one in w.items() if name.startswith(f"blk.{layer}.")}
        h = norm(x, part["attn_norm"])
        q = rotate((h @ part["attn_q"].T).reshape(len(x), HEADS, WIDTH))
        k = rotate((h @ part["attn_k"].T).reshape(len(x), SHARED, WIDTH))
        v = (h @ part["attn_v"].T).reshape(len(x), SHARED, WIDTH)
        mixed = np.zeros((len(x), HEADS, WIDTH))
        for head in range(HEADS):
            own_key = head // (HEADS // SHARED)
            for at in range(len(x)):
                scores = k[: at + 1, own_key] @ q[at, head] / np.sqrt(WIDTH)
                e = np.exp(scores - scores.max())
                mixed[at, head] = (e / e.sum()) @ v[: at + 1, own_key]
        x = x + mixed.reshape(len(x), HIDDEN) @ part["attn_output"].T
        h = norm(x, part["ffn_norm"])
        gate = h @ part["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ part["ffn_up"].T)) @ part["ffn_down"].T
    return norm(x, w["output_norm"]) @ w["token_embd"].T


@unittest.skipIf(MISSING, f"python3 lacks {', '.join(MISSING)}")
class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sys.path.insert(0, str(TOOLS))
        import gguf_to_onnx

        cls.tool, cls.weights = gguf_to_onnx, weights()
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = Path(cls.folder.name)
        write(cls.out / "model.gguf", cls.weights)
        gguf = gguf_to_onnx.Gguf(cls.out / "model.gguf")
        gguf_to_onnx.write_model(gguf, cls.out / "model.onnx")
        gguf_to_onnx.write_tokenizer(gguf, cls.out / "tokenizer.json")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_packed_and_padded_rows_give_what_each_document_alone_would(self):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.out / "model.onnx"), providers=["CPUExecutionProvider"])
        rows = [[[3, 1, 4, 1, 5], [9, 2, 6]], [[5, 3, 5, 8]]]
        ids, mask, positions = (np.zeros((2, 8), dtype=np.int64) for _ in range(3))
        for row, documents in enumerate(rows):
            tokens = [token for document in documents for token in document]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
            positions[row, : len(tokens)] = [at for document in documents for at in range(len(document))]
        found = session.run(None, {"input_ids": ids, "attention_mask": mask, "position_ids": positions})[0]
        for row, documents in enumerate(rows):
            start = 0
            for document in documents:
                expected = logits(self.weights, document)
                np.testing.assert_allclose(found[row, start : start + len(document)], expected, atol=2e-4)
                start += len(document)

    def test_the_tokenizer_has_the_files_own_ids(self):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            self.skipTest("python3 lacks tokenizers")
        tokenizer = Tokenizer.from_file(str(self.out / "tokenizer.json"))
        self.assertEqual(tokenizer.encode("abc12<end>").ids, [17, 3, 18, 19, 0])
        self.assertEqual(tokenizer.decode([17, 3, 18]), "abc1")

    def test_another_architecture_is_refused(self):
        with self.assertRaisesRegex(self.tool.Refused, "expected the architecture llama"):
            from gguf import GGUFWriter

            writer = GGUFWriter(self.out / "other.gguf", "gpt2")
            writer.add_context_length(8)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            self.tool.Gguf(self.out / "other.gguf")


if __name__ == "__main__":
    unittest.main()
