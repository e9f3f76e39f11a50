"""adaptive-classifier's own server around a new classifier: `python -m ... FOLDER PORT` (its environment, `[serve]`).

A process holds one classifier, as the package has it. Its settings are its own; updates are allowed, because that is
how examples come in.
"""

import importlib
import sys
from typing import Any


def main() -> None:
    """Serve until told to end."""
    folder, port = sys.argv[1:]
    package: Any = importlib.import_module("adaptive_classifier")
    serving: Any = importlib.import_module("adaptive_classifier.serving")
    app = serving.create_app(package.AdaptiveClassifier(folder), allow_updates=True)
    # It has /health; the benchmark asks every server the same way.
    app.add_api_route("/readyz", lambda: {"status": "ok"})
    importlib.import_module("uvicorn").run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
