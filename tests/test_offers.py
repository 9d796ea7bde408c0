"""What a program says that a machine has."""

from typing import Any

import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.offers import Offers


def test_what_can_be_said() -> None:
    """Ids are kept as they are, sizes become bytes."""
    offers = Offers(4, ["0", "GPU-5d5b"], "8G", {"licence": 4})

    assert offers == Offers(4, ("0", "GPU-5d5b"), 8 << 30, (("licence", 4),))
    assert Offers() == Offers(None, None, None, None)
    assert Offers(gpus=[]).gpus == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"cpus": 0}, "at least 1"),
        ({"gpus": 2}, r'gpus=\["0", "1"\].*using\(gpus=2\)'),
        ({"gpus": 0.5}, r'gpus=\["0"\].*using\(gpus=0.5\)'),
        ({"gpus": "0,1"}, r"gpus=\['0', '1'\]"),
        ({"gpus": [0, 1]}, "0 is no id"),
        ({"gpus": ["0,1"]}, "'0,1' is no id"),
        ({"gpus": [""]}, "is no id"),
        ({"gpus": object()}, "is no id"),
        ({"gpus": ["0", "0"]}, "twice"),
        ({"memory": "16 Q"}, "a size is needed"),
        ({"memory": 0}, "a size is needed"),
        ({"resources": {"licence": 0}}, "at least 1"),
        ({"resources": ["licence"]}, "a dictionary is needed"),
    ],
)
def test_what_makes_no_sense(said: dict[str, Any], words: str) -> None:
    """It is refused, with what to write instead."""
    with pytest.raises(ConfigurationError, match=words):
        Offers(**said)
