"""The site's own parts: the choice of a version, the one file, the list for programs, what pages load."""

import json
import re
from pathlib import Path

import pytest

from tests.imports import TOP

for name in ("sphinx_gallery", "sphinx", "bs4", "docutils"):
    pytest.importorskip(name, reason="`make .venv/installed-docs` installs what the site is made with")


@pytest.fixture(autouse=True)
def _site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests import the extensions, as docs/conf.py does."""
    monkeypatch.syspath_prepend(str(TOP / "docs"))


def write(place: Path, **pages: str) -> None:
    """Write pages of a site: `guides__pools` is guides/pools.html."""
    for page, text in pages.items():
        file = place / f"{page.replace('__', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def versions(place: Path) -> list[dict[str, object]]:
    """Return what the choice of a version shows."""
    found = re.fullmatch(r"window\.hyperflowVersions = (.*);\n", (place / "versions.js").read_text())
    assert found is not None
    return json.loads(found[1])


def test_before_the_first_release(tmp_path: Path) -> None:
    """Where only dev is there, only dev can be chosen, and it is where the site begins."""
    from _site.versions import write as write_versions

    write(tmp_path / "dev", index="", guides__pools="")
    write_versions(tmp_path)

    assert versions(tmp_path) == [{"name": "dev", "title": "dev", "pages": ["guides/pools", "index"]}]
    assert 'url=dev/index.html"' in (tmp_path / "index.html").read_text()


def test_after_some_releases(tmp_path: Path) -> None:
    """The newest release comes first, by numbers, and is where the site begins; what is no version is left out."""
    from _site.versions import write as write_versions

    for version in ("dev", "1.9.0", "1.10.0", "pictures"):
        write(tmp_path / version, index="")
    (tmp_path / "2.0.0").mkdir()  # without pages
    write_versions(tmp_path)

    assert [one["title"] for one in versions(tmp_path)] == ["1.10.0 (newest)", "1.9.0", "dev"]
    assert 'url=1.10.0/index.html"' in (tmp_path / "index.html").read_text()


def test_a_page_in_the_one_file(tmp_path: Path) -> None:
    """Anchors tell of their page, links stay within the file, pictures are in it, and nothing else is asked for."""
    from _site.single import piece

    (tmp_path / "dot.svg").write_text("<svg/>")
    links = '<a href="../faq.html#why">a</a><a href="#top">b</a><a href="../x.zip">c</a><a href="https://x.org">d</a>'
    article = f'<article class="bd-article"><h1 id="top">T</h1>{links}<img src="../dot.svg"><script></script></article>'
    write(tmp_path, guides__pools=f"<html><nav></nav>{article}</html>")

    assert piece(tmp_path, "guides/pools", {"guides/pools", "faq"}) == (
        '<article id="guides/pools"><h1 id="guides/pools--top">T</h1>'
        '<a href="#faq--why">a</a><a href="#guides/pools--top">b</a><a>c</a><a href="https://x.org">d</a>'
        '<img src="data:image/svg+xml;base64,PHN2Zy8+"/></article>'
    )


def test_what_pages_load(tmp_path: Path) -> None:
    """A file that is not there, a path from the host's root and a script of another host are noticed; links are not."""
    from _site.checked import objections

    good = '<a href="https://x.org">a</a><a href="../b.html#c">b</a><img src="data:image/png;base64,AA==">'
    write(tmp_path, a__a=good, b=f'<a href="a/a.html">a</a><link rel="x" href="{"no.css"}">')
    write(tmp_path, c='<script src="https://cdn.example/x.js"></script><a href="/b.html">root</a>')

    assert sorted(objections(tmp_path)) == [
        "b.html names no.css, which is not there",
        "c.html loads https://cdn.example/x.js",
        "c.html names /b.html, which is not there",
    ]


def test_first_sentence() -> None:
    """The list for programs has each page's first sentence, and none where a page has no prose."""
    from _site.llms import first_sentence
    from docutils.core import publish_doctree

    assert first_sentence(publish_doctree("Title\n=====\n\nA pool\nlends. More.\n")) == "A pool lends."
    assert first_sentence(publish_doctree("")) == ""


def test_what_a_program_has_made_comes_first() -> None:
    """On a page of the gallery, pictures and output stand before the code, once; a page without them is refused."""
    from _site.gallery import made_first

    code = ".. GENERATED FROM PYTHON SOURCE LINES 9-12\n\n.. code-block:: Python\n\n    x\n"
    made = ".. image-sg:: /a.png\n   :alt: a\n\n.. rst-class:: sphx-glr-script-out\n\n .. code-block::\n\n    $ x\n\n"
    end = ".. rst-class:: sphx-glr-timing\n\n.. _sphx_glr_download_a:\n"

    assert made_first(f"Title\n{code}{code}{made}{end}") == f"Title\n{made}{code}{code}{end}"
    with pytest.raises(ValueError, match="another way"):
        made_first(f"Title\n{code}{end}")
