"""nginx, as a proxy and with nchan: one master that does nothing, and one worker."""

from __future__ import annotations

import getpass
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.publisher import Publisher
from benchmarks.target import ROOT, Ability, Target, Unavailable, free_port, install

__all__ = ["Nchan", "Nginx"]

_NGINX = ("nginx", "-e", "stderr")


class Nginx(Target):
    """A plain streaming proxy before the model server."""

    name = "nginx"
    abilities = frozenset({Ability.DIRECT})
    packages: Sequence[str] = ("nginx-light",)

    def prepare(self) -> None:
        install(*self.packages, needs="nginx")
        with tempfile.TemporaryDirectory() as folder:
            config = self._config(Path(folder), free_port(), free_port())
            checked = subprocess.run([*_NGINX, "-t", "-c", config], capture_output=True, text=True, check=False)
        if checked.returncode:
            reasons = [line for line in checked.stderr.splitlines() if "[emerg]" in line]
            raise Unavailable(reasons[0].partition(": ")[2] if reasons else "nginx refuses its configuration")

    @property
    def pids(self) -> Sequence[int]:
        masters = super().pids
        children = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in masters)
        return [*masters, *(int(pid) for workers in children for pid in workers)]

    async def start(self, folder: Path, upstream_port: int) -> None:
        command = [*_NGINX, "-c", str(self._config(folder, self.port, upstream_port))]
        await self.launch(command, folder, port=self.port)

    def _config(self, folder: Path, port: int, upstream_port: int) -> Path:
        text = (ROOT / "benchmarks" / "peers" / f"{self.name}.conf").read_text()
        values = {"user": getpass.getuser(), "folder": folder, "port": port, "upstream_port": upstream_port}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        config = folder / "nginx.conf"
        config.write_text(text)
        return config


class Nchan(Nginx):
    """nginx with nchan: it runs nothing, and tells all subscribers of a channel what is posted to it."""

    name = "nchan"
    abilities = frozenset({Ability.FAN_OUT})
    packages = ("nginx-light", "libnginx-mod-nchan")

    async def publisher(self, key: str) -> Publisher:
        return await Publisher.connect(self.port, f"/publish/{key}")
