"""Prometheus and its parts from Debian, on free ports of the loopback, with deploy/'s own files."""

import json
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import yaml

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
SERVERS = ("prometheus", "prometheus-pushgateway", "prometheus-alertmanager")
EXPORTER = "prometheus-node-exporter"
TOOLS = ("promtool", "amtool")
PATIENCE_S = 300
_OPENER = build_opener(ProxyHandler({}))


def missing_parts():
    """What Debian would have to install."""
    return [name for name in (*SERVERS, EXPORTER, *TOOLS) if shutil.which(name) is None]


def get(url):
    with _OPENER.open(url, timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return taken.getsockname()[1]


def wait_for(what, condition):
    """The first true value of `condition`; a crowded machine may take its time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


class Monitored:
    """All parts at work; `training` is where the endpoints of jobs are looked for."""

    def __init__(self, folder: Path, training: list[int]) -> None:
        self.folder, self.training = folder, training
        names = ("prometheus", "pushgateway", "alertmanager", "node")
        self.ports = {name: free_port() for name in names}
        self.config, self.textfiles = folder / "prometheus", folder / "textfiles"
        self.textfiles.mkdir(parents=True)
        self._write_config()
        self._stack = ExitStack()

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.ports['pushgateway']}"

    def _write_config(self) -> None:
        """Deploy's files, hurried up and with other ports."""
        shutil.copytree(DEPLOYED, self.config)
        path = self.config / "prometheus.yml"
        text = path.read_text().replace("15s", "1s").replace("30s", "1s")
        path.write_text(text)
        ports = {name: [port] for name, port in self.ports.items()} | {"training": self.training}
        for target in (self.config / "targets").glob("*.yml"):
            targets = [f"127.0.0.1:{port}" for port in ports[target.stem]]
            target.write_text(yaml.safe_dump([{"targets": targets}]))

    def __enter__(self) -> Self:
        at = {name: f"--web.listen-address=127.0.0.1:{port}" for name, port in self.ports.items()}
        data = self.folder / "data"
        self._start("prometheus-pushgateway", at["pushgateway"], "--persistence.file=")
        self._start(
            EXPORTER,
            at["node"],
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self.textfiles}",
        )
        self._start(
            "prometheus-alertmanager",
            at["alertmanager"],
            f"--config.file={self.config / 'alertmanager.yml'}",
            f"--storage.path={data / 'alerts'}",
            "--cluster.listen-address=",
        )
        self._start(
            "prometheus",
            at["prometheus"],
            f"--config.file={self.config / 'prometheus.yml'}",
            f"--storage.tsdb.path={data / 'metrics'}",
        )
        for name, path in (("prometheus", "-/ready"), ("pushgateway", "-/ready"), ("node", "")):
            wait_for(name, lambda name=name, path=path: self._answers(name, path))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _start(self, *command: str) -> None:
        log = self._stack.enter_context((self.folder / f"{command[0]}.log").open("w"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)

    def _answers(self, name: str, path: str) -> bool:
        try:
            get(f"http://127.0.0.1:{self.ports[name]}/{path}")
        except (URLError, ConnectionError):
            return False
        return True

    def query(self, expression: str) -> list[dict]:
        """What Prometheus answers now: series with labels and value."""
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query?"
        answer = json.loads(get(url + urlencode({"query": expression})))
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expression: str) -> float | None:
        """The value of the one series there is, or None."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else None

    def alerts(self) -> list[dict[str, str]]:
        """Labels of the alerts that reached the Alertmanager."""
        url = f"http://127.0.0.1:{self.ports['alertmanager']}/api/v2/alerts"
        return [alert["labels"] for alert in json.loads(get(url))]
