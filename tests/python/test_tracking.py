"""What others' tools find of a run that the built kd-train told them of (TensorBoard, MLflow, Comet), and what a terminal does."""

import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import urllib.request
import zipfile
from pathlib import Path

import fixture
import numpy as np

DATA = fixture.FIXTURES / "fashion-mnist"
CONFIG = f"""
seed = 3
[dataset]
kind = "idx"
images = "{DATA}/train-images-idx3-ubyte.gz"
labels = "{DATA}/train-labels-idx1-ubyte.gz"
[student]
kind = "mlp"
hidden = [16]
classes = 10
[loss]
weights = {{ cross_entropy = 1.0 }}
[optimizer]
kind = "adamw"
learning_rate = 0.01
[schedule]
kind = "cosine"
[train]
epochs = 3
batch = 64
threads = 1
[validation.test.dataset]
kind = "idx"
images = "{DATA}/t10k-images-idx3-ubyte.gz"
labels = "{DATA}/t10k-labels-idx1-ubyte.gz"
"""


PROGRAM = fixture.program("kd-train")


def needs(package, how):
    there = importlib.util.find_spec(package) is not None
    return unittest.skipUnless(there, f"this python3 has no {package} ({how})")


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(run):
    """Every figure of a run's lines: values by name, then by step."""
    steps = read_lines(run / "steps.jsonl") if (run / "steps.jsonl").exists() else []
    found = {}

    def add(line, name, value):
        found.setdefault(name, {})[line["step"]] = value

    for line in steps:
        for key in ("learning_rate", "cross_entropy", "gradient_norm", "samples_per_second"):
            add(line, f"train/{key}", line[key])
        add(line, "train/loss", line["train_loss"])
    for line in read_lines(run / "metrics.jsonl"):
        before = "epoch" if steps else "train"
        for key in ("learning_rate", "cross_entropy", "gradient_norm", "samples_per_second"):
            if key in line:
                add(line, f"{before}/{key}", line[key])
        add(line, f"{before}/loss", line["train_loss"])
        add(line, "train/epoch", line["epoch"])
        for key, value in line["validation"]["test"].items():
            add(line, f"test/{key}", value)
    return found


@unittest.skipUnless(PROGRAM, "kd-train is not built: cargo build --release")
class Run(unittest.TestCase):
    """A folder for runs of a small student: 8 steps an epoch."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "train.toml").write_text(CONFIG, encoding="utf-8")

    def train(self, name, *more, environment=None):
        run = self.folder / name
        command = [PROGRAM, "--config", self.folder / "train.toml", "--out", run, "--quiet", "--format", "json", *more]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_") and not key.lower().endswith("_proxy")}
        done = subprocess.run(command, env={**clean, **(environment or {})}, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return run, json.loads(done.stdout)

    def hold(self, found, run, tolerance=0.0):
        """Names, steps and values are those of the lines, and no step stands there twice."""
        wanted = expected(run)
        self.assertEqual(sorted(found), sorted(wanted))
        for name, points in found.items():
            self.assertEqual([step for step, _ in points], sorted(wanted[name]), name)
            np.testing.assert_allclose([value for _, value in points], [wanted[name][step] for step, _ in points], rtol=tolerance, err_msg=name)


class Terminal(Run):
    def test_the_bar_has_the_loss(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        # An epoch may be over before its bar is drawn: there are enough of them, and they end when it was seen.
        command = [PROGRAM, "--config", self.folder / "train.toml", "--out", self.folder / "run", "--set", "train.epochs=100000", "--set", "tracking.every=1"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"})
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        os.close(theirs)

        def read():
            """What was written since; None when the program has ended."""
            try:
                return os.read(ours, 1 << 16).decode(errors="replace") or None
            except OSError:
                return None

        shown, deadline = "", time.monotonic() + 60
        while not re.search(r"epoch \d+/100000 \[[^]]*\] \d+/512, loss \d+\.\d{4}, ", shown):
            self.assertLess(time.monotonic(), deadline, shown)
            if select.select([ours], [], [], 1.0)[0]:
                more = read()
                self.assertIsNotNone(more, shown)
                shown = shown[-10_000:] + more
        child.send_signal(signal.SIGINT)
        while read() is not None:
            pass
        self.assertEqual(child.wait(), 130)


@needs("tensorboard", "tools/setup.sh installs it")
class TensorBoard(Run):
    def scalars(self, run):
        """What TensorBoard's own reader makes of a run."""
        from tensorboard.backend.event_processing import event_accumulator

        events = event_accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
        # Were it to purge what came twice, the test would not see that it did.
        events.purge_orphaned_data = False
        events.Reload()
        self.config = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
        return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}

    # Scalars are in single precision.
    PRECISION = 2.0**-24

    def test_a_run_with_lines_of_steps(self):
        run, _ = self.train("run", *self.set("every=3", "gradient_norm=true"))
        self.hold(self.scalars(run), run, self.PRECISION)
        self.assertIn("    learning_rate = 0.01\n", self.config)

    def test_a_run_without_them(self):
        run, _ = self.train("run", *self.set())
        found = self.scalars(run)
        self.hold(found, run, self.PRECISION)
        self.assertEqual([step for step, _ in found["train/loss"]], [8, 16, 24])

    def test_a_run_that_was_interrupted_within_an_epoch(self):
        settings = self.set("every=3", "gradient_norm=true")
        for steps, more in ((5, ()), (12, ("--resume",)), (99, ("--resume",))):
            run, _ = self.train("run", *settings, "--set", f"train.max_steps={steps}", *more)
        self.assertEqual(len(list((run / "tensorboard").iterdir())), 3)
        self.hold(self.scalars(run), run, self.PRECISION)

    @staticmethod
    def set(*keys):
        return [word for key in ("tensorboard=true", *keys) for word in ("--set", f"tracking.{key}")]


