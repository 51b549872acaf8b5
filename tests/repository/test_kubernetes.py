# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The manifests in examples/kubernetes: valid, consistent, and such as the package and Dramatiq take them."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import dramatiq.cli
import pytest
import yaml

from dramatiq_inflight.config.settings import SETTINGS, load_settings

pytestmark = pytest.mark.once

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"
FOLDERS = [FOLDER / "base", FOLDER / "overlays" / "spot"]
#: They are applied beside one of those.
MONITORING, DASHBOARD = FOLDER / "monitoring", FOLDER / "dashboard"

#: From the oldest that the page speaks of to the newest that the validator knows.
VERSIONS = ["1.28", "1.32", "newest"]

#: Between one time-out and the next: a worker looks once a second whether it is to stop, its threads too, and the main
#: process whether it has, seconds.
MARGIN = 4.0

Document = dict[str, Any]


def read(path: Path) -> list[Document]:
    """The documents of a file."""
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def read_env(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def resolve(folder: Path) -> list[Document]:
    """Return the documents of a kustomization, with the part of Kustomize that is used here."""
    (file,) = read(folder / "kustomization.yaml")
    assert file.pop("kind") == "Kustomization"
    file.pop("apiVersion")
    found: list[Document] = []
    for resource in file.pop("resources"):
        path = (folder / resource).resolve()
        found += resolve(path) if path.is_dir() else read(path)
    for generator in file.pop("configMapGenerator", []):
        data = {name: value for env in generator["envs"] for name, value in read_env(folder / env).items()}
        if generator.get("behavior") == "merge":
            one(found, "ConfigMap", generator["name"])["data"].update(data)
        else:
            metadata = {"name": generator["name"]}
            found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for patch in file.pop("patches", []):
        (change,) = read(folder / patch["path"])
        merge(one(found, change["kind"], change["metadata"]["name"]), change)
    for image in file.pop("images", []):
        for document in found:
            for container in pod_of(document).get("containers", []):
                if container["image"] == image["name"]:
                    container["image"] = image["newName"] + ":" + image["newTag"]
    assert not file, f"{folder.name}: {sorted(file)} cannot be resolved here"
    return found


def merge(target: Document, change: Document) -> None:
    """A strategic merge: mappings are merged, containers by their names, all else is replaced."""
    for key, value in change.items():
        if isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        elif key == "containers":
            for container in value:
                merge(next(one for one in target[key] if one["name"] == container["name"]), container)
        else:
            target[key] = copy.deepcopy(value)


def one(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(document: Document) -> Document:
    """The pod of a deployment; of anything else an empty one."""
    spec: Document = document.get("spec", {}).get("template", {}).get("spec", {})
    return spec


def rendered_by_kubectl(folder: Path) -> list[Document]:
    command = shutil.which("kubectl")
    if command is None:
        pytest.skip("kubectl is not on the PATH")
    done = subprocess.run([command, "kustomize", str(folder)], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    # The hash of a generated name is not made here.
    return list(yaml.safe_load_all(re.sub(r"(worker-settings)-[a-z0-9]{10}\b", r"\1", done.stdout)))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def documents(folder: Path) -> list[Document]:
    return resolve(folder)


@pytest.fixture
def pod(documents: list[Document]) -> Document:
    """That of the workers."""
    return pod_of(one(documents, "Deployment", "worker"))


@pytest.fixture
def worker(pod: Document) -> Document:
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture
def settings(documents: list[Document], worker: Document) -> dict[str, str]:
    """The worker's environment that the ConfigMap makes."""
    (source,) = worker["envFrom"]
    data: dict[str, str] = one(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    return data


@pytest.mark.parametrize("folder", [*FOLDERS, MONITORING, DASHBOARD], ids=lambda folder: folder.name)
def test_kubectl_makes_the_same_of_it(folder: Path) -> None:
    theirs, ours = rendered_by_kubectl(folder), resolve(folder)
    key = lambda document: (document["kind"], document["metadata"]["name"])  # noqa: E731
    assert sorted(theirs, key=key) == sorted(ours, key=key)


def test_one_place_names_the_image_of_all_containers(documents: list[Document]) -> None:
    (image,) = read(FOLDER / "base" / "kustomization.yaml")[0]["images"]
    found = [container["image"] for document in documents for container in pod_of(document).get("containers", [])]
    assert found == [f"{image['newName']}:{image['newTag']}"] * 2  # the workers and the exporter


@pytest.mark.parametrize("version", VERSIONS)
def test_each_document_is_valid_and_has_no_unknown_field(documents: list[Document], version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: nox -s examples")
    wanted = validator.latest_version() if version == "newest" else version
    for document in documents:
        validator.validate(document, wanted, strict=True)
    wrong = copy.deepcopy(one(documents, "Deployment", "worker"))
    pod_of(wrong)["terminationGracePeriod"] = 60
    with pytest.raises(validator.ValidationError, match="terminationGracePeriod"):
        validator.validate(wrong, wanted, strict=True)


def test_selectors_match(documents: list[Document]) -> None:
    pods = []
    for document in documents:
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"] == labels
            for constraint in pod_of(document).get("topologySpreadConstraints", []):
                assert constraint["labelSelector"]["matchLabels"] == labels
            pods.append((labels, pod_of(document)))
    selected = 0
    for document in documents:
        if document["kind"] == "PodDisruptionBudget":
            assert one(documents, "Deployment", "worker")["spec"]["selector"] == document["spec"]["selector"]
            selected += 1
        elif document["kind"] == "Service":
            (pod,) = [pod for labels, pod in pods if labels == document["spec"]["selector"]]
            ports = {port["name"] for container in pod["containers"] for port in container.get("ports", [])}
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports
            selected += 1
    assert selected == 2


@pytest.mark.parametrize(("folder", "count"), [*((folder, 2) for folder in FOLDERS), (DASHBOARD, 5)])
def test_what_is_referred_to_is_there(folder: Path, count: int) -> None:
    """Secrets are made by hand: the page says how."""
    page = (FOLDER.parents[1] / "docs" / "kubernetes.rst").read_text("utf-8").replace("\\\n", "")
    made = {
        (name, key)
        for name, keys in re.findall(r"kubectl create secret generic (\S+)(.*)", page)
        for key in re.findall(r"--from-literal=([\w-]+)=", keys)
    }
    documents = resolve(folder)
    secrets = 0
    for document in documents:
        pod = pod_of(document)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod.get("containers", []):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            for source in container.get("envFrom", []):
                one(documents, "ConfigMap", source["configMapRef"]["name"])
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret is not None:
                    assert (secret["name"], secret["key"]) in made
                    secrets += 1
    assert secrets == count


def test_the_tracker_takes_the_settings(
    worker: Document, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {one.variable for one in SETTINGS.values()}
    assert set(settings) <= variables
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings({})
    assert loaded.heartbeat == "process"
    assert loaded.heartbeat_ttl >= 3 * loaded.heartbeat_interval
    assert loaded.instance_exclusive
    named = {variable["name"]: variable.get("valueFrom", {}) for variable in worker["env"]}
    assert set(named) - {"REDIS_URL"} == {"PROCESSING_INSTANCE_ID"} <= variables
    # Or else two pods would take each other for dead.
    assert named["PROCESSING_INSTANCE_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_there_is_one_worker_container_in_a_pod_of_its_own_name(documents: list[Document], pod: Document) -> None:
    """The conditions of an exclusive instance."""
    assert one(documents, "Deployment", "worker")["spec"]["replicas"] >= 2
    assert len(pod["containers"]) == 1
    assert not {"hostNetwork", "hostPID", "shareProcessNamespace"} & set(pod)


def test_every_time_out_is_below_the_next(pod: Document, worker: Document, settings: dict[str, str]) -> None:
    arguments = dramatiq.cli.make_argument_parser().parse_args(worker["args"])
    hand_back = float(settings["PROCESSING_HAND_BACK"])
    shutdown = arguments.worker_shutdown_timeout / 1000
    assert hand_back + MARGIN <= shutdown
    assert shutdown + MARGIN <= pod["terminationGracePeriodSeconds"]
    assert worker["command"] == ["dramatiq"], "it is process 1, and gets the signals"
    assert arguments.processes == 2


def queries(document: Document) -> str:
    return " ".join(trigger["metadata"]["query"] for trigger in document["spec"]["triggers"])


def test_workers_are_scaled_by_metrics_that_there_are() -> None:
    (keda,), (hpa,) = (read(FOLDER / "scaling" / f"{name}.yaml") for name in ("keda", "hpa"))
    page = (FOLDER.parents[1] / "docs" / "kubernetes.rst").read_text("utf-8")
    metrics = (FOLDER.parents[1] / "docs" / "metrics.rst").read_text("utf-8")
    (block,) = re.findall(r"^\.\. code-block:: yaml\n\n((?:(?:    .*)?\n)+)", page, re.MULTILINE)
    (rule,) = yaml.safe_load(block)["rules"]["external"]
    named = set(re.findall(r"dramatiq_inflight_\w+", queries(keda) + rule["metricsQuery"] + rule["seriesQuery"]))
    assert len(named) == 2
    assert all(f"``{name}``" in metrics for name in named)
    assert hpa["spec"]["metrics"][0]["external"]["metric"]["name"] == rule["name"]["as"]
    workers = one(resolve(FOLDER / "base"), "Deployment", "worker")
    for spec, least in ((keda["spec"], "minReplicaCount"), (hpa["spec"], "minReplicas")):
        assert spec["scaleTargetRef"]["name"] == workers["metadata"]["name"]
        assert spec[least] >= 2
    assert keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["spec"]["behavior"]
    exporter = one(resolve(FOLDER / "base"), "Deployment", "inflight-exporter")
    assert "--broker=shop.tasks" in pod_of(exporter)["containers"][0]["args"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_autoscaler_is_valid(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: nox -s examples")
    wanted = validator.latest_version() if version == "newest" else version
    validator.validate(read(FOLDER / "scaling" / "hpa.yaml")[0], wanted, strict=True)


def probes(worker: Document) -> dict[str, list[str]]:
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return {kind: worker[kind]["exec"]["command"] for kind in kinds}


def test_the_probes_look_at_the_health_file_on_a_volume(
    pod: Document, worker: Document, settings: dict[str, str]
) -> None:
    file = Path(settings["PROCESSING_HEALTH_FILE"])
    assert worker["securityContext"]["readOnlyRootFilesystem"]
    (mount,) = [mount for mount in worker["volumeMounts"] if file.is_relative_to(mount["mountPath"])]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert "emptyDir" in volume
    assert any(mount["mountPath"] == "/tmp" for mount in worker["volumeMounts"]), "the lock of alone_in is there"
    for command in probes(worker).values():
        assert f"find {file} " in command[-1]


def test_the_probes_tell_fresh_from_stale(worker: Document, settings: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "healthy"
    for kind, command in probes(worker).items():
        here = [part.replace(settings["PROCESSING_HEALTH_FILE"], str(file)) for part in command]
        assert here != command

        def passes(here: list[str] = here) -> bool:
            return subprocess.run(here, capture_output=True, check=False).returncode == 0

        file.unlink(missing_ok=True)
        assert not passes(), kind
        file.touch()
        assert passes(), kind
        # Older than several heartbeats: a single one that is late restarts nobody.
        late = time.time() - 3 * float(settings["HEARTBEAT_TTL"])
        os.utime(file, (late, late))
        assert passes(), kind
        stale = time.time() - 600
        os.utime(file, (stale, stale))
        assert not passes(), kind


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dashboard_and_the_policies_are_valid(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: nox -s examples")
    wanted = validator.latest_version() if version == "newest" else version
    documents = resolve(DASHBOARD) + resolve(MONITORING)
    known = [document for document in documents if document["apiVersion"] != "monitoring.coreos.com/v1"]
    assert [document["kind"] for document in known] == ["Deployment", "Service", "NetworkPolicy", "NetworkPolicy"]
    for document in known:
        validator.validate(document, wanted, strict=True)


def test_the_rules_of_the_operator_are_the_alerts() -> None:
    """With their comments: the head of the file has the command that makes it."""
    alerts = (FOLDER.parents[1] / "docs" / "monitoring" / "alerts.yml").read_text("utf-8")
    groups = alerts[alerts.index("groups:") :]
    file = MONITORING / "prometheusrule.yaml"
    assert file.read_text("utf-8").partition("\nspec:\n")[2] == textwrap.indent(groups, "  ")
    (rule,) = read(file)
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load(alerts)


def test_prometheus_scrapes_the_exporter_and_nobody_else_does() -> None:
    base, monitoring = resolve(FOLDER / "base"), resolve(MONITORING)
    service, pod = (one(base, kind, "inflight-exporter") for kind in ("Service", "Deployment"))
    monitor = one(monitoring, "ServiceMonitor", "inflight-exporter")["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    (port,) = service["spec"]["ports"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [port["name"]]
    assert admitted(one(monitoring, "NetworkPolicy", "inflight-exporter"), pod) == [("monitoring", "metrics")]


def admitted(policy: Document, deployment: Document) -> list[tuple[str, str]]:
    """Return the namespaces that a policy admits to a deployment's pods, each with the name of the port."""
    template, spec = deployment["spec"]["template"], policy["spec"]
    assert spec["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    assert spec["policyTypes"] == ["Ingress"]
    ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
    found = []
    for rule in spec["ingress"]:
        for source in rule["from"]:
            (name,) = source.pop("namespaceSelector")["matchLabels"].values()
            assert not source
            found += [(name, port["port"]) for port in rule["ports"]]
    assert {port for _, port in found} == ports, "a port is closed, or is not there"
    return found


def test_the_dashboard_is_reached_through_the_login_alone() -> None:
    documents = resolve(DASHBOARD)
    deployment, service = (one(documents, kind, "inflight-dashboard") for kind in ("Deployment", "Service"))
    policy = one(documents, "NetworkPolicy", "inflight-dashboard")
    assert admitted(policy, deployment) == [("ingress-nginx", "login")]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["login"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    page, login = pod_of(deployment)["containers"]
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in [*page["args"], *login["args"]])
    assert options["host"] == "127.0.0.1"
    assert options["upstream"] == f"http://127.0.0.1:{options['port']}/"
    assert options["http-address"] == f"0.0.0.0:{login['ports'][0]['containerPort']}"
    assert options["pass-host-header"] == "false", "the page answers to the names of loopback alone"
    assert "reverse-proxy" not in options, "with it, X-Forwarded-Uri could pass a page off as one under /api"
    assert "ports" not in page
    # The path that needs no login asks for a token.
    assert options["skip-auth-route"] == "^/api/"
    assert "PROCESSING_API_TOKEN" in {variable["name"] for variable in page["env"]}
    images = [read(folder / "kustomization.yaml")[0]["images"] for folder in (FOLDER / "base", DASHBOARD)]
    assert images[0] == images[1]


def test_the_command_line_takes_the_arguments_of_the_dashboard() -> None:
    pytest.importorskip("click", reason="needs the extra cli")
    from dramatiq_inflight.cli.serve import dashboard  # noqa: PLC0415  it needs click

    page, _ = pod_of(one(resolve(DASHBOARD), "Deployment", "inflight-dashboard"))["containers"]
    broker, name, *arguments = page["args"]
    assert (broker, name) == ("--broker=shop.tasks", "dashboard")
    taken = dashboard.make_context(name, arguments).params
    assert taken == {"host": "127.0.0.1", "port": 8010, "allow_actions": True}
