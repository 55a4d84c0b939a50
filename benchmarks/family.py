"""Six versions of one bf16 language model, as a team would have them: the input of the store's benchmarks.

    python benchmarks/family.py [FOLDER]

Each version is a folder of safetensors with a `config.json`, 373 MiB each (2.19 GiB in all):

- `base`: a decoder of 195 M parameters. Real training leaves each row of a matrix close to a normal distribution with
  a width of its own; so do we: normal weights, with log-normal row widths (sigma 0.25), which gives the mean |w| over
  sigma of 0.77 that real encoders have (0.80 would be one plain normal distribution).
- `finetune`: every weight moved by noise of 0.5 % of its tensor's sigma, then rounded to bf16.
- `head`: only the output head moved so.
- `vocabulary`: 512 more rows in embedding and head, all else as in `base`.
- `reordered`: the tensors of `base` in another order in the file, as another exporter would write them.
- `lora`: the file of `base`, and beside it an adapter of rank 16 on the query and value projections.

Everything follows from `SEED` and the shapes. A version that is there already is kept; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEED: Final = 20261123
HIDDEN: Final = 1024
FEED_FORWARD: Final = 2816
LAYERS: Final = 10
VOCABULARY: Final = 32768
ADDED_TOKENS: Final = 512
LORA_RANK: Final = 16
NOISE_RATIO: Final = 0.005
ROW_WIDTH_SPREAD: Final = 0.25
VERSIONS: Final = ("base", "finetune", "head", "vocabulary", "reordered", "lora")

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

Bf16 = NDArray[np.uint16]
Shapes = dict[str, tuple[int, ...]]


def base_shapes() -> Shapes:
    """The tensors of the base in file order, name to shape (rows are outputs)."""
    shapes: Shapes = {EMBEDDING: (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (HIDDEN,)
        for projection in ("q", "k", "v", "o"):
            shapes[f"{prefix}self_attn.{projection}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[prefix + "post_attention_layernorm.weight"] = (HIDDEN,)
        shapes[prefix + "mlp.gate_proj.weight"] = (FEED_FORWARD, HIDDEN)
        shapes[prefix + "mlp.up_proj.weight"] = (FEED_FORWARD, HIDDEN)
        shapes[prefix + "mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
    shapes["model.norm.weight"] = (HIDDEN,)
    shapes[HEAD] = (VOCABULARY, HIDDEN)
    return shapes


def to_bf16(values: NDArray[np.float32]) -> Bf16:
    """float32 to the bit patterns of bf16, to nearest, ties to even (values are finite)."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def to_float32(patterns: Bf16) -> NDArray[np.float32]:
    """The exact float32 values of bf16 bit patterns."""
    return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)


def random_for(purpose: str, tensor: str) -> np.random.Generator:
    """A generator of this purpose and tensor alone, so that versions can be made in any order."""
    return np.random.default_rng([SEED, zlib.crc32(purpose.encode()), zlib.crc32(tensor.encode())])


def base_tensor(name: str, shape: tuple[int, ...]) -> Bf16:
    """One tensor of the base: norms scatter around 1, matrices have the usual width of 1/sqrt(inputs)."""
    random = random_for("base", name)
    if len(shape) == 1:
        return to_bf16(random.normal(1.0, 0.1, shape).astype(np.float32))
    width = np.float32(0.02 if name in (EMBEDDING, HEAD) else 0.8 / math.sqrt(shape[1]))
    rows = np.exp(random.normal(0.0, ROW_WIDTH_SPREAD, (shape[0], 1))).astype(np.float32)
    return to_bf16(random.standard_normal(shape, dtype=np.float32) * (width * rows))


def fine_tuned(name: str, shape: tuple[int, ...]) -> Bf16:
    """The base's tensor, every weight moved by noise of `NOISE_RATIO` of the tensor's sigma."""
    base = to_float32(base_tensor(name, shape))
    noise = random_for("finetune", name).standard_normal(shape, dtype=np.float32)
    return to_bf16(base + noise * np.float32(NOISE_RATIO * float(base.std())))


