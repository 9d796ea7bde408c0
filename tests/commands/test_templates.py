"""Placeholders: what is filled in stays as it is, and what is none is refused with what was meant."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.commands.templates import Template, escaped
from hyperflow.errors import ConfigurationError

LINES = ("line", "n")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Anything that a word may be, braces, quotes and line breaks included."""


@given(st.lists(st.one_of(texts, st.sampled_from([("line",), ("n",)])), max_size=8), texts, texts)
def test_filled(parts: list[str | tuple[str]], line: str, number: str) -> None:
    """Literal text and values arrive as they are, whatever they look like."""
    written = "".join(escaped(part) if isinstance(part, str) else f"{{{part[0]}}}" for part in parts)
    values = {"line": line, "n": number}
    expected = "".join(part if isinstance(part, str) else values[part[0]] for part in parts)
    template = Template.read(written, LINES)
    assert template.fill(values) == expected
    assert template.is_plain is not any(isinstance(part, tuple) for part in parts)


@given(texts)
def test_escaped(text: str) -> None:
    """What is escaped stands for itself."""
    assert Template.read(escaped(text), ()).fill({}) == text


@given(texts)
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text is read as something else, and none ends in another error."""
    try:
        template = Template.read(text, LINES)
    except ConfigurationError:
        assert re.search(r"[{}]", text)
    else:
        assert set(template.names) <= set(LINES)


def test_value_is_not_read_again() -> None:
    """A line that looks like a placeholder stays a line."""
    assert Template.read("{line}-{n}", LINES).fill({"line": "{n}{{", "n": "7"}) == "{n}{{-7"


def test_members() -> None:
    """The name of a member is all that stands behind `json.`, dots and blanks included."""
    template = Template.read("{json.a.b}{json.a key}", ("json.*", "n"))
    assert template.fill({"json.a.b": "1", "json.a key": "2"}) == "12"


@pytest.mark.parametrize(
    ("text", "known", "said"),
    [
        ("{lines}", LINES, r"Did you mean \{line\}\?"),
        ("{N}", LINES, "there is {line} and {n}"),
        ("{LINE}", LINES, r"Did you mean \{line\}\?"),
        ("{line.x}", LINES, r"Did you mean \{line\}\?"),
        ("{0}", LINES, "no placeholder"),
        ("{}", LINES, r"Did you mean \{line\}\? Write \{\{\}\} for braces that stay"),
        ("{}", ("n",), r"Did you mean \{n\}\?"),
        ("{x}", ("json.*", "n"), r"Did you mean \{json.x\}\?"),
        ("{line!r}", LINES, "no placeholder"),
        ("{print $1}", LINES, r"write \{\{print \$1\}\} for braces that stay"),
        ("{line}", ("n",), r"there is \{n\}. \{line\} needs --each-line. Write"),
        ("{json.x}", ("n",), r"there is \{n\}. \{json.x\} needs --each-json. Write"),
        ("{json.}", ("json.*", "n"), r"\{json.KEY\}"),
        ("{jsn.x}", ("json.*", "n"), "no placeholder"),
        ("a{b", LINES, r"write \{\{ for a brace"),
        ("a}b", LINES, r"write \}\} for a brace"),
        ("{line}}", LINES, r"write \}\} for a brace"),
    ],
)
def test_refused(text: str, known: tuple[str, ...], said: str) -> None:
    """What is no placeholder is refused, with those that there are."""
    with pytest.raises(ConfigurationError, match=said if "\\" in said or "there is" not in said else re.escape(said)):
        Template.read(text, known)
