"""What a run of each type of pool has, as the workers' own classes see it."""

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from docker.types import HostConfig
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
"""Of Kubernetes, by what its client calls them."""


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
        assert "bakeoff:/var/lib/bakeoff" in job.volumes
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
    called = set(re.findall(r"\.(create|read|list|delete|patch)_namespaced_(job|pod_log|pod)\b", code))
    assert called, "the worker calls nothing by these names any more"
    wanted = {("get" if verb == "read" else verb, RESOURCES[kind]) for verb, kind in called}
    watched = {(verb, kind) for verb in ("list", "watch") for kind in ("jobs", "pods")}  # by the observer, for which see kopf
    assert wanted | watched <= allowed
    assert not any("*" in pair or "secrets" in pair for pair in allowed)


def test_types_that_do_not_exist_or_cannot_be_are_refused() -> None:
    assert types_of({"gpu": "docker"}) == {"gpu": "docker", "apple-silicon": "process", "cpu": "process"}
    with pytest.raises(BadConfig, match=r"names 'podman' for gpu: the types are process, docker, kubernetes"):
        job_template("gpu", "podman")
    with pytest.raises(BadConfig, match="the type of apple-silicon is always process"):
        job_template("apple-silicon", "docker")
    with pytest.raises(BadConfig, match="no work pool 'tpu'"):
        types_of({"tpu": "docker"})
