"""An edit of app.yaml means what was asked for, whatever the file looks like, and keeps the comments where it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from llmops_nb.app import override, read_definition
from llmops_nb.core import ConfigurationError
from llmops_nb.edits import edit_app, edit_prompt, free_name, read_draft

SHAPES = [
    "name: a\nprompt: say.md\n",
    "name: a\nprompt: say.md # why\nmodel: {max_tokens: 16}  # short\nretrieval: {}\n",
    "# top\nname: a\nprompt: 'say.md'\n\nmodel:\n  # inside\n  temperature: 0   # likely\n  alias: \"one # two\"\n\n\nretrieval:\n    top_k: 4\n",
    "name: a\nprompt: >-\n  say.md\nmodel: &m\n  temperature: 0\n",
    "{name: a, prompt: say.md}\n",
]
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2, allow_nan=False),
        "max_tokens": st.integers(1, 4000),
        "top_k": st.integers(1, 50),
        "model": st.text(min_size=1, max_size=12),
        "prompt": st.text("abc/-_.#: '\"é", min_size=1, max_size=20),
        "seed": st.integers(0, 99),
    },
)
UNICODE_BREAKS = {"model": "a\x85b\u2028\u2029"}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES)
@example(values=UNICODE_BREAKS)
def test_the_file_means_what_was_asked_for(shape: str, values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(shape, encoding="utf-8")
    wanted = override(read_definition(path), values)
    edit = edit_app(path, values)
    edit.write()
    assert read_definition(path) == wanted
    assert edit_app(path, values).lines == ()


def test_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(SHAPES[2])
    edit_app(path, {"temperature": 0.25, "top_k": 9}).write()
    assert path.read_text() == SHAPES[2].replace("temperature: 0   # likely", "temperature: 0.25 # likely").replace("top_k: 4", "top_k: 9")


def test_nothing_is_written_over_what_was_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(SHAPES[0])
    edit = edit_app(path, {"top_k": 9})
    path.write_text(SHAPES[0] + "description: new\n")
    with pytest.raises(ConfigurationError, match="has changed since"):
        edit.write()
    prompt = edit_prompt(tmp_path / "say-2.md", "[user]\nHello\n")
    (tmp_path / "say-2.md").write_text("somebody's")
    with pytest.raises(ConfigurationError, match="has changed since"):
        prompt.write()


@pytest.mark.parametrize("name", ["../up.md", ".hidden.md", "no ending", "a/b.md", "x.md\n"])
def test_a_prompt_keeps_to_its_directory(name: str, tmp_path: Path) -> None:
    path = Path(f"{tmp_path}/{name}")
    if path.parent == tmp_path:
        with pytest.raises(ConfigurationError, match="no name for a prompt file"):
            edit_prompt(path, "[user]\nHello\n")


def test_a_draft_sees_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "prompts" / "rules.md").write_text("Be brief.")
    place = tmp_path / "prompts" / free_name(tmp_path / "prompts" / "say-7.md")
    assert place.name == "say-2.md"
    assert read_draft('[user]\n{% include "rules.md" %}', place).render()[0]["content"] == "Be brief."
    with pytest.raises(ConfigurationError):
        read_draft('[user]\n{% include "../secret.md" %}', place)
    with pytest.raises(ConfigurationError, match="no other.md to include"):
        read_draft('[user]\n{% include "other.md" %}', place)
