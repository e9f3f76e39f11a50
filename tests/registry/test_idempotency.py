"""Requests that must not run twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.registry.errors import KeyInFlight, KeyReused
from app.registry.records import Replay

BODY, OTHER_BODY = "1" * 64, "2" * 64
SCOPE = "POST /v1/tasks"
ANSWER = Replay(status=201, headers={"Location": "/v1/tasks/tsk_1", "ETag": '"1.1"'}, body=b'{"id":"tsk_1"}')


@pytest.fixture
def keys(registry):
    return registry.idempotency


def test_the_first_request_runs_and_a_replay_returns_its_answer(keys):
    assert keys.begin("k", SCOPE, BODY) is None
    keys.finish("k", SCOPE, ANSWER)
    assert keys.begin("k", SCOPE, BODY) == ANSWER
    assert keys.begin("k", SCOPE, BODY) == ANSWER


def test_a_second_request_while_the_first_runs_is_told_to_come_back(keys):
    keys.begin("k", SCOPE, BODY)
    with pytest.raises(KeyInFlight) as caught:
        keys.begin("k", SCOPE, BODY)
    assert caught.value.retry_after_s > 0


@pytest.mark.parametrize("finished", [False, True])
def test_another_body_under_the_same_key_is_refused(keys, finished):
    keys.begin("k", SCOPE, BODY)
    if finished:
        keys.finish("k", SCOPE, ANSWER)
    with pytest.raises(KeyReused):
        keys.begin("k", SCOPE, OTHER_BODY)


def test_one_key_in_two_scopes_is_two_keys(keys):
    keys.begin("k", SCOPE, BODY)
    assert keys.begin("k", "POST /v1/tasks/import", OTHER_BODY) is None


def test_a_forgotten_key_may_run_again_but_an_answer_is_not_forgotten(keys):
    keys.begin("k", SCOPE, BODY)
    keys.forget("k", SCOPE)
    assert keys.begin("k", SCOPE, BODY) is None
    keys.finish("k", SCOPE, ANSWER)
    keys.forget("k", SCOPE)
    assert keys.begin("k", SCOPE, BODY) == ANSWER


def test_an_answer_expires_after_a_day(keys, clock):
    keys.begin("k", SCOPE, BODY)
    keys.finish("k", SCOPE, ANSWER)
    clock.pass_time(hours=23.9)
    assert keys.begin("k", SCOPE, BODY) == ANSWER
    clock.pass_time(hours=0.2)
    assert keys.begin("k", SCOPE, OTHER_BODY) is None


def test_a_key_whose_process_died_in_flight_is_free_after_some_minutes(keys, clock):
    keys.begin("k", SCOPE, BODY)
    clock.pass_time(minutes=9)
    with pytest.raises(KeyInFlight):
        keys.begin("k", SCOPE, BODY)
    clock.pass_time(minutes=2)
    assert keys.begin("k", SCOPE, BODY) is None


def test_of_concurrent_requests_with_one_key_exactly_one_runs(keys):
    def begin(_: int) -> bool:
        try:
            return keys.begin("k", SCOPE, BODY) is None
        except KeyInFlight:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(16))) == 1


def test_an_answer_outlives_a_restart(open_registry):
    first = open_registry()
    first.idempotency.begin("k", SCOPE, BODY)
    first.idempotency.finish("k", SCOPE, ANSWER)
    first.close()
    assert open_registry().idempotency.begin("k", SCOPE, BODY) == ANSWER
