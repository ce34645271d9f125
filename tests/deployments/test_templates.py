"""What a run of each type of pool has, as the workers' own classes see it."""

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from docker.types import HostConfig
from kubernetes_asyncio.client.models import V1PersistentVolumeClaimSpec
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes import worker
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from deployments.pools import POOLS, TYPES, job_template, types_of
from tasks.child import GRACE_S
from tasks.errors import BadConfig

IMAGE = "registry.example/bakeoff:1"
RESOURCES = {"job": "jobs", "pod": "pods", "pod_log": "pods/log"}
"""Of Kubernetes, by what its client calls them: what the worker calls as the page has it set up."""
OPTIONAL = {"secret"}
"""What it calls only where keys or the environment are to lie in secrets of its own; the page says that this takes more rights."""
CLUSTERWIDE = {("list", "pod")}
"""What it calls of all namespaces, where the page's variable does not name ours."""


def prepared(configuration: Any, pool: str, kind: str, server: str) -> Any:
    """The job of a run, as a worker of this type makes it from our template."""
    with temporary_settings({PREFECT_API_URL: server}):
        job = asyncio.run(configuration.from_template_and_values(job_template(pool, kind, IMAGE), {}))
        job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="a run"))
    return job


@pytest.mark.parametrize("kind", TYPES)
def test_a_run_cannot_change_a_workers_environment_command_or_folder(kind: str) -> None:
    for pool in POOLS if kind == "process" else ("gpu", "cpu"):
        template = job_template(pool, kind)
        assert template["variables"] == {"type": "object", "properties": {}, "additionalProperties": False}
        assert not {"env", "command", "working_dir"} & set(template["job_configuration"])
        assert "{{" not in str(template)


