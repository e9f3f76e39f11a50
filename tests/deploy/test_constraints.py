"""constraints.txt: one exact version of everything that pyproject.toml asks for."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture
def wanted(project):
    extras = project["project"]["optional-dependencies"].values()
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    return [Requirement(line) for line in lines + [line for extra in extras for line in extra]]


def test_every_requirement_is_pinned_to_a_version_that_it_allows(wanted, pins):
    missing = [str(one) for one in wanted if canonicalize_name(one.name) not in pins]
    assert missing == [], "not in constraints.txt: run `make constraints`"
    outside = [str(one) for one in wanted if not one.specifier.contains(pins[canonicalize_name(one.name)])]
    assert outside == [], "pinned to another version: run `make constraints`"


def test_pins_are_exact_and_public(pins):
    for name, version in pins.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert Version(version).local is None, f"{name} is pinned to a build that only some indexes have"


def test_no_name_is_pinned_twice(root, pins):
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    assert len(lines) == len(pins)


def test_no_line_names_an_index_or_a_file(root):
    text = (root / "constraints.txt").read_text()
    assert "://" not in text
    assert " @ " not in text
