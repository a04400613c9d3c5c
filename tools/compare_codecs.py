#!/usr/bin/env python3
"""Our targets beside those of other caches, on the same logits: bytes, errors at several temperatures, speed.

    tools/compare_codecs.py FIT MEASURE CLASSES --out FOLDER [--variants 12:0,12:8:0.05,…] [--positions N]
                            [--seed 0]

FIT and MEASURE: raw logits, little-endian single precision, [positions, CLASSES], of different documents or images
(tools/dump_logits.py makes them from a language model). Tail models and codes of ours are fitted to FIT; everything
else is of MEASURE. Prints one Markdown table and writes it to OUT/codecs.md, the numbers to OUT/codecs.json
(tools/plot_codecs.py draws them). Needs PyTorch, and zstandard for one codec; ours is measured by
`cargo bench --bench codecs`.

The other caches are written here from what their documentation says of their formats, none with its authors' code:

* DistillKit's two documented presets: the k most probable classes, their log-probabilities the first few as bfloat16
  and the rest as a least-squares fit of a few terms in the rank, ids packed in ceil(log2 V) bits. `repaired` scales
  the rank to 0..1 before the fit, which its documentation offers as normalize_t. What is left over is a bucket,
  whose mass at T is that of T = 1 to the power of 1/T; here it is spread evenly.
* top-k: float16 log-probabilities and int32 ids, renormalised.
* TinyViT's record: float16 probabilities and 16-bit ids, a 4-byte seed, what is left over spread evenly.
* Megatron-LM's: up to 128 float16 log-probabilities and 17-bit ids, cut where they hold 95 %, the rest of each
  record filled with a sentinel, a block of 512 positions under zstd; renormalised.
* random sampling (Sparse Logit Sampling): 50 draws with replacement, 24 bits for each distinct class. A cache
  serves the one temperature at which it was drawn: errors at each T are of another cache.

Errors are over positions: rms of the 2-norm of the difference to the full softmax; mean KL from it in nats, infinite
where a class is given no mass; drift is the 1-norm of the mean difference. Times are of one thread: `encode` from
logits to bytes, top-k included; `decode` from bytes to ids, probabilities at T = 2 and leftover mass.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURES = (1.0, 2.0, 4.0)
# Positions encoded and decoded at once, and written out over all classes.
BLOCK, DENSE = 512, 64
# The temperature of decoding that is timed; the bench of ours has the same.
TIMED = 2.0


class Codec:
    """A cache's way with targets. `payload` is whatever lies on disk for a block of positions."""

    name = None

    def encode(self, logits):
        """Raw logits [positions, V] to a payload."""
        raise NotImplementedError

    def size(self, payload):
        """Bytes of a payload."""
        raise NotImplementedError

    def decode(self, payload, temperature):
        """Ids [positions, k], probabilities at a temperature [positions, k], mass of everything else [positions]."""
        raise NotImplementedError


def dense(ids, p, left, classes):
    """What is decoded as probabilities of all classes [positions, V], what is left over spread evenly."""
    rest = left.double() / max(classes - ids.shape[1], 1)
    out = rest[:, None].expand(-1, classes).clone()
    # Added, because what fills a shorter record has no mass and the id of a class that may have some.
    return out.scatter_(1, ids, 0.0).scatter_add_(1, ids, p.double())


def top(logits, k):
    """Log-probabilities of the k most probable, falling, and their ids."""
    values, ids = torch.topk(logits, k, dim=1)
    return values - torch.logsumexp(logits, 1, keepdim=True), ids


def renormalised(log_p, temperature):
    return torch.softmax(log_p.float() / temperature, 1)


def pack_ids(ids, bits):
    """Ids as `bits` bits each, most significant first, a row padded to whole bytes."""
    shifts = torch.arange(bits - 1, -1, -1)
    flat = ((ids[:, :, None] >> shifts) & 1).to(torch.uint8).flatten(1)
    return np.packbits(flat.numpy(), axis=1)


