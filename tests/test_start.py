"""A start imports, opens and draws no more than it needs. Seconds are measured by `benchmarks.engine start`."""

import json
import subprocess
import sys
from collections import Counter

from app.registry.repository import Registry

HEAVY = {"torch", "sqlalchemy", "fastapi", "pydantic"}
NOT_FOR_SERVING = {
    "alembic",
    "httpx",
    "matplotlib",
    "mako",
    "onnx",
    "onnxruntime",
    "openvino",
    "scipy",
    "sklearn",
}


def told(script, *arguments):
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def imported(statement):
    packages = "{name.partition('.')[0] for name in sys.modules}"
    return set(told(f"import json, sys; {statement}; print(json.dumps(sorted({packages})))"))


def test_the_server_imports_no_package_that_only_another_command_or_a_migration_needs():
    found = imported("import app.cli, app.main")
    assert found >= HEAVY
    assert sorted(found & NOT_FOR_SERVING) == []


def test_the_server_imports_nothing_of_training():
    modules = told("import json, sys, app.cli, app.main; print(json.dumps(list(sys.modules)))")
    assert "app.services.catalogue" in modules
    assert not [name for name in modules if name.startswith(("app.training", "app.demo", "app.doctor"))]


def test_the_command_line_shows_its_help_without_torch():
    assert not imported("import app.cli") & HEAVY


def test_modules_stay_out_of_the_garbage_collectors_way():
    script = "import gc, json; from app.cli import _uncollected\nwith _uncollected(): within = gc.isenabled()\n"
    assert told(script + "print(json.dumps([within, gc.isenabled(), gc.get_freeze_count() > 0]))") == [
        False,
        True,
        True,
    ]


MIGRATES = """
import json, sys
from pathlib import Path
from app.registry.repository import Registry
registry = Registry(sys.argv[1], Path(sys.argv[2]))
registry.migrate()
print(json.dumps(["alembic" in sys.modules, len(registry.tasks().items)]))
"""


def test_a_database_that_is_up_to_date_is_not_migrated(tmp_path):
    url = f"sqlite:///{tmp_path}/imprint.sqlite"
    assert told(MIGRATES, url, tmp_path) == [True, 0]
    assert told(MIGRATES, url, tmp_path) == [False, 0]
    Registry(url, tmp_path).close()


LOADS = """
import json, sys, threading
opened = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith((".safetensors", "card.json")):
        opened.append([str(arguments[0]), threading.current_thread().name])
from app.checkpoints.load import load_all
from app.config import bundled_models
sys.addaudithook(hook)
loaded, left_out = load_all([bundled_models()])
print(json.dumps([opened, len(loaded), left_out]))
"""


def test_checkpoints_load_beside_each_other_and_read_each_file_once():
    opened, loaded, left_out = told(LOADS)
    assert (loaded > 10, left_out) == (True, {})
    assert set(Counter(path for path, _ in opened).values()) == {1}
    readers = {thread for path, thread in opened if path.endswith("weights.safetensors")}
    assert len(readers) > 1
    assert "MainThread" not in readers
