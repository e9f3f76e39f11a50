"""How the image test hands pip's configuration to the build."""

from scripts.image.pip_settings import PipSettings

SHOWN = """\
:env:.find-links='/env/wheels'
:env:.disable-pip-version-check='1'
global.index-url='https://index.example/simple'
global.extra-index-url='file:///srv/more%20packages/simple\\nhttps://other.example/simple'
global.find-links='/file/wheels'
install.trusted-host='index.example'
user.index-url='https://elsewhere.example'
"""


def test_the_environment_wins_over_files_and_what_is_not_about_indexes_stays_behind():
    settings = PipSettings.parse(SHOWN, {})
    assert settings.values == {
        "index-url": "https://index.example/simple",
        "extra-index-url": "file:///srv/more%20packages/simple\nhttps://other.example/simple",
        "find-links": "/env/wheels",
        "trusted-host": "index.example",
    }


def test_the_configuration_is_written_one_setting_a_line():
    lines = PipSettings.parse(SHOWN, {}).as_config().splitlines()
    assert lines == [
        "[global]",
        "extra-index-url = file:///srv/more%20packages/simple https://other.example/simple",
        "find-links = /env/wheels",
        "index-url = https://index.example/simple",
        "trusted-host = index.example",
    ]


def test_local_folders_are_found_and_an_index_takes_its_files_along(tmp_path):
    (tmp_path / "an index" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    url = (tmp_path / "an index" / "simple").as_uri()
    shown = f"global.extra-index-url='{url}'\nglobal.find-links='{tmp_path}/wheels {tmp_path}/gone'\n"
    settings = PipSettings.parse(shown, {})
    assert settings.local_paths() == [tmp_path / "an index", tmp_path / "wheels"]
    assert settings.without_local_paths().values == {}


def test_a_certificate_of_the_environment_is_taken_where_pip_has_none(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    assert PipSettings.parse("", {"SSL_CERT_FILE": str(bundle)}).values == {"cert": str(bundle)}
    shown = "global.cert='/etc/own.pem'\n"
    assert PipSettings.parse(shown, {"SSL_CERT_FILE": str(bundle)}).values == {"cert": "/etc/own.pem"}
    assert PipSettings.parse("", {"SSL_CERT_FILE": str(tmp_path / "gone.pem")}).values == {}


def test_torch_comes_from_its_own_index_unless_pip_has_others_or_the_caller_says(monkeypatch):
    monkeypatch.delenv("IMAGE_TORCH_INDEX", raising=False)
    assert PipSettings({"timeout": "180"}).build_arguments() == []
    assert PipSettings({"find-links": "/wheels"}).build_arguments() == ["--build-arg=TORCH_INDEX="]
    monkeypatch.setenv("IMAGE_TORCH_INDEX", "https://torch.example")
    assert PipSettings({}).build_arguments() == ["--build-arg=TORCH_INDEX=https://torch.example"]
