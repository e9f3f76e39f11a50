"""Writes docs/openapi.json: `python -m tests.write_openapi`."""

import json
from pathlib import Path

from app.main import create_app

TARGET = Path(__file__).parents[1] / "docs/openapi.json"

if __name__ == "__main__":
    document = create_app().openapi()
    TARGET.write_text(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
