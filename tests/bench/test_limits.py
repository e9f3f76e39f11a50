"""Which part binds, of made-up seconds."""

import pytest

from app.bench.limits import BOUND, MORE, Busy, Part, binding, verdict
from app.bench.run import more_of

DEVICE = "the device thread's time"
QUIET = {"backbone": 0.1, "heads": 0.1, "decode": 0.1, "HTTP": 0.1, "database": 0.1}


def busy(seconds=2.0, own=0.1, idle=0.5, cores=4, server=None, lanes=4, **parts) -> Busy:
    used = QUIET | parts
    places = {"backbone": DEVICE, "heads": DEVICE, "decode": "the time of 4 decoding threads", "HTTP": "the event loop"}
    found = [
        Part(name, spent, lanes if name == "decode" else 1, places.get(name, "the writer"))
        for name, spent in used.items()
    ]
    return Busy(seconds, 100, found, sum(used.values()) if server is None else server, own, cores, idle)


@pytest.mark.parametrize(
    ("parts", "name", "share"),
    [
        ({"backbone": 1.8}, "backbone", "90 %"),
        ({"heads": 1.7}, "heads", "85 %"),
        ({"HTTP": 1.9}, "HTTP", "95 %"),
        ({"decode": 7.6}, "decode", "95 %"),
        ({"database": 2.0}, "database", "100 %"),
    ],
)
def test_the_part_that_is_busy_all_the_time_binds(parts, name, share):
    seen = busy(**parts)
    assert binding(seen).name == name
    assert verdict(seen).startswith(f"{BOUND[name]} ({share} of ")
    assert MORE[name] in verdict(seen)


def test_many_seconds_over_many_threads_are_less_than_few_on_one():
    assert binding(busy(decode=4.0, HTTP=1.6)).name == "HTTP"
    assert binding(busy(decode=4.0, HTTP=1.6, lanes=2)).name == "decode"


def test_what_shares_the_device_thread_binds_together_and_the_larger_is_named():
    seen = busy(backbone=0.7, heads=1.1)
    assert binding(seen).name == "heads"
    assert "the heads bind (55 % of the device thread's time; 90 % with what shares it)" in verdict(seen)


def test_where_nothing_is_busy_more_clients_are_called_for():
    assert binding(busy()) is None
    assert "no part is at its limit" in verdict(busy())
    assert "--clients" in verdict(busy())


def test_a_load_at_its_own_limit_is_said():
    seen = busy(own=1.9)
    assert "--clients" not in verdict(seen)
    assert "The load was at its own limit (95 % of one core)" in verdict(seen)
    assert "The load was at its own limit" in verdict(busy(own=1.9, HTTP=1.9))


def test_full_cores_bind_where_no_part_does():
    seen = busy(idle=0.02, decode=5.0, server=7.0)
    assert binding(seen) is None
    assert verdict(seen).startswith("the cores bind (98 % of 4 busy), of the server's parts most of all decode")


def test_what_else_takes_full_cores_is_said():
    assert "Other programs took 50 % of the cores" in verdict(busy(idle=0.0, server=3.6, own=0.4))
    assert "The load itself took 19 % of the cores" in verdict(busy(idle=0.0, server=6.4, own=1.5))
    assert "took" not in verdict(busy(idle=0.0, server=7.6, own=0.4))
    assert "took" not in verdict(busy(idle=0.5, server=1.0, own=0.4))


def test_a_system_that_tells_nothing_of_its_cores_is_judged_by_the_device_alone():
    seen = Busy(2.0, 100, [Part("backbone", 1.9, 1, DEVICE), Part("heads", 0.0, 1, DEVICE)], None, 0.1, 4)
    assert verdict(seen) == "the backbone binds (95 % of the device thread's time); for more: a faster device."


@pytest.mark.parametrize(
    ("modality", "executor", "device", "fast"),
    [
        ("image", "torch", "cpu", True),
        ("text", "torch", "cpu", True),
        ("image", "onnxruntime", "cpu", False),
        ("vector", "torch", "cpu", False),
        ("image", "torch", "cuda", False),
    ],
)
def test_faster_executors_are_advised_where_there_are_any(modality, executor, device, fast):
    advised = more_of(modality, executor, device)
    assert ("`fast`" in advised["backbone"]) is fast
    assert {**advised, "backbone": MORE["backbone"]} == MORE


def test_milliseconds_a_prediction():
    seen = busy(backbone=1.5)
    assert seen.each_ms(seen.parts[0]) == pytest.approx(15.0)
    assert seen.own_occupancy(seen.parts[0]) == pytest.approx(0.75)
    assert seen.occupancy(seen.parts[0]) == pytest.approx(0.8)
