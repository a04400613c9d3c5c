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

    def dist(p, q, beta, gamma):
        """The authors' code (hunto/DIST_KD), cosines of centred probabilities."""

        def relation(a, b):
            a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
            return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

        return beta * relation(q, p) + gamma * relation(q.T, p.T)

    def nkd(p, q, s, gamma, t):
        """As the paper has it: the label at T = 1, the others by themselves at T."""
        of_label = -teacher.softmax(-1)[rows, labels] * s.log_softmax(-1)[rows, labels]
        others = torch.ones(4, 7, dtype=torch.bool)
        others[rows, labels] = False
        rest = lambda x: without_label(x)[others].view(4, 6)
        return of_label - gamma * t**2 * (rest(p) * rest(q).log()).sum(-1)

    def ranking(s, top):
        """RankNet over the teacher's first classes: BCE of the difference, the order being certain."""
        order = teacher.argsort(-1, descending=True)[:, :top]
        pairs = torch.combinations(torch.arange(top))
        apart = s.gather(1, order[:, pairs[:, 0]]) - s.gather(1, order[:, pairs[:, 1]])
        return functional.binary_cross_entropy_with_logits(apart, torch.ones_like(apart))

    centred = lambda x: x - x.mean(-1, keepdim=True)
    cases = []
    for t in TEMPERATURES:
        # What a term's second case has besides: its own section of the config.
        more = {
            ("dist", 9): {"settings": {"dist": {"beta": 2.0, "gamma": 0.5}}},
            ("nkd", 11): {"settings": {"nkd": {"gamma": 0.7}}},
            ("ranking", 13): {"settings": {"ranking": {"top": 3}}},
        }
        terms = (
            ("reverse_kl", 0.5, lambda p, q, s: t**2 * divergence(q, p)),
            ("jsd", 0.5, lambda p, q, s: t**2 * jsd(p, q, 0.5)),
            ("jsd", 0.1, lambda p, q, s: t**2 * jsd(p, q, 0.1)),
            ("total_variation", 0.5, lambda p, q, s: (p - q).abs().sum(-1) / 2),
            ("mse", 0.5, lambda p, q, s: (p - q).square().sum(-1)),
            ("logit_mse", 0.5, lambda p, q, s: functional.mse_loss(centred(s), centred(teacher), reduction="none").mean(-1)),
            ("cosine", 0.5, lambda p, q, s: functional.cosine_embedding_loss(p, q, torch.ones(4), reduction="none")),
            ("dkd", 0.5, lambda p, q, s: t**2 * dkd(p, q)),
            ("dist", 0.5, lambda p, q, s: t**2 * dist(p, q, 1.0, 1.0)),
            ("dist", 0.5, lambda p, q, s: t**2 * dist(p, q, 2.0, 0.5)),
            ("nkd", 0.5, lambda p, q, s: nkd(p, q, s, 1.5, t)),
            ("nkd", 0.5, lambda p, q, s: nkd(p, q, s, 0.7, t)),
            ("ranking", 0.5, lambda p, q, s: ranking(s, 7)),
            ("ranking", 0.5, lambda p, q, s: ranking(s, 3)),
            (
                "logit_cosine",
                0.5,
                lambda p, q, s: functional.cosine_embedding_loss(
                    centred(s), centred(teacher), torch.ones(4), reduction="none"
                ),
            ),
        )
        for at, (name, beta, term) in enumerate(terms):
            s = student.clone().requires_grad_()
            loss = term((teacher / t).softmax(-1), (s / t).softmax(-1), s).mean()
            loss.backward()
            settings = {"term": name, "temperature": t, "jsd_beta": beta, "label_smoothing": 0.0}
            cases.append({**settings, **more.get((name, at), {}), "loss": loss.item(), "gradient": s.grad.tolist()})
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
    # Lion is not in torch.optim: algorithm 2 of Chen et al., 2023.
    beta1, beta2, rate, decay = 0.9, 0.99, 0.03, 0.1
    weight, momentum, steps = start.clone().requires_grad_(), torch.zeros_like(start), []
    for _ in range(5):
        weight.grad = None
        functional.cross_entropy(inputs @ weight.T, labels).backward()
        with torch.no_grad():
            update = (beta1 * momentum + (1 - beta1) * weight.grad).sign()
            weight -= rate * (update + decay * weight)
            momentum = beta2 * momentum + (1 - beta2) * weight.grad
        steps.append(weight.detach().tolist())
    config = {"kind": "lion", "learning_rate": rate, "weight_decay": decay, "betas": [beta1, beta2]}
    cases.append({"config": config, "steps": steps})
    return {"inputs": inputs.tolist(), "labels": labels.tolist(), "start": start.tolist(), "cases": cases}


def clipping():
    """Gradients as torch.nn.utils' clip_grad_value_ and then clip_grad_norm_ leave them, and the norm that the latter saw."""
    generator = torch.Generator().manual_seed(4)
    gradients = {"matrix": numbers(generator, 4, 3, scale=2), "norm": numbers(generator, 3, scale=2)}
    cases = []
    # At the smallest scale, what is added to the norm counts.
    for scale, value, norm in (
        (1, None, 0.5),
        (1, None, 3.0),
        (1, None, 100.0),
        (1, 0.7, None),
        (1, 50.0, None),
        (1, 0.7, 1.5),
        (2**-20, None, 2**-22),
        (2**-20, 2**-20, None),
    ):
        weights = [torch.zeros_like(gradient, requires_grad=True) for gradient in gradients.values()]
        for weight, gradient in zip(weights, gradients.values()):
            weight.grad = gradient * scale
        if value is not None:
            torch.nn.utils.clip_grad_value_(weights, value)
        before = None if norm is None else torch.nn.utils.clip_grad_norm_(weights, norm).item()
        clipped = {name: weight.grad.tolist() for name, weight in zip(gradients, weights)}
        cases.append({"scale": scale, "clip_value": value, "clip_norm": norm, "norm": before, "gradients": clipped})
    return {"gradients": {name: value.tolist() for name, value in gradients.items()}, "cases": cases}


