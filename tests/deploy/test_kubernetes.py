"""The Kubernetes manifests keep to the API's schema and to our own rules. No cluster has run them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer

from controller.settings import Settings
from forerun.__main__ import app
from tests.deploy.deployed import DEPLOY, ENTRIES_A_GIB, documents, gib, redis_gib, worker_settings
from worker.__main__ import settings_of as settings_from
from worker.settings import WorkerSettings

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest with what they use (a pause before the end), and the newest whose schema is at hand."""

(KUSTOMIZATION,) = documents(FOLDER / "kustomization.yaml")
FILES = [FOLDER / name for name in KUSTOMIZATION["resources"]]
OBJECTS = [object_ for file in FILES for object_ in documents(file)]
(AUTOSCALING,) = documents(FOLDER / "autoscaling/kustomization.yaml")
SCALERS = [object_ for name in AUTOSCALING["resources"] for object_ in documents(FOLDER / "autoscaling" / name)]
CONTROLLER = Settings.load(FOLDER / "config/controller.yaml")

METRICS_PORT = 9464

Object = dict[str, Any]


def of_kind(*kinds: str) -> list[Object]:
    """Those objects."""
    return [object_ for object_ in OBJECTS if object_["kind"] in kinds]


WORKLOADS = {object_["metadata"]["name"]: object_ for object_ in of_kind("Deployment", "StatefulSet")}
PODS = {name: workload["spec"]["template"] for name, workload in WORKLOADS.items()}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}
WORKERS = [name for name, pod in PODS.items() if pod["metadata"]["labels"].get("forerun-role") == "worker"]


def name_of(object_: Object) -> str:
    """For the names of tests."""
    return f"{object_['kind']} {object_['metadata']['name']}"


def settings_of(worker: str) -> WorkerSettings:
    """What a worker's arguments say, with the names that Kubernetes puts in."""
    return worker_settings(arguments_of(CONTAINERS[worker], pod=f"{worker}-0"))


def settings_of_rank(container: Object) -> WorkerSettings:
    """What a rank's arguments say."""
    return settings_from(arguments_of(container, pod="target-ranks-0"))


def arguments_of(container: Object, *, pod: str) -> list[str]:
    """The arguments, as the container gets them."""
    fields = {"POD_NAME": pod, "POD_NAMESPACE": "forerun", "POD_IP": "10.0.0.1"}
    arguments: list[str] = container["args"]
    for variable in container.get("env", ()):
        arguments = [argument.replace(f"$({variable['name']})", fields[variable["name"]]) for argument in arguments]
    return arguments


