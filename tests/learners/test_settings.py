"""Settings from outside: what is refused, where the pointer points, what the schema says."""

import pytest

from app.core.errors import InvalidSetting, UnknownName
from app.learners import build, learner_class, learner_names, parse_settings, settings_schema


@pytest.mark.parametrize("name", learner_names())
def test_no_settings_are_the_defaults(name):
    assert parse_settings(name, {}) == learner_class(name).Settings()


@pytest.mark.parametrize("name", learner_names())
def test_the_schema_lists_each_setting_with_its_default_and_a_description(name):
    schema = settings_schema(name)
    assert schema["additionalProperties"] is False
    defaults = {field: entry["default"] for field, entry in schema["properties"].items()}
    assert parse_settings(name, defaults) == learner_class(name).Settings()
    assert all(entry["description"] for entry in schema["properties"].values())


def test_the_schema_holds_the_range():
    entry = settings_schema("protonet")["properties"]["temperature"]
    assert entry["type"] == "number"
    assert entry["exclusiveMinimum"] == 0.0
    assert entry["maximum"] == 1e6


@pytest.mark.parametrize(
    ("mapping", "pointer", "says"),
    [
        ({"temprature": 1.0}, "/temprature", "no setting"),
        ({"a/b~c": 1.0}, "/a~1b~0c", "no setting"),
        ({"temperature": "hot"}, "/temperature", "type number"),
        ({"temperature": True}, "/temperature", "type number"),
        ({"temperature": None}, "/temperature", "type number"),
        ({"temperature": 0.0}, "/temperature", "above 0"),
        ({"temperature": 1e7}, "/temperature", "at most"),
        ({"temperature": float("nan")}, "/temperature", "finite"),
        ({"temperature": float("inf")}, "/temperature", "finite"),
        ({"temperature": 10**400}, "/temperature", "finite"),
        ({"relative": 1}, "/relative", "type boolean"),
    ],
)
def test_a_bad_setting_is_refused_with_a_pointer_to_it(mapping, pointer, says):
    with pytest.raises(InvalidSetting) as caught:
        parse_settings("protonet", mapping)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]
    assert says in caught.value.faults[0].detail


def test_every_bad_setting_is_named_at_once():
    with pytest.raises(InvalidSetting) as caught:
        parse_settings("ridge", {"regularisation": -1, "scale": 0, "unheard_of": 2})
    assert {fault.pointer for fault in caught.value.faults} == {"/regularisation", "/scale", "/unheard_of"}


def test_a_whole_number_serves_as_a_number():
    settings = parse_settings("ridge", {"scale": 20})
    assert settings == parse_settings("ridge", {"scale": 20.0})
    assert isinstance(settings.scale, float)


def test_settings_made_in_code_are_checked_too():
    with pytest.raises(InvalidSetting):
        learner_class("matching").Settings(temperature=-1.0)


def test_an_unknown_learner_is_named_with_the_known_ones(same):
    with pytest.raises(UnknownName, match="protonet"):
        build("perceptron", same, {})


def test_a_file_with_an_underscore_is_no_learner():
    assert not any(name.startswith("_") for name in learner_names())
