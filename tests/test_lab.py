"""JupyterLab as a user opens it: explore.ipynb runs top to bottom in a real browser, and its tables are seen."""

from __future__ import annotations

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

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.local, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]


@contextmanager
def lab(root: Path, home: Path) -> Iterator[str]:
    "A JupyterLab server for the time of a `with`; its address with the token."
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
            yield f"http://127.0.0.1:{port}/lab/tree/experiments/pydocs/explore.ipynb?token={token}&reset"
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.mark.timeout(600)
def test_explore_runs_in_jupyterlab(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    project, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    shutil.copytree(ROOT / "experiments", project / "experiments", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (project / "settings.ini").write_text(f"[llmops]\nmodel = local/smollm2-135m\nstate = {ROOT / '.llmops'}\n")
    errors: list[str] = []
    with lab(project, home) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(180_000)
        expect.set_options(timeout=300_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"))
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        table = page.locator(".jp-OutputArea-output table", has_text="task_success").last
        page.wait_for_function("document.querySelectorAll('.jp-OutputArea-output table tbody tr').length > 10", timeout=400_000)
        expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"))
        table.scroll_into_view_if_needed()
        assert page.locator(".jp-OutputArea-output table", has_text="groundedness").count() >= 1
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
        if shots := os.environ.get("LLMOPS_SHOTS"):
            page.screenshot(path=f"{shots}/lab.png")
        browser.close()
    runs = list((project / "reports" / "pydocs").glob("*/records.jsonl"))
    assert len(runs) == 1 and len(runs[0].read_text().splitlines()) == 6
    assert errors == []
