"""JupyterLab as a user opens it: explore.ipynb runs top to bottom in a real browser, and its tables are seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lab import browser_page, idle, lab, menu, needs_chromium, shot
from project import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.local, needs_chromium]


@pytest.mark.timeout(600)
def test_explore_runs_in_jupyterlab(tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    shutil.copytree(ROOT / "experiments", project / "experiments", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (project / "settings.ini").write_text(f"[llmops]\nmodel = local/smollm2-135m\nstate = {ROOT / '.llmops'}\n")
    errors: list[str] = []
    with lab(project, home) as address, browser_page(address.format("experiments/pydocs/explore.ipynb"), errors, patience=300_000) as page:
        menu(page, "Run", "Run All Cells")
        table = page.locator(".jp-OutputArea-output table", has_text="task_success").last
        page.wait_for_function("document.querySelectorAll('.jp-OutputArea-output table tbody tr').length > 10", timeout=400_000)
        idle(page)
        table.scroll_into_view_if_needed()
        assert page.locator(".jp-OutputArea-output table", has_text="groundedness").count() >= 1
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
        shot(page, "lab")
    runs = list((project / "reports" / "pydocs").glob("*/records.jsonl"))
    assert len(runs) == 1 and len(runs[0].read_text().splitlines()) == 6
    assert errors == []
