"""The inner loop on the head: numbers by hand, meta-gradients, the same steps by another library."""

import math

import higher
import pytest
import torch
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, Support
from app.core.errors import InvalidSetting
from app.learners import build

PAIR = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
"""Two examples whose centre is 0 and whose spread is 1: what the head sees is what is written here."""
HEADS = [
    {},
    {"first_order": True},
    {"learned_rates": True},
    {"head": "prototypes"},
    {"head": "prototypes", "projection": 2, "normalise": True},
    {"head": "fixed", "head_way": 3, "learned_rates": True},
]
every_head = pytest.mark.parametrize("options", HEADS, ids=lambda one: "-".join(map(str, one)) or "defaults")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def seeded(learner: nn.Module) -> nn.Module:
    """In float64 and training, what is its own moved off zero."""
    generator = torch.Generator().manual_seed(8)
    learner = learner.double().train()
    for name, parameter in learner.named_parameters():
        if not name.startswith("backbone."):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return learner


def test_one_step_by_hand(same):
    # From zero both chances are 1/2, so the slope is (-1, 1) and the weights become (1, -1). Before it each example
    # costs log 2; after it the right logit leads by 2.
    state = build("anil", same, {"steps": 1}).fit(PAIR, torch.tensor([0, 1]), 2)
    expected = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(state["weights"], expected)
    torch.testing.assert_close(state["bias"], torch.zeros(2, dtype=torch.float64))
    losses = [math.log(2), math.log(1 + math.exp(-2))]
    torch.testing.assert_close(state["support_losses"], torch.tensor(losses, dtype=torch.float64))


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_the_gradient_through_one_step_is_the_closed_form(first_order, linear):
    # With d the lead w0 - w1 of the right weight, the step of rate r makes it e = d + 4 r s(-d), where s is the
    # sigmoid; a query at 1 with label 0 costs log(1 + exp(-e)), whose slope in w0 is -s(-e) de/dd; first order takes
    # de/dd = 1, second order 1 - 4 r s(d) s(-d).
    backbone = linear(1, 1)
    backbone.map.weight.data.fill_(1.0)
    backbone.map.bias.data.fill_(0.0)
    options = {"head": "fixed", "head_way": 2, "training_steps": 1, "learning_rate": 0.7, "first_order": first_order}
    learner = build("anil", backbone, options).double()
    learner.head.weight.data = torch.tensor([[0.4], [-0.2]], dtype=torch.float64)
    support = Support(PAIR, torch.tensor([0, 1]), 2)
    learner.episode_loss(Episode(support, PAIR[:1], torch.tensor([0]))).backward()
    lead = 0.6
    after = lead + 4 * 0.7 * sigmoid(-lead)
    through = 1.0 if first_order else 1 - 4 * 0.7 * sigmoid(lead) * sigmoid(-lead)
    slope = -sigmoid(-after) * through
    expected = torch.tensor([[slope], [-slope]], dtype=torch.float64)
    torch.testing.assert_close(learner.head.weight.grad, expected)


@every_head
def test_meta_gradients_are_those_of_finite_differences(options, linear, episode, check_by_differences):
    if options.get("first_order"):
        pytest.skip("it leaves a part of the gradient out")
    learner, one = seeded(build("anil", linear(4, 3), options)), episode()
    learner.episode_loss(one).backward()
    check_by_differences(learner, one, dict(learner.named_parameters()), size=1e-5, rel=1e-5, abs=1e-9)


def test_second_order_differs_from_first_order(linear, episode):
    slopes = []
    for first_order in (False, True):
        learner = seeded(build("anil", linear(4, 3), {"first_order": first_order}))
        learner.episode_loss(episode()).backward()
        slopes.append(learner.backbone.map.weight.grad)
    assert float((slopes[0] - slopes[1]).norm()) > 0.01 * float(slopes[0].norm())


