"""MiniLM: texts, as token ids, to sentence embeddings of 384 numbers and length 1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, TypeAlias, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality

PADDING: Final = 0
NORM_EPS: Final = 1e-12
FAR_BELOW: Final = -1e9
"""Added to the score of padding: softmax makes 0 of it."""

Attend: TypeAlias = Callable[[Tensor, int], Tensor]
"""Mixes the tokens of each text: from query, key and value side by side, and the number of heads."""

# Of the published weights: a classifier of sentence pairs and a counter, which no embedding needs.
_UNUSED: Final = frozenset({"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"})


@dataclass(frozen=True)
class Settings:
    """The shape of the network, in numbers of each part; `dim` is split evenly over `heads`."""

    layers: int = 6
    dim: int = 384
    heads: int = 12
    hidden: int = 1536
    vocabulary: int = 30_522
    positions: int = 512


@final
class MiniLM(Backbone):
    """A BERT encoder, the mean of its last layer over the tokens, scaled to length 1.

    Input: int64 (n, tokens), token ids with their [CLS] and [SEP], 0 is padding; `positions` tokens
    at most. Output: float (n, dim), of length 1; zeros for a row that is all padding.
    Raises: `ValueError` for more tokens than positions.
    Papers: Devlin et al., NAACL 2019, arXiv:1810.04805, section 3; Wang et al., NeurIPS 2020,
    arXiv:2002.10957 (MiniLM); Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084, section 3 (the mean).
    Departs from them: query, key and value are one matrix product; one segment only; no dropout.
    """

    modality: ClassVar[Modality] = "text"
    pads: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (None,)
        self.dim: int = settings.dim
        self.longest: int = settings.positions
        self.words = nn.Embedding(settings.vocabulary, settings.dim)
        self.positions = nn.Embedding(settings.positions, settings.dim)
        self.segment = nn.Parameter(torch.zeros(settings.dim))
        self.norm = nn.LayerNorm(settings.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))

    def forward(self, inputs: Int64[Tensor, "n tokens"]) -> Float[Tensor, "n dim"]:
        """Embed texts. Padding changes nothing; each row depends on its own text alone."""
        tokens = inputs.shape[1]
        self._check(inputs)
        real = inputs != PADDING
        # A row without any token attends to its padding: over nothing, softmax would be NaN.
        attended = real | ~real.any(1, keepdim=True)
        hidden: Tensor = self.norm(self.words(inputs) + self.positions.weight[:tokens] + self.segment)
        for layer in self.layers:
            hidden = layer(hidden, partial(_attend, attended=attended))
        return _mean_direction(hidden, real)

    def packed(self, inputs: Int64[Tensor, "n tokens"], places: Int64[Tensor, " m"]) -> Float[Tensor, "n dim"]:
        """Embed texts one after the other: padding is computed in attention alone, where each text is a row again."""
        tokens = inputs.shape[1]
        self._check(inputs)
        rows = _Rows(inputs != PADDING, places)
        words, positions = self.words(inputs.flatten()[places]), self.positions(places % tokens)
        hidden: Tensor = self.norm(words + positions + self.segment)
        for layer in self.layers:
            hidden = layer(hidden, rows.attend)
        return _mean_direction(rows.spread(hidden), rows.real)

    def _check(self, inputs: Int64[Tensor, "n tokens"]) -> None:
        tokens = inputs.shape[1]
        if tokens > self.longest:
            raise ValueError(f"{tokens} tokens are more than the {self.longest} positions")

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights under this network's names, or under those of a published BERT encoder."""
        ours = _from_bert(weights) if "embeddings.word_embeddings.weight" in weights else weights
        self.load_state_dict(ours, assign=True)

    def micro_batch_examples(self, device_type: str) -> int:
        """Texts are short: 32 fill a CPU."""
        return 32 if device_type == "cpu" else 512


