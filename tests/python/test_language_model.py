"""What lies beside an exported language model for kd-cache to find: its tokenizer, the ends of texts, and what lays out chats."""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from language_model import write_tokenizer


class Backend:
    def save(self, path):
        Path(path).write_text("{}")


class Written(unittest.TestCase):
    def write(self, template):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        tokenizer = SimpleNamespace(backend_tokenizer=Backend(), bos_token="<s>", eos_token="</s>", chat_template=template)
        self.assertTrue(write_tokenizer(tokenizer, self.folder))
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_text() for path in files}

    def test_a_template_lies_beside_the_tokenizer(self):
        written = self.write("{{ messages }}é\n")
        self.assertEqual(written["chat_template.jinja"], "{{ messages }}é\n")
        self.assertEqual(json.loads(written["tokenizer_config.json"]), {"bos_token": "<s>", "eos_token": "</s>"})
        self.assertEqual(len(written), 3)

    def test_of_several_the_one_with_tools_has_a_file_of_its_own(self):
        written = self.write({"tool_use": "b", "default": "a", "rag": "c"})
        self.assertEqual(written["chat_template.jinja"], "a")
        self.assertEqual(written["additional_chat_templates/tool_use.jinja"], "b")
        self.assertEqual(len(written), 4)

    def test_without_one_there_is_none(self):
        self.assertEqual(len(self.write(None)), 2)

    def test_what_has_no_such_form_is_told(self):
        self.assertFalse(write_tokenizer(SimpleNamespace(), Path("nowhere")))


if __name__ == "__main__":
    unittest.main()
