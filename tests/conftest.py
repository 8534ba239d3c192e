"""For all tests: a skip can be made a failure, experiments are run on few items, docs/build.py can be used.

A skipped test is a test that did not run: LLMOPS_NO_SKIP=1 makes it fail with its reason.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

collect_ignore_glob = ["*.ipynb"]  # Fixtures, not lessons


def refused(report: Any) -> Any:
    "The report, failed instead of skipped when skipping is not allowed."
    if os.environ.get("LLMOPS_NO_SKIP") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"{reason} (LLMOPS_NO_SKIP=1 turns a skip into a failure)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return refused((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return refused((yield))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Notebooks of experiments/ ask a real model: a few questions, fewer for each cell of a sweep, prove that they run, and a slow machine gets its time."
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is not None:
            item.add_marker(pytest.mark.timeout(1200))
            if "parameters" in cell.metadata.get("tags", ()):
                cell.source += f"\nlimit = {4 if 'sweep' in item.nodeid else 8}"


@pytest.fixture(scope="session")
def build() -> ModuleType:
    "docs/build.py, which is no part of the package."
    spec = importlib.util.spec_from_file_location("docs_build", Path(__file__).parent.parent / "docs" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
