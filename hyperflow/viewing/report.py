"""A run as one file of HTML, for mail and papers: what the page shows, frozen. It needs no network and no server.

The file holds plotly's script, ours, and the data as JSON. What a program has named or printed stays data: it
stands in a block that no browser runs, in which no sign can end it, and becomes text when it is shown; and the file's
own policy (Content-Security-Policy) lets only these two scripts run, by their digests, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

from hyperflow.viewing import page

START = "showFrozen();\n"


def as_html(frozen: dict[str, Any]) -> str:
    """Return the document that shows what `showFrozen` of assets/views.js reads.

    Raises:
        ConfigurationError: plotly is not installed.
    """
    plotly = _as_script(page.plotly().decode())
    ours = _as_script(page.asset("views.js") + "\n" + START)
    policy = (
        f"default-src 'none'; script-src {_digest(plotly)} {_digest(ours)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    title = html.escape(str(frozen["about"]["title"]))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{page.asset("style.css")}
</style>
</head>
<body>
<main id="main" tabindex="-1"></main>
<noscript><p>The charts and tables of this report are drawn by a script that is in it.</p></noscript>
<script type="application/json" id="frozen">{as_data(frozen)}</script>
<script>{plotly}</script>
<script type="module">{ours}</script>
</body>
</html>
"""


def as_data(value: object) -> str:
    """Return JSON that nothing in it can lead out of a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # all signs but those of ASCII are escapes
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _as_script(code: str) -> str:
    """Return code that does not end its element: such texts stand in strings only."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
