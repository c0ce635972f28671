"""The Kubernetes manifests keep to the API's schema and to our own rules. No cluster has run them."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest

from controller.settings import Settings
from tests.deploy.deployed import DEPLOY, ENTRIES_A_GIB, documents, gib, redis_gib, worker_settings
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
    fields = {"POD_NAME": f"{worker}-0", "POD_NAMESPACE": "forerun", "POD_IP": "10.0.0.1"}
    told = {variable["name"] for variable in CONTAINERS[worker].get("env", ())}
    arguments = CONTAINERS[worker]["args"]
    for name in told:
        arguments = [argument.replace(f"$({name})", fields[name]) for argument in arguments]
    return worker_settings(arguments)


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


def test_probes_ask_at_the_port_that_is_listened_at() -> None:
    listened = {"controller": CONTROLLER.listen} | {name: settings_of(name).listen for name in WORKERS}

    for name, address in listened.items():
        container = CONTAINERS[name]
        (port,) = container["ports"]
        probes = [probe for key, probe in container.items() if key.endswith("Probe")]
        assert address == f"0.0.0.0:{port['containerPort']}"
        assert {probe["grpc"]["port"] for probe in probes} == {port["containerPort"]}, name


def test_a_controller_lives_without_a_target_but_gets_no_requests() -> None:
    probes = {key: probe["grpc"]["service"] for key, probe in CONTAINERS["controller"].items() if key.endswith("Probe")}

    assert probes == {
        "startupProbe": "speculation.v1.RouterService",
        "livenessProbe": "speculation.v1.RouterService",
        "readinessProbe": "speculation.v1.GenerationService",
    }


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


def test_whoever_is_not_let_in_stays_out() -> None:
    everybody = next(
        p for p in of_kind("NetworkPolicy") if p["spec"]["podSelector"] == {} and "egress" not in p["spec"]
    )

    assert everybody["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_controllers_reach_workers_and_only_labelled_namespaces_reach_controllers() -> None:
    assert {way for way in let_in() if way[1] in WORKERS} == {("controller", name, 50061) for name in WORKERS}
    assert {way for way in let_in() if way[1] == "controller"} == {
        ("namespaces forerun-callers=allowed", "controller", 50050)
    }
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
