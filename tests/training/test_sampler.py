import pytest
import torch

from app.training.sampler import Pool, draw, episode_generator, joined, to_episode


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ragged(*counts: int) -> Pool:
    """Classes of these sizes; an input is (its class, its number within it)."""
    return Pool.of_classes([torch.tensor([[label, at] for at in range(n)]) for label, n in enumerate(counts)])


def test_a_pool_knows_its_classes_whatever_their_sizes() -> None:
    pool = _ragged(3, 5, 2)
    assert pool.counts.tolist() == [3, 5, 2]
    assert pool.starts.tolist() == [0, 3, 8]
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert pool.names == ("0", "1", "2")


def test_a_dense_tensor_makes_a_pool_of_equal_classes() -> None:
    dense = torch.arange(24).reshape(3, 4, 2)
    pool = Pool.of_classes(dense, ["a", "b", "c"])
    assert torch.equal(pool.inputs, dense.flatten(0, 1))
    assert pool.counts.tolist() == [4, 4, 4]
    assert pool.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "names", "wrong"),
    [
        ([0, 1], ("a", "b"), "2 labels for 3"),
        ([0, 1, 0], ("a", "b"), "ascending"),
        ([0, 0, 2], ("a", "b", "c"), "3 names for 2 classes"),
        ([0, 0, 1], ("a",), "1 names for 2 classes"),
    ],
)
def test_a_pool_that_contradicts_itself_is_refused(labels: list[int], names: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Pool(torch.zeros(3, 1), torch.tensor(labels), names)


def test_taking_rows_gives_the_inputs_in_the_shape_of_the_rows() -> None:
    pool = _ragged(3, 5, 2)
    rows = torch.tensor([[0, 2], [8, 9]])
    assert torch.equal(pool.take(rows), pool.inputs[rows])


def test_embeddings_take_the_place_of_inputs_row_for_row() -> None:
    pool = _ragged(3, 5)
    embedded = pool.with_inputs(torch.rand(8, 4))
    assert embedded.inputs.shape == (8, 4)
    assert torch.equal(embedded.labels, pool.labels)
    with pytest.raises(ValueError, match="8 labels for 7"):
        pool.with_inputs(torch.rand(7, 4))


def test_picked_classes_keep_their_examples_and_names() -> None:
    pool = _ragged(3, 5, 2).pick([2, 0])
    assert pool.names == ("2", "0")
    assert pool.inputs[:, 0].tolist() == [2, 2, 0, 0, 0]


def test_joined_token_ids_are_padded_and_keep_their_classes() -> None:
    short = Pool.of_classes([torch.tensor([[5, 6]]), torch.tensor([[7, 0]])], ["a", "b"])
    long = Pool.of_classes([torch.tensor([[1, 2, 3], [4, 0, 0]])], ["c"])
    pool = joined([short, long])
    assert pool.inputs.tolist() == [[5, 6, 0], [7, 0, 0], [1, 2, 3], [4, 0, 0]]
    assert pool.labels.tolist() == [0, 1, 2, 2]
    assert pool.names == ("a", "b", "c")


def test_examples_of_different_kinds_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"float32 \[4\], float32 \[5\]"):
        joined([Pool.of_classes(torch.zeros(1, 2, 4)), Pool.of_classes(torch.zeros(1, 2, 5))])


def test_the_same_seed_draws_the_same_episodes() -> None:
    pool = _ragged(*[6] * 9)
    first, again, other = (draw(pool, 5, 3, _seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    draw(_ragged(*[6] * 9), 5, 3, episode_generator(0, 0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_episode_has_no_class_and_no_example_twice() -> None:
    pool, generator = _ragged(*range(4, 13)), _seeded(0)
    for _ in range(50):
        drawn = pool.take(draw(pool, 7, 4, generator))
        assert len(drawn[:, 0, 0].unique()) == 7
        assert bool((drawn[:, :, 0] == drawn[:, :1, 0]).all())
        assert all(len(row.unique()) == 4 for row in drawn[:, :, 1])


def test_every_class_example_and_order_is_equally_likely() -> None:
    pool, generator = _ragged(3, 4, 2), _seeded(0)
    rows = torch.stack([draw(pool, 2, 2, generator) for _ in range(2400)])
    first = pool.take(rows)[:, 0]
    of_class = first[:, 0, 0].bincount() / len(first)
    torch.testing.assert_close(of_class, torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    for label, count in enumerate([3, 4, 2]):
        pairs = first[first[:, 0, 0] == label][:, :, 1]
        shares = (pairs[:, 0] * count + pairs[:, 1]).bincount(minlength=count**2).reshape(count, count) / len(pairs)
        wanted = (1 - torch.eye(count)) / (count * (count - 1))
        torch.testing.assert_close(shares, wanted, atol=0.06, rtol=0)


def test_classes_with_too_few_examples_are_passed_over() -> None:
    pool, generator = _ragged(3, 9, 2, 9, 9), _seeded(0)
    drawn = {int(label) for _ in range(30) for label in pool.take(draw(pool, 2, 5, generator))[:, 0, 0]}
    assert drawn == {1, 3, 4}


def test_too_few_classes_or_examples_are_refused() -> None:
    pool = _ragged(6, 6, 6, 4)
    with pytest.raises(ValueError, match=r"needs 5 classes of 2 .* has 4 such"):
        draw(pool, 5, 2, _seeded(0))
    with pytest.raises(ValueError, match=r"needs 4 classes of 5 .* has 3 such classes, 4 in all"):
        draw(pool, 4, 5, _seeded(0))
    with pytest.raises(ValueError, match="a query"):
        to_episode(torch.zeros(5, 2), shot=2)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_episodes_of_a_run_do_not_depend_on_how_many_workers_draw_them(workers: int) -> None:
    pool = _ragged(*range(4, 13))
    alone = [draw(pool, 5, 4, episode_generator(3, index)) for index in range(12)]
    shared = {}
    for worker in range(workers):
        for index in range(worker, 12, workers):
            shared[index] = draw(pool, 5, 4, episode_generator(3, index))
    assert all(torch.equal(alone[index], shared[index]) for index in range(12))


def test_episodes_differ_by_index_and_by_seed() -> None:
    def first(seed: int, index: int) -> float:
        return torch.rand((), dtype=torch.float64, generator=episode_generator(seed, index)).item()

    assert len({first(0, index) for index in range(2000)}) == 2000
    assert len({first(seed, 7) for seed in range(200)}) == 200
    # Runs with neighbouring seeds are not each other's episodes, shifted.
    assert not {first(0, index) for index in range(500)} & {first(1, index) for index in range(500)}


def test_an_episode_is_the_same_in_every_release() -> None:
    assert episode_generator(5, 41).initial_seed() == 1591125181
    rows = draw(_ragged(*[6] * 9), 3, 2, episode_generator(5, 41))
    assert rows.tolist() == [[9, 11], [17, 12], [45, 47]]


@pytest.mark.parametrize("index", [-1, 2**32])
def test_an_index_that_would_repeat_an_episode_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index of an episode"):
        episode_generator(0, index)


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


@pytest.mark.gpu
def test_a_pool_on_a_gpu_draws_the_same_episodes() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pool = _ragged(*range(4, 13))
    there = pool.to("cuda")
    rows = draw(there, 5, 4, episode_generator(3, 0))
    assert torch.equal(there.take(rows).cpu(), pool.take(draw(pool, 5, 4, episode_generator(3, 0))))
