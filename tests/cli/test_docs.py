"""`hyperflow docs`: what is shown of a page, and which page a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperflow import pages
from hyperflow.cli import docs
from tests.imports import TOP

PAGE = """# Memory
<!-- typed: here -->

An evaluation asks for *memory*. See [the pools](pools.md#life), [its error](../reference/errors/OutOfMemory.md),
[below](#more), [all keys](../reference/configuration.md), {doc}`the gallery <../gallery/index>` and
[Slurm](https://slurm.schedmd.com).

![a picture](../pictures/x.png)

```{toctree}
other
```

```python not-run: needs a GPU
# [not a link](a.md)
```

<a id="there"></a>
## More

### Much

text

## The `end`, at last
"""


KNOWN = ("guides/memory", "guides/pools", "reference/errors/OutOfMemory")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small documentation, and have it shown."""
    for name in (
        "index",
        "guides/index",
        "guides/memory",
        "guides/pools",
        "sites/pools",
        "reference/errors/WorkerDied",
    ):
        file = tmp_path / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n\nOf {name}. More.\n")
    (tmp_path / "guides/memory.md").write_text(PAGE)
    monkeypatch.setattr(docs, "PLACES", (tmp_path / "none", tmp_path))
    monkeypatch.setenv("HYPERFLOW_CONFIG", "/dev/null")
    return tmp_path


def test_what_is_for_machines_is_not_shown() -> None:
    """Comments and directives go, links say what to type, and code stays as it is."""
    text = docs.readable(PAGE, "guides/memory", KNOWN)

    assert text.startswith("# Memory\n\nAn evaluation asks for *memory*. See the pools (`guides/pools#life`), ")
    assert "its error (`OutOfMemory`)" in text
    assert "below (`guides/memory#more`), all keys, the gallery and\n[Slurm](" in text
    assert "[Slurm](https://slurm.schedmd.com)" in text
    assert "(picture: a picture)" in text
    assert "```python\n# [not a link](a.md)\n```" in text
    assert not any(word in text for word in ("typed:", "toctree", "other", "<a id"))


def test_sections_have_the_names_of_links() -> None:
    """A section ends where one of its depth begins; a comment in code is no heading."""
    text = docs.readable(PAGE, "guides/memory", KNOWN)

    assert [*docs.headings(text)] == ["memory", "more", "much", "the-end-at-last"]
    assert docs.section(text, "more") == "## More\n\n### Much\n\ntext\n\n"
    assert docs.section(text, "the-end-at-last") == "## The `end`, at last\n"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("workerdied", ["reference/errors/WorkerDied"]),
        ("guides", ["guides/index"]),
        ("memory", ["guides/memory"]),
        ("pools", ["guides/pools", "sites/pools"]),
        ("sites/pools", ["sites/pools"]),
        ("worker", ["reference/errors/WorkerDied"]),
        ("nothing", []),
        ("/", []),
    ],
)
def test_names_of_pages(library: Path, name: str, found: list[str]) -> None:
    """A whole name goes before the end of one, and that before a part; large letters do not count."""
    known = [str(file.relative_to(library).with_suffix("")) for file in sorted(library.rglob("*.md"))]

    assert docs.matching(name, dict.fromkeys(known)) == found


def test_the_list(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name there is a line for each page: what to type, and its title, or what it begins with."""
    (library / "reference/errors/WorkerDied.md").write_text("# WorkerDied\n\nThe `worker` has ended. More.\n")
    (library / "sites/pools.md").write_text("# Pools of nodes\n\nOf pools. More.\n")
    assert docs.docs() == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "guides         guides/index"
    assert lines[1] == "guides/memory  An evaluation asks for memory"
    assert lines[-2] == "sites/pools    Pools of nodes"
    assert lines[-1] == "WorkerDied     The worker has ended"
    assert len(lines) == 5


def test_a_page_and_a_section(
    library: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is printed, or a section of it; with `docs_url` its address is below."""
    assert docs.docs("WorkerDied") == 0
    assert capsys.readouterr().out == "# reference/errors/WorkerDied\n\nOf reference/errors/WorkerDied. More.\n"
    monkeypatch.setenv("HYPERFLOW_DOCS_URL", "https://docs.example.org/hf/")
    assert docs.docs("memory#much") == 0
    shown = capsys.readouterr().out

    assert shown == "### Much\n\ntext\n\n\nhttps://docs.example.org/hf/guides/memory.html#much\n"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("WorkrDied", "hyperflow: there is no page 'WorkrDied'; did you mean WorkerDied? `hyperflow docs` lists all\n"),
        ("pools", "hyperflow: several pages are called like 'pools': guides/pools, sites/pools\n"),
        ("guides/pools#x", "hyperflow: guides/pools has no section 'x'; it has guidespools\n"),
    ],
)
def test_what_there_is_not(library: Path, capsys: pytest.CaptureFixture[str], asked: str, said: str) -> None:
    """An unknown page or section ends with 2, and with what was probably meant."""
    assert docs.docs(asked) == docs.UNKNOWN
    assert capsys.readouterr().err == said


def test_all_pages_are_found() -> None:
    """In a checkout they are those of docs/; each public error has one, which its own name means."""
    assert docs.place() == TOP / "docs"
    known = {str(file.relative_to(docs.place()).with_suffix("")): file for file in docs.place().rglob("*.md")}
    for name in ("WorkerDied", "JobRefused", "FlowNeverAwaited"):
        assert docs.matching(name, known) == [f"{pages.ERRORS}{name}"]


def test_links() -> None:
    """A link is a command, or an address where a site publishes the pages; an error's is of its public class."""

    class Private(docs.ConfigurationError):
        """One of ours that is not public."""

    assert pages.link("sites/load") == "hyperflow docs sites/load"
    assert pages.link("reference/errors/NodeLost") == "hyperflow docs NodeLost"
    assert pages.link("sites/load#disk", "https://x.org/") == "https://x.org/sites/load.html#disk"
    assert pages.about_error(Private) == "about this: hyperflow docs ConfigurationError"
    assert pages.about_error(ValueError) == ""
