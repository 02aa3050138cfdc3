"""Tokenizer and text encoder of the demo model: a closed vocabulary of words."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .shapes import TEXT_WIDTH

TOKENS = 24
WORDS = TOKENS - 2  # room for <start> and one <end>
_SPECIAL = ("<end>", "<start>", "<unknown>")


class Tokenizer:
    """Words to ids: <start>, the words, then <end> up to TOKENS; further words are dropped."""

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: index for index, word in enumerate((*_SPECIAL, *self.words))}

    def __len__(self) -> int:
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        """TOKENS ids. A word that the model has not seen becomes <unknown>."""
        return self.framed(self.word_ids(text))

    def word_ids(self, text: str) -> list[int]:
        """The ids of the words alone, however many."""
        unknown = self._ids["<unknown>"]
        return [self._ids.get(word, unknown) for word in re.findall(r"[^\W_]+", text.lower())]

    def framed(self, words: Sequence[int]) -> list[int]:
        """TOKENS ids: the words' between <start> and <end>."""
        ids = [self._ids["<start>"], *words[:WORDS]]
        return ids + [self._ids["<end>"]] * (TOKENS - len(ids))


class TextEncoder(nn.Module):
    """ids [b, TOKENS] → context [b, TOKENS, 128] and pooled [b, 128].

    The pooled vector is the mean of the words' embeddings, projected: the denoiser learns to
    listen to a bag of words long before it learns to read.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        width = TEXT_WIDTH
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.1 * torch.randn(TOKENS, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(2)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.embedding(ids)
        hidden = words + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        shown = (ids >= len(_SPECIAL) - 1).unsqueeze(-1).to(words.dtype)
        bag = (words * shown).sum(1) / shown.sum(1).clamp(min=1)
        return self.norm(hidden), self.pool(bag)
