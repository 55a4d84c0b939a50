"""Fine-tuning of the sentence model for one task: find a function of numpy, SciPy or scikit-learn by its description.

The text is these packages' own docstrings, so nothing is downloaded: the query is a docstring's first
sentence, the answer is the function's name with its arguments. Training is that of sentence-transformers' "multiple
negatives" (the other answers of a batch are the wrong ones; Henderson et al. 2017, https://arxiv.org/abs/1705.00652),
by AdamW, with gradients of the whole network from `encoder`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from encoder import Array, EncoderShape, Gradients, embed, embed_backward
from wordpiece import WordPiece

MODULES = (
    "numpy", "numpy.linalg", "numpy.fft", "scipy.linalg", "scipy.signal", "scipy.special", "scipy.stats",
    "scipy.optimize", "scipy.interpolate", "scipy.ndimage", "sklearn.cluster", "sklearn.decomposition",
    "sklearn.ensemble", "sklearn.feature_selection", "sklearn.linear_model", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.svm",
)  # fmt: skip
TOKENS_MAX = 24
SCALE = 20.0
SUMMARY = re.compile(r"\A[A-Z][^\n]*(?:\n[ \t]*[^\s\n][^\n]*)*?\.(?=\s|\Z)")


@dataclass(frozen=True, slots=True)
class Pair:
    """A description and the name that it describes."""

    description: str
    name: str


@dataclass(frozen=True, slots=True)
class Training:
    """The settings of one fine-tune. `trained` selects by name the parameters that move."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    trained: Callable[[str], bool]


def pairs_of_docstrings() -> tuple[list[Pair], list[Pair]]:
    """Pairs for training and, every twelfth, for measuring; the same for the same versions of the packages."""
    pairs: dict[str, Pair] = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(dir(module)):
            member = getattr(module, name)
            if name.startswith("_") or not callable(member):
                continue
            summary = SUMMARY.search(inspect.cleandoc(member.__doc__ or ""))
            if summary and summary[0] not in pairs:
                pairs[summary[0]] = Pair(" ".join(summary[0].split()), f"{name}{_arguments(member)}")
    ordered = [pairs[key] for key in sorted(pairs)]
    return [pair for number, pair in enumerate(ordered) if number % 12], ordered[::12]


def _arguments(member: Callable[..., object]) -> str:
    try:
        names = list(inspect.signature(member).parameters)
    except (ValueError, TypeError):  # some C functions have no signature
        return ""
    return f"({', '.join(names)})"


def fine_tune(
    parameters: dict[str, Array], shape: EncoderShape, tokens: WordPiece, pairs: Sequence[Pair], training: Training
) -> dict[str, Array]:
    """New parameters after `training.steps` steps; those that are not trained are the same arrays as before."""
    trained = [name for name in parameters if training.trained(name)]
    tuned = parameters | {name: parameters[name].copy() for name in trained}
    first = {name: np.zeros_like(parameters[name]) for name in trained}
    second = {name: np.zeros_like(parameters[name]) for name in trained}
    random = np.random.default_rng(7)
    for step in range(1, training.steps + 1):
        chosen = [pairs[number] for number in random.choice(len(pairs), training.batch, replace=False)]
        rate = training.learning_rate * (1 - (step - 1) / training.steps)
        gradients = batch_gradients(tuned, shape, tokens, chosen)
        for name in trained:
            gradient = gradients[name]
            first[name] += 0.1 * (gradient - first[name])
            second[name] += 0.001 * (gradient * gradient - second[name])
            move = (first[name] / (1 - 0.9**step)) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            tuned[name] -= (rate * (move + training.weight_decay * tuned[name])).astype(np.float32)
    return tuned


def batch_gradients(
    parameters: dict[str, Array], shape: EncoderShape, tokens: WordPiece, pairs: Sequence[Pair]
) -> Gradients:
    """The gradient of the mean cross-entropy of finding each description's name among all names of the batch."""
    texts = [pair.description for pair in pairs] + [pair.name for pair in pairs]
    vectors, tape = embed(parameters, shape, *tokens.batch(texts, TOKENS_MAX))
    queries, answers = vectors[: len(pairs)], vectors[len(pairs) :]
    scores = SCALE * queries @ answers.T
    scores -= scores.max(axis=1, keepdims=True)
    wrong = np.exp(scores)
    wrong /= wrong.sum(axis=1, keepdims=True)
    wrong[np.diag_indices(len(pairs))] -= 1
    wrong *= SCALE / len(pairs)
    return embed_backward(parameters, shape, tape, np.concatenate([wrong @ answers, wrong.T @ queries]))


def embed_texts(
    parameters: dict[str, Array], shape: EncoderShape, tokens: WordPiece, texts: Sequence[str], batch: int = 16
) -> Array:
    """Vectors (len(texts), H), shortest texts first inside so that little is padding."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors = np.empty((len(texts), parameters["embeddings.LayerNorm.weight"].shape[0]), np.float32)
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        inputs = tokens.batch([texts[number] for number in chosen], TOKENS_MAX)
        vectors[chosen] = embed(parameters, shape, *inputs)[0]
    return vectors


def retrieval_metrics(descriptions: Array, names: Array) -> dict[str, float]:
    """How well each description (row) finds its own name (same row) among all: share found first, and mean
    reciprocal rank."""
    scores = descriptions @ names.T
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
    return {"recall_at_1": round(float((ranks == 1).mean()), 4), "mrr": round(float((1 / ranks).mean()), 4)}
