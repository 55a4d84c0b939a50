"""A BERT encoder in numpy, forward and backward: what it takes to fine-tune a sentence model without a framework.

The network is that of Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), post-norm, with the parameter names of
Hugging Face's `BertModel`; a sentence's vector is the mean over its tokens, scaled to length 1 (Reimers and Gurevych
2019, https://arxiv.org/abs/1908.10084). Dropout is off. Gradients are checked against differences in
`tests/demo/test_encoder.py`.

Shapes: B sentences, T tokens, H hidden, A heads, D = H / A, F feed-forward. All values are float32 unless the
parameters are float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[Any]
Parameters = Mapping[str, Array]
Gradients = dict[str, Array]
Tape = dict[str, Any]
"""What the forward pass keeps for the backward pass."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes that do not follow from the parameters' shapes."""

    layers: int
    heads: int
    layer_norm_epsilon: float = 1e-12


def embed(parameters: Parameters, shape: EncoderShape, ids: Array, mask: Array) -> tuple[Array, Tape]:
    """Vectors (B, H) of length 1 for token ids (B, T); `mask` (B, T) is 1 where there is a token."""
    length = ids.shape[1]
    summed = (
        parameters["embeddings.word_embeddings.weight"][ids]
        + parameters["embeddings.position_embeddings.weight"][:length]
        + parameters["embeddings.token_type_embeddings.weight"][0]
    )
    hidden, norm = _norm_forward(parameters, shape, "embeddings.LayerNorm", summed)
    bias = np.where(mask[:, None, None, :] > 0, 0.0, -1e9).astype(hidden.dtype)
    tapes = []
    for layer in range(shape.layers):
        hidden, tape = _layer_forward(parameters, shape, f"encoder.layer.{layer}.", hidden, bias)
        tapes.append(tape)
    weights = (mask / mask.sum(axis=1, keepdims=True)).astype(hidden.dtype)
    mean = np.einsum("bth,bt->bh", hidden, weights)
    length_of_mean = np.linalg.norm(mean, axis=1, keepdims=True)
    vectors = mean / length_of_mean
    return vectors, {
        "ids": ids, "norm": norm, "layers": tapes, "weights": weights, "vectors": vectors, "length": length_of_mean,
    }  # fmt: skip


def embed_backward(parameters: Parameters, shape: EncoderShape, tape: Tape, outer: Array) -> Gradients:
    """The gradient of a loss by every parameter that took part, given its gradient `outer` (B, H) by the vectors."""
    gradients: Gradients = {}
    vectors = tape["vectors"]
    mean = (outer - vectors * (outer * vectors).sum(axis=1, keepdims=True)) / tape["length"]
    hidden = tape["weights"][:, :, None] * mean[:, None, :]
    for layer in reversed(range(shape.layers)):
        prefix = f"encoder.layer.{layer}."
        hidden = _layer_backward(parameters, shape, prefix, tape["layers"][layer], hidden, gradients=gradients)
    summed = _norm_backward(parameters, "embeddings.LayerNorm", tape["norm"], hidden, gradients)
    words = np.zeros_like(parameters["embeddings.word_embeddings.weight"])
    np.add.at(words, tape["ids"], summed)
    gradients["embeddings.word_embeddings.weight"] = words
    positions = np.zeros_like(parameters["embeddings.position_embeddings.weight"])
    positions[: summed.shape[1]] = summed.sum(axis=0)
    gradients["embeddings.position_embeddings.weight"] = positions
    types = np.zeros_like(parameters["embeddings.token_type_embeddings.weight"])
    types[0] = summed.sum(axis=(0, 1))
    gradients["embeddings.token_type_embeddings.weight"] = types
    return gradients


