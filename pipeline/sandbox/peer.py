"""Which user of this machine is at the other end of a connection on loopback, as Linux knows it."""

from __future__ import annotations

import os
import socket
import struct

# linux/sock_diag.h, linux/inet_diag.h: which socket has these two ends, and whose is it?
_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH4s12x4s12x")
_NO_INTERFACE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_LENGTH = _HEADER.size + _QUESTION.size + _ENDS.size + len(_NO_INTERFACE)
_UID_AT = _HEADER.size + 4 + _ENDS.size + len(_NO_INTERFACE) + 3 * 4
_REPLY_BYTES = 512


def is_of_another_user(theirs: tuple[str, int], ours: tuple[str, int]) -> bool:
    """Whether the socket at `theirs` that is connected to `ours` is another user's, root excepted.

    False where nobody can tell: not on Linux, or where the kernel does not answer.
    """
    uid = _owner(theirs, ours)
    return uid is not None and uid not in (0, os.getuid())


def _owner(theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    if not hasattr(socket, "AF_NETLINK"):
        return None
    question = (
        _HEADER.pack(_LENGTH, _BY_FAMILY, _REQUEST, 0, 0)
        + _QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        + _ENDS.pack(theirs[1], ours[1], socket.inet_aton(theirs[0]), socket.inet_aton(ours[0]))
        + _NO_INTERFACE
    )
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.setblocking(False)
            kernel.send(question)
            answer = kernel.recv(_REPLY_BYTES)
    except OSError:
        return None
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY or len(answer) < _UID_AT + 4:
        return None  # an error: the connection has ended, say
    return int(struct.unpack_from("=I", answer, _UID_AT)[0])
