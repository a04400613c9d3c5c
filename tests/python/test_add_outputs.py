"""tools/add_outputs.py: inner tensors become outputs, and nothing else changes."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import fixture

TOOL = fixture.ROOT / "tools" / "add_outputs.py"
TEACHER = fixture.FIXTURES / "teachers" / "linear.onnx"

try:
    import onnx
except ImportError:
    onnx = None


@unittest.skipIf(onnx is None, "onnx is not installed")
class AddOutputs(unittest.TestCase):
    def run_tool(self, *arguments):
        return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)

    def test_an_inner_tensor_becomes_an_output(self):
        listed = self.run_tool(TEACHER)
        self.assertIn("pooled  float [batch, 1, 7, 7]", listed.stdout, listed.stderr)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.onnx"
            done = self.run_tool(TEACHER, out, "map=pooled", "flat=cells")
            self.assertEqual(done.returncode, 0, done.stderr)
            before, after = onnx.load(TEACHER), onnx.load(out)
            self.assertEqual([o.name for o in after.graph.output], ["logits", "map", "flat"])
            self.assertEqual(list(before.graph.node), list(after.graph.node)[: len(before.graph.node)])
            self.assertEqual(list(before.graph.initializer), list(after.graph.initializer))

    def test_weights_in_files_beside_the_model_stay_there(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            model, out, elsewhere = folder / "model.onnx", folder / "out.onnx", folder / "sub" / "out.onnx"
            elsewhere.parent.mkdir()
            onnx.save_model(onnx.load(TEACHER), str(model), save_as_external_data=True, location="weights", size_threshold=0)
            self.assertIn("pooled  float [batch, 1, 7, 7]", self.run_tool(model).stdout)
            done = self.run_tool(model, out, "map=pooled")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(sorted(path.name for path in folder.iterdir()), ["model.onnx", "out.onnx", "sub", "weights"])
            self.assertEqual(list(onnx.load(out).graph.initializer), list(onnx.load(model).graph.initializer))
            done = self.run_tool(model, elsewhere, "map=pooled")
            self.assertEqual(done.returncode, 1)
            self.assertIn("weights lie in files beside", done.stderr)
            self.assertFalse(elsewhere.exists())

    def test_what_is_not_there_or_taken_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.onnx"
            for output, words in (("a=nothing", "nothing: no inner tensor"), ("logits=cells", "logits: the model has")):
                done = self.run_tool(TEACHER, out, output)
                self.assertEqual(done.returncode, 1)
                self.assertIn(words, done.stderr)
                self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
