"""The contenders compute the same; what they took is put together rightly."""

import importlib.util
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.contender import OURS, Work, serve, timed, trainer
from benchmarks.meta_contenders import BY_HAND, PACKAGES, PEERS
from benchmarks.meta_training import Disagreement, Measured, compare, measured, rows_of
from benchmarks.ours import Ours, lay_out

TINY = Work("maml", way=3, queries=2, steps=2, meta_batch=2, filters=8, side=16, least_s=0.0)
PAIRS = [(learner, peer, norm) for learner in PEERS for peer in PEERS[learner] for norm in ("batch", "group")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("learner", "peer", "norm"), PAIRS)
def test_a_peer_has_the_meta_gradient_that_ours_has(learner: str, peer: str, norm: str, tmp_path: Path) -> None:
    if peer in PACKAGES and importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    work = replace(TINY, learner=learner, norm=norm)
    lay_out(work, tmp_path)

    found = {name: trainer(name, work, tmp_path, torch.float64).gradients() for name in (OURS, peer)}

    compare(found)
    assert any(float(one.abs().max()) > 1e-6 for one in found[OURS].values())


def test_our_gradient_is_the_same_however_it_is_accumulated(tmp_path: Path) -> None:
    lay_out(TINY, tmp_path)
    found = {}
    for mode in ("loop", "vmap"):
        ours = Ours(TINY, tmp_path, torch.float64)
        ours.objective.mode = mode
        found[mode] = ours.gradients()

    compare(found)


def test_gradients_that_differ_are_refused() -> None:
    one, other = {"a": torch.ones(3)}, {"a": torch.tensor([1.0, 1.0, 1.00001])}

    compare({"ours": one, "peer": one})
    with pytest.raises(Disagreement, match="peer and ours differ by"):
        compare({"ours": one, "peer": other})
    with pytest.raises(Disagreement, match="different parameters"):
        compare({"ours": one, "peer": {"b": torch.ones(3)}})
    with pytest.raises(Disagreement):
        compare({"ours": one, "peer": {"a": torch.tensor([1.0, 1.0, torch.nan])}})


def test_a_contender_answers_each_round_and_leaves_its_gradient(tmp_path: Path) -> None:
    lay_out(TINY, tmp_path)
    answers = io.StringIO()

    serve(OURS, tmp_path, io.StringIO("round\nround\nend\n"), answers)

    ready, first, second, end = (json.loads(line) for line in answers.getvalue().splitlines())
    assert ready["about"].startswith(("loop (", "vmap (", "workers ("))
    assert first["steps"] == second["steps"] == 1
    assert end["peak_bytes"] >= 0
    work = replace(TINY, meta_batch=2)
    compare({"left": load_file(end["gradients"]), "now": trainer(OURS, work, tmp_path, torch.float64).gradients()})


def test_a_round_lasts_as_long_as_it_should(tmp_path: Path) -> None:
    class Instant:
        steps = 0

        def prepare(self) -> str:
            return ""

        def gradients(self) -> dict[str, torch.Tensor]:
            return {}

        def step(self) -> None:
            self.steps += 1

    contender = Instant()

    took = timed(contender, replace(TINY, least_s=0.01))

    assert took["steps"] == contender.steps > 1
    assert took["seconds"] >= 0.01


def test_contenders_take_turns_in_processes_of_their_own() -> None:
    found = measured(replace(TINY, learner="protonet"), [OURS, BY_HAND], rounds=2)

    assert list(found) == [OURS, BY_HAND]
    assert all(len(one.speeds) == 2 and min(one.speeds) > 0 for one in found.values())


def test_ours_is_put_over_the_best_peer_round_by_round() -> None:
    found = {
        OURS: Measured([20.0, 40.0, 30.0], 3 * 2**20, "loop"),
        "higher": Measured([10.0, 10.0, 10.0], 2**20, ""),
        BY_HAND: Measured([5.0, 5.0, 50.0], 2**21, ""),
    }

    rows = {row.name: row for row in rows_of("maml", found, 1.3)}

    assert rows["MAML, ours"].value == 30.0
    assert rows["MAML, ours"].note == "loop"
    ratio = rows["MAML, ours over higher"]
    assert (ratio.value, ratio.goal, ratio.verdict) == (3.0, 1.3, "met")
    assert rows[f"  MAML, peak memory, {BY_HAND}"].value == 2.0
    assert rows["  MAML, peak memory, ours"].better == "lower"
