"""An sshd on loopback that lets the user of the tests in, where one is installed."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

_CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/user_key.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


class Sshd(NamedTuple):
    """Where it is, and what ssh has to be told to get in."""

    remote: str
    options: list[str]


def find_sshd() -> str:
    """The program; skips the test where it is not installed."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd: apt-get install openssh-server openssh-client")
    return program


@contextmanager
def sshd(directory: Path) -> Iterator[Sshd]:
    """An sshd for the time of the block, its keys and its log in *directory*."""
    program = find_sshd()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as root, it wants to lock itself in there
    directory.mkdir(mode=0o700, exist_ok=True)
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True, timeout=30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "config").write_text(_CONFIGURATION.format(port=port, directory=directory))
    with (directory / "log").open("w") as log:
        command = [program, "-D", "-e", "-f", str(directory / "config")]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log) as process:
            try:
                _wait_for(port, process, directory / "log")
                options = ["-p", str(port), "-i", str(directory / "user_key"), "-o", "StrictHostKeyChecking=no"]
                options += ["-o", f"UserKnownHostsFile={directory / 'known'}", "-F", "none"]
                yield Sshd(f"{getpass.getuser()}@127.0.0.1", options)
            finally:
                process.terminate()
                process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
