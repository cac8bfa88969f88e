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

from pipeline.system.paths import resolved

_TABLE = Path("/proc/self/mounts")

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
    """Returns whether a container loses `path` when it ends: it is in the container's own layer or
    in memory. A path whose mount is unknown counts as lost. Call it only in a container."""
    try:
        table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return True
    return find_lost(str(resolved(path)), table)


def find_lost(path: str, table: str) -> bool:
    """Does the same for an absolute path without links, with the text of /proc/self/mounts."""
    kind, _, point = _mounted_at(path, table)
    return point in ("", "/") or kind in ("tmpfs", "ramfs")


def find_network(path: str, table: str) -> str | None:
    """Does the same for an absolute path without links, with the text of /proc/self/mounts."""
    kind, source, point = _mounted_at(path, table)
    if kind in _FINE_AS_ROOT and point == "/":
        return None
    if kind in _NETWORK.split():
        return kind
    family, _, name = kind.lower().partition(".")
    # The source of a plain `fuse` mount shows its type or its host.
    remote = (name or source.lower()) in _NETWORK_FUSE.split() or (
        not name and _REMOTE_SOURCE.match(source) is not None
    )
    return kind if family == "fuse" and remote else None


def _mounted_at(path: str, table: str) -> tuple[str, str, str]:
    """Returns (type, source, mount point) of the mount of `path`: the one with the longest mount
    point, and the last one if several have the same."""
    best = ("", "", "")
    for line in table.splitlines():
        source, point, kind = [*map(_plain, line.split(" ")), "", "", ""][:3]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[2]):
            best = (kind, source, point)
    return best


def _plain(field: str) -> str:
    """Decodes spaces and similar characters, which the table has as three octal digits."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)
