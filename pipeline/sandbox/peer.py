"""Finds which user of this machine is at the other end of a loopback connection (Linux only)."""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from asyncio.trsock import TransportSocket

# From linux/sock_diag.h and linux/inet_diag.h: asks for the socket with these two ends.
_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH4s12x4s12x")
_NO_INTERFACE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_LENGTH = _HEADER.size + _QUESTION.size + _ENDS.size + len(_NO_INTERFACE)
_STATE_AT = _HEADER.size + 1
_UID_AT = _HEADER.size + 4 + _ENDS.size + len(_NO_INTERFACE) + 3 * 4
_UID_AND_INODE = struct.Struct("=II")
_REPLY_BYTES = 512

# From include/net/tcp_states.h. A client that has closed its sending side is in a FIN_WAIT state.
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT = 1, 4, 5, 8

_NO_NETLINK = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


def may_be_another_users(connection: TransportSocket | socket.socket) -> bool:
    """Whether the other end of `connection` may belong to another user than this one and root.

    True if the client has closed its end or the kernel does not find it, because its owner is
    unknown then. Always False on systems that do not name owners (see `kernel_tells`).
    """
    if not kernel_tells():
        return False
    try:
        owner = _owner(connection.getpeername(), connection.getsockname())
        # After a reset, a later client may have a new connection with the same two ends.
        alive = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return True
    return owner not in (0, os.getuid()) or alive not in (_ESTABLISHED, _CLOSE_WAIT)


@functools.cache
def kernel_tells() -> bool:
    """Whether this system names the owner of a connection, tested on a real one.

    Linux does, except under a sandboxed kernel without this interface.

    Raises:
        OSError: when no socket is left for the test.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return False
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        try:
            return _owner(client.getsockname(), server.getsockname()) is not None
        except OSError as error:
            if error.errno in _NO_NETLINK:
                return False
            raise


def _owner(theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """Returns the id of the user whose socket at `theirs` is connected to `ours`, None if the
    kernel finds no such socket.

    Raises:
        OSError: when the kernel does not answer.
    """
    question = (
        _HEADER.pack(_LENGTH, _BY_FAMILY, _REQUEST, 0, 0)
        + _QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        + _ENDS.pack(theirs[1], ours[1], socket.inet_aton(theirs[0]), socket.inet_aton(ours[0]))
        + _NO_INTERFACE
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.setblocking(False)
        kernel.send(question)
        answer = kernel.recv(_REPLY_BYTES)
    if len(answer) < _UID_AT + _UID_AND_INODE.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None  # an error, for example because the connection has ended
    if answer[_STATE_AT] not in (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2):
        return None  # another socket, which listens there or is still connecting
    uid, inode = _UID_AND_INODE.unpack_from(answer, _UID_AT)
    # For a socket without a process the kernel returns inode 0 and root as the owner.
    return int(uid) if uid or inode else None