@needs("mlflow", "python3 -m pip install mlflow")
class Mlflow(Run):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        cls.uri = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder.name}/mlflow.db", "--default-artifact-root", f"{folder.name}/artifacts"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        server = subprocess.Popen(command, cwd=folder.name, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

        def stop():
            os.killpg(server.pid, 15)
            server.wait(timeout=30)

        cls.addClassCleanup(stop)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # Seconds, but for a machine that has much else to do.
        end = time.monotonic() + 300
        while server.poll() is None and time.monotonic() < end:
            try:
                opener.open(f"{cls.uri}/health", timeout=5).close()
                # The first call that needs the database takes the longest.
                opener.open(f"{cls.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", timeout=60).close()
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"mlflow server did not come up (exit code {server.poll()})")

    def found(self, run):
        """A run on the server, by the id that the folder keeps, and its figures."""
        import mlflow

        client = mlflow.MlflowClient(self.uri)
        kept = json.loads((run / "mlflow.json").read_text(encoding="utf-8"))
        on_server = client.get_run(kept["run_id"])
        history = {name: client.get_metric_history(kept["run_id"], name) for name in on_server.data.metrics}
        return on_server, {name: [(one.step, one.value) for one in points] for name, points in history.items()}

    def settings(self, *keys):
        all_keys = (f"mlflow.uri={self.uri}", "mlflow.experiment=distillation", "every=3", "gradient_norm=true", *keys)
        return [word for key in all_keys for word in ("--set", f"tracking.{key}")]

    def test_a_run_told_while_it_goes_on(self):
        run, report = self.train("run", *self.settings())
        self.assertNotIn("tracking_warning", report)
        on_server, found = self.found(run)
        self.hold(found, run)
        self.assertEqual(on_server.info.status, "FINISHED")
        self.assertEqual(on_server.info.run_name, "run")
        self.assertEqual(on_server.data.params["optimizer.learning_rate"], "0.01")
        self.assertEqual(on_server.data.params["student.hidden"], "[16]")
        self.assertEqual(on_server.data.tags["mlflow.source.name"], "kd-train")

    def test_an_interrupted_run_goes_on_in_the_same_run(self):
        settings = self.settings("mlflow.run_name=by name")
        run, _ = self.train("run", *settings, "--set", "train.max_steps=8")
        first, _ = self.found(run)
        run, report = self.train("run", *settings, "--resume")
        self.assertNotIn("tracking_warning", report)
        second, found = self.found(run)
        self.hold(found, run)
        self.assertEqual(first.info.run_id, second.info.run_id)
        self.assertEqual((second.info.run_name, second.info.status), ("by name", "FINISHED"))

    def test_a_server_that_was_away_gets_everything_later(self):
        away = self.settings()
        away[1] = "tracking.mlflow.uri=http://127.0.0.1:9"
        run, report = self.train("run", *away)
        self.assertIn("http://127.0.0.1:9 does not answer", report["tracking_warning"])
        run, report = self.train("run", *self.settings(), "--resume")
        self.assertNotIn("tracking_warning", report)
        self.hold(self.found(run)[1], run)


@needs("comet_ml", "python3 -m pip install comet_ml")
class Comet(Run):
    def log(self, run, *more):
        tool = fixture.ROOT / "tools" / "log_to_comet.py"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("COMET_")}
        clean["HOME"] = str(self.folder)
        return subprocess.run([sys.executable, tool, run, *more], env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def test_an_archive_holds_the_run(self):
        run, _ = self.train("run", "--set", "tracking.every=3", "--set", "tracking.gradient_norm=true")
        archives = self.folder / "archives"
        done = self.log(run, "--offline", archives, "--project", "distillation", "--name", "a name")
        self.assertEqual(done.returncode, 0, done.stderr)
        (path,) = archives.glob("*.zip")
        with zipfile.ZipFile(path) as archive:
            messages = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
            self.assertEqual(json.loads(archive.read("experiment.json"))["project_name"], "distillation")
        found, parameters, others = {}, {}, {}
        for message in messages:
            payload = message["payload"]
            if message["type"] == "metric_msg" and "/" in payload["metric"]["metricName"]:
                metric = payload["metric"]
                found.setdefault(metric["metricName"], []).append((metric["step"], metric["metricValue"]))
            for one in (payload.get("param"), payload.get("params")):
                parameters.update({one["paramName"]: one["paramValue"]} if one else {})
            if message["type"] == "log_other":
                others[payload["key"]] = payload["value"]
        wanted = expected(run)
        wanted.pop("train/epoch")
        found.pop("train/epoch", None)
        self.assertEqual({name: dict(points) for name, points in found.items()}, wanted)
        self.assertEqual(sum(map(len, found.values())), sum(map(len, wanted.values())))
        self.assertEqual((parameters["optimizer.learning_rate"], others["Name"], others["outcome"]), (0.01, "a name", "trained"))

    def test_what_cannot_be_logged_says_why(self):
        run, _ = self.train("run", "--set", "train.epochs=1")
        for arguments, words in (((self.folder,), "not a run of kd-train"), ((run,), "API key")):
            done = self.log(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
