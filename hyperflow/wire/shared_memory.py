"""Blocks: large buffers, such as the data of an array, in memory that processes of one machine share.

A block is a file without a name in memory (memfd). Another process of the same user opens it through /proc, by the
process and descriptor that hold it, and maps it privately: pages that it writes to become its own copies. So an array
is copied once, into the block, and evaluations that use the same one share its memory without seeing each other's
changes. Where head and launcher do not share memory, the contents of a block go over the stream, piece by piece.

Guarantees: no block outlives the processes, however they end, because it has no name. What a process has mapped stays
valid when all others have closed the block.

Rejected: multiprocessing.shared_memory, whose names in /dev/shm outlive a crash, and which starts a process to look
after them. Rejected: one large file with room for all blocks. A range of it can be used again only when no process has
it mapped, and nobody knows when that is.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

LARGE = 1 << 18
"""Bytes from which on a buffer becomes a block."""

PIECE = 1 << 16
"""Bytes that are compared at a time: they stay in the processor's cache."""


_CLEAN = 0b101
"""What the kernel says of a page in the three highest bits: it is there, not in the swap, and the file's own."""

Offer = tuple[int, int, str]
"""Where a process holds a secret (its pid and descriptor), and the secret."""


class Block:
    """A large buffer that other processes can map."""

    __slots__ = ("_compared", "_own", "capacity", "fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.capacity = size
        """Bytes of memory that it has: what it has held may have been larger."""
        self._compared: memoryview | None = None
        self._own: memoryview | None = None

    @classmethod
    def of(cls, data: memoryview) -> Block:
        """Copy a buffer into a new block; raises OSError if there is no room for it."""
        block = cls(os.memfd_create("hyperflow"), 0)
        try:
            block.append(data)
        except BaseException:
            block.close()
            raise
        return block

    @classmethod
    def at(cls, pid: int, fd: int, size: int, writable: bool = False) -> Block:
        """Open a block that another process holds; raises OSError if that may not be or has gone."""
        access = os.O_RDWR if writable else os.O_RDONLY
        # Should it be something else by now: neither wait for a pipe's writer nor take a terminal.
        return cls(os.open(f"/proc/{pid}/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY), size)

    def append(self, data: memoryview) -> None:
        """Add to a block that is being filled."""
        while len(data):
            written = os.write(self.fd, data)
            self.size += written
            data = data[written:]
        self.capacity = self.size

    def fill(self, data: memoryview) -> None:
        """Let it hold something else, which fits. Nobody else may be looking at it."""
        if self._own is None:
            self.size = self.capacity
            self._own = self.view(shared=True)
        self.size = data.nbytes
        self._own[: self.size] = data

    def view(self, shared: bool = False) -> memoryview:
        """Map the block: what is written to the view stays there, and is not written to the block unless `shared`."""
        mapping = Mapping(self.fd, self.size, shared)
        array = mapping.array(self.size)
        weakref.finalize(array, mapping.touch).atexit = False  # which keeps it until then
        return memoryview(array).cast("B")

    def equals(self, data: memoryview) -> bool:
        """Whether the block has this content; some 5 ms for 100 MB."""
        if data.nbytes != self.size:
            return False
        if self._compared is None:
            self._compared = self.view()
        mine = self._compared if self._own is None else self._own[: self.size]
        if not data.readonly:
            import ctypes  # noqa: PLC0415 (not everybody has large arrays)

            both = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (mine, data))
            return bool(ctypes.CDLL(None).memcmp(*map(ctypes.c_void_p, both), ctypes.c_size_t(self.size)) == 0)
        # By pieces as bytes: memoryviews compare item by item, a hundred times slower.
        return all(bytes(mine[at : at + PIECE]) == bytes(data[at : at + PIECE]) for at in range(0, self.size, PIECE))

    def close(self) -> None:
        """Let go of it; what is mapped stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._compared = self._own = None


class Mapping:
    """Memory of a file, mapped until this is deleted; not when the process ends, when an array may still use it.

    Not by mmap.mmap: that keeps a descriptor for as long as the view is there, and a job with a thousand arrays
    would run out of them.
    """

    __slots__ = ("__weakref__", "_address", "size")

    def __init__(self, fd: int, size: int, shared: bool = False) -> None:
        import ctypes  # noqa: PLC0415 (not everybody has large arrays)

        mapper = ctypes.CDLL(None, use_errno=True)
        mapper.mmap.restype = ctypes.c_void_p
        access = mmap.PROT_READ | mmap.PROT_WRITE
        whose = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        address = mapper.mmap(None, ctypes.c_size_t(size), access, whose, fd, ctypes.c_long(0))
        if address is None or address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot map {size} bytes: {os.strerror(number)}")
        self.size = size
        self._address: int = address
        unmap = weakref.finalize(self, mapper.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
        unmap.atexit = False

    def array(self, size: int) -> Any:
        """Return its first bytes as an array of ctypes', which does not keep it mapped."""
        import ctypes  # noqa: PLC0415 (see above)

        return (ctypes.c_ubyte * size).from_address(self._address)

    def touch(self) -> None:
        """Do nothing; a reference to this keeps it mapped."""

    def clean(self) -> None:
        """Drop the pages of a private mapping that were written to: from now on it shows the file's."""
        if self._was_written():
            import ctypes  # noqa: PLC0415 (see above)

            advise = ctypes.CDLL(None).madvise
            advise(ctypes.c_void_p(self._address), ctypes.c_size_t(self.size), ctypes.c_int(mmap.MADV_DONTNEED))

    def _was_written(self) -> bool:
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as pages:
                pages.seek(self._address // mmap.PAGESIZE * 8)
                count = -(-self.size // mmap.PAGESIZE)
                said = pages.read(8 * count)
        except OSError:
            return True
        # Of each page the highest byte; it is 0 if nobody has looked at it.
        return len(said) < 8 * count or any(byte and byte >> 5 != _CLEAN for byte in set(said[7::8]))


class Proof:
    """A block with a secret in it, by which another process shows that it can open what we hold."""

    def __init__(self) -> None:
        self._secret = os.urandom(16)  # the module `secrets` would cost the launcher a tenth of its start
        try:
            self._block: Block | None = Block.of(memoryview(self._secret))
        except OSError:  # no memfd here
            self._block = None

    def offer(self) -> Offer | None:
        """Return where the block is and what is in it."""
        return (os.getpid(), self._block.fd, self._secret.hex()) if self._block is not None else None

    def close(self) -> None:
        """Withdraw the offer."""
        if self._block is not None:
            self._block.close()


def is_shared(offer: Offer | None) -> bool:
    """Whether we can open what the process holds that made this offer: it is on this machine, of our user."""
    if offer is None:
        return False
    pid, fd, secret = offer
    try:
        block = Block.at(pid, fd, len(secret) // 2)
    except OSError:
        return False
    try:
        return os.pread(block.fd, 17, 0).hex() == secret
    except OSError:  # another file that cannot be read so
        return False
    finally:
        block.close()
