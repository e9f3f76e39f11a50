"""The code of the README and of the docs runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from app.demo.show import LOG, free_port, start_server, stop, wait_until_ready

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

PAGES = sorted(str(one.relative_to(ROOT)) for one in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])

# TASK is the id of the last task that an answer showed, as a reader would take it over.
CURL = """
curl() {
  local out
  out=$(command curl --fail-with-body "$@" 2>&1 | tr -d '\\0') || { echo "FAILED: $* -> $out" >&2; exit 1; }
  echo "$out"
  case "$out" in '{"id":"tsk_'*) TASK=$(echo "$out" | sed 's/{"id":"\\([^"]*\\)".*/\\1/') ;; esac
}
set -o pipefail
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs-server")
    port = free_port(0)
    server = start_server(port, folder)
    address = f"http://127.0.0.1:{port}"
    wait_until_ready(address, server, folder / LOG)
    yield address
    stop(server)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_curl_commands_of_a_page_work(page, url, tmp_path):
    blocks = [one for one in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if "curl" in one]
    assert len(blocks) >= 3
    script = CURL + "\n".join(blocks).replace("http://127.0.0.1:8000", url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"predictions":[{"index":0' in done.stdout


def test_the_measuring_command_of_the_operators_page_works(tmp_path):
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (block,) = [one for one in BLOCK.findall(page) if "imprint bench" in one]
    script = f'imprint() {{ {shlex.quote(sys.executable)} -m app "$@"; }}\n{block}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", script], capture_output=True, text=True, cwd=tmp_path, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vector-identity: " in done.stdout
    assert json.loads((tmp_path / "bench.json").read_text())["backbones"][0]["backbone"] == "vector-identity"


@pytest.mark.parametrize("example", sorted(one.name for one in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(example, url):
    command = [sys.executable, str(ROOT / "examples" / example), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "refund" in done.stdout


def test_the_learner_of_the_docs_is_a_learner():
    page = (ROOT / "docs/add-a-learner.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    check = """
import torch
from app.backbones import build
learner = Nearest(build("identity", {}), Settings())
state = learner.fit(torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 4.0]]), torch.tensor([0, 0, 1]), 2)
logits = learner.score(state, torch.tensor([[1.0, 2.0], [4.0, 4.0]]))
assert logits.argmax(1).tolist() == [0, 1], logits
assert torch.allclose(logits[0], torch.tensor([-1.0, -(13**0.5)])), logits
"""
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target
