"""docker-compose.yml: valid, hardened, and never two servers on one port and one registry."""

import json
import subprocess
import sys

import pytest
import yaml

from app.config import Settings

SERVICES = ("imprint", "imprint-gpu")


def check(path):
    """What `check-jsonschema` says about a compose file; it brings the specification's schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def started(compose, profiles):
    """The services that compose starts: those without a profile, and those with one that is asked for."""
    return {
        name
        for name, service in compose["services"].items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def test_the_file_fits_the_compose_specification(root):
    done = check(root / "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_notices_a_mistake(compose, tmp_path):
    wrong = json.loads(json.dumps(compose))
    wrong["services"]["imprint"]["read_onyl"] = True
    path = tmp_path / "docker-compose.yml"
    path.write_text(yaml.safe_dump(wrong))
    done = check(path)
    assert done.returncode != 0
    assert "read_onyl" in done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_container_can_change_nothing_but_its_data(compose, name):
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert "privileged" not in service
    (scratch,) = service["tmpfs"]
    assert scratch.startswith("/tmp:")
    assert {"noexec", "nosuid", "nodev"} <= set(scratch.split(":")[1].split(","))


@pytest.mark.parametrize("name", SERVICES)
def test_the_registry_lies_in_a_named_volume(compose, image_environment, name):
    assert compose["services"][name]["volumes"] == [f"imprint-data:{image_environment['IMPRINT_DATA_DIR']}"]
    assert "imprint-data" in compose["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_it_is_published_on_this_machine_alone_on_port_8000(compose, image_environment, name):
    assert compose["services"][name]["ports"] == [
        f"${{IMPRINT_PUBLISH:-127.0.0.1:8000}}:{image_environment['IMPRINT_PORT']}"
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_it_checks_health_as_the_image_does_and_starts_again(compose, stages, name):
    service = compose["services"][name]
    (inherited,) = [given for instruction, given in stages[-1] if instruction == "HEALTHCHECK"]
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(inherited.partition(" CMD ")[2])]
    for option in ("interval", "timeout", "start-period", "retries"):
        assert f"--{option}={service['healthcheck'][option.replace('-', '_')]} " in inherited
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_stopping_waits_longer_than_the_server_drains(compose, name):
    grace = compose["services"][name]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > Settings.model_fields["drain_timeout_s"].default


def test_plain_up_starts_the_cpu_server_and_the_gpu_profile_the_gpu_server_alone(root, compose):
    lines = [line for line in (root / ".env").read_text().splitlines() if not line.startswith("#")]
    default = dict(line.split("=", 1) for line in lines)["COMPOSE_PROFILES"].split(",")
    assert started(compose, default) == {"imprint"}
    assert started(compose, ["gpu"]) == {"imprint-gpu"}


def test_the_gpu_server_has_a_cuda_torch_and_a_gpu_and_the_other_has_neither(compose, pins):
    cpu, gpu = (compose["services"][name] for name in SERVICES)
    assert cpu["build"]["args"] == {"TORCH": "cpu"}
    assert "deploy" not in cpu
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert gpu["environment"]["IMPRINT_DEVICE"] == "cuda"
    assert cpu["image"] != gpu["image"]
    torch = gpu["build"]["args"]["TORCH"]
    major, minor = torch.removeprefix("cu")[:-1], torch[-1]
    assert pins["cuda-toolkit"].startswith(f"{major}.{minor}.")
