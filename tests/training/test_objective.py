from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.training.build import Blueprint
from app.training.classifier import ClassesObjective, CosineHead, soft_loss
from app.training.errors import BadRecipe
from app.training.objective import EpisodesObjective
from app.training.outer import OuterLoop, can_vmap, fastest_mode
from app.training.parallel import ALONE, Ranks
from app.training.recipe import Augmentation, Classes, Episodes, Named, Optimiser, Recipe, Stage
from app.training.sampler import Pool

Alphabet = Callable[[int, int], Pool]

PLAN = Optimiser(cycles=(8,), learning_rate=0.01)


def _episodes(recipe: Recipe, pool: Pool, ranks: Ranks = ALONE, **episodes: Any) -> EpisodesObjective:
    """The recipe's objective with other episodes."""
    stage = replace(recipe.stages[0], episodes=Episodes(**{"way": 5, "images": 3, **episodes}))
    found = Blueprint(replace(recipe, stages=(stage,))).objective(0, pool, {}, ranks)
    assert isinstance(found, EpisodesObjective)
    return found


def _classes(recipe: Recipe, pool: Pool, ranks: Ranks = ALONE, **classes: Any) -> ClassesObjective:
    stage = Stage("classify", PLAN, classes=Classes(**classes))
    found = Blueprint(replace(recipe, stages=(stage,))).objective(0, pool, {}, ranks)
    assert isinstance(found, ClassesObjective)
    return found


def _gradient(objective: EpisodesObjective | ClassesObjective, step: int = 0) -> torch.Tensor:
    OuterLoop(objective, PLAN).gradients(step)
    return torch.cat([one.grad.flatten().double() for one in objective.parameters() if one.grad is not None])


def _flat(parts: list[list[int]]) -> list[int]:
    return [one for part in parts for one in part]