def unpack_ids(packed, k, bits):
    flat = np.unpackbits(packed, axis=1, count=k * bits).reshape(len(packed), k, bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.int64)
    return torch.from_numpy(flat.astype(np.int64) @ weights)


class TopK(Codec):
    """float16 log-probabilities and int32 ids."""

    def __init__(self, k):
        self.k, self.name = k, f"top-{k} f16 + i32, renormalised"

    def encode(self, logits):
        log_p, ids = top(logits, self.k)
        return log_p.half(), ids.int()

    def size(self, payload):
        return 6 * payload[1].numel()

    def decode(self, payload, temperature):
        log_p, ids = payload
        return ids.long(), renormalised(log_p, temperature), torch.zeros(len(ids))


class DistillKit(Codec):
    """Exact log-probabilities, then a fit in the rank; ids in as many bits as they need; a leftover bucket."""

    TERMS = {"1": lambda t: t**0, "t": lambda t: t, "t2": lambda t: t**2, "t3": lambda t: t**3, "t4": lambda t: t**4,
             "sqrt": lambda t: t**0.5}

    def __init__(self, name, classes, k, exact, terms, normalise=False):
        self.name, self.k, self.exact = name, k, exact
        self.bits = math.ceil(math.log2(classes))
        ranks = torch.arange(k - exact, dtype=torch.float32)
        ranks = ranks / (len(ranks) - 1) if normalise else ranks
        self.basis = torch.stack([self.TERMS[term](ranks) for term in terms], 1)
        # In single precision with an absolute tolerance, as documented: the reason for `normalise`.
        self.solve = torch.linalg.pinv(self.basis, atol=1e-5, rtol=0.0).T.contiguous()

    def encode(self, logits):
        log_p, ids = top(logits, self.k)
        return log_p[:, : self.exact].bfloat16(), log_p[:, self.exact :] @ self.solve, pack_ids(ids, self.bits)

    def size(self, payload):
        exact, fit, ids = payload
        return 2 * exact.numel() + 4 * fit.numel() + ids.size

    def decode(self, payload, temperature):
        exact, fit, ids = payload
        log_p = torch.cat([exact.float(), fit @ self.basis.T], 1)
        # The fit may give more than there is.
        left = (1.0 - log_p.exp().sum(1)).clamp_min(1e-8)
        scaled = torch.cat([log_p, left.log()[:, None]], 1) / temperature
        p = torch.softmax(scaled, 1)
        return unpack_ids(ids, self.k, self.bits), p[:, :-1], p[:, -1]


class TinyVit(Codec):
    """float16 probabilities, 16-bit ids, a seed; what is left over is spread evenly, then tempered with the rest."""

    def __init__(self, classes, k):
        self.k, self.classes, self.name = k, classes, f"TinyViT's record, k = {k}"

    def encode(self, logits):
        log_p, ids = top(logits, self.k)
        return log_p.exp().half(), ids.numpy().astype(np.uint16)

    def size(self, payload):
        return 4 * payload[1].size + 4 * len(payload[1])

    def decode(self, payload, temperature):
        p, ids = payload
        p, others = p.double(), self.classes - self.k
        left = ((1.0 - p.sum(1)) / others).clamp_min(1e-12)
        p, left = p ** (1 / temperature), left ** (1 / temperature) * others
        z = p.sum(1) + left
        return torch.from_numpy(ids.astype(np.int64)), (p / z[:, None]).float(), (left / z).float()


