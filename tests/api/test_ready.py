"""What `create_app` is asked to do once everything is open."""

from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app


def test_when_ready_is_called_once_after_all_is_open(tmp_path):
    seen = []
    settings = Settings(data_dir=tmp_path, device="cpu", backbones="vector-identity")
    app = create_app(settings, when_ready=lambda: seen.append(app.state.services.engine.health().ok))
    assert seen == []
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 200
    assert seen == [True]
