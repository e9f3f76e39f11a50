"""How large a batch may be: by how long those before took."""

from app.engine.budget import BATCH_S, LEAST, Budgets


def test_a_batch_that_took_too_long_makes_the_next_ones_smaller_and_a_quick_one_larger_again() -> None:
    budgets = Budgets(64)
    assert budgets.of("a") == 64
    budgets.note("a", 64, 4 * BATCH_S)
    assert (budgets.of("a"), budgets.of("b")) == (16, 64)
    budgets.note("a", 15, BATCH_S / 10)
    assert budgets.of("a") == 16, "it was not full"
    budgets.note("a", 16, BATCH_S * 0.7)
    assert budgets.of("a") == 16, "twice as many would take too long"
    for _ in range(5):
        budgets.note("a", budgets.of("a"), BATCH_S / 10)
    assert budgets.of("a") == 64, "and never more than may be"


def test_a_small_batch_is_never_made_smaller() -> None:
    budgets = Budgets(64)
    budgets.note("a", LEAST, 100.0)
    assert budgets.of("a") == 64
    budgets.note("a", LEAST + 1, 100.0)
    assert budgets.of("a") == LEAST


def test_an_operators_small_batches_stay_as_small() -> None:
    budgets = Budgets(2)
    budgets.note("a", 2, 100.0)
    assert budgets.of("a") == 2


def test_a_backbone_that_gains_nothing_from_more_gets_no_more() -> None:
    budgets = Budgets(64, {"a": 8, "b": 100})
    assert (budgets.of("a"), budgets.of("b"), budgets.of("c")) == (8, 64, 64)
    budgets.note("a", 8, BATCH_S * 2)
    assert budgets.of("a") == LEAST
    for _ in range(3):
        budgets.note("a", budgets.of("a"), BATCH_S / 10)
    assert budgets.of("a") == 8
