"""The commands of docs/DEPLOY.md that change a machine run in namespaces, with their own /etc, /opt and /var/lib.
pip installs this checkout without its dependencies, which come from the environment of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.deploy.hosts import UNSHARE, is_permitted
from tests.deploy.render import DEPLOY, ROOT
from tests.docs.blocks import blocks_of

PROGRAMS = ("systemd-sysusers", "systemd-analyze", "usermod")
HIDDEN = ("/opt/", "/var/lib/")
pytestmark = [
    pytest.mark.skipif(not is_permitted(), reason="network and mount namespaces are not permitted here"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="systemd is not installed"),
    pytest.mark.skipif(
        any(path.startswith(HIDDEN) for path in (str(ROOT), sys.base_prefix, tempfile.gettempdir())),
        reason="the test hides /opt and /var/lib, where this checkout, its Python or its temporary folder is",
    ),
]
MACHINE = """\
# In memory, because /etc contains secrets.
mkdir ../etc
mount -t tmpfs none ../etc
cp -a /etc/. ../etc
mount --bind ../etc /etc
rm -f /etc/systemd/system/lookalike*
for folder in /opt /var/lib; do mount -t tmpfs none $folder; done
"""
CHECKS = """\
test "$(id -u lookalike)" = 10001
test "$(stat -c '%a %G' /etc/lookalike/keys.json)" = '640 lookalike'
test "$(stat -c '%a %U' /var/lib/lookalike/.ssh/authorized_keys)" = '600 lookalike'
test "$(getent passwd lookalike | cut -d: -f7)" = /bin/bash
/opt/lookalike/bin/lookalike --version
cd /etc/systemd/system
SYSTEMD_LOG_LEVEL=warning systemd-analyze verify lookalike-shard@0-0.service lookalike-*[a-z].service \\
    lookalike.target lookalike-backup@codes.timer
"""


def test_the_commands_install_a_machine(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    # The checkout may belong to another user.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    for name in filter(None, listed):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    for name in ("cluster_secret", "keys.json", "id_ed25519.pub"):
        (checkout / name).write_text("text\n")
    shutil.copy(DEPLOY / "local.yaml", checkout / "lookalike.yaml")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3.11").symlink_to(Path(sys.base_prefix, "bin", "python3"))
    (programs / "systemctl").write_text(
        f'#!/bin/sh\ncd "{ROOT}" && exec {sys.executable} -m tests.deploy.systemctl "$@"\n'
    )
    (programs / "systemctl").chmod(0o755)
    run = [block for block in blocks_of("docs/DEPLOY.md") if "test_installation.py" in (block.not_run or "")]
    assert len(run) == 2
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # 0 means that it does not isolate: the value is that of --build-isolation
        "PIP_CONFIG_FILE": os.devnull,
    }
    script = "\n".join([MACHINE, *(block.text for block in run), CHECKS])
    done = subprocess.run(
        [*UNSHARE, "bash", "-euxo", "pipefail", "-c", script],
        cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
