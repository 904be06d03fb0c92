"""Edits of a policy's text: they do what they say, leave the rest alone, and lose no comment."""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import ConfigError
from firezone.portal.policy_text import PolicyText, comments_of

TEXT = '''\
# who may reach what
[account]  # ours
name = "Home # not a comment"

# ---- Users ----
[[user]]  # the first
name = "ann"   # mother
# enabled = false

[[user]]
name = 'bob "the # builder"'
note = """
[[user]]
# no comment, """
tags = [
  "a",  # one
  # two
  "b",
]  # end
# sticks to bob

# ---- Groups ----
[[group]]
name = "Family"
members = ["ann"]

[[user]]
name = "late"
# the end
'''


def test_what_is_added_stands_behind_its_kind_and_before_the_next_heading() -> None:
    policy = PolicyText(TEXT)
    policy.add("group", {"name": "Staff", "members": ["bob", 'o"k']})
    policy.add("user", {"name": "new"})
    policy.add("policy", {"group": "Staff", "resource": "r"})
    text = policy.text()
    assert (
        '[[group]]\nname = "Family"\nmembers = ["ann"]\n\n[[group]]\nname = "Staff"\nmembers = ["bob", "o\\"k"]\n\n[[user]]' in text
    )
    assert text.endswith('name = "late"\n# the end\n\n[[user]]\nname = "new"\n\n[[policy]]\ngroup = "Staff"\nresource = "r"\n')


def test_a_table_is_added_before_the_heading_of_the_next_kind() -> None:
    policy = PolicyText('[[user]]\nname = "a"\n# about a\n\n# ---- Groups ----\n# [[group]]\n')
    policy.add("user", {"name": "b"})
    assert policy.text() == '[[user]]\nname = "a"\n# about a\n\n[[user]]\nname = "b"\n\n# ---- Groups ----\n# [[group]]\n'


def test_a_key_is_set_in_place_and_keeps_its_comment() -> None:
    policy = PolicyText(TEXT)
    policy.set("user", 0, "name", "anna")
    policy.set("user", 0, "enabled", False)
    assert 'name = "anna"   # mother\nenabled = false\n# enabled = false\n' in policy.text()
    assert policy.text().replace('"anna"', '"ann"').replace("enabled = false\n#", "#", 1) == TEXT


def test_comments_inside_a_value_that_is_replaced_stay_above_it() -> None:
    policy = PolicyText(TEXT)
    policy.set("user", 1, "tags", [])
    assert "# one\n# two\ntags = [] # end\n" in policy.text().replace("  # end", " # end")


def test_a_table_that_is_removed_leaves_its_comments() -> None:
    policy = PolicyText(TEXT)
    policy.remove("user", 1)
    assert "# enabled = false\n\n# one\n# two\n# end\n# sticks to bob\n\n# ---- Groups ----\n" in policy.text()
    policy.remove("user", 0)
    policy.remove("user", 0)
    assert policy.tables("user") == []
    assert Counter(comments_of(TEXT)) == Counter(comments_of(policy.text()))


def test_a_file_without_a_last_newline_or_with_windows_lines_stays_what_it_is() -> None:
    policy = PolicyText('[[user]]\nname = "a"')
    policy.set("user", 0, "enabled", True)
    policy.add("user", {"name": "b"})
    assert policy.text() == '[[user]]\nname = "a"\nenabled = true\n\n[[user]]\nname = "b"\n'
    windows = PolicyText('[[user]]\r\nname = "a" # x\r\n')
    windows.add("user", {"name": "b"})
    assert windows.text() == '[[user]]\r\nname = "a" # x\r\n\r\n[[user]]\r\nname = "b"\r\n'
    empty = PolicyText("")
    empty.add("user", {"name": "b"})
    assert empty.text() == '[[user]]\nname = "b"\n'


@pytest.mark.parametrize("text", ['user = [{name = "a"}]\n', '[[user]]\nname = "a"\n[user.more]\nx = 1\n[["user"]]\nname = "b"\n'])
def test_what_cannot_be_edited_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="by hand"):
        PolicyText(text)


def test_what_is_not_toml_is_said() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        PolicyText("[[user]")


def test_a_header_may_be_the_last_line_and_have_no_end() -> None:
    policy = PolicyText("[[group]] # x")
    policy.add("user", {"name": "a"})
    policy.set("group", 0, "name", "g")
    assert policy.text() == '[[group]] # x\nname = "g"\n\n[[user]]\nname = "a"\n'


def test_tables_that_are_the_same_are_told_apart() -> None:
    policy = PolicyText('[[user]]\nname = "a"\n' * 3)
    policy.add("user", {"name": "b"})
    policy.set("user", 1, "name", "c")
    policy.remove("user", 2)
    assert [table["name"] for table in policy.tables("user")] == ["a", "c", "b"]


def test_what_only_python_takes_for_the_end_of_a_line_is_none() -> None:
    text = '[[user]]  # one\u2028[[group]]\nname = "a\u2028[[b]]\x85 # c"\n'
    policy = PolicyText(text)
    policy.set("user", 0, "enabled", False)
    assert policy.text() == text + "enabled = false\n"


WRITTEN = ['"x # y"', "true", '["a", "b"]', "'''\n# in\n[[user]]'''", '[ # in\n "a", # out\n]', '"""\\" "" """', '"""a""""']
WORDS = st.text(alphabet="ab #'\"\\[]{}=\n,é\u2028", max_size=6)
VALUES = st.booleans() | st.integers(-5, 5) | WORDS | st.lists(WORDS, max_size=3)
COMMENT = st.text(alphabet="ab #'\"[]=", max_size=6).map(lambda text: f"# {text}")


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Tables of two kinds in any order, with comments wherever TOML has them."""
    lines: list[str] = draw(st.lists(COMMENT, max_size=2))
    for _ in range(draw(st.integers(0, 5))):
        lines.append(f"[[{draw(st.sampled_from(['user', 'group']))}]] {draw(COMMENT)}")
        for key in draw(st.lists(st.sampled_from(["name", "enabled", "tags"]), unique=True, max_size=3)):
            value = draw(st.sampled_from(WRITTEN))
            lines.append(f"{key} = {value} {draw(COMMENT)}")
        lines += draw(st.lists(COMMENT | st.just(""), max_size=3))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


EDIT = st.tuples(st.sampled_from(["add", "set", "remove"]), st.sampled_from(["user", "group"]), st.integers(0, 5),
                 st.sampled_from(["name", "enabled", "tags", "odd key"]), VALUES)  # fmt: skip


@settings(max_examples=400)
@given(documents(), st.lists(EDIT, max_size=5))
def test_any_edits_of_any_document_do_what_they_say_and_lose_no_comment(
    text: str, edits: list[tuple[str, str, int, str, Any]]
) -> None:
    policy = PolicyText(text)
    assert policy.text() == text
    expected = tomllib.loads(text)
    for action, kind, index, key, value in edits:
        tables = expected.get(kind, [])
        if action == "add":
            policy.add(kind, {key: value})
            expected.setdefault(kind, []).append({key: value})
        elif index < len(tables) and action == "set":
            policy.set(kind, index, key, value)
            tables[index][key] = value
        elif index < len(tables):
            policy.remove(kind, index)
            del tables[index]
            if not tables:
                del expected[kind]
        assert tomllib.loads(policy.text()) == expected
        assert not Counter(comments_of(text)) - Counter(comments_of(policy.text()))
