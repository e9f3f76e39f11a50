import torch

from app import backbones, learners
from app.backbones._base import Backbone
from app.training.build import Blueprint
from app.training.embedding import embed_pool, trimmed
from app.training.evaluate import evaluate
from app.training.recipe import Judging, Recipe
from app.training.sampler import Pool

PROTONET = learners.build("protonet", backbones.build("identity", {}), {})


def _features(spread: float) -> Pool:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(10)[:, None, :]
    return Pool.of_classes(centres + spread * torch.randn(10, 20, 10, generator=generator))


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


def test_judging_puts_the_learners_mode_back() -> None:
    learner = learners.build("protonet", backbones.build("conv4", {"filters": 8}), {}).train()
    pool = Pool.of_classes(torch.randint(0, 256, (3, 4, 1, 28, 28), dtype=torch.uint8))
    evaluate(learner, pool, Judging(way=3, shot=1, episodes=2, queries=2))
    assert learner.training
    assert learner.backbone.training


def test_embeddings_made_before_give_what_the_network_gives(recipe: Recipe) -> None:
    backbone = Blueprint(recipe).backbone().eval()
    learner = learners.build("ridge", backbone, {})
    pool = Pool.of_classes(torch.randint(0, 256, (6, 5, 1, 28, 28), dtype=torch.uint8))
    judging = Judging(way=3, shot=1, episodes=10, queries=2)
    assert evaluate(learner, pool, judging) == evaluate(learner, embed_pool(backbone, pool), judging, embedded=True)


def test_embedding_a_pool_uses_running_statistics_and_puts_the_mode_back(recipe: Recipe) -> None:
    backbone = Blueprint(recipe).backbone().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    pool = Pool.of_classes(torch.randint(0, 256, (3, 4, 1, 28, 28), dtype=torch.uint8))
    together = embed_pool(backbone, pool).inputs
    alone = embed_pool(backbone, Pool.of_classes(pool.inputs[6:7, None])).inputs
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    torch.testing.assert_close(together[6:7], alone)


class _Tokens(Backbone):
    """Counts the tokens, and remembers how long its batches were."""

    modality = "text"
    pads = True

    def __init__(self) -> None:
        super().__init__()
        self.input_shape, self.dim, self.lengths = (None,), 1, []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.lengths.append(inputs.shape[1])
        return (inputs != 0).sum(1, keepdim=True).float()

    def micro_batch_examples(self, device_type: str) -> int:
        return 2


def test_short_texts_are_embedded_together_without_the_padding_of_long_ones() -> None:
    backbone = _Tokens()
    lengths = [7, 1, 3, 2, 7, 3]
    texts = torch.zeros(6, 9, dtype=torch.int64)
    for row, length in enumerate(lengths):
        texts[row, :length] = 5
    found = embed_pool(backbone, Pool(texts, torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b")))
    assert found.inputs[:, 0].tolist() == lengths
    assert backbone.lengths == [2, 3, 7]
    assert trimmed(backbone, texts[1:4]).shape == (3, 3)
    assert trimmed(PROTONET.backbone, texts).shape == (6, 9)
