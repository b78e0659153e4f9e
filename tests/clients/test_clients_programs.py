import json

import pytest
from programs import FOLDER, MODULES, need_clients


@pytest.fixture
def without_clients(monkeypatch, tmp_path):
    monkeypatch.setattr("programs.CLAUDE", tmp_path / "none")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("SPD_TOOLS_REQUIRE_CLIENTS", raising=False)


@pytest.mark.parametrize("variable", ["CI", "SPD_TOOLS_REQUIRE_CLIENTS"])
def test_missing_clients_fail_where_they_are_required(without_clients, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="make clients"):
        need_clients()


def test_missing_clients_skip_with_a_reason_elsewhere(without_clients):
    with pytest.raises(pytest.skip.Exception, match="make clients"):
        need_clients()


def test_the_installed_clients_are_those_that_are_asked_for(clients):
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    installed = {name: json.loads((MODULES / name / "package.json").read_text())["version"] for name in wanted}
    assert installed == wanted
