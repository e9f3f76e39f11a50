"""MiniLM: texts, as token ids, to sentence embeddings of 384 numbers and length 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality

PADDING: Final = 0
NORM_EPS: Final = 1e-12
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

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (None,)
        self.dim: int = settings.dim
        self.words = nn.Embedding(settings.vocabulary, settings.dim)
        self.positions = nn.Embedding(settings.positions, settings.dim)
        self.segment = nn.Parameter(torch.zeros(settings.dim))
        self.norm = nn.LayerNorm(settings.dim, eps=NORM_EPS)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))

    def forward(self, inputs: Int64[Tensor, "n tokens"]) -> Float[Tensor, "n dim"]:
        """Embed texts. Padding changes nothing; each row depends on its own text alone."""
        tokens = inputs.shape[1]
        if tokens > self.positions.num_embeddings:
            raise ValueError(f"{tokens} tokens are more than the {self.positions.num_embeddings} positions")
        real = inputs != PADDING
        # A row without any token attends to its padding: over nothing, softmax would be NaN.
        attended = real | ~real.any(1, keepdim=True)
        hidden: Tensor = self.norm(self.words(inputs) + self.positions.weight[:tokens] + self.segment)
        for layer in self.layers:
            hidden = layer(hidden, attended)
        total = hidden.mul(real[:, :, None]).sum(1)
        # The mean and the sum have one direction, and only that is left.
        return nn.functional.normalize(total, dim=1)

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

    def forward(
        self, hidden: Float[Tensor, "n tokens dim"], attended: Bool[Tensor, "n tokens"]
    ) -> Float[Tensor, "n tokens dim"]:
        mixed = self.attention_out(self._attend(hidden, attended))
        hidden = self.attention_norm(hidden + mixed)
        out: Tensor = self.norm(hidden + self.narrow(nn.functional.gelu(self.wide(hidden))))
        return out

    def _attend(
        self, hidden: Float[Tensor, "n tokens dim"], attended: Bool[Tensor, "n tokens"]
    ) -> Float[Tensor, "n tokens dim"]:
        n, tokens, dim = hidden.shape
        split = self.attention_in(hidden).view(n, tokens, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mask = attended[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(n, tokens, dim)


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
