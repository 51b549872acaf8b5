# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The examples, for real: each sends a job in its own way, its worker is killed in the middle, another completes it.

    python -m examples.run flask    # or django, fastapi, rabbitmq, resume, effects; all of them at once without a name

The exit status is 0 only if the job was completed once, as a recovered one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pika
import psycopg
import redis

from dramatiq_inflight import EventKind, Inspector
from tests.support.postgres import PostgresServer, find_postgres
from tests.support.rabbitmq import RabbitServer, find_rabbitmq
from tests.support.servers import free_port

from .demo_parts import GREEN, OWN_VARIABLES, RED, ROOT, DemoError, LogLine, Pod, Process, Server, Teller

#: Nothing here takes so long, seconds.
PATIENCE = 60.0

PASSWORD = "example"


P = TypeVar("P", bound=Process)


class Web(Process):
    """The web processes of an example."""

    def __init__(self, stage: Stage, args: list[str], cwd: Path) -> None:
        self.port = int(args[-1].rpartition(":")[2])
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        super().__init__([sys.executable, *args], stage.folder / "web.log", {**os.environ, **stage.env}, cwd)

    def ask(self, path: str, form: dict[str, str] | None = None, **headers: str) -> str:
        """The answer to a GET, or to a POST of a form (or of JSON, if the headers say so)."""
        data = None
        if form is not None:
            is_json = headers.get("Content_Type") == "application/json"
            data = (json.dumps(form) if is_json else urllib.parse.urlencode(form)).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, named)
        with self._opener.open(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def json(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Any:
        """The same, as JSON."""
        return json.loads(self.ask(path, form, **headers))

    def refuses(self, path: str) -> bool:
        """Return whether it wants to know who asks: it says so, or leads to a login."""
        try:
            return "log in" in self.ask(path).lower()
        except urllib.error.HTTPError as error:
            return error.code == 401

    def answers(self, path: str) -> bool:
        """Return whether it is ready.

        Raises:
          DemoError: It has ended.
        """
        if self.ended:
            raise DemoError("The web process has ended.", log=self.log)
        try:
            self.ask(path)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


class Stage:
    """Servers, web processes and workers of one example, and what the workers have logged."""

    def __init__(self, folder: Path, teller: Teller) -> None:
        self.folder = folder
        self.teller = teller
        self.env: dict[str, str] = {}
        self.processes: list[Process] = []
        self.pods: list[Pod] = []
        self.lines: list[tuple[str, LogLine]] = []
        self.interrupted = False
        server = self.keep(Server(folder))
        self.wait(server.answers, f"{server.name} answers")
        self.env["REDIS_URL"] = server.url
        self.inspector = Inspector.from_url(server.url)
        self.redis = redis.Redis.from_url(server.url)

    def keep(self, process: P) -> P:
        """One more process to end."""
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End all of them."""
        for process in self.processes:
            process.kill()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds.

        Raises:
          DemoError: It does not, or a worker has ended.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.interrupted:
                raise KeyboardInterrupt
            for pod in self.pods:
                pod.check()
                self.lines += [(pod.name, line) for line in pod.read_log()]
            if time.monotonic() > deadline:
                raise DemoError(f"It did not come about that {what}.", log=self.processes[-1].log)
            time.sleep(0.02)

    def start_pod(self, name: str, args: list[str], cwd: Path = ROOT) -> Pod:
        """A worker, when it is ready."""
        pod = self.keep(Pod(name, args, self.folder, self.env, cwd))
        self.pods.append(pod)
        self.teller.tell(name, f"starts: {' '.join(args).removeprefix('-m ')}")
        self.wait(lambda: pod.ready, f"{name} is ready")
        return pod

    def logged(self, text: str, pod: str = "") -> list[str]:
        """The lines that a pod, or any, has logged with that text."""
        return [line.text for name, line in self.lines if text in line.text and name.startswith(pod)]

    def happens(self, text: str, pod: str) -> None:
        """Wait until a pod has logged something."""
        self.wait(lambda: self.logged(text, pod), f"{pod} logs {text!r}")
        self.teller.tell(pod, self.logged(text, pod)[0].rpartition("[INFO]")[2].strip())

    def kill(self, pod: Pod) -> None:
        """SIGKILL."""
        pod.kill()
        self.teller.tell(pod.name, "is KILLED (SIGKILL) in the middle.", colour=RED)

    def stop(self, pod: Pod) -> None:
        """SIGTERM, as in a deploy; returns when it has ended in order."""
        pod.ask_to_stop()
        self.teller.tell(pod.name, "is asked to stop (SIGTERM).")
        self.wait(lambda: pod.ended, f"{pod.name} ends")
        pod.check_stopped()
        self.lines += [(pod.name, line) for line in pod.read_log()]

    def check(self, what: str, right: object) -> None:
        """See that something is as it should be.

        Raises:
          DemoError: It is not.
        """
        if not right:
            raise DemoError(f"It is not so that {what}.", log=self.processes[-1].log)
        self.teller.tell("", f"Checked: {what}.", colour=GREEN)

    def check_the_end(self, *, recovered: int) -> None:
        """See that nothing is left, and what the history says."""
        self.stop(self.pods[-1])
        kinds = [event.kind for event in self.inspector.history(limit=1000)]
        self.check(f"{recovered} recovery is in the history", kinds.count(EventKind.RECOVERED) == recovered)
        self.check("no message was dead-lettered", EventKind.DEAD_LETTERED not in kinds)
        self.check("nothing is in flight any more", not self.inspector.messages())


def charge_an_order(
    stage: Stage, worker: list[str], send: Callable[[], object], cwd: Path = ROOT, order: int = 1
) -> None:
    """Send it, kill the worker that charges, and see another one charge."""
    send()
    stage.check("who sends leaves nothing in the tracker's keys", not stage.redis.keys("{dramatiq_processing}*"))
    pod_a = stage.start_pod("pod-a", worker, cwd)
    stage.happens(f"Order {order}: charging", "pod-a")
    stage.kill(pod_a)
    stage.start_pod("pod-b", worker, cwd)
    stage.happens(f"Order {order}: charging", "pod-b")
    stage.happens(f"Order {order}: charged.", "pod-b")


def charge_by_web(stage: Stage, web: Web, worker: list[str], cwd: Path = ROOT, **headers: str) -> None:
    """The same, where the order comes by the web, and the dashboard is there."""
    stage.wait(lambda: web.answers("/orders/0"), "the web process answers")
    taken: dict[str, Any] = {}

    def send() -> None:
        taken.update(web.json("/orders", {"order": "1"}, **headers))
        stage.teller.tell("web", f"POST /orders: {taken}")

    charge_an_order(stage, worker, send, cwd)

    def state() -> Any:
        return web.json(f"/orders/{taken['id']}")

    stage.wait(lambda: state()["state"] == "charged", "the web process knows")
    stage.teller.tell("web", f"GET /orders/{taken['id']}: {state()}")
    stage.check("the order was charged by a recovered run", state()["recovered"] is True)
    stage.check_the_end(recovered=1)
    stage.check("it was charged once", len(stage.logged(": charged.")) == 1)
    stage.check("nobody sees the dashboard without a password", web.refuses("/inflight/"))


def basic(password: str) -> str:
    """Return the header of HTTP's basic authentication."""
    return "Basic " + base64.b64encode(f"somebody:{password}".encode()).decode()


def check_dashboard(stage: Stage, page: str) -> None:
    """See that the dashboard tells of it."""
    stage.check("the dashboard shows the worker that died", "pod-a" in page and "recovered" in page)


def django(stage: Stage) -> None:
    """Django, with django_dramatiq: gunicorn and ``manage.py rundramatiq``."""
    folder = ROOT / "examples" / "django"
    stage.env |= {
        "SECRET_KEY": "only-for-this-run",
        "ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE": str(stage.folder / "db.sqlite3"),
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    for args in (["migrate", "-v0"], ["createsuperuser", "--noinput", "--username=admin", "--email=admin@example.com"]):
        subprocess.run([sys.executable, "manage.py", *args], cwd=folder, env={**os.environ, **stage.env}, check=True)
    args = ["-m", "gunicorn", "-w", "2", "mysite.wsgi", "-b", f"127.0.0.1:{free_port()}"]
    web = stage.keep(Web(stage, args, folder))
    charge_by_web(stage, web, ["manage.py", "rundramatiq", "-p", "1", "-t", "4"], folder)
    form = {"username": "admin", "password": PASSWORD, "next": "/inflight/"}
    login = web.ask("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', login)
    assert token is not None
    check_dashboard(stage, web.ask("/admin/login/", {**form, "csrfmiddlewaretoken": token[1]}))


def flask(stage: Stage) -> None:
    """Flask, with gunicorn."""
    stage.env |= {"DASHBOARD_PASSWORD": PASSWORD, "SECRET_KEY": "only-for-this-run"}
    args = ["-m", "gunicorn", "-w", "2", "examples.flask.app:app", "-b", f"127.0.0.1:{free_port()}"]
    web = stage.keep(Web(stage, args, ROOT))
    charge_by_web(stage, web, ["-m", "dramatiq", "examples.flask.tasks", "-p", "1", "-t", "4"])
    check_dashboard(stage, web.ask("/inflight/", Authorization=basic(PASSWORD)))


def fastapi(stage: Stage) -> None:
    """FastAPI, with uvicorn, and an actor that is async."""
    stage.env |= {"DASHBOARD_PASSWORD": PASSWORD, "SECRET_KEY": "only-for-this-run"}
    port = str(free_port())
    web = stage.keep(Web(stage, ["-m", "uvicorn", "examples.fastapi.app:app", "--port", port], ROOT))
    worker = ["-m", "dramatiq", "examples.fastapi.tasks", "-p", "1", "-t", "4"]
    charge_by_web(stage, web, worker, Content_Type="application/json")
    check_dashboard(stage, web.ask("/inflight/", Authorization=basic(PASSWORD)))


def rabbitmq(stage: Stage) -> None:
    """RabbitMQ, with Redis beside it."""
    with rabbitmq_url(stage) as url:
        stage.env["RABBITMQ_URL"] = url
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            for queue in ("charges", "charges.DQ", "charges.XQ"):
                channel = connection.channel()
                try:
                    channel.queue_purge(queue)  # of a run that was broken off
                except pika.exceptions.ChannelClosedByBroker:
                    pass  # there is none yet
        sender = [sys.executable, "-m", "examples.rabbitmq.tasks"]
        worker = ["-m", "dramatiq", "examples.rabbitmq.tasks", "-p", "1", "-t", "4"]
        environment = {**os.environ, **stage.env}
        charge_an_order(stage, worker, lambda: subprocess.run(sender, env=environment, cwd=ROOT, check=True))
        stage.check("the order was charged by a recovered run", stage.logged("charging again", "pod-b"))
        stage.check_the_end(recovered=1)
        stage.check("it was charged once", len(stage.logged(": charged.")) == 1)


@contextmanager
def rabbitmq_url(stage: Stage) -> Iterator[str]:
    """The RabbitMQ that is named in TEST_RABBITMQ_URL, or one of our own."""
    named = os.environ.get("TEST_RABBITMQ_URL")
    if named:
        yield named
        return
    if find_rabbitmq() is None:
        raise DemoError("There is no RabbitMQ: set TEST_RABBITMQ_URL, or install Debian's rabbitmq-server.", status=2)
    server = RabbitServer(stage.folder / "rabbitmq")
    try:
        yield server.start().url
    finally:
        server.remove()


def resume(stage: Stage) -> None:
    """A long job goes on where it was: after a kill, and after a deploy."""
    database = stage.folder / "documents.sqlite"
    stage.env["DATABASE"] = str(database)
    subprocess.run(
        [sys.executable, "-m", "examples.resume.tasks"], env={**os.environ, **stage.env}, cwd=ROOT, check=True
    )
    worker = ["-m", "dramatiq", "examples.resume.tasks", "-p", "1", "-t", "4"]

    def counted() -> int:
        with sqlite3.connect(database, timeout=10) as connection:
            return int(connection.execute("SELECT count(words) FROM document").fetchone()[0])

    def start(name: str, until: int) -> Pod:
        pod = stage.start_pod(name, worker)
        stage.happens(" goes on after document ", name)
        stage.wait(lambda: counted() >= until, f"{until} documents are counted")
        return pod

    def beginning(pod: str) -> int:
        return int(stage.logged(" goes on after document ", pod)[0].rpartition(" ")[2].rstrip("."))

    stage.kill(start("pod-a", 30))
    at_the_kill = counted()
    stage.stop(start("pod-b", 45))
    at_the_stop = counted()
    start("pod-c", 120)
    stage.happens("All documents are counted", "pod-c")
    with sqlite3.connect(database, timeout=10) as connection:
        words, again = connection.execute("SELECT sum(words), sum(times - 1) FROM document").fetchone()
    saved = beginning("pod-b")
    stage.check(f"all is counted: {words} words", words == sum(range(1, 121)))
    stage.check(f"it went on at {saved} of {at_the_kill} after the kill", 0 < saved <= at_the_kill)
    stage.check(f"it went on at {at_the_stop} after the deploy", beginning("pod-c") == at_the_stop)
    stage.check(f"nothing but {again} documents was counted twice", again == at_the_kill - saved)
    stage.check("it was completed once", len(stage.logged("All documents are counted")) == 1)
    stage.check_the_end(recovered=1)


def effects(stage: Stage) -> None:
    """A worker that is frozen and wakes up is refused by PostgreSQL."""
    programs = find_postgres()
    if programs is None:
        raise DemoError("There is no PostgreSQL: install Debian's postgresql.", status=2)
    server = PostgresServer(programs)
    try:
        stage.env |= {"DATABASE_URL": server.start().url, "HEARTBEAT_INTERVAL": "1", "HEARTBEAT_TTL": "5"}
        sender = [sys.executable, "-m", "examples.effects.tasks"]
        subprocess.run(sender, env={**os.environ, **stage.env}, cwd=ROOT, check=True)
        worker = ["-m", "dramatiq", "examples.effects.tasks", "-p", "1", "-t", "1"]
        zombie = stage.start_pod("pod-a", worker)
        stage.happens("Transfer: asking", "pod-a")
        os.killpg(zombie.process.pid, signal.SIGSTOP)
        stage.teller.tell("pod-a", "is FROZEN (SIGSTOP) in the middle.", colour=RED)
        stage.start_pod("pod-b", worker)
        stage.happens("Transfer: done.", "pod-b")
        os.killpg(zombie.process.pid, signal.SIGCONT)
        stage.teller.tell("pod-a", "wakes up (SIGCONT), and goes on.")
        refused = ("An earlier run of message", "MessageLost")
        stage.wait(lambda: any(stage.logged(text, "pod-a") for text in refused), "pod-a is refused")
        stage.stop(zombie)
        with psycopg.connect(server.url) as database:
            balances: dict[str, int] = dict(database.execute("SELECT name, balance FROM account").fetchall())
        stage.check(f"the money was moved once: {balances}", balances == {"ann": 90, "bob": 10})
        stage.check("pod-a has not done it", not stage.logged("Transfer: done.", "pod-a"))
        stage.check_the_end(recovered=1)
    finally:
        server.kill()


EXAMPLES: dict[str, Callable[[Stage], None]] = {
    "django": django,
    "flask": flask,
    "fastapi": fastapi,
    "rabbitmq": rabbitmq,
    "resume": resume,
    "effects": effects,
}


def run(name: str) -> int:
    """Run one, and leave nothing behind; returns the exit status."""
    for variable in [variable for variable in os.environ if OWN_VARIABLES.match(variable)]:
        del os.environ[variable]
    teller = Teller()
    folder = Path(tempfile.mkdtemp(prefix=f"dramatiq_inflight-{name}-"))
    stage: Stage | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        stage = Stage(folder, teller)
        EXAMPLES[name](stage)
        teller.say(f"{name}: the job was completed once, though its worker was killed.", GREEN)
        return 0
    except DemoError as error:
        return teller.failed(name, error)
    except KeyboardInterrupt:
        teller.say("Interrupted; cleaning up.")
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if stage is not None:
            stage.close()
        shutil.rmtree(folder, ignore_errors=True)


def main(names: list[str]) -> int:
    """Run one here, or several at once; returns the exit status."""
    wrong = sorted(set(names) - set(EXAMPLES))
    if wrong:
        print(f"There is no example {wrong[0]!r}; there are {', '.join(EXAMPLES)}.", file=sys.stderr)
        return 2
    if len(names) == 1:
        return run(names[0])
    command = [sys.executable, "-m", "examples.run"]
    children = {
        name: subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name in names or EXAMPLES
    }
    try:
        for name, child in children.items():
            told, _ = child.communicate()
            print(f"== {name}\n{told}", flush=True)
    finally:
        for child in children.values():
            child.terminate()
            child.wait()
    return max(abs(int(child.returncode)) for child in children.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
