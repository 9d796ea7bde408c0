"""The number spaces, each a type of its own, so that the type checkers tell them apart. At run time all are int.

A number becomes one of these where it is made, or where it is read from the wire; everywhere else it is only annotated.
"""

from __future__ import annotations

from typing import NewType

TaskNumber = NewType("TaskNumber", int)
"""An evaluation: its place in the order of submission, from 1."""

WorkerNumber = NewType("WorkerNumber", int)
"""A worker process. The head counts them, and no number comes twice; slots, which name log files, do. 0: no worker."""

Seq = NewType("Seq", int)
"""A task's place in the order in which its worker got tasks, from 1. A task that is sent again gets another one."""

DefinitionNumber = NewType("DefinitionNumber", int)
"""What is sent to a node once. Functions, classes and large buffers of arguments share these numbers."""

BlockNumber = NewType("BlockNumber", int)
"""A large buffer of a result. Each worker counts its own, so it means nothing without the worker's number."""

LockRequestNumber = NewType("LockRequestNumber", int)
"""A request for locks, as the lock manager of the Job counts them. Older ones have smaller numbers."""

LockSerial = NewType("LockSerial", int)
"""A request for locks, as its worker counts them."""

NO_WORKER = WorkerNumber(0)
"""In the header of frames that concern no worker."""

NO_TASK = TaskNumber(0)
"""Where there is no evaluation to name."""
