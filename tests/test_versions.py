"""The history, labels and way back of prompts, in real git repositories."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops_nb import load_app
from llmops_nb.core import ConfigurationError
from llmops_nb.prompts import load_prompt
from llmops_nb.store import Objects, digest
from llmops_nb.versions import Move, history, load_version, prompts_in, read_trail, roll_back, roll_back_label, set_label, split_name, text_diff, undo

HEAD = "---\nvariables: {question: str}\n---\n"


class Repository:
    "A git repository with an experiment in a directory below its root."

    def __init__(self, root: Path):
        self.root, self.clock = root, 1_760_000_000
        self.prompts = root / "work" / "experiments" / "shop" / "prompts"
        self.prompts.mkdir(parents=True)
        (root / "settings.ini").write_text("[llmops]\nmodel = echo\n")
        (self.prompts.parent / "app.yaml").write_text("name: shop\nprompt: prompts/answer.md\n")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada Lovelace")
        self.git("config", "user.email", "ada@example.org")
        self.file, self.objects = self.prompts / "answer.md", Objects(root / ".llmops" / "objects")

    def git(self, *words: str, who: str = "Ada Lovelace") -> str:
        self.clock += 60
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": who, "GIT_AUTHOR_DATE": f"{self.clock} +0000", "GIT_COMMITTER_DATE": f"{self.clock} +0000"}
        return subprocess.run(["git", *words], cwd=self.root, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, text: str, name: str = "answer.md") -> None:
        path = self.prompts / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def commit(self, text: str, message: str, name: str = "answer.md", who: str = "Ada Lovelace") -> str:
        self.write(text, name)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message, who=who)
        return load_prompt(self.file).digest if self.file.exists() else ""


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def three(repo: Repository) -> tuple[Repository, list[str]]:
    "Three committed versions."
    digests = [repo.commit(f"{HEAD}[user]\n{word} {{{{ question }}}}\n", f"Say {word}") for word in ("one", "two", "three")]
    return repo, digests


# History


def test_every_commit_with_author_date_and_message(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    repo.commit(f"{HEAD}[user]\nfour | {{{{ question }}}}\n", "Say four — “naïve”\n\nA body that is not shown.", who="Zoë")
    found = history(repo.file)
    assert [v.digest for v in found][1:] == digests[::-1]
    assert (found[0].author, found[0].message, found[0].path) == ("Zoë", "Say four — “naïve”", "work/experiments/shop/prompts/answer.md")
    assert found[0].commit == repo.git("rev-parse", "HEAD") and found[0].date.startswith("2025-10-09T")
    repo.write(HEAD + "five")
    assert [(v.commit, v.message) for v in history(repo.file)][0] == ("", "not committed") and len(history(repo.file)) == 5


def test_commits_of_other_files_are_not_part_of_it(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    repo.commit(HEAD + "other", "Another prompt", "other.md")
    assert len(history(repo.file)) == len(digests)


def test_a_renamed_file_keeps_its_history(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    repo.git("mv", "work/experiments/shop/prompts/answer.md", "work/experiments/shop/prompts/reply.md")
    repo.git("commit", "-qm", "Call it reply")
    repo.commit(HEAD + "[user]\nthree and a half {{ question }}\n", "Half more", "reply.md")
    found = history(repo.prompts / "reply.md")
    assert [v.digest for v in found][1:] == [digests[2], *digests[::-1]]
    assert [Path(v.path).name for v in found] == ["reply.md"] * 2 + ["answer.md"] * 3
    assert load_version(f"{repo.prompts / 'reply.md'}@{digests[0][:10]}").text.endswith("one {{ question }}\n")


def test_a_deleted_file_still_has_a_history_and_can_come_back(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    repo.file.unlink()
    repo.git("commit", "-qam", "Away with it")
    assert [v.digest for v in history(repo.file)] == digests[::-1]
    assert roll_back(repo.file, repo.objects).after == digests[2] and load_prompt(repo.file).digest == digests[2]
    undo(repo.file, repo.objects)
    assert not repo.file.exists()


def test_what_is_included_makes_versions_too(repo: Repository) -> None:
    repo.write("Be polite.", "partials/rules.md")
    first = repo.commit(HEAD + '[system]\n{% include "partials/rules.md" %}\n[user]\n{{ question }}\n', "Ask")
    second = repo.commit("Be brief.", "Brief", "partials/rules.md", who="Ben")
    repo.write("And kind.", "partials/more.md")
    third = repo.commit('Be brief. {% include "partials/more.md" %}', "Kind", "partials/rules.md")
    fourth = repo.commit("And very kind.", "Very kind", "partials/more.md")
    last = repo.commit(HEAD + "[user]\nPlainly: {{ question }}\n", "No rules")
    repo.commit("Not used any more.", "Rules change alone", "partials/rules.md")
    found = history(repo.file)
    assert [v.digest for v in found] == [last, fourth, third, second, first]
    assert [v.message for v in found] == ["No rules", "Very kind", "Kind", "Brief", "Ask"] and found[3].author == "Ben"
    assert load_version(f"{repo.file}@{second[:8]}").render(question="?")[0]["content"] == "Be brief."
    assert load_version(f"{repo.file}@{fourth[:8]}").render(question="?")[0]["content"] == "Be brief. And very kind."


def test_a_broken_version_is_history_with_its_reason(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    repo.write(HEAD + "{{ question")
    repo.git("commit", "-qam", "Break it")
    found = history(repo.file)
    assert "broken" in found[0].problem and [v.digest for v in found][1:] == digests[::-1]
    with pytest.raises(ConfigurationError, match="No version or label"):
        load_version(f"{repo.file}@{found[0].digest[:10]}")
    assert roll_back(repo.file, repo.objects).after == digests[2], "the way out of a broken prompt"


def test_a_merge_keeps_both_sides(three: tuple[Repository, list[str]]) -> None:
    repo, _ = three
    repo.git("checkout", "-qb", "side")
    side = repo.commit(HEAD + "[user]\nside {{ question }}\n", "Side")
    repo.git("checkout", "-q", "main")
    repo.commit(HEAD + "other", "Main goes on", "other.md")
    repo.git("merge", "-q", "--no-ff", "-m", "Merge", "side")
    assert history(repo.file)[0].digest == side


def test_without_git_there_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text(HEAD + "{{ question }}")
    with pytest.raises(ConfigurationError, match="not in a git repository.*git init"):
        history(tmp_path / "p.md")
    with pytest.raises(ConfigurationError, match="No version or label of p.md named 'production'"):
        load_version(f"{tmp_path / 'p.md'}@production")


def test_a_file_whose_directory_never_was(repo: Repository) -> None:
    with pytest.raises(ConfigurationError, match="git knows nothing of x.md"):
        history(repo.root / "no" / "such" / "x.md")
    with pytest.raises(ConfigurationError, match="not in a git repository"):
        history(repo.root.parent / "nowhere" / "x.md")


def test_a_repository_without_commits_and_a_file_nobody_knows(repo: Repository) -> None:
    with pytest.raises(ConfigurationError, match="git knows nothing of answer.md"):
        history(repo.file)
    repo.write(HEAD + "{{ question }}")
    assert [v.message for v in history(repo.file)] == ["not committed"]
    with pytest.raises(ConfigurationError, match="only ever had this one version"):
        roll_back(repo.file, repo.objects)


def test_two_hundred_commits_take_a_second(repo: Repository) -> None:
    stream = ["reset refs/heads/main"]
    for number in range(200):
        text = f"{HEAD}[user]\n{number} {{{{ question }}}}\n"
        stream += [f"commit refs/heads/main\ncommitter A <a@b> {1_700_000_000 + number} +0000\ndata 2\nm\nM 100644 inline work/experiments/shop/prompts/answer.md\ndata {len(text)}\n{text}"]
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repo.root, input="\n".join(stream) + "\n", text=True, check=True)
    repo.git("reset", "-q", "--hard")
    start = time.perf_counter()
    assert len(history(repo.file)) == 200
    assert time.perf_counter() - start < 5, "one process for all, not one for each"


# Labels and versions


def test_a_label_is_a_trail(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    for version, why in zip(digests, ("first", "better", "best"), strict=True):
        set_label(repo.file, "production", load_version(f"{repo.file}@{version}"), repo.objects, why)
    trail = read_trail(repo.file)
    assert trail.now == {"production": digests[2]}
    assert [(m.version, m.by, m.why) for m in trail.labels["production"]] == [(d, "Ada Lovelace", w) for d, w in zip(digests, ("first", "better", "best"), strict=True)]
    assert "production" in (repo.prompts / "labels.yaml").read_text()
    back = roll_back_label(repo.file, "production", repo.objects)
    assert (back.before, back.after) == (digests[2], digests[1]) and load_version(f"{repo.file}@production").digest == digests[1]
    assert roll_back_label(repo.file, "production", repo.objects).after == digests[2], "the same again goes forth"
    set_label(repo.file, "production", None, repo.objects, "closed")
    assert read_trail(repo.file).now == {} and len(read_trail(repo.file).labels["production"]) == 6
    assert roll_back_label(repo.file, "production", repo.objects, digests[0][:8]).after == digests[0]


def test_labels_of_several_prompts_share_a_file(three: tuple[Repository, list[str]]) -> None:
    repo, _ = three
    repo.write(HEAD + "other", "other.md")
    for path in (repo.file, repo.prompts / "other.md"):
        set_label(path, "candidate", load_prompt(path), repo.objects)
    assert read_trail(repo.file).now["candidate"] != read_trail(repo.prompts / "other.md").now["candidate"]
    assert [p.name for p in prompts_in(repo.prompts)] == ["answer.md", "other.md"]


def test_labels_set_at_the_same_time_are_all_kept(three: tuple[Repository, list[str]]) -> None:
    repo, _ = three
    prompt = load_prompt(repo.file)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: set_label(repo.file, f"label-{number}", prompt, repo.objects), range(24)))
    assert len(read_trail(repo.file).now) == 24


@pytest.mark.parametrize("name", ["", "beef", "0b67ff", "current", "a b", "../x", "é" * 3, "x" * 65])
def test_a_label_that_cannot_be(three: tuple[Repository, list[str]], name: str) -> None:
    repo, _ = three
    with pytest.raises(ConfigurationError, match="cannot be a label"):
        set_label(repo.file, name, load_prompt(repo.file), repo.objects)
    assert not (repo.prompts / "labels.yaml").exists()


def test_unknown_names_tell_the_known(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    set_label(repo.file, "production", load_prompt(repo.file), repo.objects)
    with pytest.raises(ConfigurationError) as caught:
        load_version(f"{repo.file}@prodution", repo.objects)
    assert "Did you mean 'production'?" in str(caught.value) and digests[0][:12] in str(caught.value)
    with pytest.raises(ConfigurationError, match="No label of answer.md named 'candidate'. Known: 'production'"):
        roll_back_label(repo.file, "candidate", repo.objects)
    with pytest.raises(ConfigurationError, match="only ever stood for"):
        roll_back_label(repo.file, "production", repo.objects)
    with pytest.raises(ConfigurationError, match="No label named 'x'"):
        set_label(repo.file, "x", None, repo.objects)


@pytest.mark.parametrize("text", ["a: [", "- a", "answer.md: 5", "answer.md: {labels: {production: [{versio: x}]}}", "answer.md: {label: {}}"])
def test_a_labels_file_that_is_broken(three: tuple[Repository, list[str]], text: str) -> None:
    repo, _ = three
    (repo.prompts / "labels.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="labels.yaml"):
        load_version(f"{repo.file}@production")


def test_a_commit_names_a_version_and_an_ambiguous_beginning_is_refused(repo: Repository) -> None:
    seen: dict[str, str] = {}
    for number in range(100_000):
        text = f"{HEAD}[user]\n{number} {{{{ question }}}}\n"
        start = digest(text)[:4]
        if start in seen:
            break
        seen[start] = text
    one, other = repo.commit(seen[start], "One"), repo.commit(text, "Other")
    assert load_version(f"{repo.file}@{repo.git('rev-parse', 'HEAD~1')[:10]}").digest == one
    with pytest.raises(ConfigurationError, match=f"2 versions of answer.md begin with {start!r}"):
        load_version(f"{repo.file}@{start}")
    assert load_version(f"{repo.file}@{other[:12]}").digest == other


def test_a_label_of_what_was_never_committed_is_kept_here(repo: Repository) -> None:
    repo.write(HEAD + "[user]\ndraft {{ question }}\n")
    draft = load_prompt(repo.file)
    set_label(repo.file, "candidate", draft, repo.objects)
    repo.write(HEAD + "[user]\nnew {{ question }}\n")
    assert load_version(f"{repo.file}@candidate", repo.objects).text == draft.text
    assert load_version(f"{repo.file}@{draft.digest[:9]}", repo.objects).text == draft.text
    with pytest.raises(ConfigurationError, match="No version or label"):
        load_version(f"{repo.file}@candidate", Objects(repo.root / "elsewhere"))


def test_names_with_an_at_sign(tmp_path: Path) -> None:
    assert split_name("a/b.md@production") == (Path("a/b.md"), "production")
    assert split_name("a@b/c.md") == (Path("a@b/c.md"), "")
    (tmp_path / "x@y.md").write_text("hello")
    assert split_name(tmp_path / "x@y.md") == (tmp_path / "x@y.md", "")
    assert load_version(tmp_path / "x@y.md").render()[0]["content"] == "hello"


def test_an_app_can_be_of_a_version(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    experiment = repo.prompts.parent
    set_label(repo.file, "production", load_version(f"{repo.file}@{digests[0]}"), repo.objects)
    now, then = load_app(experiment), load_app(experiment, prompt="prompts/answer.md@production")
    assert (now("?").text, then("?").text) == ("three ?", "one ?")
    assert then.provenance.digests["prompt"] == digests[0] and now.digest != then.digest
    assert load_app(experiment, prompt=f"prompts/answer.md@{digests[2][:8]}").digest == now.digest, "the version counts, not how it was asked for"
    with pytest.raises(ConfigurationError, match="Did you mean 'production'"):
        load_app(experiment, prompt="prompts/answer.md@produktion")


# The way back


def test_back_and_forth(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    before = repo.file.read_bytes()
    assert roll_back(repo.file, repo.objects, why="three is worse").after == digests[1]
    assert repo.file.read_text().endswith("two {{ question }}\n")
    assert roll_back(repo.file, repo.objects).after == digests[2] and repo.file.read_bytes() == before, "the same again goes forth"
    assert roll_back(repo.file, repo.objects, digests[0][:8]).after == digests[0]
    undo(repo.file, repo.objects)
    assert repo.file.read_bytes() == before
    undo(repo.file, repo.objects)
    assert load_prompt(repo.file).digest == digests[0], "undoing an undo"
    assert [m.why for m in read_trail(repo.file).rollbacks] == ["three is worse", "", "", "undo", "undo"]


def test_what_was_not_committed_survives_byte_for_byte(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    draft = b"\xef\xbb\xbf" + (HEAD + "[user]\nfour {{ question }}\n\n\n").replace("\n", "\r\n").encode()
    repo.file.write_bytes(draft)
    assert roll_back(repo.file, repo.objects).after == digests[2]
    undo(repo.file, repo.objects)
    assert repo.file.read_bytes() == draft


def test_undo_does_not_lose_a_later_edit(three: tuple[Repository, list[str]]) -> None:
    repo, _ = three
    with pytest.raises(ConfigurationError, match="never rolled back"):
        undo(repo.file, repo.objects)
    roll_back(repo.file, repo.objects)
    repo.write(HEAD + "[user]\nlater {{ question }}\n")
    with pytest.raises(ConfigurationError, match="has changed since"):
        undo(repo.file, repo.objects)
    assert "later" in repo.file.read_text()


def test_a_rollback_covers_what_is_included_and_names_who_shares_it(repo: Repository) -> None:
    repo.write("Old rules.", "rules.md")
    include = '[system]\n{% include "rules.md" %}\n[user]\n{{ question }}\n'
    repo.write(HEAD + include, "sharing.md")
    first = repo.commit(HEAD + include, "First")
    repo.commit("New rules.", "Second", "rules.md")
    back = roll_back(repo.file, repo.objects)
    assert back.after == first == load_prompt(repo.file).digest
    assert back.written == ("rules.md",) and back.affects == ("sharing.md",)
    assert (repo.prompts / "rules.md").read_text() == "Old rules."
    undo(repo.file, repo.objects)
    assert (repo.prompts / "rules.md").read_text() == "New rules."


def test_undo_on_a_machine_that_lacks_the_kept_bytes_asks_git(three: tuple[Repository, list[str]]) -> None:
    repo, digests = three
    roll_back(repo.file, repo.objects)
    assert undo(repo.file, Objects(repo.root / "empty")).after == digests[2]


def test_a_full_disk_loses_nothing(three: tuple[Repository, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    repo, digests = three
    from llmops_nb import versions

    real = versions.write_atomic

    def broken(path: Path, data: bytes | str) -> None:
        if path.name == "answer.md":
            raise OSError("no")
        real(path, data)

    monkeypatch.setattr(versions, "write_atomic", broken)
    with pytest.raises(OSError, match="no"):
        roll_back(repo.file, repo.objects)
    monkeypatch.undo()
    assert load_prompt(repo.file).digest == digests[2]
    assert roll_back(repo.file, repo.objects).after == digests[1]


def test_a_diff_shows_files_that_are_included(repo: Repository) -> None:
    repo.write("Old rules.", "rules.md")
    first = repo.commit(HEAD + '{% include "rules.md" %} {{ question }}', "First")
    repo.write("New rules.", "rules.md")
    diff = text_diff(load_version(f"{repo.file}@{first}"), load_prompt(repo.file), ("a", "b"))
    assert diff.splitlines()[:2] == ["--- a: rules.md", "+++ b: rules.md"] and "-Old rules." in diff and "+New rules." in diff
    assert text_diff(load_prompt(repo.file), load_prompt(repo.file)) == ""


def test_a_move_reads_as_it_was_written(three: tuple[Repository, list[str]]) -> None:
    repo, _ = three
    move = set_label(repo.file, "p", load_prompt(repo.file), repo.objects, "why: “because” # and\nmore")
    assert isinstance(move, Move) and read_trail(repo.file).labels["p"] == (move,)
    assert set_label(repo.file, "p", load_prompt(repo.file), repo.objects) == move, "setting it again says nothing new"
