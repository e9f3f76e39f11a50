"""Which executor runs a checkpoint's backbone on this machine."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Final, Literal, TypeAlias

import torch

from app.backbones._base import Backbone
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import Checkpoint
from app.engine.executors._base import Executor
from app.engine.executors._streams import ROWS_A_STREAM
from app.engine.executors.check import Measured, Times, check, measure
from app.engine.executors.export import exported, stem
from app.engine.executors.machine import cpu
from app.engine.executors.onnxruntime_executor import OnnxRuntimeExecutor
from app.engine.executors.openvino_executor import OpenVinoExecutor
from app.engine.executors.torch_executor import TorchExecutor

_logger = logging.getLogger(__name__)

ExecutorName: TypeAlias = Literal["auto", "torch", "onnxruntime", "openvino"]

TORCH: Final = TorchExecutor.name
COMPILED: Final[Mapping[str, Callable[[Backbone, Path, int | None], Executor]]] = {
    OnnxRuntimeExecutor.name: OnnxRuntimeExecutor,
    OpenVinoExecutor.name: OpenVinoExecutor,
}


@dataclass(frozen=True, eq=False)
class Choice:
    """The executor of a backbone; `example_ms` by the size of a batch, empty where nothing was measured."""

    executor: Executor = field(repr=False)
    version: str
    example_ms: Mapping[int, float]


@dataclass(frozen=True)
class Wish:
    """What the operator wants: the executor by name or `auto`, where exports are kept, the micro-batch of texts."""

    name: ExecutorName
    folder: Path
    micro_batch_tokens: int | None = None


Alike: TypeAlias = dict[str, Measured]
"""What was measured in this start, by the make of the network: other weights of the same shape take as long."""

NOTHING: Final = Measured({}, {})

_MEASURING: Final = Lock()
"""Held by who measures, and exports for it: what a neighbour computes would be measured too."""


@dataclass
class _Kept:
    """What was found out on this machine, as it is kept."""

    measured: Measured
    passed_over: dict[str, str]


def check_installed(name: str) -> None:
    """Raises `ValueError` for an executor whose packages are not there."""
    if name in COMPILED and not installed(name):
        raise ValueError(f"The executor {name!r} is not installed: pip install 'imprint[fast]', or take auto or torch.")


def installed(name: str) -> bool:
    """Whether the packages are there: of the executor, and of the exporter."""
    return all(find_spec(package) is not None for package in (name, "onnx"))


def choose_all(checkpoints: Mapping[str, Checkpoint], device: torch.device, wish: Wish) -> dict[str, Choice]:
    """`choose` for each checkpoint: at once where it is known what serves, else one after the other."""
    alike: Alike = {}
    # An accelerator has one owner, and nothing is read or compiled for it.
    workers = None if device.type == "cpu" else 1
    with ThreadPoolExecutor(workers, thread_name_prefix="imprint-executor") as pool:
        choosing = {
            name: pool.submit(choose, one.backbone, one.sha256, device, wish, alike)
            for name, one in checkpoints.items()
        }
    return {name: one.result() for name, one in choosing.items()}


def choose(backbone: Backbone, sha256: str, device: torch.device, wish: Wish, alike: Alike | None = None) -> Choice:
    """The executor for a backbone of this identity; torch where no other can serve.

    `auto` measures what is installed at the first start on a machine and keeps what it found beside the export.
    An executor that cannot be made, or embeds otherwise than torch, is passed over with a line in the log.
    `alike` is what networks of the same make were measured at, and is added to.
    Raises: `ValueError` for a wish that this machine cannot fulfil.
    """
    check_installed(wish.name)
    if device.type != "cpu" and wish.name in COMPILED:
        raise ValueError(f"The executor {wish.name!r} runs on CPUs; with the device {device.type} take auto or torch.")
    names = [name for name in COMPILED if wish.name in ("auto", name) and installed(name)]
    # Without weights there is nothing to compile.
    if device.type != "cpu" or not names or not list(backbone.parameters()):
        return _plain(backbone, device, wish)
    if wish.name != "auto":
        made = _made(backbone, sha256, names, wish)
        return Choice(made[names[0]], _version(names[0]), {}) if names[0] in made else _plain(backbone, device, wish)
    return _fastest(backbone, sha256, names, wish, {} if alike is None else alike)


def _plain(backbone: Backbone, device: torch.device, wish: Wish, measured: Measured = NOTHING) -> Choice:
    return _chosen(TorchExecutor(backbone, device, wish.micro_batch_tokens), torch.__version__, measured)


def _chosen(executor: Executor, version: str, measured: Measured) -> Choice:
    executor.enough_examples = measured.enough_examples(executor.name)
    return Choice(executor, version, measured.example_ms.get(executor.name, {}))


def _fastest(backbone: Backbone, sha256: str, names: list[str], wish: Wish, alike: Alike) -> Choice:
    path = wish.folder / f"{stem(sha256)}-{_machine_sha256(backbone, names, wish)[:16]}.json"
    made: dict[str, Executor] = {}
    kept = _read(path)
    if kept is None:
        kept = _Kept(NOTHING, {})
        with _MEASURING:
            made = _made(backbone, sha256, names, wish, kept.passed_over)
            kept.measured = _measured(backbone, made, wish, alike) if made else NOTHING
        if len(made) + len(kept.passed_over) == len(names):
            _write(path, kept)
    else:
        for name, reason in kept.passed_over.items():
            _logger.warning("the executor %s is passed over: %s", name, reason)
    for name in kept.measured.fastest_first():
        if name != TORCH:
            made = made or _made(backbone, sha256, [name], wish, briefly=True)
        if name in made:
            return _chosen(made[name], _version(name), kept.measured)
        if name == TORCH:
            break
    return _plain(backbone, torch.device("cpu"), wish, kept.measured)


def _measured(backbone: Backbone, made: Mapping[str, Executor], wish: Wish, alike: Alike) -> Measured:
    """What torch and these executors take, measured once for networks of one make."""
    shapes = [(name, tuple(one.shape)) for name, one in backbone.state_dict().items()]
    make = f"{sorted(made)} {backbone.input_shape} {shapes} {backbone}"
    if make not in alike:
        contenders = [_plain(backbone, torch.device("cpu"), wish).executor, *made.values()]
        alike[make] = measure(contenders, probe_inputs(backbone))
    return alike[make]


def _made(
    backbone: Backbone,
    sha256: str,
    names: list[str],
    wish: Wish,
    passed_over: dict[str, str] | None = None,
    briefly: bool = False,
) -> dict[str, Executor]:
    """Those of the executors that can be made and embed as torch does; why not the others goes to `passed_over`.

    `briefly` where the same files were checked on the same machine before.
    """
    made: dict[str, Executor] = {}
    for name in names:
        try:
            export = exported(backbone, sha256, wish.folder)
            executor = COMPILED[name](backbone, export.path, wish.micro_batch_tokens)
            check(executor, probe_inputs(backbone), export.reference, briefly)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            # Whatever a foreign library raises: torch serves in its place.
            _logger.warning("the executor %s is passed over: %s", name, reason, exc_info=True)
            # A full disk or memory is no reason for ever.
            if passed_over is not None and not isinstance(error, OSError | MemoryError):
                passed_over[name] = reason
        else:
            made[name] = executor
    return made


@cache
def _version(package: str) -> str:
    """Of an installed package: looked up once, as it is read out of a file of many lines."""
    return metadata.version(package)


def _machine_sha256(backbone: Backbone, names: list[str], wish: Wish) -> str:
    """Of all that may change which is fastest."""
    parts = {
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "rows_a_stream": ROWS_A_STREAM,
        "versions": {name: _version(name) for name in (TORCH, *names)},
        "micro_batch": [backbone.micro_batch_examples("cpu"), wish.micro_batch_tokens],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> _Kept | None:
    """What was kept; `None` where that is nothing, or nothing that can be used."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        measured = Measured(_times(stored["example_ms"]), _times(stored["example_cpu_ms"]))
        passed_over = {str(name): str(reason) for name, reason in stored["passed_over"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    names = set(measured.example_ms)
    return (
        _Kept(measured, passed_over) if names <= {TORCH, *COMPILED} and names == set(measured.example_cpu_ms) else None
    )


def _times(stored: Mapping[str, Mapping[str, float]]) -> Times:
    return {
        str(name): {int(examples): float(spent_ms) for examples, spent_ms in one.items()}
        for name, one in stored.items()
    }


def _write(path: Path, kept: _Kept) -> None:
    content = json.dumps({**asdict(kept.measured), "passed_over": kept.passed_over}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new.", delete=False) as stream:
            stream.write(content)
        Path(stream.name).replace(path)
    except OSError as error:
        _logger.warning("which executor is fastest cannot be kept, and is measured again: %s", error)
