"""What stands on the pages of docs/, and in README.md, works when it is typed, and shows what they say."""

from pathlib import Path

import pytest

from tests import guides
from tests.cluster.cluster import Cluster
from tests.guides import Page
from tests.imports import TOP

pytestmark = pytest.mark.timeout(180)


def _each(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", guides.pages(kind), ids=lambda page: page.name)


def _skip_without(page: Page) -> None:
    if missing := guides.missing(page):
        pytest.skip(f"{page.name} needs {', '.join(missing)}")


@pytest.mark.process
@_each("here")
def test_here(page: Page, tmp_path: Path) -> None:
    """Each file is written, each command is typed, in a directory that was empty, and shows what the page shows."""
    _skip_without(page)
    with guides.shell_here(tmp_path) as (shell, place):
        for typed in guides.follow(page, shell, place):
            assert typed.right, str(typed)


@_each("cluster")
def test_on_the_cluster(page: Page, cluster: Cluster) -> None:
    """Each command is typed on the login host of a cluster, and shows what the page shows."""
    _skip_without(page)
    with guides.shell_on(cluster) as (shell, place):
        for typed in guides.follow(page, shell, place):
            assert typed.right, str(typed)


@pytest.mark.process
@_each("kernel")
async def test_cells(page: Page, tmp_path: Path) -> None:
    """Each cell is executed in a real kernel, and shows what the page shows."""
    pytest.importorskip("ipykernel", reason="there is no kernel")
    _skip_without(page)
    assert [str(typed) for typed in await guides.cells(page, tmp_path) if not typed.right] == []


@pytest.mark.parametrize("page", guides.pages(), ids=lambda page: page.name)
def test_all_code_is_run_or_says_why_not(page: Page) -> None:
    """A page that has code says how it is typed; each block is typed, or says why it cannot be."""
    assert list(page.complaints) == []


def test_no_page_is_forgotten() -> None:
    """Each way of typing has its pages, and the README is one of them."""
    assert all(guides.pages(kind) for kind in guides.KINDS)
    assert "README.md" in [page.name for page in guides.pages("here")]


GOOD = """# Title
<!-- typed: here; needs: json, sh -->

```python
# some/name.py
print(1)
```

```console
$ python some/name.py \\
    --option
1
$ false  # exit 1
```

```python not-run: it needs four GPUs
train()
```

```{note}
~~~sh
# later.sh
~~~
```

```console
$ sh later.sh
```
"""


def _read(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(text)
    return guides.read(path)


def test_what_blocks_mean(tmp_path: Path) -> None:
    """Files, commands with their ends and outputs, what is only shown; also within a directive."""
    page = _read(tmp_path, GOOD)
    assert (page.kind, page.needs, page.complaints) == ("here", ("json", "sh"), ())
    assert guides.missing(page) == []
    assert [(block.kind, block.about.strip(), block.exit) for block in page.blocks] == [
        ("file", "some/name.py", 0),
        ("command", "1", 0),
        ("command", "", 1),
        ("shown", "it needs four GPUs", 0),
        ("file", "later.sh", 0),
        ("command", "", 0),
    ]
    assert page.blocks[1].text == "python some/name.py \\\n    --option"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("<!-- typed: here; needs: json, sh -->", "", "does not say how it is typed"),
        ("typed: here", "typed: there", "cannot be typed there"),
        ("# some/name.py\n", "", "Python that is no file"),
        ("# later.sh\n", "", "sh that is no file"),
        ("not-run: it needs four GPUs", "not-run:", "nothing or `not-run: why`"),
        ("python not-run: it needs four GPUs", "", "nothing or `not-run: why`"),
        ("$ sh later.sh", "sh later.sh", "a console begins with"),
        ("$ sh later.sh", "$ true", "uses: later.sh"),
        ("```console\n$ sh later.sh\n```", "    import later", "an indented block"),
        ("typed: here", "typed: kernel", "a command on a page"),
    ],
)
def test_what_is_no_good(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    """Code that would not be typed is told of."""
    assert before in GOOD
    assert complaint in "\n".join(_read(tmp_path, GOOD.replace(before, after)).complaints)


@pytest.mark.process
def test_another_output_or_end_is_noticed(tmp_path: Path) -> None:
    """One shell types all commands; what differs from the page is told."""
    text = """# T\n<!-- typed: here -->\n```console
$ cd / && name=value
$ pwd; echo $name
/
value
$ echo here; echo there >&2; exit_with() { return $1; }; exit_with 3  # exit 3
here
there
$ echo one
two
$ false
$ true  # exit 1
$ sleep 100 &
$ kill -INT $!; wait $!  # exit 130
...
```
"""
    with guides.shell_here(tmp_path) as (shell, place):
        typed = list(guides.follow(_read(tmp_path, text), shell, place))
    assert [one.right for one in typed] == [True, True, True, False, False, False, True, True], [*map(str, typed)]
    assert str(typed[3]) == "$ echo one\none\n\n-- but the page has:\ntwo\n"


def test_dots_stand_for_anything() -> None:
    """And nothing else does."""
    assert guides.matches("a  1 x\nb  \n", "a ... x\nb")
    assert not guides.matches("a\nc", "a\nb")
    assert not guides.matches("", "a")
    assert not guides.matches("a\nb", "a")


def test_a_page_by_hand() -> None:
    """The page's module says where pages are, wherever it is started."""
    assert guides.read(TOP / "docs" / "guides" / "pools.md").name == "guides/pools.md"
