#!/usr/bin/env python3
"""Dumps numbers from PyTorch into tests/fixtures/reference, which the tests compare ours with.

    python3 tools/dump_reference.py            needs: pip install torch==2.11.0 numpy

Everything is computed in double precision from inputs that are written beside the results, so that the tests
need neither PyTorch nor its random numbers.
"""

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
OUT = FIXTURES / "reference"
TEMPERATURES = (1.0, 2.0, 4.0)


def images(count):
    data = gzip.decompress((FIXTURES / "fashion-mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    rows, height, width = struct.unpack(">3I", data[4:16])
    pixels = np.frombuffer(data, np.uint8, offset=16).reshape(rows, 1, height, width)[:count]
    return torch.from_numpy(pixels.copy())


def teacher():
    """softmax(z / T) of the linear teacher on the first images, normalised as the tests configure it."""
    module = torch.jit.load(str(FIXTURES / "teachers" / "linear.pt")).double()
    logits = module((images(8).double() / 255 - 0.286) / 0.353)
    return {"softmax": {f"{t:g}": (logits / t).softmax(-1).tolist() for t in TEMPERATURES}}


def numbers(generator, *shape, scale):
    """Random, and short enough to read: two decimals."""
    return (torch.randn(*shape, generator=generator, dtype=torch.double) * scale).mul(100).round().div(100)


def kl():
    """torch.nn.functional.kl_div and cross_entropy with their gradients; no cache, no tail."""
    generator = torch.Generator().manual_seed(1)
    teacher = numbers(generator, 4, 7, scale=3)
    student = numbers(generator, 4, 7, scale=2)
    labels = torch.tensor([0, 6, 3, 3])
    cases = []
    for temperature in (0.5, 1.0, 2.0, 4.0, 8.0):
        for kl_weight, label_weight in ((1.0, 0.0), (0.7, 0.3), (0.0, 1.0)):
            s = student.clone().requires_grad_()
            divergence = temperature**2 * functional.kl_div(
                functional.log_softmax(s / temperature, -1),
                functional.log_softmax(teacher / temperature, -1),
                reduction="batchmean",
                log_target=True,
            )
            entropy = functional.cross_entropy(s, labels)
            loss = kl_weight * divergence + label_weight * entropy
            loss.backward()
            cases.append(
                {
                    "temperature": temperature,
                    "kl_weight": kl_weight,
                    "cross_entropy_weight": label_weight,
                    "kl": divergence.item(),
                    "cross_entropy": entropy.item(),
                    "loss": loss.item(),
                    "gradient": s.grad.tolist(),
                }
            )
    return {"teacher": teacher.tolist(), "student": student.tolist(), "labels": labels.tolist(), "cases": cases}


def losses():
    """Every further term of the loss and its gradient, by definition; autograd of torch."""
    generator = torch.Generator().manual_seed(1)
    teacher = numbers(generator, 4, 7, scale=3)
    student = numbers(generator, 4, 7, scale=2)
    labels = torch.tensor([0, 6, 3, 3])
    rows = torch.arange(4)

    def divergence(a, b):
        return (a * (a / b).log()).sum(-1)

    def without_label(x):
        rest = x.clone()
        rest[rows, labels] = 0
        return rest / rest.sum(-1, keepdim=True)

    def dkd(p, q):
        pair = lambda x: torch.stack([x[rows, labels], 1 - x[rows, labels]], -1)
        others = torch.ones(4, 7, dtype=torch.bool)
        others[rows, labels] = False
        rest = lambda x: without_label(x)[others].view(4, 6)
        return 1.5 * divergence(pair(p), pair(q)) + 4.0 * divergence(rest(p), rest(q))

    def jsd(p, q, beta):
        m = beta * p + (1 - beta) * q
        return beta * divergence(p, m) + (1 - beta) * divergence(q, m)

    centred = lambda x: x - x.mean(-1, keepdim=True)
    cases = []
    for t in TEMPERATURES:
        for name, beta, term in (
            ("reverse_kl", 0.5, lambda p, q, s: t**2 * divergence(q, p)),
            ("jsd", 0.5, lambda p, q, s: t**2 * jsd(p, q, 0.5)),
            ("jsd", 0.1, lambda p, q, s: t**2 * jsd(p, q, 0.1)),
            ("total_variation", 0.5, lambda p, q, s: (p - q).abs().sum(-1) / 2),
            ("mse", 0.5, lambda p, q, s: (p - q).square().sum(-1)),
            ("logit_mse", 0.5, lambda p, q, s: functional.mse_loss(centred(s), centred(teacher), reduction="none").mean(-1)),
            ("cosine", 0.5, lambda p, q, s: functional.cosine_embedding_loss(p, q, torch.ones(4), reduction="none")),
            ("dkd", 0.5, lambda p, q, s: t**2 * dkd(p, q)),
        ):
            s = student.clone().requires_grad_()
            loss = term((teacher / t).softmax(-1), (s / t).softmax(-1), s).mean()
            loss.backward()
            settings = {"term": name, "temperature": t, "jsd_beta": beta, "label_smoothing": 0.0}
            cases.append({**settings, "loss": loss.item(), "gradient": s.grad.tolist()})
    s = student.clone().requires_grad_()
    loss = functional.cross_entropy(s, labels, label_smoothing=0.2)
    loss.backward()
    settings = {"term": "cross_entropy", "temperature": 1.0, "jsd_beta": 0.5, "label_smoothing": 0.2}
    cases.append({**settings, "loss": loss.item(), "gradient": s.grad.tolist()})
    return {"teacher": teacher.tolist(), "student": student.tolist(), "labels": labels.tolist(), "cases": cases}


def optimizers():
    """Weights of a linear classifier after each step of torch.optim."""
    generator = torch.Generator().manual_seed(2)
    inputs = numbers(generator, 6, 3, scale=1)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    start = numbers(generator, 2, 3, scale=0.5)
    cases = []
    for name, make, settings in (
        ("adamw", torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
        ("sgd", torch.optim.SGD, {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.02, "nesterov": False}),
        ("sgd", torch.optim.SGD, {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True}),
        ("sgd", torch.optim.SGD, {"lr": 0.2, "momentum": 0.0, "weight_decay": 0.02, "nesterov": False}),
        ("adam", torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.02, "weight_decay": 0.1, "alpha": 0.9, "eps": 1e-6, "momentum": 0.0}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.02, "weight_decay": 0.0, "alpha": 0.9, "eps": 1e-6, "momentum": 0.8}),
    ):
        weight = start.clone().requires_grad_()
        optimizer = make([weight], **settings)
        steps = []
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(inputs @ weight.T, labels).backward()
            optimizer.step()
            steps.append(weight.detach().tolist())
        settings["learning_rate"] = settings.pop("lr")
        cases.append({"config": {"kind": name, **settings}, "steps": steps})
    return {"inputs": inputs.tolist(), "labels": labels.tolist(), "start": start.tolist(), "cases": cases}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, make in (("teacher", teacher), ("kl", kl), ("losses", losses), ("optimizers", optimizers)):
        (OUT / f"{name}.json").write_text(json.dumps(make()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
