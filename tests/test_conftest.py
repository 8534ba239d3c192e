"""A test that did not run is not a test that passed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

SKIPS = {
    "call": "import pytest\ndef test_it(): pytest.skip('no browser')",
    "mark": "import pytest\n@pytest.mark.skip(reason='no browser')\ndef test_it(): ...",
    "module": "import pytest\npytest.skip('no browser', allow_module_level=True)",
}


@pytest.mark.parametrize("kind", SKIPS)
@pytest.mark.parametrize("allowed", [True, False])
def test_a_skip_fails_when_it_is_not_allowed(tmp_path: Path, kind: str, allowed: bool) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPS[kind])
    environment = {**os.environ, "LLMOPS_NO_SKIP": "" if allowed else "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", tmp_path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "no browser" in done.stdout
    assert (done.returncode in (0, 5)) == allowed, done.stdout
