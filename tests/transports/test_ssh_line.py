"""The line that ssh hands to a login shell: the same words arrive, whatever shell it is."""

import shutil
import subprocess

import pytest

from hyperflow.transports.process import with_prologue
from hyperflow.transports.ssh import shell_line

WORDS = ["it's", "a \\ b", "x\ny", "$HOME", "!bang", "`id`", '"q"', "%d \\n \\041", "*", "~", "&& false", "ü"]


@pytest.mark.parametrize("prologue", ["", "A='1 2'\nexport A\necho noise \"$A\" '!'"])
@pytest.mark.parametrize("shell", ["sh", "bash", "csh", "tcsh", "fish", "zsh"])
def test_words(shell: str, prologue: str) -> None:
    """Quotes, line breaks, exclamation marks reach the command as they are; what the prologue prints does not."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    line = shell_line(with_prologue(["printf", "%s|", *WORDS], prologue))
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout == "".join(f"{word}|" for word in WORDS), done.stderr
    assert done.stderr == ("noise 1 2 !\n" if prologue else "")