class Megatron(Codec):
    """Top-k cut at a mass, filled up to the longest of the block, under zstd."""

    SENTINEL = -1e3

    def __init__(self, k, mass):
        import zstandard

        self.k, self.mass, self.name = k, mass, f"Megatron-LM's, k ≤ {k}, top-p {mass:g}"
        self.compress, self.expand = zstandard.ZstdCompressor(), zstandard.ZstdDecompressor()

    def encode(self, logits):
        log_p, ids = top(logits, self.k)
        before = log_p.exp().cumsum(1) - log_p.exp()
        kept = before < self.mass
        longest = int(kept.sum(1).max())
        log_p = torch.where(kept, log_p, self.SENTINEL)[:, :longest].half()
        ids = ids[:, :longest].numpy()
        parts = log_p.numpy(), (ids & 0xFFFF).astype(np.uint16), (ids >> 16).astype(np.bool_)
        return len(ids), longest, self.compress.compress(b"".join(part.tobytes() for part in parts))

    def size(self, payload):
        return len(payload[2])

    def decode(self, payload, temperature):
        rows, width, data = payload
        data, count = self.expand.decompress(data), rows * width
        log_p = np.frombuffer(data, np.float16, count).reshape(rows, width)
        low = np.frombuffer(data, np.uint16, count, 2 * count).astype(np.int64)
        high = np.frombuffer(data, np.bool_, count, 4 * count).astype(np.int64)
        ids = torch.from_numpy((low | high << 16).reshape(rows, width))
        log_p = torch.from_numpy(log_p.astype(np.float32))
        log_p = torch.where(log_p > 0.5 * self.SENTINEL, log_p, -math.inf)
        return ids, renormalised(log_p, temperature), torch.zeros(rows)


class Sampled(Codec):
    """Distinct classes of draws with replacement at one temperature, with their counts."""

    def __init__(self, draws, temperature, seed):
        self.draws, self.temperature, self.name = draws, temperature, f"random sampling, {draws} draws"
        self.random = torch.Generator().manual_seed(seed)

    def encode(self, logits):
        p = torch.softmax(logits / self.temperature, 1)
        drawn = torch.multinomial(p, self.draws, replacement=True, generator=self.random).sort(1).values
        return [torch.unique_consecutive(row, return_counts=True) for row in drawn]

    def size(self, payload):
        return 3 * sum(len(ids) for ids, _ in payload)

    def decode(self, payload, temperature):
        width = max(len(ids) for ids, _ in payload)
        ids, p = torch.zeros(len(payload), width, dtype=torch.long), torch.zeros(len(payload), width)
        for row, (of, counts) in enumerate(payload):
            ids[row, : len(of)], p[row, : len(of)] = of, counts / self.draws
        return ids, p, torch.zeros(len(payload))


class Errors:
    """Sums over positions for one temperature."""

    def __init__(self, temperature, classes):
        self.temperature, self.positions, self.square, self.kl = temperature, 0, 0.0, 0.0
        self.difference = torch.zeros(classes, dtype=torch.float64)

    def add(self, logits, cached):
        truth = torch.softmax(logits.double() / self.temperature, 1)
        self.positions += len(truth)
        self.square += float((truth - cached).square().sum())
        self.kl += float(torch.special.xlogy(truth, truth / cached).sum())
        self.difference += (cached - truth).sum(0)

    def result(self):
        n = self.positions
        kl = self.kl / n
        drift = float((self.difference / n).abs().sum())
        return {"rms": (self.square / n) ** 0.5, "kl": kl if math.isfinite(kl) else None, "drift": drift}


def measure(codec, logits, temperatures):
    """Bytes, microseconds a position, and errors at some temperatures."""
    size, encode, decode = 0, 0.0, 0.0
    errors = {t: Errors(t, logits.shape[1]) for t in temperatures}
    for start in range(0, len(logits), BLOCK):
        block = torch.from_numpy(logits[start : start + BLOCK].copy())
        begun = time.perf_counter()
        payload = codec.encode(block)
        encode += time.perf_counter() - begun
        size += codec.size(payload)
        begun = time.perf_counter()
        codec.decode(payload, TIMED)
        decode += time.perf_counter() - begun
        for temperature, sums in errors.items():
            decoded = codec.decode(payload, temperature)
            for row in range(0, len(block), DENSE):
                part = [of[row : row + DENSE] for of in (*decoded, block)]
                sums.add(part[3], dense(*part[:3], logits.shape[1]))
    n = len(logits)
    times = {"encode": encode * 1e6 / n, "decode": decode * 1e6 / n}
    return {"bytes": size / n, **times, "errors": {f"{t:g}": sums.result() for t, sums in errors.items()}}