def _layer_forward(
    parameters: Parameters, shape: EncoderShape, prefix: str, hidden: Array, bias: Array
) -> tuple[Array, Tape]:
    """One block: attention and feed-forward, each added to its input and normalised."""

    def heads(part: str) -> Array:
        flat = _linear(parameters, f"{prefix}attention.self.{part}", hidden)
        return flat.reshape(*flat.shape[:2], shape.heads, -1).transpose(0, 2, 1, 3)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3]).astype(hidden.dtype) + bias
    scores -= scores.max(axis=3, keepdims=True)
    attention = np.exp(scores)
    attention /= attention.sum(axis=3, keepdims=True)
    context = (attention @ value).transpose(0, 2, 1, 3).reshape(hidden.shape)
    attended, norm_1 = _norm_forward(
        parameters, shape, f"{prefix}attention.output.LayerNorm",
        _linear(parameters, f"{prefix}attention.output.dense", context) + hidden,
    )  # fmt: skip
    wide = _linear(parameters, f"{prefix}intermediate.dense", attended)
    share = (0.5 * (1.0 + erf(wide * np.sqrt(0.5).astype(wide.dtype)))).astype(wide.dtype)
    active = wide * share
    result, norm_2 = _norm_forward(
        parameters, shape, f"{prefix}output.LayerNorm",
        _linear(parameters, f"{prefix}output.dense", active) + attended,
    )  # fmt: skip
    return result, {
        "hidden": hidden, "query": query, "key": key, "value": value, "attention": attention, "context": context,
        "norm_1": norm_1, "attended": attended, "wide": wide, "share": share, "active": active, "norm_2": norm_2,
    }  # fmt: skip


def _layer_backward(
    parameters: Parameters, shape: EncoderShape, prefix: str, tape: Tape, outer: Array, *, gradients: Gradients
) -> Array:
    """The gradient by a block's input; those by its parameters are put into `gradients`."""
    added = _norm_backward(parameters, f"{prefix}output.LayerNorm", tape["norm_2"], outer, gradients)
    active = _linear_backward(parameters, f"{prefix}output.dense", tape["active"], added, gradients)
    wide = tape["wide"]
    density = np.exp(-0.5 * wide * wide) * np.asarray(1 / np.sqrt(2 * np.pi), wide.dtype)
    wide_gradient = active * (tape["share"] + wide * density)
    attended = added + _linear_backward(
        parameters, f"{prefix}intermediate.dense", tape["attended"], wide_gradient, gradients
    )
    summed = _norm_backward(parameters, f"{prefix}attention.output.LayerNorm", tape["norm_1"], attended, gradients)
    context = _linear_backward(parameters, f"{prefix}attention.output.dense", tape["context"], summed, gradients)
    context = context.reshape(*context.shape[:2], shape.heads, -1).transpose(0, 2, 1, 3)
    query, key, value, attention = tape["query"], tape["key"], tape["value"], tape["attention"]
    outer_attention = context @ value.swapaxes(2, 3)
    scores = attention * (outer_attention - (outer_attention * attention).sum(axis=3, keepdims=True))
    scores /= np.sqrt(query.shape[3]).astype(scores.dtype)
    parts = {
        "query": scores @ key,
        "key": scores.swapaxes(2, 3) @ query,
        "value": attention.swapaxes(2, 3) @ context,
    }
    hidden = summed
    for part, gradient in parts.items():
        flat = gradient.transpose(0, 2, 1, 3).reshape(summed.shape)
        hidden = hidden + _linear_backward(
            parameters, f"{prefix}attention.self.{part}", tape["hidden"], flat, gradients
        )
    return hidden


def _linear(parameters: Parameters, name: str, inputs: Array) -> Array:
    """Rows of the weight are outputs."""
    flat = inputs.reshape(-1, inputs.shape[-1]) @ parameters[f"{name}.weight"].T
    flat += parameters[f"{name}.bias"]
    return flat.reshape(*inputs.shape[:-1], -1)


def _linear_backward(parameters: Parameters, name: str, inputs: Array, outer: Array, gradients: Gradients) -> Array:
    flat = outer.reshape(-1, outer.shape[-1])
    gradients[f"{name}.weight"] = flat.T @ inputs.reshape(-1, inputs.shape[-1])
    gradients[f"{name}.bias"] = flat.sum(axis=0)
    return (flat @ parameters[f"{name}.weight"]).reshape(inputs.shape)


def _norm_forward(parameters: Parameters, shape: EncoderShape, name: str, inputs: Array) -> tuple[Array, Tape]:
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(variance + shape.layer_norm_epsilon)
    normal = centred * inverse
    outputs = normal * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]
    return outputs, {"normal": normal, "inverse": inverse}


def _norm_backward(parameters: Parameters, name: str, tape: Tape, outer: Array, gradients: Gradients) -> Array:
    normal: Array = tape["normal"]
    gradients[f"{name}.weight"] = (outer * normal).sum(axis=(0, 1))
    gradients[f"{name}.bias"] = outer.sum(axis=(0, 1))
    scaled: Array = outer * parameters[f"{name}.weight"]
    scaled -= scaled.mean(axis=-1, keepdims=True) + normal * (scaled * normal).mean(axis=-1, keepdims=True)
    scaled *= tape["inverse"]
    return scaled