@final
class _Layer(nn.Module):
    """Self-attention, then a two-layer perceptron; each adds its input and is normalised after."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.attention_in = nn.Linear(settings.dim, 3 * settings.dim)
        self.attention_out = nn.Linear(settings.dim, settings.dim)
        self.attention_norm = nn.LayerNorm(settings.dim, eps=NORM_EPS)
        self.wide = nn.Linear(settings.dim, settings.hidden)
        self.narrow = nn.Linear(settings.hidden, settings.dim)
        self.norm = nn.LayerNorm(settings.dim, eps=NORM_EPS)

    def forward(self, hidden: Float[Tensor, "*places dim"], attend: Attend) -> Float[Tensor, "*places dim"]:
        mixed = self.attention_out(attend(self.attention_in(hidden), self.heads))
        hidden = self.attention_norm(hidden + mixed)
        out: Tensor = self.norm(hidden + self.narrow(nn.functional.gelu(self.wide(hidden))))
        return out


def _attend(
    joined: Float[Tensor, "n tokens three_dim"], heads: int, attended: Bool[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens dim"]:
    n, tokens, three_dim = joined.shape
    query, key, value = joined.view(n, tokens, 3, heads, three_dim // 3 // heads).permute(2, 0, 3, 1, 4)
    mask = attended[:, None, None, :]
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask)
    return mixed.transpose(1, 2).reshape(n, tokens, three_dim // 3)


@final
class _Rows:
    """Where the tokens of texts that lie one after the other belong: a row a text, with its padding."""

    def __init__(self, real: Bool[Tensor, "n tokens"], places: Int64[Tensor, " m"]) -> None:
        self.real = real
        self._places = places
        # Padding takes what stands before it, which nobody will look at.
        self._sources = (real.flatten().long().cumsum(0) - 1).clamp(min=0)
        self._mask = torch.where(real, 0.0, FAR_BELOW)[:, None, None, :]

    def spread(self, packed: Float[Tensor, "m size"]) -> Float[Tensor, "n tokens size"]:
        spread: Tensor = packed[self._sources]
        return spread.view(*self.real.shape, -1)

    def attend(self, joined: Float[Tensor, "m three_dim"], heads: int) -> Float[Tensor, "m dim"]:
        n, tokens = self.real.shape
        query, key, value = (
            self.spread(one).view(n, tokens, heads, -1).transpose(1, 2) for one in joined.chunk(3, dim=1)
        )
        # Torch's own is faster in torch, but exports to more steps than it has.
        mix = _in_steps if torch.onnx.is_in_onnx_export() else nn.functional.scaled_dot_product_attention
        mixed = mix(query, key, value, self._mask).transpose(1, 2)
        return mixed.reshape(n * tokens, -1)[self._places]


def _in_steps(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of each token to those of its text; the mask is added to the scores."""
    scale: float = query.shape[-1] ** -0.5
    return ((query * scale) @ key.transpose(-2, -1) + mask).softmax(-1) @ value


def _mean_direction(hidden: Float[Tensor, "n tokens dim"], real: Bool[Tensor, "n tokens"]) -> Float[Tensor, "n dim"]:
    """The mean over the tokens, scaled to length 1. The sum has its direction, and only that is left."""
    return nn.functional.normalize(hidden.mul(real[:, :, None]).sum(1), dim=1)


def _from_bert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of a published BERT encoder.

    What an embedding does not need is left out; any other name that is not known is kept, so that loading refuses it.
    """
    left = {name: tensor for name, tensor in weights.items() if name not in _UNUSED}
    ours: dict[str, Tensor] = {}
    segments = left.pop("embeddings.token_type_embeddings.weight", None)
    if segments is not None:
        ours["segment"] = segments[0]
    for name in [name for name in left if ".attention.self.query." in name]:
        three = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in left for part in three):
            joined = name.replace("encoder.layer.", "layers.").replace(".attention.self.query.", ".attention_in.")
            ours[joined] = torch.cat([left.pop(part) for part in three])
    return ours | {_renamed(name): tensor for name, tensor in left.items()}


_RENAMED: Final = (
    ("embeddings.word_embeddings.", "words."),
    ("embeddings.position_embeddings.", "positions."),
    ("embeddings.LayerNorm.", "norm."),
    ("encoder.layer.", "layers."),
    (".attention.output.dense.", ".attention_out."),
    (".attention.output.LayerNorm.", ".attention_norm."),
    (".intermediate.dense.", ".wide."),
    (".output.dense.", ".narrow."),
    (".output.LayerNorm.", ".norm."),
)


def _renamed(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