def test_the_steps_and_their_gradient_are_those_of_another_library(linear, episode):
    one, steps, rate = episode(), 4, 0.6
    options = {"head": "fixed", "head_way": 3, "training_steps": steps, "learning_rate": rate}
    learner = seeded(build("anil", linear(4, 3), options))
    learner.load_own_state({"head.weight": torch.randn(3, 3).double(), "head.bias": torch.randn(3).double()})
    learner.offsets["learning_rate"].data.zero_()
    state = learner.adapt(one.support)
    rows = (learner.backbone(one.support.inputs) / state["unit"] - state["centre"]).detach().requires_grad_()
    head = nn.Linear(3, 3).double()
    head.load_state_dict({"weight": learner.head.weight, "bias": learner.head.bias})
    sgd = torch.optim.SGD(head.parameters(), lr=rate)
    with higher.innerloop_ctx(head, sgd, copy_initial_weights=False) as (functional, optimiser):
        for _ in range(steps):
            optimiser.step(3 * nn.functional.cross_entropy(functional(rows), one.support.labels))
        torch.testing.assert_close(state["weights"].T, functional.weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state["bias"], functional.bias, rtol=1e-5, atol=1e-5)
        theirs = torch.autograd.grad(functional.weight.square().sum(), head.weight)[0]
    ours = torch.autograd.grad(state["weights"].square().sum(), learner.head.weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@every_head
def test_tasks_side_by_side_have_the_loss_and_the_gradients_of_the_loop(options, linear, episode):
    episodes = [episode(seed) for seed in range(3)]
    learner = seeded(build("anil", linear(4, 3), options))
    found = []
    for loss in (
        learner.vmapped_loss(episodes),
        torch.stack([learner.episode_loss(one) for one in episodes]).mean(),
    ):
        learner.zero_grad()
        loss.backward()
        found.append((loss.detach(), {name: one.grad for name, one in learner.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_tasks_of_different_ways_are_not_put_side_by_side(same, episode):
    one = episode()
    other = Episode(Support(one.support.inputs[:4], one.support.labels[:4], 2), one.query_inputs, one.query_labels)
    with pytest.raises(ValueError, match="one way"):
        build("anil", same, {}).vmapped_loss([one, other])


def test_batch_statistics_are_those_of_each_episode_alone(episode):
    learner, episodes = seeded(build("anil", Normed(), {})), [episode(0), episode(1)]
    apart = torch.stack([learner.episode_loss(one) for one in episodes]).mean()
    torch.testing.assert_close(learner.vmapped_loss(episodes), apart)


def test_training_and_adaptation_take_their_own_numbers_of_steps(same, episode):
    support = episode().support
    learner = build("anil", same, {"steps": 7, "training_steps": 2})
    assert len(learner.eval().adapt(support)["support_losses"]) == 8
    assert len(learner.train().adapt(support)["support_losses"]) == 3


def test_steps_past_the_trained_ones_take_the_last_rates(same, episode):
    support = episode().support
    learned = build("anil", same, {"learned_rates": True, "training_steps": 2, "steps": 3})
    learned.load_own_state({"rates.logs": torch.tensor([[0.0, 0.0], [math.log(0.5), math.log(0.25)]])})
    with_last = learned.adapt(support)
    steps = [learned.rates(step) for step in range(3)]
    assert steps[1] == steps[2]
    plain = build("anil", same, {"steps": 1}).adapt(support)
    torch.testing.assert_close(with_last["support_losses"][:2], plain["support_losses"])


def test_without_a_step_a_head_at_the_prototypes_is_a_prototypical_network(same, blobs):
    features, labels = blobs((4, 1, 3), 6)
    options = {"head": "prototypes", "steps": 0, "temperature": 3.0}
    heads = [build("anil", same, options), build("protonet", same, {"relative": True, "temperature": 3.0})]
    scores = [one.score(one.fit(features, labels, 3), features).log_softmax(1) for one in heads]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


def test_every_step_lowers_the_loss_of_the_support_set(same, blobs):
    trace = build("anil", same, {"steps": 20}).fit(*blobs((5, 5, 2), 8), 3)["support_losses"]
    assert bool((trace.diff() < 0).all())


def test_the_scale_and_the_origin_of_the_embeddings_are_no_matter(same, blobs):
    features, labels = blobs((4, 3), 5)
    learner = build("anil", same, {})
    moved = 50 * features - 7
    plain, other = (learner.score(learner.fit(rows, labels, 2), rows) for rows in (features, moved))
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)


def test_a_fixed_head_serves_its_own_way_alone(linear, blobs):
    learner = build("anil", linear(4, 3), {"head": "fixed", "head_way": 3})
    assert learner.ways == (3, 3)
    assert build("anil", linear(4, 3), {}).ways is None
    features, labels = blobs((2, 2), 3)
    with pytest.raises(ValueError, match="3 classes; 2 given"):
        learner.fit(features.double(), labels, 2)


def test_a_fixed_head_needs_a_backbone_with_a_dim(same):
    with pytest.raises(InvalidSetting) as caught:
        build("anil", same, {"head": "fixed"})
    assert caught.value.faults[0].pointer == "/head"


def test_what_was_learned_moves_to_another_instance(linear, episode):
    options = {"head": "fixed", "head_way": 3, "learned_rates": True}
    trained, other = (build("anil", linear(4, 3), options).double() for _ in range(2))
    seeded(trained)
    assert set(trained.own_state()) == {"head.weight", "head.bias", "rates.logs"}
    other.load_own_state(trained.own_state())
    for name in trained.offsets:
        other.offsets[name].data.copy_(trained.offsets[name].data)
    one = episode()
    states = [learner.eval().adapt(one.support) for learner in (trained, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_adapting_leaves_no_graph_and_no_tensor_behind(linear, episode, check_nothing_stays):
    check_nothing_stays(build("anil", linear(4, 3), {}).eval(), episode().support)


class Normed(Backbone):
    """A backbone that is one normalisation."""

    modality = "vector"
    input_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dim = nn.BatchNorm1d(4).double(), 4

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(inputs)
