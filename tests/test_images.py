"""The image and the containers beside it: what they copy, mount and name is there, and is locked.

No container engine runs here, so nothing is built: docs/operation.md says so.
"""

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "deploy/docker"
ROOMS = {"pipeline", "embeddings", "models", "jobs"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = f"frostrank:{VERSION}"


def instructions():
    """The Dockerfile's (instruction, text) pairs, continued lines joined."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    pairs = (line.partition(" ") for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines())
    return [(name, rest) for name, _, rest in pairs]


def texts_of(name):
    """The texts of one kind of instruction."""
    return [text for instruction, text in instructions() if instruction == name]


def copied():
    """What COPY takes from the checkout."""
    from_checkout = (text for text in texts_of("COPY") if not text.startswith("--from="))
    return {source for text in from_checkout for source in text.split()[:-1]}


def compose():
    """compose.yaml."""
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


SERVICES = compose()["services"]


def mounts_of(service):
    """A service's mounts: where it finds them, and what they are on this side."""
    for mount in service.get("volumes", ()):
        # A colon within ${NAME:?message} parts nothing.
        source, target, *_ = re.sub(r"\$\{(\w+)[^}]*\}", r"$\1", mount).split(":")
        yield target, source


def constant(name):
    """A constant of requirements/install.py, which is a script and not imported."""
    tree = ast.parse((ROOT / "requirements/install.py").read_text())
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return ast.literal_eval(value)


def test_the_build_sees_what_it_copies_and_nothing_more():
    assert all((ROOT / source).exists() for source in copied())
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()


def test_the_image_holds_every_room():
    assert copied() >= ROOMS
    # `COPY a b` puts the contents of a folder in b: one folder at a time, by its own name.
    for text in texts_of("COPY"):
        *sources, target = text.removeprefix("--from=build /opt/frostrank/").split()
        files_only = all((ROOT / source).is_file() for source in sources)
        assert sources == [target] or (target == "./" and files_only)


def test_the_packages_are_the_locks_by_the_checkouts_own_installer():
    (command,) = (text for text in texts_of("RUN") if "pip" in text or "install.py" in text)
    assert shlex.split(command) == ["python", "requirements/install.py", "--lock", "$LOCK"]
    (default,) = (text for text in texts_of("ARG") if text.startswith("LOCK="))
    assert default.removeprefix("LOCK=") in constant("LOCKS")
    assert all((ROOT / f"requirements/{lock}.lock").exists() for lock in constant("LOCKS"))


def test_both_stages_have_one_python_that_the_locks_are_for():
    """The environment is copied between them, and its links lead to the Python it was made by."""
    bases = {text.split()[0] for text in texts_of("FROM")}
    (base,) = bases
    name, _, tag = base.partition(":")
    version = tuple(int(part) for part in tag.partition("-")[0].split("."))
    assert name == "python"
    assert constant("OLDEST_PYTHON") <= version <= constant("NEWEST_PYTHON")
    assert len(texts_of("FROM")) == 2
    assert set(texts_of("WORKDIR")) == {"/opt/frostrank"}


def test_the_container_is_no_root_and_leaves_the_command_to_schedulers():
    (user,) = texts_of("USER")
    number = user.partition(":")[0]
    assert number.isdecimal(), "Kubernetes can tell only of a number that it is not root"
    assert int(number) > 0
    assert f"--uid {number} " in " ".join(texts_of("RUN"))
    assert not texts_of("ENTRYPOINT")
    # Of two CMDs the last would hold; ADD does more than it says.
    assert len(texts_of("CMD")) == 1
    assert not texts_of("ADD")
    assert json.loads(texts_of("CMD")[0])[:2] == ["python", "-m"]


def test_kubernetes_runs_that_image_as_that_user():
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/cronjob.yaml").read_text())
    (job,) = (document for document in documents if document["kind"] == "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    user, _, group = texts_of("USER")[0].partition(":")
    security = pod["securityContext"]
    assert [container["image"] for container in pod["containers"]] == [IMAGE]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))


def test_compose_runs_the_same_image_and_command():
    job = SERVICES["daily"]
    assert job["image"] == IMAGE
    context = (DOCKER / job["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / job["build"]["dockerfile"]).exists()
    config = "/etc/frostrank/config.toml"
    command = ["python", "-m", "jobs.daily", "--config", config, "--day", "yesterday", "--set"]
    assert job["command"][:-1] == command
    assert dict(mounts_of(job)) == {config: "$FROSTRANK_CONFIG", "/var/lib/frostrank": "data"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_mounts_is_there(name):
    for _, source in mounts_of(SERVICES[name]):
        if source.startswith("."):
            assert (DOCKER / source).resolve().exists(), source
        elif not source.startswith(("$", "/")):
            assert source in compose()["volumes"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"daily"}))
def test_images_have_versions_and_listen_on_loopback(name):
    service = SERVICES[name]
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["network_mode"] == "host"
    listening = [part for part in service.get("command", ()) if "web.listen-address" in part]
    listening += [service.get("environment", {}).get("GF_SERVER_HTTP_ADDR")]
    assert "127.0.0.1" in listening[0]


@pytest.mark.parametrize(
    ("service", "targets"),
    [("pushgateway", "pushgateway"), ("alertmanager", "alertmanager"), ("node-exporter", "node")],
)
def test_prometheus_asks_where_the_containers_listen(service, targets):
    (group,) = yaml.safe_load((ROOT / f"deploy/prometheus/targets/{targets}.yml").read_text())
    command = " ".join(SERVICES[service]["command"])
    port = re.search(r"--web\.listen-address=127\.0\.0\.1:(\d+)", command).group(1)
    assert group["targets"] == [f"localhost:{port}"]


def test_the_job_pushes_where_the_gateway_listens():
    assert SERVICES["daily"]["command"][-1] == "monitoring.pushgateway=http://localhost:9091"
    assert "--web.listen-address=127.0.0.1:9091" in SERVICES["pushgateway"]["command"]


def test_prometheus_and_alertmanager_find_their_files():
    for name in ("prometheus", "alertmanager"):
        mounts = dict(mounts_of(SERVICES[name]))
        (option,) = (part for part in SERVICES[name]["command"] if "--config.file=" in part)
        config = Path(option.removeprefix("--config.file="))
        (target,) = (target for target in mounts if config.is_relative_to(target))
        assert (DOCKER / mounts[target] / config.relative_to(target)).resolve().exists()


def test_grafana_is_given_the_source_and_the_dashboard():
    provisioning = DOCKER / "grafana/provisioning"
    (path,) = (provisioning / "datasources").iterdir()
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    prometheus = " ".join(SERVICES["prometheus"]["command"])
    assert source["isDefault"] is True
    assert source["url"].removeprefix("http://") in prometheus
    (path,) = (provisioning / "dashboards").iterdir()
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    mounts = dict(mounts_of(SERVICES["grafana"]))
    (dashboard,) = (target for target in mounts if target.endswith(".json"))
    assert str(Path(dashboard).parent) == provider["options"]["path"]
