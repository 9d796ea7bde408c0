"""Arrays that are pickled our way come back as those that are pickled numpy's way."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

from hyperflow.shipping import plain_arrays


class Special(np.ndarray[Any, Any]):
    """An array of another class."""


def arrays() -> dict[str, Any]:
    """Return arrays of all kinds."""
    found: dict[str, Any] = {
        letter: np.arange(12).astype(letter).reshape(3, 4) for letter in (*plain_arrays.LETTERS, "g", "U", "O")
    }
    fixed = np.arange(5.0)
    fixed.flags.writeable = False
    return found | {
        "one dimension": np.arange(5.0),
        "no dimension": np.array(3.5),
        "empty": np.zeros((0, 3)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(10.0)[::2],
        "read-only": fixed,
        "big endian": np.arange(5, dtype=">i4"),
        "fields": np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "subclass": np.arange(4.0).view(Special),
        "metadata": np.zeros(3, dtype=np.dtype("f8", metadata={"unit": "m"})),
    }


@pytest.mark.parametrize("name", arrays())
def test_same_as_numpys(name: str) -> None:
    """Class, dtype, shape, order, contents, and whether it can be written to."""
    plain_arrays.learn()
    array = arrays()[name]
    plain: list[pickle.PickleBuffer] = []
    ours: list[pickle.PickleBuffer] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy says that it drops metadata
        there = pickle.loads(pickle.dumps((array,), 5, buffer_callback=plain.append), buffers=copies(plain))[0]
        here = pickle.loads(plain_arrays.dumps((array,), ours.append), buffers=copies(ours))[0]
    assert len(plain) == len(ours) or array.size == 0
    assert (type(here), here.dtype, here.shape) == (type(there), there.dtype, there.shape)
    assert (here.strides, here.flags.writeable) == (there.strides, there.flags.writeable)
    assert (here == there).all()


def copies(buffers: list[pickle.PickleBuffer]) -> list[memoryview]:
    """Return buffers as they arrive: read-only ones are marked so in the pickle."""
    return [memoryview(bytearray(each.raw())) for each in buffers]


def test_one_array_twice() -> None:
    """It is one there, too, and travels once."""
    plain_arrays.learn()
    array = np.arange(5.0)
    found: list[pickle.PickleBuffer] = []
    data = plain_arrays.dumps((array, array), found.append)
    first, second = pickle.loads(data, buffers=copies(found))
    assert first is second
    assert len(found) == 1


def test_it_is_ours() -> None:
    """An array is a third of what it is in numpy's pickle."""
    plain_arrays.learn()
    array = np.arange(5.0)
    assert 2 * len(plain_arrays.dumps(array, lambda _: None)) < len(
        pickle.dumps(array, 5, buffer_callback=lambda _: None)
    )
