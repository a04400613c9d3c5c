"""Packed positions once more, a bit at a time: sections 4 to 6 of schemas/format-v3.md with plain Python numbers.

Shares nothing with the reader. It also writes, so that tests can make rows of any kind.
"""

import math

TABLES = ("ids", "falls", "curve", "tail_codes", "counts")


class Broken(Exception):
    """Bits that are no row."""


def context(rank):
    return rank if rank < 16 else 12 + int(math.log2(rank))


def bucket_of(x, p):
    """The bucket of x, how many bits follow its word, and what they are."""
    e = int(math.log2(x + 2**p)) - p
    return e * 2**p + (x + 2**p) // 2**e - 2**p, e, (x + 2**p) % 2**e


def tables(layout):
    """Codes, largest number and precision of each table."""
    ranks = context(layout.k - 1) + 1
    return {
        "ids": (ranks, layout.classes - 1, 1),
        "falls": (ranks, 65535, 2),
        "curve": (len(layout.nodes) if layout.k < layout.classes else 0, 131071, 2),
        "tail_codes": (layout.rank, 255, 3),
        "counts": (int(layout.variable), layout.k - 1, 2),
    }


class SlowCode:
    """RFC 1951, section 3.2.2, step by step."""

    def __init__(self, lengths, p):
        self.p, self.lengths = p, list(lengths)
        code, next_code = 0, {}
        if len(self.lengths) > 1:
            for bits in range(1, 13):
                code = (code + (self.lengths.count(bits - 1) if bits > 1 else 0)) * 2
                next_code[bits] = code
        self.words = {}
        for bucket, bits in enumerate(self.lengths):
            word = 0
            if bits:
                word = next_code[bits]
                next_code[bits] += 1
            self.words[bucket] = [word >> at & 1 for at in reversed(range(bits))]
        self.buckets = {tuple(word): bucket for bucket, word in self.words.items()}

    def read(self, bits):
        word = ()
        while word not in self.buckets:
            word += (next(bits),)
        bucket = self.buckets[word]
        e = bucket // 2**self.p
        below = sum(next(bits) << at for at in range(e))
        return (bucket % 2**self.p + 2**self.p) * 2**e - 2**self.p + below

    def write(self, x):
        bucket, e, below = bucket_of(x, self.p)
        return self.words[bucket] + [below >> at & 1 for at in range(e)]


class Layout:
    """What decides a row's bits: classes, k, variable, nodes, rank, curve_step, order and the codes' lengths."""

    def __init__(self, order, lengths, **what):
        vars(self).update(what)
        self.order, self.lengths = order, lengths
        self.codes = {name: [SlowCode(code, p) for code in lengths[name]] for name, (_, _, p) in tables(self).items()}

    @classmethod
    def of(cls, manifest, codebook):
        """From a manifest and the one row of a codebook, both as Python values."""
        layout = cls.__new__(cls)
        what = {
            "classes": manifest["classes"],
            "k": manifest["head"]["k"],
            "variable": "mass" in manifest["head"],
            "nodes": manifest["tail"]["nodes"],
            "rank": manifest["tail"]["rank"],
            "curve_step": manifest["storage"]["curve_step"],
        }
        vars(layout).update(what)
        lengths = {}
        for name, (codes, largest, p) in tables(layout).items():
            wide = bucket_of(largest, p)[0] + 1
            lengths[name] = [codebook[name][at * wide :][:wide] for at in range(codes)]
        return cls(codebook["order"], lengths, **what)

    def foretold(self, count, t, i):
        """f_i, i counted from 1; t has the nodes above."""
        beta, n = [None, *self.nodes], len(self.nodes)
        x = [0.0, *beta[i + 1 :]]
        known = [math.floor(math.log(self.classes - count) / self.curve_step + 0.5), *(t[a] for a in range(i + 1, n + 1))]
        y = None
        for a, value in enumerate(known):
            weight = 1.0
            for b in range(len(x)):
                if b != a:
                    weight *= (beta[i] - x[b]) / (x[a] - x[b])
            y = weight * value if y is None else y + weight * value
        return min(max(math.floor(y + 0.5), -32768), 32767)

    def read_position(self, bits):
        """(ids, s, t, c) of the next position."""
        count = self.codes["counts"][0].read(bits) + 1 if self.variable else self.k
        if count > self.k:
            raise Broken(f"a head of {count}")
        places = [self.codes["ids"][context(j)].read(bits) for j in range(count)]
        s = [0]
        for j in range(1, count):
            s.append(min(s[-1] + self.codes["falls"][context(j)].read(bits), 65535))
        t = {}
        for i in reversed(range(1, len(self.nodes) + 1 if self.k < self.classes else 1)):
            z = self.codes["curve"][i - 1].read(bits)
            d = z // 2 if z % 2 == 0 else -(z + 1) // 2
            t[i] = min(max(self.foretold(count, t, i) + d, -32768), 32767)
        c = []
        for i in range(self.rank):
            z = self.codes["tail_codes"][i].read(bits)
            c.append(min(max(z // 2 if z % 2 == 0 else -(z + 1) // 2, -128), 127))
        if max(places) >= self.classes:
            raise Broken(f"place {max(places)}")
        return [self.order[place] for place in places], s, [t[i] for i in sorted(t)], c

    def write_position(self, target):
        ids, s, t, c = target
        bits = self.codes["counts"][0].write(len(ids) - 1) if self.variable else []
        for j, class_id in enumerate(ids):
            bits += self.codes["ids"][context(j)].write(self.order.index(class_id))
        for j in range(1, len(ids)):
            bits += self.codes["falls"][context(j)].write(s[j] - s[j - 1])
        above = {}
        for i in reversed(range(1, len(t) + 1)):
            d = t[i - 1] - self.foretold(len(ids), above, i)
            bits += self.codes["curve"][i - 1].write(2 * d if d >= 0 else -2 * d - 1)
            above[i] = t[i - 1]
        for code, value in zip(self.codes["tail_codes"], c):
            bits += code.write(2 * value if value >= 0 else -2 * value - 1)
        return bits


def row_of(positions):
    """A row's bytes, from the bits of each of its positions."""
    anchors, bits = b"", []
    for at, position in enumerate(positions):
        if at and at % 64 == 0:
            anchors += len(bits).to_bytes(4, "little")
        bits += position
    bits += [0] * (-len(bits) % 8)
    return anchors + bytes(sum(bits[at + i] << i for i in range(8)) for at in range(0, len(bits), 8))


def read_row(layout, data, positions):
    """All positions of a row, one after the other; anchors are passed over."""
    data = data[4 * (max(positions - 1, 0) // 64) :]

    def each():
        for byte in data:
            for at in range(8):
                yield byte >> at & 1
        raise Broken("the bits end")

    bits = each()
    return [layout.read_position(bits) for _ in range(positions)]
