"""The uncased WordPiece tokeniser of BERT, from a model folder's `vocab.txt`.

For Western text it gives the same tokens as the `tokenizers` package, which would bring a hub's client with it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORD_CHARACTERS_MAX = 100


def is_punctuation(character: str) -> bool:
    """What BERT makes a word of its own: all of ASCII's signs, and Unicode's punctuation (so not `∞`)."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


class WordPiece:
    """Text to token ids."""

    def __init__(self, vocabulary: Path):
        tokens = vocabulary.read_text(encoding="utf-8").splitlines()
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._first, self._last, self._unknown, self._padding = (
            self._ids[token] for token in ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
        )

    def encode(self, text: str, tokens_max: int) -> list[int]:
        """The ids of one text with its first and last marks, cut to `tokens_max`."""
        plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        words = "".join(f" {c} " if is_punctuation(c) else c for c in plain).split()
        ids = [piece for word in words for piece in self._pieces(word)]
        return [self._first, *ids[: tokens_max - 2], self._last]

    def batch(self, texts: Sequence[str], tokens_max: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids (B, T) padded to the longest text, and the mask (B, T) that is 1 where there is a token."""
        rows = [self.encode(text, tokens_max) for text in texts]
        ids = np.full((len(rows), max(map(len, rows))), self._padding, np.int64)
        mask = np.zeros(ids.shape, np.float32)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return ids, mask

    def _pieces(self, word: str) -> list[int]:
        """The longest known pieces from left to right, or the unknown token for all of the word."""
        if len(word) > WORD_CHARACTERS_MAX:
            return [self._unknown]
        pieces: list[int] = []
        begin = 0
        while begin < len(word):
            mark = "##" if begin else ""
            end = next((e for e in range(len(word), begin, -1) if mark + word[begin:e] in self._ids), None)
            if end is None:
                return [self._unknown]
            pieces.append(self._ids[mark + word[begin:end]])
            begin = end
        return pieces
