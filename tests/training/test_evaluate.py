import torch

from app.training.evaluate import embed_pool, evaluate
from app.training.loop import head_of, new_backbone
from app.training.recipe import Judging, Named, Recipe
from app.training.sampler import Pool

PROTONET = head_of(Named("protonet"))


def _features(spread: float) -> Pool:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(10)[:, None, :]
    return Pool(centres + spread * torch.randn(10, 20, 10, generator=generator))


def test_classes_far_apart_are_told_apart_without_fail() -> None:
    accuracy = evaluate(PROTONET, _features(0.01), Judging(way=5, shot=1, episodes=30))
    assert accuracy.mean == 1.0
    assert accuracy.interval_95 == 0.0
    assert accuracy.episodes == 30


def test_features_without_meaning_give_chance_within_the_interval() -> None:
    accuracy = evaluate(PROTONET, _features(1000.0), Judging(way=5, shot=1, episodes=300))
    assert abs(accuracy.mean - 0.2) < 2 * accuracy.interval_95
    assert 0 < accuracy.interval_95 < 0.05


def test_the_same_seed_judges_on_the_same_episodes() -> None:
    one, same, other = (
        evaluate(PROTONET, _features(0.7), Judging(way=5, shot=1, episodes=20, seed=s)) for s in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_embedding_a_pool_uses_running_statistics_and_puts_the_mode_back(recipe: Recipe) -> None:
    backbone = new_backbone(recipe).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    pool = Pool(torch.randint(0, 256, (3, 4, 1, 28, 28), dtype=torch.uint8))
    together = embed_pool(backbone, pool).inputs
    alone = embed_pool(backbone, Pool(pool.inputs[1:2, 2:3])).inputs
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    torch.testing.assert_close(together[1:2, 2:3], alone)
