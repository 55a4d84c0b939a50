"""Small real models for the tests: folders of files as users push them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_model(folder: Path, *, seed: int = 0, noise: float = 0.0, rows: int = 256, steps: int = 1) -> Path:
    """A folder with weights (float32, by `seed`, moved by relative `noise`), a configuration and a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=(rows, 256)).astype(np.float32)
    head = generator.normal(size=(256, 8)).astype(np.float32)
    if noise:
        embedding *= 1 + noise * np.random.default_rng(99).normal(size=embedding.shape).astype(np.float32)
    save_file({"embedding.weight": embedding, "head.weight": head}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"rows": rows, "steps": steps}))
    (folder / "README.md").write_text("# Scorer\n\nScores fraud.\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