def test_the_docker_worker_takes_the_template_and_only_the_gpu_pool_asks_for_devices(server: str) -> None:
    jobs = {pool: prepared(DockerWorkerJobConfiguration, pool, "docker", server) for pool in ("gpu", "cpu")}
    hosts = {}
    for pool, job in jobs.items():
        assert (job.image, job.privileged, job.command) == (IMAGE, False, "prefect flow-run execute")
        assert {"bakeoff:/var/lib/bakeoff", "/srv/bakeoff:/data:ro"} <= {*job.volumes}
        given = {name: value for name, value in job.container_create_kwargs.items() if name != "stop_signal"}
        hosts[pool] = HostConfig(version="1.44", **given)  # as docker-py sends it; an unknown argument is an error
        assert hosts[pool]["ShmSize"] == 2 * 2**30
        assert hosts[pool]["UTSMode"] == "host"  # trainings of all containers take turns by the machine's name
    assert hosts["gpu"]["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert "DeviceRequests" not in hosts["cpu"]


def test_a_kubernetes_job_has_a_gpu_bears_spot_nodes_and_has_time_for_a_checkpoint(server: str) -> None:
    job = prepared(KubernetesWorkerJobConfiguration, "gpu", "kubernetes", server)
    assert job.env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    pod = job.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["resources"]["limits"]["nvidia.com/gpu"]) == (IMAGE, 1)
    env = {each["name"]: each for each in container["env"]}
    assert (
        env["BAKEOFF_MACHINE"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    )  # trainings take turns by the node's name
    assert "PREFECT_API_URL" in env
    assert pod["terminationGracePeriodSeconds"] >= GRACE_S + 30  # what `prefect flow-run execute` gives, too
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "spot"} <= {each["key"] for each in pod["tolerations"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes[mounts["/var/lib/bakeoff"]]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]


def seen(template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Kubernetes job's mounts by path, and its volumes by name."""
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return {each["mountPath"]: each for each in container["volumeMounts"]}, {each["name"]: each for each in pod["volumes"]}


@pytest.mark.parametrize("pool", ["gpu", "cpu"])
def test_a_kubernetes_job_sees_the_rows_of_a_claim_that_was_named_and_waits_for_none_else(pool: str, root: Path) -> None:
    mounts, volumes = seen(job_template(pool, "kubernetes", IMAGE, "rows-of-ours"))
    assert mounts["/data"] == {"name": "data", "mountPath": "/data", "readOnly": True}
    assert volumes["data"] == {"name": "data", "persistentVolumeClaim": {"claimName": "rows-of-ours", "readOnly": True}}
    (roots,) = re.findall(r"BAKEOFF_ROOTS=(\S+)", (root / "Dockerfile").read_text())
    assert "/data" in roots.split(":")  # else the run would be refused what it sees
    without = seen(job_template(pool, "kubernetes", IMAGE))
    assert [set(each) for each in without] == [{*mounts} - {"/data"}, {*volumes} - {"data"}]
    assert all(each["name"] in without[1] for each in without[0].values())


@pytest.mark.parametrize("kind", ["process", "docker"])
def test_a_claim_changes_nothing_of_runs_that_are_no_kubernetes_jobs(kind: str) -> None:
    assert job_template("gpu", kind, IMAGE, "rows-of-ours") == job_template("gpu", kind, IMAGE)


def test_the_home_that_the_docs_give_where_no_two_nodes_mount_a_claim_takes_the_place_of_the_templates(root: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (root / "docs/how-to/kubernetes.md").read_text(), re.DOTALL)
    (given,) = [yaml.safe_load(block) for block in blocks if "volumeClaimTemplate" in block]
    mounts, volumes = seen(job_template("gpu", "kubernetes"))
    (home,) = given
    assert home["name"] == mounts["/var/lib/bakeoff"]["name"] in volumes
    claim = home["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert set(claim) <= {*V1PersistentVolumeClaimSpec.attribute_map.values()}
    assert claim["accessModes"] == ["ReadWriteOnce"]


def test_without_a_gpu_a_kubernetes_job_asks_for_none_and_goes_to_no_node_that_is_kept_for_them(server: str) -> None:
    job = prepared(KubernetesWorkerJobConfiguration, "cpu", "kubernetes", server)
    pod = job.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    borne = {each["key"] for each in pod["tolerations"]}
    assert ("spot" in borne, "nvidia.com/gpu" in borne) == (True, False)
    assert set(container["resources"]["limits"]) == {"memory"}


def test_the_role_that_the_docs_give_the_kubernetes_worker_allows_what_it_calls(root: Path) -> None:
    section = (root / "docs/how-to/kubernetes.md").read_text().partition("## 4. The worker")[2]
    manifests = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0]
    made = {each["kind"]: each for each in yaml.safe_load_all(manifests)}
    namespace = job_template("gpu", "kubernetes")["job_configuration"]["namespace"]
    assert {each["metadata"]["namespace"] for each in made.values()} == {namespace}
    assert made["RoleBinding"]["roleRef"]["name"] == made["Role"]["metadata"]["name"]
    assert made["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": "bakeoff-worker", "namespace": namespace}]
    allowed = {(verb, resource) for rule in made["Role"]["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    code = "".join((Path(worker.__file__).parent / name).read_text() for name in ("worker.py", "observer.py"))
    assert set(re.findall(r"\b(\w+Api)\(", code)) == {"BatchV1Api", "CoreV1Api"}, "it calls another part of Kubernetes"
    methods = set(re.findall(r"(?:\b(?:core_client|batch_client|v1)|Api\(\w*\))\.(\w+)\(", code))
    assert [each for each in methods if not re.search("_namespaced_|_for_all_namespaces$", each)] == [], (
        "it calls what is no namespace's"
    )
    called = set(re.findall(r"\.([a-z]+)_namespaced_(\w+)\(", code))
    assert called >= {("create", "job"), ("list", "pod")}
    assert {kind for _, kind in called} == {*RESOURCES, *OPTIONAL}, "it calls kinds that the page does not name, or fewer"
    wanted = {("get" if verb == "read" else verb, RESOURCES[kind]) for verb, kind in called if kind not in OPTIONAL}
    heard = re.findall(r"kopf\.on\.(\w+)\(([^)]*?)(?:labels=.*?)?\)", code)
    kinds = {re.findall(r'"(\w+)"', given)[-1] for how, given in heard if how not in ("startup", "cleanup")}
    assert kinds == {"jobs", "pods"}, "the observer watches other kinds"
    watched = {(verb, kind) for verb in ("list", "watch") for kind in kinds}
    assert wanted | watched <= allowed
    assert set(re.findall(r"\.([a-z]+)_(\w+)_for_all_namespaces\(", code)) <= CLUSTERWIDE
    assert f"PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES={namespace}" in section
    assert "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_" in section.partition("## 5.")[0].partition("secrets")[2]
    assert not any("*" in pair or "secrets" in pair for pair in allowed)


def test_types_that_do_not_exist_or_cannot_be_are_refused() -> None:
    assert types_of({"gpu": "docker"}) == {"gpu": "docker", "apple-silicon": "process", "cpu": "process"}
    with pytest.raises(BadConfig, match=r"names 'podman' for gpu: the types are process, docker, kubernetes"):
        job_template("gpu", "podman")
    with pytest.raises(BadConfig, match="the type of apple-silicon is always process"):
        job_template("apple-silicon", "docker")
    with pytest.raises(BadConfig, match="no work pool 'tpu'"):
        types_of({"tpu": "docker"})
