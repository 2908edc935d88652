#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Recomputes the exact answers of this folder: the 100 nearest rows of each question.

    python3 exact.py            compares with the shipped files; exit 1 if they differ
    python3 exact.py --write    writes them

numpy is used if it is there; without it the same takes half a minute. Both give
the same bits: every float16 is a multiple of 2^-24, so the products are multiples
of 2^-48, and sums of them below 2^4 are exact in float64 in any order. What
rounds is one product, square root, division and subtraction per pair.
"""
import array
import ast
import math
import operator
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOP = 100

try:
    import numpy
except ImportError:
    numpy = None


def read_npy(name, code, descr):
    """Shape and flat values of a little-endian, C-order .npy file of 2 dimensions."""
    data = (HERE / name).read_bytes()
    if data[:8] != b"\x93NUMPY\x01\x00":
        sys.exit(f"{name} is not a .npy file of version 1; restore it from the repository")
    end = 10 + struct.unpack_from("<H", data, 8)[0]
    head = ast.literal_eval(data[10:end].decode("latin1"))
    if head["descr"] != descr or head["fortran_order"]:
        sys.exit(f"{name} is not C-order {descr}; restore it from the repository")
    rows, dim = head["shape"]
    return rows, dim, struct.unpack_from(f"<{rows * dim}{code}", data, end)


def npy_bytes(descr, code, rows, columns, values):
    """A .npy file of version 1 as numpy writes it."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    head += " " * (63 - (10 + len(head)) % 64) + "\n"
    body = array.array(code, values)
    if sys.byteorder == "big":
        body.byteswap()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body.tobytes()


def answers_numpy():
    base = numpy.load(HERE / "base_f16.npy").astype(numpy.float64)
    questions = numpy.load(HERE / "questions_f16.npy").astype(numpy.float64)
    lengths = (base * base).sum(axis=1)
    for question in questions:
        dots = (base * question).sum(axis=1)
        distances = 1.0 - dots / numpy.sqrt(lengths * (question * question).sum())
        # A stable sort leaves ties in row order.
        rows = numpy.argsort(distances, kind="stable")[:TOP]
        yield rows.tolist(), distances[rows].tolist()


def answers_plain():
    count, dim, flat = read_npy("base_f16.npy", "e", "<f2")
    base = [flat[i * dim : (i + 1) * dim] for i in range(count)]
    count, _, flat = read_npy("questions_f16.npy", "e", "<f2")

    def dot(a, b):
        return sum(map(operator.mul, a, b))

    lengths = [dot(row, row) for row in base]
    for i in range(count):
        question = flat[i * dim : (i + 1) * dim]
        length = dot(question, question)
        distances = [
            1.0 - dot(row, question) / math.sqrt(lengths[j] * length) for j, row in enumerate(base)
        ]
        rows = sorted(range(len(base)), key=lambda j: (distances[j], j))[:TOP]
        yield rows, [distances[j] for j in rows]


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    rows, distances, questions = [], [], 0
    for some_rows, some_distances in answers_numpy() if numpy else answers_plain():
        rows += some_rows
        distances += some_distances
        questions += 1
    files = {
        "exact_cosine_rows.npy": npy_bytes("<i4", "i", questions, TOP, rows),
        "exact_cosine_distances.npy": npy_bytes("<f8", "d", questions, TOP, distances),
    }
    for name, data in files.items():
        path = HERE / name
        if sys.argv[1:]:
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            sys.exit(f"{name} differs from what was computed; restore the files of this folder")
    print(f"{questions} questions: {'written' if sys.argv[1:] else 'the shipped answers are exact'}")


if __name__ == "__main__":
    main()
