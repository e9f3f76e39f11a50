"""Fine-tuning: the head first, then everything."""

import pytest
import torch
from torch import nn

from app.core.episode import Support
from app.learners import build
from app.learners._inner_loop import class_shares
from app.learners.finetune import NothingToTrain


def test_without_steps_the_backbone_stays_and_the_head_is_fitted(curved, episodes):
    (episode,) = episodes(1, (4, 4, 4))
    backbone = curved().eval()
    still = build("finetune", backbone, {"steps": 0})
    state = still.adapt(episode.support)
    assert all(torch.equal(state[f"backbone.{name}"], one) for name, one in backbone.named_parameters())
    started = build("finetune", backbone, {"steps": 0, "head_steps": 0}).adapt(episode.support)
    assert state["support_losses"].shape == (1,)
    assert state["support_losses"] < started["support_losses"]


def test_the_whole_network_is_fitted_further(curved, episodes):
    (episode,) = episodes(1, (4, 4, 4))
    state = build("finetune", curved().eval(), {"learning_rate": 0.01}).adapt(episode.support)
    losses = state["support_losses"]
    assert losses.shape == (21,)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_steps_are_those_of_torchs_adam(decay, curved, episodes):
    (episode,) = episodes(1, (3, 2, 3))
    backbone = curved().eval()
    options = {"learning_rate": 0.01, "weight_decay": decay, "steps": 6}
    start = build("finetune", backbone, {**options, "steps": 0}).adapt(episode.support)
    state = build("finetune", backbone, options).adapt(episode.support)
    inputs, shares = episode.support.inputs, class_shares(episode.support.labels, 3, torch.float64)
    features = backbone(inputs).detach()
    unit = (features - features.mean(0)).square().sum(1).mean().sqrt()
    weights = {key: one.clone().requires_grad_() for key, one in start.items() if key != "support_losses"}
    rates = {key: 0.01 / float(unit) if key == "head.weight" else 0.01 for key in weights}
    adam = torch.optim.AdamW([{"params": [one], "lr": rates[key]} for key, one in weights.items()], weight_decay=decay)
    for _ in range(6):
        own = {key.removeprefix("backbone."): one for key, one in weights.items() if key.startswith("backbone.")}
        scores = torch.func.functional_call(backbone, own, (inputs,)) @ weights["head.weight"].T + weights["head.bias"]
        adam.zero_grad()
        (-(shares * scores.log_softmax(1)).sum()).backward()
        adam.step()
    for key, one in weights.items():
        torch.testing.assert_close(state[key], one.detach(), rtol=1e-6, atol=1e-8)


def test_the_scale_and_the_origin_of_embeddings_are_no_matter_to_the_head(same, blobs):
    inputs, labels = blobs((5, 4, 3), 6)
    queries, _ = blobs((3, 3), 6, seed=1)
    learner = build("finetune", same, {"steps": 0})
    plain = learner.logits(learner.adapt(Support(inputs, labels, 3)), queries)
    moved = learner.logits(learner.adapt(Support(1e3 * inputs - 70, labels, 3)), 1e3 * queries - 70)
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-3)


def test_it_is_not_meta_trained_and_says_so(curved, episodes):
    (episode,) = episodes(1)
    learner = build("finetune", curved().train(), {})
    with pytest.raises(NothingToTrain, match="train the backbone by classifying"):
        learner.episode_loss(episode)
    loss = learner.eval().episode_loss(episode)
    expected = learner.logits(learner.adapt(episode.support), episode.query_inputs)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(expected, episode.query_labels))
