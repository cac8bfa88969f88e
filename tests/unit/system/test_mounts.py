"""Network file systems are distinguished from local disks, with mount tables from Linux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.system.mounts import find_lost, find_network, network_file_system

TABLE = r"""sysfs /sys sysfs rw,relatime 0 0
/dev/vda1 / ext4 rw,relatime 0 0
overlay /var/lib/docker/overlay2/x/merged overlay rw,lowerdir=/a:/b 0 0
tmpfs /run tmpfs rw 0 0
server:/export /home nfs4 rw,vers=4.2,addr=10.0.0.2 0 0
/dev/sdb1 /home/me/disk ext4 rw 0 0
//nas/share /mnt/share cifs rw,username=me 0 0
//nas/two /mnt/with\040space smb3 rw 0 0
C:\134 /mnt/c 9p rw,dirsync,aname=drvfs;path=C:\134 0 0
D: /mnt/d drvfs rw 0 0
me@host:/srv /mnt/ssh fuse.sshfs rw,user_id=0 0 0
remote: /mnt/rclone fuse.rclone rw 0 0
bucket /mnt/bucket fuse.s3fs rw 0 0
https://dav.example/x /mnt/dav fuse rw 0 0
/dev/sdc1 /mnt/usb fuseblk rw 0 0
/dev/sdc2 /mnt/ntfs fuse.ntfs-3g rw 0 0
disk.img /mnt/ext fuse.ext4 rw 0 0
/home/x /mnt/local-fuse fuse rw 0 0
10.0.0.3:/v /mnt/gluster fuse.glusterfs rw 0 0
1@tcp:/lustre /scratch lustre rw 0 0
mon1,mon2:/ /ceph ceph rw 0 0
/run/host_mark/Users /docker fakeowner rw,nosuid,nodev,relatime,fakeowner 0 0
grpcfuse /docker-before fuse.grpcfuse rw,user_id=0 0 0
osxfs /docker-first fuse.osxfs rw,user_id=0 0 0
mount0 /lima virtiofs rw,relatime 0 0
:/parallels /media/psf prl_fs rw 0 0
share /vbox vboxsf rw,nodev 0 0
vmhgfs-fuse /hgfs fuse.vmhgfs-fuse rw 0 0
mountpoint-s3 /s3 fuse rw,nosuid 0 0
JuiceFS:jfs /juice fuse.juicefs rw 0 0
drive /content/drive fuse.drive rw 0 0
beegfs_nodev /beegfs beegfs rw 0 0
fuse-overlayfs /podman fuse.fuse-overlayfs rw 0 0
/dev/vdb1 /var/lib/docker/volumes/runs/_data ext4 rw 0 0
1:2:3 /pool fuse.mergerfs rw 0 0
/dev/sde1 /mnt/exfat exfat rw 0 0
server:/old /data nfs rw 0 0
/dev/sdd1 /data xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/srv/runs/job", None),
        ("/var/lib/docker/overlay2/x/merged/job", None),
        ("/run/job", None),
        ("/home/me/runs", "nfs4"),
        ("/home/me/disk/runs", None),
        ("/home2/runs", None),
        ("/mnt/share", "cifs"),
        ("/mnt/share/a/b", "cifs"),
        ("/mnt/shared", None),
        ("/mnt/with space/runs", "smb3"),
        ("/mnt/c/Users/me", "9p"),
        ("/mnt/d/x", "drvfs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/mnt/rclone/x", "fuse.rclone"),
        ("/mnt/bucket/x", "fuse.s3fs"),
        ("/mnt/dav/x", "fuse"),
        ("/mnt/usb/x", None),
        ("/mnt/ntfs/x", None),
        ("/mnt/ext/x", None),
        ("/mnt/local-fuse/x", None),
        ("/mnt/gluster/x", "fuse.glusterfs"),
        ("/scratch/x", "lustre"),
        ("/ceph/x", "ceph"),
        ("/docker/x", "fakeowner"),
        ("/docker-before/x", "fuse.grpcfuse"),
        ("/docker-first/x", "fuse.osxfs"),
        ("/lima/x", "virtiofs"),
        ("/media/psf/x", "prl_fs"),
        ("/vbox/x", "vboxsf"),
        ("/hgfs/x", "fuse.vmhgfs-fuse"),
        ("/s3/x", "fuse"),
        ("/juice/x", "fuse.juicefs"),
        ("/content/drive/x", "fuse.drive"),
        ("/beegfs/x", "beegfs"),
        ("/podman/x", None),
        ("/var/lib/docker/volumes/runs/_data/x", None),
        ("/pool/x", None),
        ("/mnt/exfat/x", None),
        ("/data/x", None),
    ],
)
def test_the_mount_of_a_path_decides_whether_it_is_on_a_network(path, kind):
    """The longest mount point counts, and the later of two mounts on the same point."""
    assert find_network(path, TABLE) == kind


@pytest.mark.parametrize(
    "table", ["", "\n", "one", "one /", "none / 9p rw 0 0", "kataShared / virtiofs rw 0 0"]
)
def test_a_table_without_a_network_mount_refuses_nothing(table):
    """Not even with half a line, or with the root of a sandbox, which is a folder of the host."""
    assert find_network("/srv/x", table) is None


def test_the_folders_of_these_tests_are_on_a_local_disk(tmp_path):
    """The path need not exist yet."""
    assert network_file_system(tmp_path / "not" / "yet") is None


def test_a_run_folder_on_a_network_file_system_is_refused(sandbox, make_job, tmp_path):
    """Nothing is sent and the folder is not created. Only this test sees the mount."""
    place = tmp_path / "share"
    place.mkdir()
    table = tmp_path / "mounts"
    table.write_text(f"//nas/share {place} cifs rw 0 0\n")
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    job = make_job(sandbox.url, rows=[["a"]])
    # The command gets its own table under /proc, in a mount namespace that ends with it.
    script = 'mount --bind "$0" /proc/$$/mounts && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(table)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    done = job.shell([*command, *job.command("run", "--output", str(place / "out"))])
    assert done.returncode == 2, done.stderr
    assert "network file system (cifs)" in done.stderr
    assert "Nothing was sent" in done.stderr
    assert not (place / "out").exists()
    assert sandbox.received() == 0
    assert Path(place).is_dir()


CONTAINER = """\
overlay / overlay rw,lowerdir=/l,upperdir=/u 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sda1 /data ext4 rw 0 0
overlay /data/over overlay rw 0 0
ramfs /data/fast ramfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("/data/runs/job", False),
        ("/database/job", True),
        ("/home/user/runs", True),
        ("/tmp/runs", True),
        ("/data/fast/runs", True),
        ("/data/over/runs", False),
    ],
)
def test_a_container_loses_its_own_layer_and_its_memory(path, lost):
    """A volume stays, whatever its file system is."""
    assert find_lost(path, CONTAINER) == lost
    assert find_lost(path, "")
