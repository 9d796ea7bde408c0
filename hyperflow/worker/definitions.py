"""What a worker was told before its tasks: functions, classes and stored values, as they came and as they were made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

from hyperflow.debugging.capsule import Pickle
from hyperflow.shipping import pickler, rebuild
from hyperflow.shipping.arrivals import Arrivals
from hyperflow.wire import frames
from hyperflow.wire.frames import Shape
from hyperflow.wire.numbers import DefinitionNumber
from hyperflow.worker import capsules
from hyperflow.worker.outcomes import text

MANY_CLASSES = 100
"""Classes that are let go of before the cycle collector is called."""


class Definitions:
    """The definitions of one worker.

    Args:
        found: Returns a buffer by its number or place.
    """

    def __init__(self, arrivals: Arrivals, found: Callable[[frames.Buffer], memoryview]) -> None:
        self.made: dict[DefinitionNumber, Any] = {}
        """Functions that are kept, and classes."""
        self.trouble = ""
        """What could not be made, in words."""
        self._arrivals = arrivals
        self._found = found
        self._came: dict[DefinitionNumber, tuple[Shape, list[int], memoryview]] = {}
        self._values: dict[DefinitionNumber, str] = {}  # tokens of stored values
        self._forgotten_classes = 0

    def define(self, body: bytes) -> None:
        """Learn a definition. Classes and stored values are made before arguments arrive that name them."""
        number, shape, blocks, data = frames.read_definition(body)
        self._forget(number)  # it comes again when classes have changed
        self._came[number] = shape, blocks, data
        if shape in (Shape.FUNCTION, Shape.CHANGING_FUNCTION):
            return
        try:
            buffers = [self._found(each) for each in blocks]
            if shape == Shape.CLASS:
                with self._arrivals.arriving(number, is_class=True):
                    self.made[number] = rebuild.define_class(data, buffers)
            else:
                self._values[number] = rebuild.keep(pickler.loads(data, buffers=[it.toreadonly() for it in buffers]))
        except BaseException as error:
            what = "class" if shape == Shape.CLASS else "value of hyperflow.put"
            self.trouble = f"; a {what} could not be made: {text(error)}"

    def function(self, number: DefinitionNumber) -> Any:
        """Unpickle a function: once, unless a call can change what it captured."""
        shape, blocks, data = self._came[number]
        with self._arrivals.arriving(number, is_class=False):
            made = pickler.loads(data, buffers=[self._found(each) for each in blocks])
        if shape == Shape.FUNCTION:
            self.made[number] = made
        return made

    def forget_all(self, numbers: Iterable[DefinitionNumber]) -> None:
        """Let go of what the head does not need any more."""
        for number in numbers:
            self._forgotten_classes += number in self._came and self._came[number][0] == Shape.CLASS
            self._forget(number)
        if self._forgotten_classes >= MANY_CLASSES:  # a class is a cycle, and the collector would wait for thousands
            self._forgotten_classes = 0
            gc.collect()

    def _forget(self, number: DefinitionNumber) -> None:
        """Let go of one."""
        self._came.pop(number, None)
        self.made.pop(number, None)
        self._arrivals.forget(number)
        if number in self._values:
            rebuild.drop(self._values.pop(number))

    def pickle_of(self, number: DefinitionNumber) -> Pickle:
        """Return a definition as it came."""
        _, blocks, data = self._came[number]
        return Pickle(data, [self._found(each) for each in blocks])

    def known(self) -> list[capsules.Definition]:
        """Return the classes and stored values that were made here, as they came and in that order."""
        found: list[capsules.Definition] = []
        for number, (shape, _, _) in self._came.items():
            if shape == Shape.CLASS and number in self.made:
                found.append(capsules.Definition(rebuild.track(self.made[number]), shape, self.pickle_of(number)))
            elif number in self._values:
                found.append(capsules.Definition(self._values[number], shape, self.pickle_of(number)))
        return found