def ours(options):
    """A result for each of our variants, from the bench."""
    bench = ["cargo", "bench", "--quiet", "--profile", "release", "--no-default-features", "--bench", "codecs", "--"]
    arguments = [options.fit, options.cut, options.classes, options.variants, "--json"]
    done = subprocess.run([*bench, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit("compare_codecs: error: the bench of ours failed; what it said stands above")
    for line in done.stdout.splitlines():
        found = json.loads(line)
        yield {
            "name": f"kd-cache, k = {found['k']}, r = {found['rank']}, step {found['step']:g}",
            "bytes": found["bytes"],
            "encode": found["select"] + found["code"] + found["pack"],
            "decode": found["unpack"],
            "errors": found["errors"],
        }


def others(logits, classes, seed):
    terms = ["1", "t", "t2", "t3", "t4", "sqrt"]
    codecs = [TopK(k) for k in (12, 64) if k < classes]
    codecs += [TinyVit(classes, 10)] if classes <= 1 << 16 else []
    if classes > 256:
        codecs += [
            DistillKit("DistillKit, recommended (k = 128)", classes, 128, 16, terms),
            DistillKit("DistillKit, recommended, repaired", classes, 128, 16, terms, normalise=True),
            DistillKit("DistillKit, budget (k = 50)", classes, 50, 1, ["1", "t", "sqrt"]),
        ]
    try:
        codecs.append(Megatron(min(128, classes), 0.95))
    except ImportError:
        print("compare_codecs: zstandard is not installed: Megatron-LM's is left out", file=sys.stderr)
    for codec in codecs:
        yield {"name": codec.name, **measure(codec, logits, TEMPERATURES)}
    # One cache for each temperature; bytes and times are those at T = 1.
    by_temperature = [measure(Sampled(50, t, seed), logits, [t]) for t in TEMPERATURES]
    errors = {key: value for one in by_temperature for key, value in one["errors"].items()}
    yield {**by_temperature[0], "name": "random sampling, 50 draws, a cache for each T", "errors": errors}


def line(result):
    number = lambda value, digits: "∞" if value is None else f"{value:.{digits}f}"
    rate = lambda microseconds: f"{1e6 / microseconds:,.0f}"
    errors = [f"{number(e['rms'], 4)} / {number(e['kl'], 3)} / {number(e['drift'], 3)}" for e in result["errors"].values()]
    cells = [result["name"], f"{result['bytes']:.1f}", *errors, rate(result["encode"]), rate(result["decode"])]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fit", type=Path)
    parser.add_argument("measure", type=Path)
    parser.add_argument("classes", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="12:0,12:8,12:32,50:8,50:8:0.0125", help="of ours: k:rank or k:rank:step, several by commas")
    parser.add_argument("--positions", type=int, default=1024, help="positions of MEASURE to take, evenly spaced")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    options.fit = options.fit.resolve()
    logits = np.memmap(options.measure, "<f4", mode="r").reshape(-1, options.classes)
    picked = np.linspace(0, len(logits) - 1, min(options.positions, len(logits))).astype(int)
    logits = np.ascontiguousarray(logits[picked])
    # The bench is given the same positions.
    options.cut = (options.out / "measured.f32").resolve()
    logits.tofile(options.cut)
    head = ["cache", "bytes", *(f"T = {t:g}: rms / KL / drift" for t in TEMPERATURES), "encode/s", "decode/s"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    results, lines = [], []
    for found in (ours(options), others(logits, options.classes, options.seed)):
        for result in found:
            results.append(result)
            lines.append(line(result))
            print(lines[-1], flush=True)
    options.cut.unlink()
    table = "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])
    (options.out / "codecs.md").write_text(table + "\n")
    (options.out / "codecs.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
