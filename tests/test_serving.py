"""The explorer as a server: it opens what it was allowed to open, and answers its own pages only."""

import asyncio
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ar_interp as ari

streamlit = pytest.importorskip("streamlit", reason="the explorer needs the extra 'app'")

SHIPPED = ari.checkpoints.trained_folder() / "positional-mu100"
HERE = "127.0.0.1:8501"


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "apps")
    monkeypatch.setenv("AR_INTERP_ALLOW", "")
    monkeypatch.setattr("streamlit.get_option", lambda name: "127.0.0.1")
    return import_module("serving")


def test_folders_are_opened_below_those_that_were_allowed_and_no_others(serving, monkeypatch, tmp_path):
    inside = shutil.copytree(SHIPPED, tmp_path / "allowed" / "mine")
    outside = shutil.copytree(SHIPPED, tmp_path / "secret")
    (tmp_path / "allowed" / "link").symlink_to(outside)
    monkeypatch.setattr(sys, "argv", ["explorer.py", "--allow", str(tmp_path / "allowed")])
    serving.take_arguments()
    assert serving.load("positional-mu100").name == "positional-mu100"
    assert serving.load(str(inside)).path == inside
    assert [Path(found).name for found in serving.allowed_checkpoints()] == ["mine"]
    refused = [
        outside,
        inside / ".." / ".." / "secret",
        tmp_path / "allowed" / "link",
        "/root",
        tmp_path / "no such",
        "",
    ]
    for folder in refused:  # one answer, whether it is there or not
        with pytest.raises(PermissionError, match="was allowed to open when it was started"):
            serving.load(str(folder))


def test_a_folder_that_is_not_there_cannot_be_allowed(serving, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["explorer.py", "--allow", "/no/such/folder"])
    with pytest.raises(SystemExit) as ended:
        serving.take_arguments()
    assert ended.value.code == 2
    assert "--allow must name a folder, got '/no/such/folder'" in capsys.readouterr().err
    assert not os.environ["AR_INTERP_ALLOW"]


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        (HERE, None, True),
        (HERE, f"http://{HERE}", True),
        ("localhost:9", "http://127.0.0.1:8000", True),
        ("[::1]:9", None, True),
        (HERE, "http://evil.example", False),
        (HERE, "null", False),
        ("evil.example:8501", None, False),  # a name that was bound anew to this machine
        ("evil.example:8501", "http://evil.example:8501", False),
        ("", None, False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_own_pages_alone_are_answered(serving, host, origin, own, kind):
    sent, passed = [], []

    async def app(scope, receive, send):
        passed.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    asyncio.run(serving.OwnPagesOnly(app)({"type": kind, "headers": headers}, None, send))
    assert bool(passed) is own
    if own:
        assert b"default-src 'self'" in dict(sent[0]["headers"])[b"content-security-policy"]
    else:
        assert (sent[0].get("status"), sent[0].get("code")) in ((403, None), (None, 1008))


@pytest.mark.parametrize(("method", "status", "ends"), [("PUT", 403, True), ("PUT", 204, False), ("GET", 404, False)])
def test_a_refused_upload_ends_with_its_connection(serving, method, status, ends):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": [(b"host", HERE.encode())]}
    asyncio.run(serving.OwnPagesOnly(app)(scope, None, send))
    assert ((b"connection", b"close") in sent[0]["headers"]) is ends


def test_the_settings_lie_beside_the_explorer_and_keep_it_on_this_machine():
    import tomllib

    settings = tomllib.loads((Path(__file__).parents[1] / "apps" / ".streamlit" / "config.toml").read_text("utf-8"))
    assert settings["server"]["address"] == "127.0.0.1"
    assert settings["browser"]["gatherUsageStats"] is False
    assert "base" not in settings["theme"]  # light or dark as the visitor's system has it
