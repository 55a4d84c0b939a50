"""The demo's fine-tune is real only if its gradients are: they are held against differences of the loss itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoder import EncoderShape, embed, embed_backward
from wordpiece import WordPiece

HIDDEN, FEED_FORWARD, WORDS = 8, 12, 11
SHAPE = EncoderShape(layers=2, heads=2)
IDS = np.array([[1, 4, 5, 2], [1, 9, 2, 0], [1, 4, 4, 2]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], np.float64)


def _parameters() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, HIDDEN)
              for name, rows in {"word": WORDS, "position": 6, "token_type": 2}.items()}  # fmt: skip
    linear = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (HIDDEN, HIDDEN), "intermediate.dense": (FEED_FORWARD, HIDDEN),
               "output.dense": (HIDDEN, FEED_FORWARD)}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for layer in range(SHAPE.layers):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    parameters = {name: random.normal(0, 0.5, shape) for name, shape in shapes.items()}
    for name in norms:
        parameters |= {f"{name}.weight": random.normal(1, 0.2, HIDDEN), f"{name}.bias": random.normal(0, 0.2, HIDDEN)}
    return parameters


def test_gradients_are_those_of_the_loss() -> None:
    parameters = _parameters()
    outer = np.random.default_rng(6).normal(size=(len(IDS), HIDDEN))

    def loss() -> float:
        return float((embed(parameters, SHAPE, IDS, MASK)[0] * outer).sum())

    gradients = embed_backward(parameters, SHAPE, embed(parameters, SHAPE, IDS, MASK)[1], outer)
    assert gradients.keys() == parameters.keys()
    random = np.random.default_rng(7)
    for name, array in parameters.items():
        for _ in range(4):
            place = tuple(int(random.integers(size)) for size in array.shape)
            kept = array[place]
            array[place] = kept + 1e-5
            above = loss()
            array[place] = kept - 1e-5
            below = loss()
            array[place] = kept
            assert gradients[name][place] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-8), (name, place)


def test_vectors_have_length_one_and_ignore_padding() -> None:
    parameters = _parameters()
    vectors, _ = embed(parameters, SHAPE, IDS, MASK)
    shorter, _ = embed(parameters, SHAPE, IDS[1:2, :3], MASK[1:2, :3])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1])
    assert vectors[1] == pytest.approx(shorter[0])


def test_words_are_cut_into_the_longest_known_pieces(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "matri", "##x", "_", "cafe", "c∞", "m", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    encode = WordPiece(tmp_path / "vocab.txt").encode
    read = lambda text, most=64: [tokens[number] for number in encode(text, most)]  # noqa: E731
    assert read("Matrix_x café.") == ["[CLS]", "matri", "##x", "_", "[UNK]", "cafe", ".", "[SEP]"]
    assert read("C∞") == ["[CLS]", "c∞", "[SEP]"]
    assert read("matrix matrix", 4) == ["[CLS]", "matri", "##x", "[SEP]"]
