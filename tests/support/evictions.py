# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Evictions of pods by Kubernetes, and how soon a job runs again: with the defaults, and with examples/kubernetes.

``python -m tests.support.evictions [CASE...]``; root, for pid namespaces.  A pod is a ``dramatiq`` with two worker
processes, the first of which is process 1 of a pid namespace, as in a container; another pod has room for the job.  The
cases run side by side, and take two and a half minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .cluster import Cluster, standalone
from .workers import WorkerProcess

__all__ = ["CASES", "Case"]

ROOT = Path(__file__).parents[2]

#: The command that makes a pid namespace.
CONTAINER = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")

#: The longest that anything takes here, seconds.
PATIENCE = 200.0

DEFAULTS = {
    "HEARTBEAT_INTERVAL": "30",
    "HEARTBEAT_TTL": "90",
    "PROCESSING_WATCH_PROCESSES": "true",
    "PROCESSING_CONNECTION_TIMEOUT": "2",
}


def settings(folder: str) -> dict[str, str]:
    """The settings of a folder in examples/kubernetes."""
    lines = (ROOT / "examples" / "kubernetes" / folder / "settings.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class Setup:
    """How the pods are set up."""

    name: str
    env: dict[str, str]
    args: tuple[str, ...]
    #: From SIGTERM to SIGKILL, seconds.
    grace: float


def setups() -> dict[str, Setup]:
    """Dramatiq's, Kubernetes' and our defaults; and the base and the overlay of examples/kubernetes."""
    made = {"default": Setup("default", DEFAULTS, (), 30)}
    env = dict(DEFAULTS)
    for name in ("base", "overlays/spot"):
        env.update(settings(name))
        env.pop("PROCESSING_HEALTH_FILE", None)
        text = (ROOT / "examples" / "kubernetes" / name / "deployment.yaml").read_text("utf-8")
        pod = yaml.safe_load(text)["spec"]["template"]["spec"]
        args = tuple(arg for arg in pod["containers"][0]["args"] if "shutdown-timeout" in arg)
        made[Path(name).name] = Setup(Path(name).name, dict(env), args, pod["terminationGracePeriodSeconds"])
    return made


class Case:
    """A job runs in pod-1; something happens to that; pod-2 has room."""

    def __init__(self, cluster: Cluster, setup: Setup, **env: str) -> None:
        self.cluster = cluster
        self.setup = setup
        self.env = {**setup.env, **env}
        self.gate = cluster.folder / "gate"
        self.pod = self.start("pod-1")
        self.happened = 0.0

    def start(self, name: str) -> WorkerProcess:
        """A pod."""
        return self.cluster.worker(
            threads=8,
            processes=2,
            inside=CONTAINER,
            wait=False,
            args=self.setup.args,
            env={**self.env, "PROCESSING_INSTANCE_ID": name},
        )

    def run(self, send: Callable[[Any, str], object], happens: Callable[[Case], object]) -> float:
        """Seconds from what happens to the next run of the job."""
        history = self.cluster.history
        send(self.cluster.app, str(self.gate))
        self.cluster.wait(lambda: history.count("start") == 1, what="the job runs")
        other = self.start("pod-2")
        self.cluster.wait(lambda: other.output().count("ready for action") == 2, what="pod-2 boots")
        time.sleep(2)  # all that a boot does is done
        self.happened = time.time()
        happens(self)
        self.cluster.wait(lambda: history.count("start") == 2, what="the job runs again", timeout=PATIENCE)
        again = history.events("start")[1].at - self.happened
        self.gate.touch()
        self.cluster.wait(lambda: history.count("end") >= 1, what="the job completes")
        return again

    @property
    def main_pid(self) -> int:
        """Process 1 of the pod, as seen from here."""
        pid = self.pod.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()[0])

    def worker_pid(self) -> int:
        """The worker process that runs the job, as seen from here."""
        inside = self.cluster.history.events("start")[0].pid
        space = os.readlink(f"/proc/{self.main_pid}/ns/pid")
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == space:
                    status = (entry / "status").read_text("utf-8")
                    if status.partition("NSpid:")[2].split("\n")[0].split()[-1] == str(inside):
                        return int(entry.name)
            except OSError:
                continue  # it has ended meanwhile
        raise AssertionError(f"process {inside} is not there")


def drain(case: Case) -> None:
    """SIGTERM to process 1; SIGKILL to all when the grace period is over."""
    os.kill(case.main_pid, signal.SIGTERM)
    deadline = time.monotonic() + case.setup.grace
    while case.pod.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = time.time() - case.happened
    how = "by itself" if case.pod.process.poll() is not None else "by SIGKILL"
    case.pod.kill()
    print(f"({case.setup.name}: the container ended {how} after {ended:.1f} s)", flush=True)


def lose(case: Case) -> None:
    """The node is gone, or the pod is deleted by force."""
    case.pod.kill()


def restart(case: Case) -> None:
    """The kernel kills the container as a whole, and kubelet restarts it under its old name."""
    case.pod.kill()
    case.start("pod-1")


def kill_one(case: Case) -> None:
    """The kernel kills the worker process that runs the job, and no other."""
    os.kill(case.worker_pid(), signal.SIGKILL)


def gated(app: Any, gate: str) -> None:
    """A job that waits, and can be interrupted."""
    app.gated.send("job", gate)


def stepwise(app: Any, gate: str) -> None:
    """A job that iterates, and stops by itself."""
    app.stepwise.send("job", 1, 0.05, 5.0, gate)


#: The act on each job, by setup; and other settings.
CASES: dict[str, tuple[str, Callable[[Any, str], None], Callable[[Case], None], dict[str, str]]] = {
    "drain-default": ("default", gated, drain, {}),
    "drain-base": ("base", gated, drain, {}),
    "drain-base-iterate": ("base", stepwise, drain, {}),
    "drain-base-unstoppable": ("base", gated, drain, {"PROCESSING_HAND_BACK": ""}),
    "drain-spot": ("spot", gated, drain, {}),
    "drain-spot-unstoppable": ("spot", gated, drain, {"PROCESSING_HAND_BACK": ""}),
    "process-default": ("default", gated, kill_one, {}),
    "process-base": ("base", gated, kill_one, {}),
    "container-default": ("default", gated, restart, {}),
    "container-base": ("base", gated, restart, {}),
    "node-default": ("default", gated, lose, {}),
    "node-base": ("base", gated, lose, {}),
}


def measure(name: str) -> None:
    """Run one case, and print what came out."""
    setup, send, happens, env = CASES[name]
    with standalone(lambda url: {}) as cluster:
        again = Case(cluster, setups()[setup], **env).run(send, happens)
    print(f"{name}: the job ran again after {again:.2f} s", flush=True)


def main() -> int:
    """Run a case, or several side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE", help=", ".join(CASES))
    cases = parser.parse_args().cases or list(CASES)
    if len(cases) == 1:
        measure(cases[0])
        return 0
    children = []
    for case in cases:
        children.append(subprocess.Popen([sys.executable, "-m", "tests.support.evictions", case], cwd=ROOT))
        time.sleep(2)  # the boots, one after the other
    return max(abs(child.wait()) for child in children)


if __name__ == "__main__":
    sys.exit(main())
