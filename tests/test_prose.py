"""What the prose says of hyperflow is so: tests/prose.py finds nothing, and would find what is wrong."""

import pytest

from tests import prose


def found(text: str) -> list[str]:
    """Return what is wrong in a page with this text."""
    return list(prose.complaints([prose.Text("docs/page.md", text)]))


def test_pages() -> None:
    """Names, arguments, commands, variables, keys, files and links of all pages are there."""
    texts = list(prose.pages())

    assert len(texts) > 40
    assert list(prose.complaints(texts)) == []


def test_docstrings() -> None:
    """So are those of all docstrings, and the commands of messages."""
    assert list(prose.complaints(prose.docstrings())) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Call `hf.remote_evla`.", "docs/page.md:1: there is no hf.remote_evla"),
        ("\n`hf.NodePool.sbacth`", "docs/page.md:2: there is no hf.NodePool.sbacth"),
        ("In `hyperflow.connfig.Settings`.", "docs/page.md:1: there is no hyperflow.connfig.Settings"),
        ("```python\nimport hyperflow as hf\nhf.jbo\n```\n", "docs/page.md:3: there is no hf.jbo"),
        ("`using(cpu=2)`", "docs/page.md:1: using() has no argument cpu"),
        ("```python\nawait hf.remote_eval(f, 1).using(gpu=1)\n```\n", "docs/page.md:1: using() has no argument gpu"),
        ("`hf.NodePool(host={})`", "docs/page.md:1: NodePool() has no argument host"),
        ("`hyperflow shw`", "docs/page.md:1: there is no command hyperflow shw"),
        ("`hyperflow pool begin`", "docs/page.md:1: there is no command hyperflow pool begin"),
        ("`hyperflow show [RUN] [--function]`", "docs/page.md:1: hyperflow show has no option --function"),
        ("```console\n$ hyperflow pool list --al\n```\n", "docs/page.md:1: hyperflow pool list has no option --al"),
        ("`HYPERFLOW_TRANSPORTS=ssh`", "docs/page.md:1: nothing reads the variable HYPERFLOW_TRANSPORTS"),
        ('```toml\n# config.toml\nmin_node = 2\n```\n', "docs/page.md:1: there is no setting min_node"),
        ("`docs/no_such.md`", "docs/page.md:1: there is no file docs/no_such.md"),
        ("`tests/{prose,poetry}.py`", "docs/page.md:1: there is no file tests/{prose,poetry}.py"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(text: str, complaint: str) -> None:
    """A misspelt name, argument, command, option, variable, key or file is noticed, and where it stands."""
    assert found(text) == [complaint]


@pytest.mark.parametrize(
    "text",
    [
        "`hf.remote_eval(f, 1).using(cpus=2)`, `hf.NodePool.listen`, `hyperflow.config.Settings.min_nodes`",
        "`hyperflow show [RUN] [--json]`, `hyperflow array --range 1-3 -- sleep --help-me`, `hyperflow pool list`",
        "`HYPERFLOW_MIN_NODES=2`, `tests/*.py`, `docs/{faq,cite}.md`, `hyperflow.toml`, my_hf.wrong",
        "```text\n$ hyperflow shw\n```\n",
        '```toml\n# config.toml\nmin_nodes = 2\n```\n',
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(text: str) -> None:
    """Names that are there, other commands' options and output are nothing to complain of."""
    assert found(text) == []


def test_links_of_the_readme() -> None:
    """Links to files and headings that are not there are noticed; others, and code that looks so, are not."""
    text = (
        "[a](docs/no.md) [b](CONTRIBUTING.md#style) [c](CONTRIBUTING.md#stile) [d](https://x.org) `map[a](b)` [e](#no)"
    )

    assert list(prose.wrong_links(prose.Text("README.md", text))) == [
        "README.md:1: the link docs/no.md leads nowhere",
        "README.md:1: CONTRIBUTING.md has no heading stile",
        "README.md:1: README.md has no heading no",
    ]


def test_anchors() -> None:
    """A heading's anchor is what code hosts make of it."""
    assert prose.anchors('# A `b.c`, and more\n```\n# no\n```\n<a id="here"></a>\n') == {"a-bc-and-more", "here"}