def groups():
    """Two layers and a norm's weight under torch.optim's parameter groups: rates and decays of their own."""
    generator = torch.Generator().manual_seed(3)
    inputs = numbers(generator, 6, 3, scale=1)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    start = {
        "hidden0.weight": numbers(generator, 4, 3, scale=0.5),
        "hidden1.norm": numbers(generator, 4, scale=0.5) + 1,
        "hidden1.weight": numbers(generator, 4, 4, scale=0.5),
        "head.weight": numbers(generator, 2, 4, scale=0.5),
    }
    common = {"learning_rate": 0.05, "weight_decay": 0.1}
    cases = []
    for kind, make in (("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)):
        # layer_decay = 0.5: the head 1, hidden1 1/2, hidden0 1/4; the group hidden1.w 3 times that, decay 0.2.
        weights = {name: value.clone().requires_grad_() for name, value in start.items()}
        settings = {"hidden0.weight": (0.25, 0.1), "hidden1.norm": (0.5, 0.0), "hidden1.weight": (1.5, 0.2), "head.weight": (1.0, 0.1)}
        more = {"momentum": 0.9} if kind == "sgd" else {}
        optimizer = make(
            [
                {"params": [weights[name]], "lr": 0.05 * rate, "weight_decay": decay, **more}
                for name, (rate, decay) in settings.items()
            ]
        )
        steps = []
        for _ in range(5):
            optimizer.zero_grad()
            hidden = (inputs @ weights["hidden0.weight"].T).tanh() * weights["hidden1.norm"]
            hidden = (hidden @ weights["hidden1.weight"].T).tanh()
            functional.cross_entropy(hidden @ weights["head.weight"].T, labels).backward()
            optimizer.step()
            steps.append({name: value.detach().flatten().tolist() for name, value in weights.items()})
        own = [{"match": "hidden1.w", "rate": 3.0, "weight_decay": 0.2}]
        cases.append({"config": {"kind": kind, **common, "layer_decay": 0.5, "groups": own}, "steps": steps})
    start = {name: value.tolist() for name, value in start.items()}
    return {"inputs": inputs.tolist(), "labels": labels.tolist(), "start": start, "cases": cases}


def schedules():
    """Factors of torch.optim.lr_scheduler over 12 epochs or steps, at a peak of 1."""
    scheduler = torch.optim.lr_scheduler

    def factors(make):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule, found = make(optimizer), []
        for _ in range(12):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    def warm_up_and_line(epoch):
        """As the Knowledge Distillation Toolkit has it: linear_decay_with_warm_up over 12 epochs, 3 of them warm-up."""
        return (epoch + 1) / 3 if epoch < 3 else max(0.0, (12 - epoch) / (12 - 3))

    warm = lambda o: scheduler.LinearLR(o, start_factor=1 / 4, total_iters=3)
    cases = (
        ({"kind": "constant"}, lambda o: scheduler.ConstantLR(o, factor=1.0)),
        ({"kind": "constant", "warmup_epochs": 4}, warm),
        ({"kind": "linear"}, lambda o: scheduler.LinearLR(o, 1.0, 0.0, total_iters=12)),
        ({"kind": "linear", "warmup_epochs": 3}, lambda o: scheduler.LambdaLR(o, warm_up_and_line)),
        ({"kind": "cosine", "final_fraction": 0.1}, lambda o: scheduler.CosineAnnealingLR(o, T_max=12, eta_min=0.1)),
        (
            {"kind": "cosine_restarts", "period_epochs": 9, "final_fraction": 0.01},
            lambda o: scheduler.CosineAnnealingWarmRestarts(o, T_0=9, T_mult=1, eta_min=0.01),
        ),
        (
            {"kind": "cosine_restarts", "period_epochs": 2, "growth": 2, "final_fraction": 0.0},
            lambda o: scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2),
        ),
        ({"kind": "step", "every_epochs": 5, "factor": 0.3}, lambda o: scheduler.StepLR(o, step_size=5, gamma=0.3)),
        ({"kind": "one_cycle"}, lambda o: scheduler.OneCycleLR(o, max_lr=1.0, total_steps=12)),
        (
            {"kind": "warmup_stable_decay", "warmup_epochs": 4, "decay_epochs": 3},
            lambda o: scheduler.SequentialLR(
                o, [warm(o), scheduler.LinearLR(o, 1.0, 0.0, total_iters=3)], milestones=[9]
            ),
        ),
    )
    return [{"config": config, "factors": factors(make)} for config, make in cases]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, make in (("teacher", teacher), ("kl", kl), ("losses", losses), ("optimizers", optimizers), ("clipping", clipping), ("groups", groups), ("schedules", schedules)):
        (OUT / f"{name}.json").write_text(json.dumps(make()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
