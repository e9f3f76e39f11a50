from collections.abc import Callable

import pytest
import torch

from app.training.sampler import Pool, draw, to_episode

Alphabet = Callable[[int, int], Pool]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_draws_the_same_episodes(alphabet: Alphabet) -> None:
    pool = alphabet(9, 0)
    first, again, other = (draw(pool, 5, 3, _seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_drawing_leaves_the_global_generator_alone(alphabet: Alphabet) -> None:
    before = torch.random.get_rng_state()
    draw(alphabet(9, 0), 5, 3, _seeded(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_episode_has_no_class_and_no_example_twice(alphabet: Alphabet) -> None:
    generator = _seeded(0)
    for _ in range(50):
        classes, examples = draw(alphabet(9, 0), 7, 4, generator)
        assert len(classes.unique()) == 7
        assert all(len(row.unique()) == 4 for row in examples)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_support_and_queries_are_disjoint_and_use_every_example(turn: int) -> None:
    inputs = torch.arange(5 * 4).reshape(5, 4)
    episode = to_episode(inputs, shot=2, turn=turn)
    support, queries = set(episode.support.inputs.tolist()), set(episode.query_inputs.tolist())
    assert not support & queries
    assert support | queries == set(range(20))
    assert torch.equal(episode.support.inputs // 4, episode.support.labels)
    assert torch.equal(episode.query_inputs // 4, episode.query_labels)


def test_over_all_turns_each_example_is_once_the_support() -> None:
    inputs = torch.arange(5 * 4).reshape(5, 4)
    supports = [one for turn in range(4) for one in to_episode(inputs, shot=1, turn=turn).support.inputs.tolist()]
    assert sorted(supports) == list(range(20))


def test_too_few_classes_or_examples_are_refused(alphabet: Alphabet) -> None:
    with pytest.raises(ValueError, match="10 classes"):
        draw(alphabet(9, 0), 10, 2, _seeded(0))
    with pytest.raises(ValueError, match="of 7"):
        draw(alphabet(9, 0), 5, 7, _seeded(0))
    with pytest.raises(ValueError, match="a query"):
        to_episode(torch.zeros(5, 2), shot=2)
