"""The house's own rules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_go_down_only():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_source_files_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*ROOT.glob("app/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}
