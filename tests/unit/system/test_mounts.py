"""Network file systems are distinguished from local disks, with mount tables from Linux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.system.mounts import find_lost, find_network, network_file_system

TABLE = r"""20 21 0:20 / /sys rw - sysfs sysfs rw,relatime
21 21 0:21 / / rw - ext4 /dev/vda1 rw,relatime
22 21 0:22 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/a:/b
23 21 0:23 / /run rw - tmpfs tmpfs rw
24 21 0:24 / /home rw - nfs4 server:/export rw,vers=4.2,addr=10.0.0.2
25 24 0:25 / /home/me/disk rw - ext4 /dev/sdb1 rw
26 21 0:26 / /mnt/share rw - cifs //nas/share rw,username=me
27 21 0:27 / /mnt/with\040space rw - smb3 //nas/two rw
28 21 0:28 / /mnt/c rw - 9p C:\134 rw,dirsync,aname=drvfs;path=C:\134
29 21 0:29 / /mnt/d rw - drvfs D: rw
30 21 0:30 / /mnt/ssh rw - fuse.sshfs me@host:/srv rw,user_id=0
31 21 0:31 / /mnt/rclone rw - fuse.rclone remote: rw
32 21 0:32 / /mnt/bucket rw - fuse.s3fs bucket rw
33 21 0:33 / /mnt/dav rw - fuse https://dav.example/x rw
34 21 0:34 / /mnt/usb rw - fuseblk /dev/sdc1 rw
35 21 0:35 / /mnt/ntfs rw - fuse.ntfs-3g /dev/sdc2 rw
36 21 0:36 / /mnt/ext rw - fuse.ext4 disk.img rw
37 21 0:37 / /mnt/local-fuse rw - fuse /home/x rw
38 21 0:38 / /mnt/gluster rw - fuse.glusterfs 10.0.0.3:/v rw
39 21 0:39 / /scratch rw - lustre 1@tcp:/lustre rw
40 21 0:40 / /ceph rw - ceph mon1,mon2:/ rw
41 21 0:41 / /docker rw - fakeowner /run/host_mark/Users rw,nosuid,nodev,relatime,fakeowner
42 21 0:42 / /docker-before rw - fuse.grpcfuse grpcfuse rw,user_id=0
43 21 0:43 / /docker-first rw - fuse.osxfs osxfs rw,user_id=0
44 21 0:44 / /lima rw - virtiofs mount0 rw,relatime
45 21 0:45 / /media/psf rw - prl_fs :/parallels rw
46 21 0:46 / /vbox rw - vboxsf share rw,nodev
47 21 0:47 / /hgfs rw - fuse.vmhgfs-fuse vmhgfs-fuse rw
48 21 0:48 / /s3 rw - fuse mountpoint-s3 rw,nosuid
49 21 0:49 / /juice rw - fuse.juicefs JuiceFS:jfs rw
50 21 0:50 / /content/drive rw - fuse.drive drive rw
51 21 0:51 / /beegfs rw - beegfs beegfs_nodev rw
52 21 0:52 / /podman rw - fuse.fuse-overlayfs fuse-overlayfs rw
53 21 0:53 / /var/lib/docker/volumes/runs/_data rw - ext4 /dev/vdb1 rw
54 21 0:54 / /pool rw - fuse.mergerfs 1:2:3 rw
55 21 0:55 / /mnt/exfat rw - exfat /dev/sde1 rw
56 21 0:56 / /data rw - nfs server:/old rw
57 56 0:57 / /data rw - xfs /dev/sdd1 rw
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
    """The mount that the kernel reaches counts, which is the later of two on the same point."""
    assert find_network(path, TABLE) == kind


@pytest.mark.parametrize(
    "table",
    [
        *("", "\n", "one", "1 0 0:1 / /", "1 0 0:1 / / rw -", "1 0 0:1 / / rw - 9p"),
        *("1 0 0:1 / / rw - 9p none rw", "1 0 0:1 / / rw - virtiofs kataShared rw"),
    ],
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
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / {place} rw - cifs //nas/share rw\n")
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    job = make_job(sandbox.url, rows=[["a"]])
    # The command gets its own table under /proc, in a mount namespace that ends with it.
    script = 'mount --bind "$0" /proc/$$/mountinfo && exec "$@"'
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
10 1 0:10 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u
11 10 0:11 / /tmp rw - tmpfs tmpfs rw
12 10 8:1 /volumes/data /data rw - ext4 /dev/sda1 rw
13 12 0:13 /var/lib/docker/volumes/v/_data /data/nested rw - overlay overlay rw
14 12 0:14 / /data/fast rw - ramfs ramfs rw
15 12 0:15 / /data/layer rw - overlay overlay rw
16 10 8:1 /volumes/deep /hidden/volume rw - ext4 /dev/sda1 rw
17 10 0:17 / /hidden rw - tmpfs tmpfs rw
18 17 8:1 /volumes/late /hidden/late rw - ext4 /dev/sda1 rw
19 10 8:1 /volumes/both /both rw - ext4 /dev/sda1 rw
9 19 0:20 / /both rw - overlay overlay rw
"""


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("/data/runs/job", False),
        ("/database/job", True),
        ("/home/user/runs", True),
        ("/tmp/runs", True),
        ("/data/fast/runs", True),
        ("/data/nested/runs", False),
        ("/data/layer/runs", True),
        ("/hidden/volume/runs", True),
        ("/hidden/late/runs", False),
        ("/both/runs", True),
    ],
)
def test_a_container_loses_its_layers_and_its_memory(path, lost):
    """A volume stays, whatever its file system is, unless another mount hides it."""
    assert find_lost(path, CONTAINER) == lost
    assert find_lost(path, "")