def selected(selector: Object) -> set[str]:
    """The workloads whose pods have these labels."""
    wanted = selector.get("matchLabels", selector).items()
    return {name for name, pod in PODS.items() if wanted <= pod["metadata"]["labels"].items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("object_", OBJECTS + SCALERS, ids=name_of)
def test_an_object_is_what_the_api_allows(object_: Object, version: str) -> None:
    kubernetes_validate.validate(object_, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(OBJECTS[0] | {"speck": {}}, VERSIONS[-1], strict=True)


def test_every_file_is_part_of_the_whole() -> None:
    listed = {*FILES, FOLDER / "kustomization.yaml"}

    assert set(FOLDER.glob("*.yaml")) == listed


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_container_has_limits_and_probes(name: str) -> None:
    (container,) = PODS[name]["spec"]["containers"]

    for what in ("requests", "limits"):
        assert {"cpu", "memory"} <= container["resources"][what].keys()
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_can_do_little(name: str) -> None:
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_selects_its_own_pods_alone(name: str) -> None:
    assert selected(WORKLOADS[name]["spec"]["selector"]) == {name}


def probes_of(container: Object) -> dict[str, dict[str, Any]]:
    """What each probe of a container of ours tells `forerun health`, by its parameters."""
    commands: Any = typer.main.get_command(app)
    health = commands.commands["health"]
    asked = {key: probe["exec"]["command"] for key, probe in container.items() if key.endswith("Probe")}
    assert all(words[:2] == ["forerun", "health"] for words in asked.values())
    return {key: health.make_context("health", words[2:]).params for key, words in asked.items()}


def test_processes_listen_where_services_and_prometheus_look() -> None:
    listened = {"controller": (CONTROLLER.listen, CONTROLLER.metrics.listen)}
    listened |= {name: (settings_of(name).listen, settings_of(name).metrics_listen) for name in WORKERS}

    for name, addresses in listened.items():
        ports = {port["name"]: port["containerPort"] for port in CONTAINERS[name]["ports"]}
        assert addresses == (f"0.0.0.0:{ports['grpc']}", f"0.0.0.0:{ports['metrics']}"), name


@pytest.mark.parametrize("name", [*WORKERS, "controller"])
def test_probes_ask_at_the_port_that_is_listened_at_and_know_the_certificate(name: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINERS[name]["ports"]}
    mounted = [mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]]

    for asked in probes_of(CONTAINERS[name]).values():
        assert asked["addresses"] == [f"127.0.0.1:{ports['grpc']}"]
        assert str(Path(asked["ca"]).parent) in mounted
        if name == "controller":
            assert asked["server_name"] == "forerun.forerun.svc"
        else:
            assert CONTROLLER.workers_tls is not None
            assert (Path(asked["cert"]), asked["key"]) == (settings_of(name).tls_cert, settings_of(name).tls_key)
            assert asked["server_name"] == CONTROLLER.workers_tls.server_name


def test_a_controller_lives_without_a_target_but_gets_no_requests() -> None:
    alive = {key: asked["alive"] for key, asked in probes_of(CONTAINERS["controller"]).items()}

    assert alive == {"startupProbe": True, "livenessProbe": True, "readinessProbe": False}


def test_nothing_of_ours_listens_in_plain_text_or_lets_in_who_has_no_token() -> None:
    assert CONTROLLER.tls is not None
    assert CONTROLLER.workers_tls is not None
    assert CONTROLLER.tokens is not None
    assert not CONTROLLER.insecure
    for name in WORKERS:
        assert settings_of(name).tls_client_ca is not None
        assert not settings_of(name).insecure


def test_secrets_are_mounted_and_never_written_down() -> None:
    assert not of_kind("Secret")
    for name in (*WORKERS, "controller"):
        volumes = {volume["name"]: volume for volume in PODS[name]["spec"]["volumes"]}
        for mount in CONTAINERS[name]["volumeMounts"]:
            if mount["mountPath"].startswith("/run/secrets/"):
                secret = volumes[mount["name"]]["secret"]
                assert mount["mountPath"] == f"/run/secrets/{secret['secretName']}"
                assert mount["readOnly"]
                assert secret["defaultMode"] == 0o440, "for our group, and for nobody else"
        told = [str(told) for told in (CONTROLLER.tls, CONTROLLER.workers_tls, CONTROLLER.tokens)]
        words = " ".join(told if name == "controller" else CONTAINERS[name]["args"])
        mounted = {mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]}
        assert set(re.findall(r"/run/secrets/[\w-]+", words)) <= mounted


def test_the_log_fits_into_redis_and_redis_into_its_limit() -> None:
    """A full Redis refuses the announcements of workers, too."""
    assert CONTROLLER.redis is not None
    room = redis_gib(CONTAINERS["redis"]["args"])

    assert CONTROLLER.redis.kept_entries <= room * ENTRIES_A_GIB
    assert room * 1.25 < gib(CONTAINERS["redis"]["resources"]["limits"]["memory"])


