#!/usr/bin/env python3
"""Logs a run of kd-train to Comet, online or as an archive for later, with Comet's own SDK.

    python3 -m pip install comet_ml
    tools/log_to_comet.py runs/t4 --project distillation            # the key as Comet's SDK takes it:
                                                                    # COMET_API_KEY, or ~/.comet.config
    tools/log_to_comet.py runs/t4 --offline archives                # no key and no network: an archive, which
                                                                    # `comet upload archives/*.zip` sends later

What is logged: the run's config as parameters, every line of metrics.jsonl and, with tracking.every, of steps.jsonl as
metrics, summary.json's last words as "other", and config.toml and summary.json themselves. Figures have the names that
they have in TensorBoard and MLflow: train/loss, train/kl, test/accuracy; with lines of steps, the epochs' own are epoch/….
Exit codes: 0 done; 2 could not run, and the message says why.
"""

import argparse
import json
import sys
from pathlib import Path

# Keys of a line that say what it is of, and the time it took.
NO_FIGURES = ("epoch", "step", "seconds", "validation")


def lines(path):
    """The lines of a file, but for a last one that is half written; none where there is no file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def figures(line, before):
    """The figures of a line by name, as src/tracking/line.rs has them."""
    for key, value in line.items():
        if key not in NO_FIGURES and isinstance(value, (int, float)):
            yield f"{before}/{'loss' if key == 'train_loss' else key}", value
    for name, measures in line.get("validation", {}).items():
        for key, value in measures.items():
            if isinstance(value, (int, float)):
                yield f"{name}/{key}", value


def parameters(config, key=""):
    """Every value of a config under its dotted key."""
    for name, value in config.items():
        inner = f"{key}.{name}" if key else name
        if isinstance(value, dict):
            yield from parameters(value, inner)
        else:
            yield inner, value


def experiment(options, comet_ml):
    """A new experiment that logs nothing by itself: it runs beside no training."""
    silent = dict.fromkeys(
        (
            *("log_code", "log_graph", "auto_param_logging", "auto_metric_logging", "auto_output_logging"),
            *("log_env_details", "log_git_metadata", "log_git_patch", "parse_args"),
            *("auto_histogram_weight_logging", "auto_histogram_gradient_logging", "auto_histogram_activation_logging"),
        ),
        False,
    )
    place = {"project_name": options.project, "workspace": options.workspace}
    if options.offline:
        options.offline.mkdir(parents=True, exist_ok=True)
        return comet_ml.OfflineExperiment(offline_directory=str(options.offline), **place, **silent)
    return comet_ml.Experiment(**place, **silent)


def log(run, to):
    """Logs the run in the folder `run` to the experiment `to`; gives the numbers of lines."""
    import tomllib

    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    to.log_parameters(dict(parameters(config)))
    steps, epochs = lines(run / "steps.jsonl"), lines(run / "metrics.jsonl")
    for before, found in (("train", steps), ("epoch" if steps else "train", epochs)):
        for line in found:
            for name, value in figures(line, before):
                to.log_metric(name, value, step=line["step"], epoch=line["epoch"])
    summary = run / "summary.json"
    if summary.exists():
        for key, value in json.loads(summary.read_text(encoding="utf-8")).items():
            if not isinstance(value, (dict, list)):
                to.log_other(key, value)
    for path in (run / "config.toml", summary):
        if path.exists():
            to.log_asset(str(path), file_name=path.name, copy_to_tmp=True)
    return len(steps), len(epochs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--project", help="Comet's project [default: the SDK's own]")
    parser.add_argument("--workspace", help="Comet's workspace [default: the SDK's own]")
    parser.add_argument("--name", help="the experiment's name [default: that of the run's folder]")
    parser.add_argument("--offline", type=Path, metavar="FOLDER", help="write an archive into this folder, and send nothing")
    options = parser.parse_args()
    if not (options.run / "config.toml").is_file():
        parser.error(f"{options.run} holds no config.toml: not a run of kd-train")
    if sys.version_info < (3, 11):
        parser.error("expected Python 3.11 or later, which reads TOML")
    try:
        import comet_ml
    except ImportError:
        parser.error("this python3 has no comet_ml; python3 -m pip install comet_ml")
    try:
        to = experiment(options, comet_ml)
        to.set_name(options.name or options.run.resolve().name)
        steps, epochs = log(options.run, to)
        to.end()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{options.run}: {epochs} epochs and {steps} lines of steps logged", file=sys.stderr)


if __name__ == "__main__":
    main()
