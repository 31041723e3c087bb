"""The explorer as a server: what it opens, who may talk to it, and what it makes ready before its first visitor.

Nothing leaves the machine: the server listens on this machine only (.streamlit/config.toml), answers pages of its own
and no others, and tells browsers to fetch from nowhere else.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import os
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import plotly
import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime.pages_manager import PagesManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

import ar_interp as ari

ALLOWED = "AR_INTERP_ALLOW"  # environment variable: folders below which checkpoints are opened, as in PATH
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
STYLE = f"<style>{(Path(__file__).with_name('assets') / 'page.css').read_text('utf-8')}</style>".encode()
SOON = b'<link rel="preload" as="script" href="/plotly/plotly.min.js">'
CLOSES = (b"connection", b"close")  # of a refusal: else what is still sent, without end perhaps, is read to no purpose
FIRST_PAGE = "story"
PAGES = {file.stem for file in Path(__file__).with_name("pages").glob("*.py")} - {FIRST_PAGE}
_IMPORTING, _STATE = threading.Lock(), set[str]()
REFUSED = (
    "This explorer opens the shipped checkpoints, and folders that it was allowed to open when it was started: "
    "streamlit run apps/explorer.py -- --allow FOLDER"
)


def starts() -> bool:
    """Whether the server starts; else a page is shown to a visitor."""
    return get_script_run_ctx(suppress_warning=True) is None


def take_arguments() -> None:
    """The folders after `--` on the command line become allowed; a wrong one ends the server with a line."""
    parser = argparse.ArgumentParser(prog="streamlit run apps/explorer.py --", description=__doc__)
    parser.add_argument("--allow", action="append", default=[], metavar="FOLDER", help="open checkpoints below it")
    folders = parser.parse_args(sys.argv[1:]).allow
    for folder in folders:
        if not os.path.isdir(folder):
            parser.error(f"--allow must name a folder, got {folder!r}")
    before = os.environ.get(ALLOWED, "").split(os.pathsep)
    os.environ[ALLOWED] = os.pathsep.join(filter(None, [*before, *map(os.path.abspath, folders)]))


def allowed_folders() -> list[Path]:
    """The folders below which checkpoints are opened."""
    return [Path(folder) for folder in os.environ.get(ALLOWED, "").split(os.pathsep) if folder]


def allowed_checkpoints() -> list[str]:
    """The checkpoints in the allowed folders, or one level below."""
    found = [path.parent for folder in allowed_folders() for path in _configs(folder) if _allowed(path.parent)]
    return list(dict.fromkeys(map(str, found)))


def load(chosen: str) -> ari.Checkpoint:
    """A shipped checkpoint by its name, or one in an allowed folder by its path.

    Raises:
        PermissionError: any other folder, without a look at it; the same words whether it exists or not.
        CheckpointError: see `ar_interp.load`.
    """
    if chosen in ari.available():
        return ari.load(chosen)
    folder = _allowed(Path(os.path.abspath(chosen)))
    if folder is None:
        raise PermissionError(REFUSED)
    return ari.load(folder)


def _allowed(path: Path) -> Path | None:
    """Where a path leads, if it and what it leads to lie below an allowed folder."""
    for folder in allowed_folders():
        if path.is_relative_to(folder):  # before anything of the path is looked at
            real = Path(os.path.realpath(path))
            if real.is_relative_to(os.path.realpath(folder)):
                return real
    return None


def _configs(folder: Path) -> list[Path]:
    try:
        return [path for pattern in ("config.json", "*/config.json") for path in sorted(folder.glob(pattern))]
    except OSError:
        return []


def import_all() -> None:
    """The heavy imports, once, and out of the garbage collector's sight."""
    with _IMPORTING:
        if "ready" in _STATE:
            return
        usual = sys.getswitchinterval()
        sys.setswitchinterval(usual / 20)  # pages and their files are served meanwhile, in many short turns
        gc.disable()  # a sixth of the time goes into looking for garbage, of which imports leave little
        for name in ("models.transformer", "figures", "studies"):
            import_module(f"ar_interp.{name}")
        import plotly.io
        import torch

        plotly.io.templates.default = None  # figures name their own, and copying the default takes a third of a drawing
        torch.set_num_threads(1)  # two fall over each other when another session or process is busy
        sys.setswitchinterval(usual)
        gc.enable()
        gc.collect()
        gc.freeze()
        _STATE.add("ready")


def is_ready() -> bool:
    """The heavy imports are done."""
    return "ready" in _STATE


@asynccontextmanager
async def warm_up(app: st.App) -> AsyncIterator[None]:
    """While the server runs: import what pages need, and open the first page where there is a screen."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    PagesManager.uses_pages_directory = False  # pages are those of view.navigation, for the very first visitor too
    threading.Thread(target=import_all, daemon=True).start()
    if not st.get_option("server.headless"):
        address = f"http://{st.get_option('server.address')}:{st.get_option('server.port')}"
        threading.Timer(1.0, webbrowser.open, [address]).start()
    yield


class OwnPagesOnly:
    """Refuses requests that name another host or come from another site, and tells browsers to fetch from here only.

    A server that was started with another address than this machine's own, on purpose, is open to that address.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not is_own(headers.get(b"host", ""), headers.get(b"origin")):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            await send({"type": "http.response.start", "status": 403, "headers": [CLOSES]})
            return await send({"type": "http.response.body", "body": b"This explorer answers its own pages only.\n"})

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
                if message["status"] >= 400 and scope["method"] != "GET":
                    message["headers"].append(CLOSES)
            await send(message)

        return await self.app(scope, receive, send_with_policy)


class KnownPagesOnly:
    """Leads to the first page, which has no name in the URL, from its own name and from those of no page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope.get("path", "").strip("/")
        is_page = b"text/html" in dict(scope.get("headers", ())).get(b"accept", b"") and not {"/", "."} & set(asked)
        if not is_page or asked in ("", *PAGES):
            return await self.app(scope, receive, send)
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        unknown = [] if asked == FIRST_PAGE else [("no_page", asked)]
        return await RedirectResponse(f"/?{urlencode([*query, *unknown])}")(scope, receive, send)


class EarlyInThePage:
    """Has pages know their style before streamlit shows anything, and load plotly.js while streamlit starts."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or b"text/html" not in headers.get(b"accept", b""):
            return await self.app(scope, receive, send)
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message = {}
        page = b""

        async def send_with_style(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start":
                start = message
                return
            page += message.get("body", b"")
            if message.get("more_body"):
                return
            early = b"" if scope["path"] == "/" else SOON  # the story has no such figures
            page = page.replace(b"</head>", STYLE + early + b"</head>", 1)
            others = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*others, (b"content-length", str(len(page)).encode())]})
            await send({"type": "http.response.body", "body": page})

        return await self.app({**scope, "headers": plain}, receive, send_with_style)


def is_own(host: str, origin: str | None) -> bool:
    """Whether a request with these headers is one of the explorer's own pages."""
    if is_local(str(st.get_option("server.address"))) and not is_local(urlsplit(f"//{host}").hostname or ""):
        return False
    if origin is None:
        return True
    theirs = urlsplit(origin)
    return theirs.netloc == host or (is_local(theirs.hostname or "") and is_local(urlsplit(f"//{host}").hostname or ""))


def is_local(host: str) -> bool:
    """Whether a name is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


MIDDLEWARE: list[Any] = [Middleware(part) for part in (OwnPagesOnly, KnownPagesOnly, EarlyInThePage)]
ROUTES: list[Any] = [Mount("/plotly", StaticFiles(directory=Path(plotly.__file__).parent / "package_data"))]
