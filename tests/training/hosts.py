"""Two hosts on one machine: network namespaces with a cable between them, which can be cut."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

CARD = "host0"
"""Name of the network card on both hosts."""


class Hosts:
    """Host 0 is 10.99.0.1, host 1 is 10.99.0.2.  Skips the test where namespaces are not allowed."""

    def __enter__(self) -> Hosts:
        self.keepers: list[subprocess.Popen[bytes]] = []
        for create in (["unshare", "-Urnu"], ["unshare", "-nu"]):  # of a user's own; of root's
            self.user = "-U" in create[1]
            if subprocess.run([*create, "true"], capture_output=True).returncode == 0:
                break
        else:
            pytest.skip("this machine allows no network namespaces: neither unshare -Urn nor unshare -n works")
        self._keep(create)
        self._keep([*self.inside(0, network=False), "unshare", "-nu"])
        cable = ["ip", "link", "add", CARD, "type", "veth", "peer", "name", CARD, "netns", str(self.keepers[1].pid)]
        self.run(0, *cable)
        for host in (0, 1):
            self.run(host, "hostname", f"host-{host}")
            self.run(host, "ip", "addr", "add", f"10.99.0.{host + 1}/24", "dev", CARD)
            for card in ("lo", CARD):
                self.run(host, "ip", "link", "set", card, "up")
        return self

    def __exit__(self, *_: Any) -> None:
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()

    def inside(self, host: int, network: bool = True) -> list[str]:
        """The words before a command that make it run on a host."""
        user = ["-U", "--preserve-credentials"] if self.user else []
        spaces = ["-n", "-u"] if network else []
        return ["nsenter", "-t", str(self.keepers[host].pid), *user, *spaces, "--"] if user or spaces else []

    def run(self, host: int, *command: str) -> None:
        """A command on a host."""
        subprocess.run([*self.inside(host), *command], check=True, capture_output=True, timeout=60)

    def kill(self, host: int) -> None:
        """SIGKILL to every process on a host."""
        keeper = self.keepers[host].pid
        here = network_of(keeper)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if int(folder.name) != keeper and network_of(folder.name) == here:
                    os.kill(int(folder.name), signal.SIGKILL)

    def cable(self, state: str) -> None:
        """`down` or `up`: packets vanish without a word, as when a machine loses its power."""
        self.run(1, "ip", "link", "set", CARD, state)

    def _keep(self, command: list[str]) -> None:
        """A namespace lives as long as a process in it."""
        keeper = subprocess.Popen([*command, "sleep", "1000"])
        self.keepers.append(keeper)
        own = [network_of("self"), *(network_of(k.pid) for k in self.keepers[:-1])]
        while network_of(keeper.pid) in own:
            assert keeper.poll() is None, f"{command} ended"
            time.sleep(0.01)


def network_of(pid: int | str) -> Path:
    """The network namespace of a process, by name."""
    return Path(f"/proc/{pid}/ns/net").readlink()


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """SIGKILL for a process started with `start_new_session` and for all that came of it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
