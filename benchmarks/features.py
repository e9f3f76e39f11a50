"""Embeddings by the product's own path: the codec, the backbone, and a learner of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.checkpoints.load import load_all
from app.codecs import RawExample, RawInput, decode_examples
from app.config import bundled_models
from app.core.episode import TaskState
from app.core.limits import Limits
from app.services.catalogue import Candidate, Catalogue, Kit
from app.services.heads import on_embeddings


@dataclass(frozen=True, eq=False)
class Embedded:
    """Labelled examples, embedded: row `i` has the label `names[labels[i]]`; `names` are sorted.

    `inputs` are what was embedded, each in a size of its own. Queries are without labels and names.
    """

    features: Float[Tensor, "n dim"]
    labels: Int64[Tensor, " labels"]
    names: tuple[str, ...]
    inputs: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def way(self) -> int:
        """How many labels there are."""
        return len(self.names)

    def of(self, rows: Int64[Tensor, " _"]) -> "Embedded":
        """Some of the rows, under the same names."""
        inputs = tuple(self.inputs[row] for row in rows.tolist()) if self.inputs else ()
        return Embedded(self.features[rows], self.labels[rows], self.names, inputs)


def catalogue_of(name: str) -> Catalogue:
    """One bundled checkpoint, as a server with default limits has it. Raises: `RuntimeError` with the reason."""
    checkpoints, left_out = load_all([bundled_models()], [name])
    if left_out:
        raise RuntimeError(left_out[name])
    return Catalogue(checkpoints, Limits())


def embedded_examples(kit: Kit, examples: Sequence[tuple[bytes | str, str]]) -> Embedded:
    """Embed (file or text, label) pairs as a support set: repetitions collapse, rows sorted by content."""
    found = decode_examples(kit.codec, [RawExample(label, _raw(one), "") for one, label in examples], Limits())
    names = sorted({one.label for one in found})
    labels = torch.tensor([names.index(one.label) for one in found])
    inputs = tuple(one.input.tensor for one in found)
    return Embedded(_embedded(kit, inputs), labels, tuple(names), inputs)


def embedded_queries(kit: Kit, queries: Sequence[bytes | str]) -> Embedded:
    """Embed files or texts in their order, each one: every query counts."""
    inputs = tuple(kit.codec.decode(_raw(query)).tensor for query in queries)
    return Embedded(_embedded(kit, inputs), torch.empty(0, dtype=torch.int64), (), inputs)


def draw(labels: Int64[Tensor, " n"], shot: int, generator: torch.Generator) -> Int64[Tensor, " s"]:
    """The rows of `shot` different examples of each class."""
    classes = [(labels == label).nonzero()[:, 0] for label in range(int(labels.max()) + 1)]
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:shot]] for rows in classes])


def share_right(
    candidate: Candidate, state: TaskState, features: Float[Tensor, "q dim"], labels: Int64[Tensor, " q"]
) -> float:
    """The share of queries whose best label is theirs."""
    return float((on_embeddings(candidate.learner).score(state, features).argmax(1) == labels).double().mean())


def _raw(content: bytes | str) -> RawInput:
    return RawInput("text" if isinstance(content, str) else "bytes", content, "")


@torch.no_grad()
def _embedded(kit: Kit, tensors: Sequence[Tensor]) -> Float[Tensor, "n dim"]:
    """Embed examples, those of one length together so that texts are padded little; rows in the order given."""
    backbone = kit.checkpoint.backbone
    order = sorted(range(len(tensors)), key=lambda at: tensors[at].shape[-1])
    step = backbone.micro_batch_examples("cpu")
    batches = [[tensors[at] for at in order[start : start + step]] for start in range(0, len(order), step)]
    rows: Tensor = torch.cat([backbone(kit.codec.stack(batch)) for batch in batches])
    return rows[torch.tensor(order).argsort()]