def test_the_mean_over_splits_is_that_of_the_single_episodes(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    losses = [_episodes(recipe, pool, splits=splits)([4]).item() for splits in (1, 2, 3)]
    assert len(set(losses)) == 3
    assert losses[0] == _episodes(recipe, pool, splits=1)([4]).item()


def test_a_meta_batch_is_the_mean_of_its_episodes(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    both = _gradient(_episodes(recipe, pool, meta_batch=2), step=3)
    single = _episodes(recipe, pool, meta_batch=1)
    mean = (_gradient(single, step=6) + _gradient(single, step=7)) / 2
    torch.testing.assert_close(both, mean, rtol=1e-4, atol=1e-6)


def test_two_ranks_take_together_the_step_of_one(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    whole = _episodes(recipe, pool, meta_batch=5)
    halves = [_episodes(recipe, pool, Ranks(rank, 2), meta_batch=5) for rank in (0, 1)]
    numbers = [_flat(half.parts(2)) for half in halves]
    assert sorted(_flat(numbers)) == _flat(whole.parts(2)) == [10, 11, 12, 13, 14]
    means = [torch.stack([half(part) for part in half.parts(2)]).sum() for half in halves]
    total = torch.stack([whole(part) for part in whole.parts(2)]).sum()
    torch.testing.assert_close(torch.stack(means).mean(), total)


def test_running_statistics_do_not_hang_on_the_order_of_the_episodes(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)

    def moved(numbers: list[int]) -> dict[str, torch.Tensor]:
        objective = _episodes(recipe, pool, meta_batch=3)
        objective.parts = lambda step: [[one] for one in numbers]  # type: ignore[method-assign]
        OuterLoop(objective, PLAN).gradients(0)
        return dict(objective.learner.backbone.named_buffers())

    one, other = moved([0, 1, 2]), moved([2, 0, 1])
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])
    assert int(one["blocks.0.norm.num_batches_tracked"]) == 1
    singles = [moved([number])["blocks.0.norm.running_mean"] for number in range(3)]
    torch.testing.assert_close(one["blocks.0.norm.running_mean"], torch.stack(singles).mean(0))


def test_dropout_draws_from_the_episode_and_leaves_the_global_generator_alone(
    alphabet: Alphabet, recipe: Recipe
) -> None:
    objective = _episodes(recipe, alphabet(12, 0))
    objective.learner.backbone.register_forward_hook(
        lambda module, inputs, out: torch.nn.functional.dropout(out, 0.5, training=True)
    )
    before = torch.random.get_rng_state()
    first, again, other = objective([0]).item(), objective([0]).item(), objective([1]).item()
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == again != other


def _anil(recipe: Recipe, norm: str) -> Recipe:
    backbone = Named("conv4", {"filters": 8, "norm": norm})
    stage = replace(recipe.stages[0], augmentation=Augmentation())
    return replace(recipe, backbone=backbone, learner=Named("anil", {"learned_rates": True}), stages=(stage,))


def test_vmap_over_the_tasks_of_a_step_gives_the_gradient_of_the_loop(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    found = {}
    for mode in ("loop", "vmap"):
        objective = _episodes(_anil(recipe, "group"), pool, meta_batch=3, splits=2)
        objective.mode = mode
        assert len(objective.parts(0)) == (3 if mode == "loop" else 1)
        found[mode] = _gradient(objective)
    torch.testing.assert_close(found["vmap"], found["loop"], rtol=1e-4, atol=1e-5)
    assert float(found["loop"].abs().max()) > 0.01


def test_measuring_the_modes_changes_nothing(alphabet: Alphabet, recipe: Recipe) -> None:
    objective = _episodes(_anil(recipe, "group"), alphabet(12, 0), meta_batch=2)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    generator = torch.random.get_rng_state()
    seconds = fastest_mode(objective)
    assert set(seconds) == {"loop", "vmap"}
    assert min(seconds.values()) > 0
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(one.grad is None for one in objective.parameters())
    assert objective.mode == "loop"


def test_vmap_is_no_choice_where_it_would_change_the_result(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    assert can_vmap(_episodes(_anil(recipe, "group"), pool, meta_batch=2))
    assert not can_vmap(_episodes(_anil(recipe, "group"), pool, meta_batch=1))
    assert not can_vmap(_episodes(_anil(recipe, "batch"), pool, meta_batch=2))
    assert not can_vmap(_episodes(recipe, pool, meta_batch=2))


def test_mixed_precision_computes_the_network_in_bfloat16_and_the_head_in_float32(
    alphabet: Alphabet, recipe: Recipe
) -> None:
    pool, seen = alphabet(12, 0), []
    stage = replace(recipe.stages[0], optimiser=replace(PLAN, amp="on"))
    objective = _episodes(replace(recipe, stages=(stage,)), pool)
    loss = objective.learner.feature_loss  # type: ignore[attr-defined]
    objective.learner.backbone.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    objective.learner.feature_loss = lambda episode: seen.append(episode.query_inputs.dtype) or loss(episode)  # type: ignore
    assert abs(objective([0]).item() - _episodes(recipe, pool)([0]).item()) < 0.05
    assert seen == [torch.bfloat16, torch.float32]
    assert not _episodes(replace(recipe, stages=(replace(stage, optimiser=replace(PLAN, amp="gpu")),)), pool).amp


def test_more_ranks_than_episodes_are_refused(alphabet: Alphabet, recipe: Recipe) -> None:
    with pytest.raises(BadRecipe, match="cannot be shared"):
        OuterLoop(_episodes(recipe, alphabet(12, 0), Ranks(0, 4), meta_batch=3), PLAN)


def test_a_pass_over_the_examples_sees_each_at_most_once_and_the_next_in_another_order(
    alphabet: Alphabet, recipe: Recipe
) -> None:
    objective = _classes(recipe, alphabet(12, 0), batch=20)  # 72 examples: 3 batches a pass
    batches = [objective._rows(step).tolist() for step in range(6)]
    for epoch in (batches[:3], batches[3:]):
        seen = _flat(epoch)
        assert len(set(seen)) == 60
        assert max(seen) < 72
    assert batches[0] != batches[3]
    assert objective._rows(1).tolist() == batches[1]


def test_two_ranks_share_a_batch_of_classification(alphabet: Alphabet, recipe: Recipe) -> None:
    pool = alphabet(12, 0)
    whole = _classes(recipe, pool, batch=7).eval()
    halves = [_classes(recipe, pool, Ranks(rank, 2), batch=7).eval() for rank in (0, 1)]
    torch.testing.assert_close((halves[0]([2]) + halves[1]([2])) / 2, whole([2]))


@pytest.mark.parametrize("options", [{"head": "cosine"}, {"label_smoothing": 0.1}, {"rotation_weight": 1.0}])
def test_a_classifier_learns_its_classes(alphabet: Alphabet, recipe: Recipe, options: dict[str, Any]) -> None:
    objective = _classes(recipe, alphabet(12, 0), batch=36, **options)
    outer = OuterLoop(objective, replace(PLAN, cycles=(20,), learning_rate=0.02, final_share=1.0))
    losses = [outer.step(step).item() for step in range(20)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_cosine_head_scores_directions_alone() -> None:
    head = CosineHead(4, 3)
    features = torch.randn(5, 4)
    torch.testing.assert_close(head(features), head(7 * features))
    assert float(head(head.weight).detach().diagonal().min()) == pytest.approx(10.0)


def test_a_soft_loss_is_zero_where_student_and_teacher_agree_and_its_gradient_keeps_its_size() -> None:
    wanted = torch.randn(6, 4, dtype=torch.float64)
    assert soft_loss(wanted, wanted, 4.0).item() == pytest.approx(0)
    sizes = []
    for temperature in (20.0, 40.0):
        generator = torch.Generator().manual_seed(0)
        scores = (wanted + 0.1 * torch.randn(6, 4, dtype=torch.float64, generator=generator)).requires_grad_()
        soft_loss(scores, wanted, temperature).backward()
        sizes.append(float(scores.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_turned_images_need_to_be_square(recipe: Recipe) -> None:
    wide = Pool.of_classes(torch.zeros(3, 4, 1, 28, 20, dtype=torch.uint8))
    with pytest.raises(BadRecipe, match="square"):
        _classes(recipe, wide, rotation_weight=1.0)
