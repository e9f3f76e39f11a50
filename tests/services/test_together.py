"""Adaptations that wait together: on threads, by vmap, or one by one; each as if it were alone."""

import threading

import pytest
import torch

from app.checkpoints.load import load_all
from app.config import Settings
from app.core.errors import Invalid
from app.core.heartbeat import beat_now, beating
from app.learners import build
from app.learners._inner_loop import Diverged
from app.services import together
from app.services.catalogue import Candidate
from app.services.heads import AdaptWeightsHead, adapted_by_vmap
from app.services.together import Race, SideBySide, on_threads, one_by_one

BACKBONE = "glyph-conv4-maml"


@pytest.fixture(scope="module")
def backbone():
    checkpoints, _ = load_all(Settings().model_folders(), {BACKBONE})
    return checkpoints[BACKBONE].backbone


def heads(backbone, count, shots=(2, 2), **settings):
    learner = build("maml", backbone, {"steps": 2, **settings}).eval()
    candidate = Candidate("maml", {"learning_rate": 0.01}, learner, "")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    shape = (len(labels), *backbone.input_shape)
    inputs = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(count)]
    return [AdaptWeightsHead(candidate, one, labels, len(shots)) for one in inputs]


def features(heads):
    return [torch.full((len(one.labels), 2), float(number)) for number, one in enumerate(heads)]


@pytest.mark.parametrize("way", [one_by_one, adapted_by_vmap, SideBySide(torch.device("cpu"), 2)._run, Race().run])
def test_every_way_gives_the_states_and_the_judgement_of_one_alone(way, backbone):
    some = heads(backbone, 3)
    with torch.no_grad():
        found = way(some, features(some))
        for number, (one, head) in enumerate(zip(found, some, strict=True)):
            alone = head(features(some)[number])
            assert set(one.state) == set(alone.state)
            for key, tensor in alone.state.items():
                torch.testing.assert_close(one.state[key], tensor, rtol=1e-4, atol=1e-5)
                assert not one.state[key].requires_grad
            assert one.held_out.method == alone.held_out.method
            assert one.held_out.log_loss == pytest.approx(alone.held_out.log_loss, rel=1e-3)
            assert torch.equal(one.new_features, alone.new_features)


@pytest.mark.parametrize("way", [one_by_one, adapted_by_vmap])
def test_one_that_diverges_points_at_its_settings_and_harms_no_other(way, backbone):
    some = heads(backbone, 2, learning_rate=1e3, head_learning_rate=1e3, steps=8)
    calm = heads(backbone, 2)
    with torch.no_grad():
        found = way(some, features(some))
        assert [type(one) for one in found] == [Diverged, Diverged]
        assert found[0].faults[0].pointer == "/learner_settings/learning_rate"
        assert not any(isinstance(one, Diverged) for one in way(calm, features(calm)))


def test_only_adaptations_of_one_learner_and_one_shape_may_run_together(backbone):
    cpu = SideBySide(torch.device("cpu"), 2)
    first, second = heads(backbone, 2)
    other_learner, *_ = heads(backbone, 1)
    other_shots, *_ = heads(backbone, 1, (3, 1))
    assert cpu.of(first) == cpu.of(second)
    assert cpu.of(first).most == 2
    assert cpu.of(first) != cpu.of(other_learner)
    other_shots.candidate = first.candidate
    assert cpu.of(first) != cpu.of(other_shots)
    assert SideBySide(torch.device("cpu"), 1).of(first) is None


def test_elsewhere_only_what_runs_by_vmap_may_run_together(backbone):
    elsewhere = SideBySide(torch.device("meta"), 2)
    (head,) = heads(backbone, 1)
    assert elsewhere.of(head).most == together.MOST
    reptile = build("reptile", backbone, {}).eval()
    lone = AdaptWeightsHead(Candidate("reptile", {}, reptile, ""), head.inputs, head.labels, head.way)
    assert elsewhere.of(lone) is None
    assert SideBySide(torch.device("cpu"), 2).of(lone) is not None


def test_the_second_group_decides_between_loop_and_vmap(backbone):
    some = heads(backbone, 3)
    race = Race()
    with torch.no_grad():
        race.run(some, features(some))
        assert race.vmap_pays is None
        race.run(some, features(some))
        assert race.vmap_pays in (True, False)
        assert len(race.run(some, features(some))) == 3


def test_where_vmap_cannot_run_the_loop_does(backbone, monkeypatch, caplog):
    def cannot(*_):
        raise RuntimeError("vmap: no batching rule")

    some, race = heads(backbone, 3), Race()
    monkeypatch.setattr(together, "adapted_by_vmap", cannot)
    with torch.no_grad():
        found = race.run(some, features(some))
    assert race.vmap_pays is False
    assert [one.new_features[0, 0] for one in found] == [0, 1, 2]
    assert "one by one" in caplog.text


def test_out_of_memory_is_for_the_engine_to_halve(backbone, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    some, race = heads(backbone, 3), Race()
    monkeypatch.setattr(together, "adapted_by_vmap", full)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        race.run(some, features(some))
    assert race.vmap_pays is None


def test_calls_on_threads_keep_their_order_beat_and_use_a_thread_each():
    beats, names = [], []

    def call(number):
        def run():
            beat_now()
            names.append((threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()))
            return number

        return run

    before = torch.get_num_threads()
    with beating(lambda: beats.append(1)):
        assert on_threads([call(number) for number in range(3)]) == [0, 1, 2]
    assert len(beats) == 3
    assert {(threads, grad) for _, threads, grad in names} == {(1, False)}
    assert sum(name == "imprint-adapt" for name, *_ in names) == 2
    assert torch.get_num_threads() == before


def test_an_error_with_a_name_is_that_calls_own_and_another_is_raised_when_all_have_ended():
    ended = []

    def invalid():
        raise Invalid("mine")

    def fine():
        ended.append(1)
        return "fine"

    def broken():
        raise ZeroDivisionError

    found = on_threads([invalid, fine])
    assert isinstance(found[0], Invalid)
    assert found[1] == "fine"
    with pytest.raises(ZeroDivisionError):
        on_threads([broken, fine])
    assert len(ended) == 2


def test_what_ends_the_device_thread_goes_before_an_error():
    class Ends(BaseException):
        pass

    def ends():
        raise Ends

    def broken():
        raise ZeroDivisionError

    with pytest.raises(Ends):
        on_threads([ends, broken])