def enlarged(name: str, shape: tuple[int, ...]) -> Bf16:
    """The base's tensor with the rows of the added tokens, which begin at the mean row as trainers advise."""
    base = base_tensor(name, (shape[0] - ADDED_TOKENS, *shape[1:]))
    mean = to_float32(base).mean(axis=0)
    noise = random_for("vocabulary", name).standard_normal((ADDED_TOKENS, shape[1]), dtype=np.float32)
    return np.concatenate([base, to_bf16(mean + noise * np.float32(0.002))])


def version_shapes(version: str) -> Shapes:
    """The tensors of a version's `model.safetensors`, in file order."""
    shapes = base_shapes()
    if version == "vocabulary":
        shapes |= dict.fromkeys((EMBEDDING, HEAD), (VOCABULARY + ADDED_TOKENS, HIDDEN))
    if version == "reordered":
        names = list(shapes)
        random_for("reordered", "").shuffle(names)
        shapes = {name: shapes[name] for name in names}
    return shapes


def version_tensors(version: str, shapes: Shapes) -> Iterator[Bf16]:
    """The values of a version's tensors, in the order of `shapes`."""
    for name, shape in shapes.items():
        if version == "finetune" or (version == "head" and name == HEAD):
            yield fine_tuned(name, shape)
        elif version == "vocabulary" and name in (EMBEDDING, HEAD):
            yield enlarged(name, shape)
        else:
            yield base_tensor(name, shape)


def lora_shapes() -> Shapes:
    """The tensors of the adapter: the factors A and B of each adapted projection."""
    shapes: Shapes = {}
    for layer in range(LAYERS):
        for projection in ("q", "v"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{projection}_proj."
            shapes[prefix + "lora_A.weight"] = (LORA_RANK, HIDDEN)
            shapes[prefix + "lora_B.weight"] = (HIDDEN, LORA_RANK)
    return shapes


def lora_tensors(shapes: Shapes) -> Iterator[Bf16]:
    """The values of the adapter's tensors."""
    for name, shape in shapes.items():
        yield to_bf16(random_for("lora", name).standard_normal(shape, dtype=np.float32) * np.float32(0.01))


def write_safetensors(path: Path, shapes: Shapes, tensors: Iterable[Bf16]) -> None:
    """Write one file: u64 header length, JSON header padded with spaces to 8 bytes, the tensors back to back.

    The format is that of https://github.com/huggingface/safetensors#format; the library itself would sort the
    tensors, and would need them all in memory.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor, shape in zip(tensors, shapes.values(), strict=True):
            if tensor.shape != shape:
                raise ValueError(f"Expected a tensor of shape {shape} but got {tensor.shape}")
            file.write(np.ascontiguousarray(tensor, dtype="<u2").data)


def write_version(version: str, folder: Path) -> None:
    """Write the files of one version into an empty folder."""
    shapes = version_shapes(version)
    write_safetensors(folder / "model.safetensors", shapes, version_tensors(version, shapes))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "vocab_size": shapes[EMBEDDING][0],
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if version == "lora":
        adapter = lora_shapes()
        write_safetensors(folder / "adapter_model.safetensors", adapter, lora_tensors(adapter))
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": LORA_RANK}) + "\n")


def family_folder(root: Path) -> Path:
    """The folder of this family under `root`: the name changes with every constant that its bytes depend on."""
    recipe = [SEED, HIDDEN, FEED_FORWARD, LAYERS, VOCABULARY, ADDED_TOKENS, LORA_RANK, NOISE_RATIO, ROW_WIDTH_SPREAD]
    return root / f"family-{zlib.crc32(json.dumps(recipe).encode()):08x}"


def make_family(root: Path) -> dict[str, Path]:
    """Make what is missing of the family under `root`; return version to folder, in the order of pushing."""
    folder = family_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        if (folder / version).exists():
            continue
        unfinished = folder / f"{version}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        write_version(version, unfinished)
        unfinished.rename(folder / version)
    return {version: folder / version for version in VERSIONS}


def main() -> None:
    """Make the family and print its folders as JSON."""
    parser = argparse.ArgumentParser(description="Make the six versions that the store's benchmarks push and pull.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()) / "skyhold-bench")
    folders = make_family(parser.parse_args().folder)
    print(json.dumps({version: str(folder) for version, folder in folders.items()}, indent=2))


if __name__ == "__main__":
    main()
