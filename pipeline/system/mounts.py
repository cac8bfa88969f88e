"""Recognizes network file systems and shared folders in the kernel's table of mounts.

The ledger's promise depends on locks and fsync. Over a network, both may report success and yet
fail: two machines get the same lock, or an acknowledged commit is lost. A folder that a virtual
machine or a container shares with its host is no better: Docker Desktop
(fakeowner, virtiofs, grpcfuse, osxfs), WSL2 (9p, drvfs), Lima, Podman, UTM (virtiofs, 9p),
Parallels (prl_fs), VirtualBox (vboxsf), VMware (vmhgfs).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipeline.system.paths import resolved

_TABLE = Path("/proc/self/mountinfo")

_NETWORK = (
    "nfs nfs3 nfs4 cifs smb2 smb3 smbfs afs ncpfs coda 9p virtiofs fakeowner grpcfuse osxfs drvfs"
    " prl_fs vboxsf vmhgfs ceph glusterfs lustre gpfs beegfs fhgfs panfs cvfs quobyte pvfs2"
    " orangefs ocfs2 gfs gfs2 davfs davfs2 webdav afpfs wekafs juicefs"
)
_NETWORK_FUSE = (
    "sshfs rclone s3fs s3ql goofys geesefs gcsfuse mount-s3 mountpoint-s3 blobfuse blobfuse2 ossfs"
    " davfs davfs2 glusterfs ceph ceph-fuse cephfs juicefs curlftpfs lizardfs mfs moosefs seaweedfs"
    " beegfs quobyte daos alluxio-fuse afpfs gvfsd-fuse kio-fuse smbnetfs vmhgfs-fuse prl_fs"
    " onedriver google-drive-ocamlfuse drive dropbox insync pcloud portal grpcfuse osxfs virtiofs"
)
# As the root of a container or a sandbox, these are a folder of the host that nothing else uses.
# gVisor has 9p there, and Kata has virtiofs.
_FINE_AS_ROOT = ("9p", "virtiofs")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# An address, or a host before a path.
_REMOTE_SOURCE = re.compile(r"[a-z][a-z0-9+.-]*://|[^/]+:/|//[^/]")


class _Mount(NamedTuple):
    """A line of the table. `root` is the folder of the file system that stands at `point`."""

    number: str
    parent: str
    root: str
    point: str
    kind: str
    source: str


def network_file_system(path: Path) -> str | None:
    """Returns the type of the network file system of `path`, which need not exist yet.

    Returns None for a local disk, and on systems without a table of mounts, such as macOS.
    """
    try:
        table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return find_network(str(resolved(path)), table)


def lost_with_container(path: Path) -> bool:
    """Returns whether a container loses `path` when it ends: it is in a layer of the container or
    in memory. A path whose mount is unknown counts as lost. Call it only in a container."""
    try:
        table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return True
    return find_lost(str(resolved(path)), table)


def find_lost(path: str, table: str) -> bool:
    """Does the same for an absolute path without links, with the text of /proc/self/mountinfo."""
    found = _mounted_at(path, table)
    if found is None or found.point == "/" or found.kind in ("tmpfs", "ramfs"):
        return True
    # Podman's `--volume NAME:/data:O` mounts a layer over the volume. A folder of an overlay, as a
    # volume has it where the machine's own disk is one, is not a layer.
    return found.kind == "overlay" and found.root == "/"


def find_network(path: str, table: str) -> str | None:
    """Does the same for an absolute path without links, with the text of /proc/self/mountinfo."""
    found = _mounted_at(path, table)
    if found is None or (found.kind in _FINE_AS_ROOT and found.point == "/"):
        return None
    kind, source = found.kind, found.source
    if kind in _NETWORK.split():
        return kind
    family, _, name = kind.lower().partition(".")
    # The source of a plain `fuse` mount shows its type or its host.
    remote = (name or source.lower()) in _NETWORK_FUSE.split() or (
        not name and _REMOTE_SOURCE.match(source) is not None
    )
    return kind if family == "fuse" and remote else None


def _mounted_at(path: str, table: str) -> _Mount | None:
    """Returns the mount of `path`, None if the table has none.

    Goes from mount to mount as the kernel does. A mount on a folder hides all mounts below that
    folder that were made before, so the longest mount point may be that of a hidden one.
    """
    mounts = [mount for mount in map(_read, table.splitlines()) if mount and _is_in(path, mount)]
    numbers = {mount.number for mount in mounts}
    # The parent of the first mount is not in the table, or that mount itself.
    found, below = None, [one for one in mounts if one.parent not in numbers - {one.number}]
    while below:
        found = min(below, key=lambda mount: len(mount.point))
        mounts.remove(found)
        below = [mount for mount in mounts if mount.parent == found.number]
    return found


def _read(line: str) -> _Mount | None:
    facts, _, file_system = line.partition(" - ")
    number, parent, _, root, point, *_ = [*facts.split(" "), *[""] * 5]
    kind, source, *_ = [*map(_plain, file_system.split(" ")), "", ""]
    return _Mount(number, parent, root, _plain(point), kind, source) if point and kind else None


def _is_in(path: str, mount: _Mount) -> bool:
    return path == mount.point or path.startswith(mount.point.rstrip("/") + "/")


def _plain(field: str) -> str:
    """Decodes spaces and similar characters, which the table has as three octal digits."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)