def test_nobody_is_killed_who_would_end_by_himself() -> None:
    pause = CONTAINERS["controller"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    least = {"controller": pause + CONTROLLER.timeouts.drain_grace_s + 5}
    least |= {name: settings_of(name).grace_s + 5 for name in WORKERS}

    for name, grace_s in least.items():
        assert PODS[name]["spec"]["terminationGracePeriodSeconds"] >= grace_s, name


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_announced_where_it_can_be_reached(name: str) -> None:
    settings = settings_of(name)

    assert CONTROLLER.redis is not None
    assert (settings.redis_url, settings.namespace) == (CONTROLLER.redis.url, CONTROLLER.redis.namespace)
    if WORKLOADS[name]["kind"] == "StatefulSet":
        assert settings.advertise == f"{name}-0.{WORKLOADS[name]['spec']['serviceName']}.forerun.svc:50061"
    else:
        assert settings.advertise == "10.0.0.1:50061"
    assert settings.threads == int(CONTAINERS[name]["resources"]["requests"]["cpu"])


def test_workers_have_names_of_their_own_and_one_is_the_target() -> None:
    settings = [settings_of(name) for name in WORKERS]

    assert [one.name for one in settings if one.role == "verify"] == ["target"]
    assert len({one.name for one in settings}) == len(settings)


def test_services_and_budgets_are_about_pods_that_exist() -> None:
    for object_ in of_kind("Service", "PodDisruptionBudget"):
        assert len(selected(object_["spec"]["selector"])) == 1, name_of(object_)
    for service in of_kind("Service"):
        (name,) = selected(service["spec"]["selector"])
        ports = {port["name"]: port["containerPort"] for port in CONTAINERS[name]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], name_of(service)


def test_a_stateful_set_has_the_service_that_names_its_pods() -> None:
    services = {service["metadata"]["name"]: service for service in of_kind("Service")}

    for workload in of_kind("StatefulSet"):
        assert selected(services[workload["spec"]["serviceName"]]["spec"]["selector"]) == {workload["metadata"]["name"]}


def peers(rule: Object, side: str) -> Iterator[str]:
    """Who is on the other side of a rule of a policy: workloads, or labels of namespaces."""
    for peer in rule[side]:
        if "namespaceSelector" in peer:
            yield "namespaces " + ",".join(map("=".join, peer["namespaceSelector"]["matchLabels"].items()))
        else:
            yield from selected(peer["podSelector"])


def let_in() -> set[tuple[str, str, int]]:
    """Who reaches whom, at which port."""
    return {
        (peer, name, port["port"])
        for policy in of_kind("NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        for peer in peers(rule, "from")
        for port in rule["ports"]
        for name in selected(policy["spec"]["podSelector"])
    }


def calls() -> set[tuple[str, str, int]]:
    """The same without metrics."""
    return {way for way in let_in() if way[2] != METRICS_PORT}


def test_whoever_is_not_let_in_stays_out() -> None:
    everybody = next(
        p for p in of_kind("NetworkPolicy") if p["spec"]["podSelector"] == {} and "egress" not in p["spec"]
    )

    assert everybody["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_controllers_reach_workers_and_only_labelled_namespaces_reach_controllers() -> None:
    assert {way for way in calls() if way[1] in WORKERS} == {("controller", name, 50061) for name in WORKERS}
    assert {way for way in calls() if way[1] == "controller"} == {
        ("namespaces forerun-callers=allowed", "controller", 50050)
    }


def test_prometheus_reaches_the_metrics_of_all_and_nothing_else() -> None:
    prometheus = "namespaces forerun-metrics=allowed"

    assert let_in() - calls() == {(prometheus, name, METRICS_PORT) for name in (*WORKERS, "controller")}
    assert {way for way in let_in() if way[0] == prometheus} == let_in() - calls()
    assert {way for way in let_in() if way[1] == "redis"} == {
        (name, "redis", 6379) for name in ("controller", *WORKERS)
    }


def test_whoever_is_let_in_is_let_out_on_the_other_side() -> None:
    out = {
        (name, peer, port["port"])
        for policy in of_kind("NetworkPolicy")
        for rule in policy["spec"].get("egress", ())
        for peer in peers(rule, "to")
        for port in rule["ports"]
        for name in selected(policy["spec"]["podSelector"])
    }

    assert {way for way in let_in() if way[0] in PODS} == {way for way in out if way[1] in PODS}


def test_the_controllers_file_is_mounted_as_a_folder_and_keeps_its_name() -> None:
    mounts = {mount["name"]: mount for mount in CONTAINERS["controller"]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in PODS["controller"]["spec"]["volumes"]}
    (generated,) = KUSTOMIZATION["configMapGenerator"]

    assert volumes["settings"]["configMap"]["name"] == generated["name"]
    assert generated["files"] == ["config/controller.yaml"]
    assert KUSTOMIZATION["generatorOptions"]["disableNameSuffixHash"], "a new name would restart what follows the file"
    assert "subPath" not in mounts["settings"], "a file that is mounted by subPath never changes"


@pytest.mark.parametrize("scaler", SCALERS, ids=name_of)
def test_a_scaler_is_about_a_workload_of_ours(scaler: Object) -> None:
    about = scaler["spec"]["scaleTargetRef"]

    assert WORKLOADS[about["name"]]["kind"] == about["kind"]
    assert scaler["spec"]["minReplicas"] == WORKLOADS[about["name"]]["spec"]["replicas"]


(RANKS,) = documents(FOLDER / "leaderworkerset/target.yaml")
(RANKS_POLICY,) = documents(FOLDER / "leaderworkerset/network-policy.yaml")
GROUP = RANKS["spec"]["leaderWorkerTemplate"]
RANK_PODS = [GROUP["leaderTemplate"], GROUP["workerTemplate"]]


def test_a_target_over_several_machines_is_what_leader_worker_set_allows() -> None:
    """Its fields are those of leaderworkerset.x-k8s.io/v1 (api/leaderworkerset/v1 of kubernetes-sigs/lws)."""
    assert (RANKS["apiVersion"], RANKS["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert RANKS["spec"].keys() <= {
        "replicas",
        "leaderWorkerTemplate",
        "rolloutStrategy",
        "startupPolicy",
        "networkConfig",
    }
    assert GROUP.keys() <= {
        *("leaderTemplate", "workerTemplate", "size", "restartPolicy", "subGroupPolicy"),
        *("volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy"),
    }
    assert GROUP["restartPolicy"] == "RecreateGroupOnPodRestart", "ranks begin together or not at all"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pod", RANK_PODS, ids=["first", "other"])
def test_the_pods_of_ranks_are_what_the_api_allows(pod: Object, version: str) -> None:
    spec = {"selector": {"matchLabels": pod["metadata"]["labels"]}, "template": pod}
    kubernetes_validate.validate(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ranks"}, "spec": spec},
        version,
        strict=True,
    )
    kubernetes_validate.validate(RANKS_POLICY, version, strict=True)


def test_torchrun_starts_as_many_ranks_as_the_worker_is_told_each_with_a_gpu() -> None:
    for pod in RANK_PODS:
        (container,) = pod["spec"]["containers"]
        per_pod = int(next(word.rpartition("=")[2] for word in container["command"] if "nproc-per-node" in word))
        settings = settings_of_rank(container)
        assert settings.tensor_parallel == per_pod * GROUP["size"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == str(per_pod)
        assert settings.tls_client_ca is not None
        assert container["command"][-2:] == ["--module", "worker"]


def test_only_the_first_pod_of_ranks_is_called_and_probed() -> None:
    (first,), (other,) = (pod["spec"]["containers"] for pod in RANK_PODS)
    settings = settings_of_rank(first)

    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= first.keys()
    assert {Path(asked["cert"]) for asked in probes_of(first).values()} == {settings.tls_cert}
    assert {port["containerPort"] for port in first["ports"]} == {50061, METRICS_PORT}
    assert "ports" not in other
    assert not [key for key in other if key.endswith("Probe")]
    assert RANK_PODS[0]["spec"]["terminationGracePeriodSeconds"] >= settings.grace_s + 5


def test_ranks_are_reached_by_ranks_alone_but_for_what_workers_are() -> None:
    labels = RANK_PODS[0]["metadata"]["labels"]
    own = RANKS_POLICY["spec"]["podSelector"]["matchLabels"]
    (let_in,), (out,) = RANKS_POLICY["spec"]["ingress"], RANKS_POLICY["spec"]["egress"]

    assert own.items() <= labels.items()
    assert let_in == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert out == {"to": [{"podSelector": {"matchLabels": own}}]}
    assert labels["forerun-role"] == "worker", "so that controllers and Prometheus reach rank 0 by the other policies"
