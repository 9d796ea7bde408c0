"""Where a launcher looks for modules."""

import os
import sys

import pytest

from hyperflow.launcher.zygote import Zygote
from hyperflow.wire.messages import SysPath


def test_where_modules_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's path counts; where Python is elsewhere on this node, its own directories come first."""
    own = sys.path[:]
    monkeypatch.setattr(sys, "path", own[:])
    zygote = Zygote()
    same = ("/head/program", os.path.dirname(os.__file__))
    zygote.follow(SysPath(same))
    assert sys.path == [*same]
    zygote.follow(SysPath(("/head/program", "/head/lib/python3", own[0])))
    assert sys.path == [*own, "/head/program", "/head/lib/python3"]
