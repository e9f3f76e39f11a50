"""Ours beside the peers of texts and of algorithms: what is drawn, what is made of the rounds, that scores agree."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import peer_texts
from benchmarks.episodes_ours import ours
from benchmarks.meta_contenders import Task
from benchmarks.peer_rows import adaptive, algorithms, fifty, setfit
from benchmarks.peer_rows.beside import beside, points_ahead
from benchmarks.peer_servers.episodes import EPISODES_FILE, WEIGHTS_FILE, Turns, Work, as_ours, theirs
from benchmarks.peer_servers.turns import timed
from benchmarks.peer_texts import Draw, draws
from benchmarks.text_server import waiting

TRAIN = [(f"text {number} of {label}", f"label {label:02}") for label in range(45) for number in range(20)]
TEST = [(f"query {number} of {label}", f"label {label:02}") for label in range(45) for number in range(30)]


def test_no_text_is_in_two_draws_and_each_is_asked_about_its_own_classes() -> None:
    drawn = draws(4, TRAIN, TEST)

    texts = [text for one in drawn for text in one.texts]
    assert len(texts) == len(set(texts)) == 4 * 20 * 8
    for one in drawn:
        assert {one.labels.count(label) for label in one.labels} == {8}
        assert {label for _, label in one.queries} == set(one.labels)
        assert len(set(one.asked)) == 20 * 20
    assert set(drawn[0].labels).isdisjoint(drawn[1].labels)
    assert draws(4, TRAIN, TEST) == drawn
    with pytest.raises(ValueError, match="no 5 draws"):
        draws(5, TRAIN, TEST)


def test_without_the_data_the_rows_of_texts_end_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMPRINT_DATA", raising=False)

    for row in (adaptive, setfit):
        with pytest.raises(SystemExit, match="IMPRINT_DATA"):
            row.measure(adaptive.PeerScope(rounds=1))


@pytest.mark.data
def test_texts_under_load_are_of_no_draw(data_dir: Path) -> None:
    found = [*peer_texts.others(500, 0), *peer_texts.others(500, 1)]

    assert len(set(found)) == 1000
    assert set(found).isdisjoint(text for one in draws(84) for text in [*one.texts, *one.asked])


def test_accuracy_is_the_share_of_right_answers() -> None:
    draw = Draw([], [("a", "x"), ("b", "y"), ("c", "y"), ("d", "x")])

    assert draw.accuracy(["x", "y", "x", "x"]) == 75.0


def test_ours_is_put_over_the_peer_round_by_round() -> None:
    ratio, own, other = beside("b create", "peer", [1.0, 2.0, 9.0], [2.0, 8.0, 10.0], "s", "lower", "how")

    assert (ratio.name, ratio.value, ratio.verdict) == ("b create, ours over peer", 0.5, "met")
    assert ratio.note == "rounds 0.25 to 0.9; how"
    assert (own.value, other.name, other.value) == (2.0, "  peer", 8.0)
    assert beside("b", "peer", [3.0], [2.0], "1/s", "higher", "how")[0].note == "how"


def test_accuracies_are_told_as_a_difference_with_its_interval() -> None:
    gain, own, other = points_ahead("b accuracy", "peer", [97.0, 99.0], [96.0, 99.0])

    assert (gain.value, gain.unit, gain.verdict) == (0.5, "points", "met")
    assert (own.value, other.value) == (98.0, 97.5)
    assert gain.interval_95 is not None
    assert gain.interval_95 > 0.5
    assert gain.note == "may be chance"
    assert points_ahead("b", "peer", [90.0, 92.0], [89.0, 91.0], "how")[0].note == "how"
    assert points_ahead("b", "peer", [90.0], [91.0])[0].interval_95 is None


def test_classifiers_that_the_peer_did_not_get_to_are_reckoned_from_those_that_it_made() -> None:
    mib = 2**20
    peer = fifty.Made([2.0, 4.0], [100 * mib, 300 * mib])
    own = fifty.Made([0.5] * 2 + [9.0] * 48, [100 * mib] * 50)

    rows = {row.name: row for row in fifty.rows_of(own, peer, "peer", "torch")}

    assert peer.all_s(2) == 150.0
    assert rows["b 50 classifiers at once, create, ours over peer"].value == 25.0 / 150.0
    assert "reckoned from the 2 that took 6 s" in rows["b 50 classifiers at once, create, ours over peer"].note
    assert peer.all_bytes == (100 + 49 * 200) * mib
    assert rows["b 50 classifiers at once, memory, ours over peer"].value == 100 / 9900


def test_all_that_the_rounds_brought_is_in_the_table() -> None:
    lists = {name: [2.0, 2.0] for name in adaptive.Found.__dataclass_fields__}
    rows = adaptive.rows_of(
        adaptive.Found(**lists), adaptive.Found(**{name: [4.0, 4.0] for name in lists}), [9.0], [1.0, 1.0], 32, "v 1"
    )
    fitted = setfit.rows_of(setfit.Found([1.0], [97.0], [8.0], [4.0]), setfit.Found([40.0], [98.0], [2.0], [1.0]), "")

    assert {row.value for row in rows if row.unit == "times"} == {0.5}
    assert sum(row.unit == "times" for row in rows) == len(lists) - 1  # accuracy is a difference
    assert [row.value for row in rows if row.unit == "points"] == [-2.0, 1.0]
    assert {row.name: row.verdict for row in fitted if row.goal is not None} == {
        "c seconds to a classifier, ours over SetFit": "met",
        "c predictions a second, together, ours over SetFit": "met",
        "c predictions a second, one by one, ours over SetFit": "met",
        "c accuracy, ours less SetFit": "MISSED",
    }


def test_work_is_done_once_and_on_until_it_was_long_enough() -> None:
    done: list[int] = []

    assert timed(lambda: done.append(1), 0.0)[0] > 0
    assert len(done) == 1
    timed(lambda: done.append(1), 0.01)
    assert len(done) > 2


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IMPRINT_DATA", raising=False)
        algorithms.lay_out(folder, episodes=2)
    return folder


def checked(turns: Turns, folder: Path, work: Work, file: Path) -> torch.Tensor:
    turns({"folder": str(folder / algorithms.kind_of(work)), "work": vars(work)})
    turns({"file": str(file)})
    return load_file(file)["scores"]


def test_our_prototypes_and_attention_are_those_of_the_papers(episodes: Path, tmp_path: Path) -> None:
    found = {}
    for method in ("protonet", "matching"):
        own = Turns(ours, lambda _, scores: scores, scaled=False)
        found[method] = checked(own, episodes, Work(method, images=False), tmp_path / "ours")
    stored = load_file(episodes / "embeddings" / EPISODES_FILE)
    task = Task(*(stored[name][0] for name in Task._fields))
    support, queries = task.support.double(), task.queries.double()
    means = torch.stack([support[task.support_labels == label].mean(0) for label in range(5)])
    cosines = (queries @ support.T).softmax(1)
    shares = torch.stack([cosines[:, task.support_labels == label].sum(1) for label in range(5)], 1)

    assert torch.allclose(found["protonet"][:75], -torch.cdist(queries, means).square())
    assert torch.allclose(found["matching"][:75], shares.log(), atol=1e-6)


def test_maml_of_ours_gives_the_scores_that_higher_gives(episodes: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("higher") is None:
        pytest.skip("higher is not installed")
    rival, work = algorithms.RIVALS[-1], Work("maml", steps=2)
    own, other = Turns(ours, lambda _, scores: scores, scaled=False), Turns(theirs, as_ours, scaled=True)

    found = [checked(one, episodes, work, tmp_path / "scores") for one in (own, other)]

    algorithms.compare(rival, *found)


def test_scores_that_differ_are_refused() -> None:
    rival = algorithms.RIVALS[0]

    algorithms.compare(rival, torch.ones(3), torch.ones(3))
    with pytest.raises(algorithms.Disagreement, match="prototypes, conv4: the scores of ours and of easyfsl differ"):
        algorithms.compare(rival, torch.ones(3), torch.tensor([1.0, 1.0, 1.001]))
    with pytest.raises(algorithms.Disagreement):
        algorithms.compare(rival, torch.ones(3), torch.tensor([1.0, 1.0, torch.nan]))


def test_a_peer_answers_in_its_own_process_and_what_it_said_before_it_ended_is_told(
    episodes: Path, tmp_path: Path
) -> None:
    work, answers = vars(Work("maml", steps=1)), []

    def ask_for_what_is_there_and_what_is_not() -> None:
        with waiting(Path(sys.executable), algorithms.PEER_MODULE, tmp_path) as other:
            answers.append(other.ask({"folder": str(episodes / "images"), "work": work}))
            answers.append(other.ask({"folder": str(tmp_path), "work": work}))

    with pytest.raises(RuntimeError, match="ended with status") as caught:
        ask_for_what_is_there_and_what_is_not()

    assert answers == [2]
    assert WEIGHTS_FILE in "".join(caught.value.__notes__)
