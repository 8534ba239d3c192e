"""A real JupyterLab and a page of it in headless Chromium, for the tests that drive one."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@contextmanager
def lab(root: Path, home: Path) -> Iterator[str]:
    "A JupyterLab server over the files in `root` for the time of a `with`; its address, to be filled with a path: address.format(…)."
    home.mkdir(parents=True, exist_ok=True)
    setting(home, "notification", '{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = {"JUPYTER_CONFIG_DIR": "c", "JUPYTER_DATA_DIR": "d", "JUPYTER_RUNTIME_DIR": "r", "IPYTHONDIR": "i"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    with open(home / "lab.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {name: str(home / value) for name, value in places.items()})
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                    break
                except (urllib.error.URLError, OSError):
                    assert server.poll() is None, (home / "lab.log").read_text()
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


def setting(home: Path, name: str, value: str) -> None:
    "A setting of a JupyterLab that is about to start in `home`."
    path = home / "c" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)


def dark(home: Path) -> None:
    "Make a JupyterLab that is about to start in `home` a dark one."
    setting(home, "themes", '{"theme": "JupyterLab Dark"}')


@contextmanager
def browser_page(address: str, errors: list[str], width: int = 1280, height: int = 1000, patience: int = 180_000) -> Iterator[Any]:
    "A page of headless Chromium showing a notebook whose kernel is idle; what goes wrong in its scripts is added to `errors`."
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(patience)
        expect.set_options(timeout=patience)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        idle(page)
        try:
            yield page
        finally:
            browser.close()


def idle(page: Any) -> None:
    "Wait until the kernel of the notebook in front is idle."
    from playwright.sync_api import expect

    expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"))


def menu(page: Any, *names: str) -> None:
    "Choose from the menu, as menu(page, \"Run\", \"Run All Cells\")."
    for name in names:  # A menu item's name may end with its keys
        page.get_by_role("menuitem", name=re.compile(rf"^{re.escape(name)}(?! ?[A-Za-z])")).first.click()


def shot(page: Any, name: str) -> None:
    "A screenshot for people, when LLMOPS_SHOTS names a directory for it."
    if place := os.environ.get("LLMOPS_SHOTS"):
        page.screenshot(path=f"{place}/{name}.png")


def notebook(path: Path, *sources: str) -> Path:
    "Write a notebook of code cells that have not run."
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "code", "id": f"cell{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source} for n, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}))
    return path
