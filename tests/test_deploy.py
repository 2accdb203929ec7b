"""What is shipped for a deploy holds: the deploy file, the cluster file, the image, the tokens."""

from __future__ import annotations

import copy
import inspect
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import serve_app
from actors.deploy_file import DEPLOYMENTS, check
from cli import main
from forecast.config import ServeConfig
from forecast.errors import ConfigError
from forecast.http.auth import Guard
from forecast.http.tokens import Token

ROOT = Path(__file__).parent.parent


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def shipped():
    """The deploy file as it is shipped, for the repository's own config."""
    tree = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    tree["applications"][0]["args"]["config"] = str(ROOT / "configs" / "node.toml")
    return tree


@pytest.fixture
def said(tmp_path):
    """Check a tree; the lines of what is wrong."""

    def refused(tree) -> list[str]:
        path = tmp_path / "serve.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        with pytest.raises(ConfigError) as caught:
            check(path)
        return str(caught.value).removeprefix(f"{path}: ").split(f"\n{path}: ")

    return refused


# The deploy file


def test_the_shipped_deploy_file_is_what_serve_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert [config.fleet for config in check(Path("deploy/serve.yaml")).fleets] == ["nodes"]
    shown = run("deploy", "check", "deploy/serve.yaml")
    assert shown.exit_code == 0
    assert "nodes" in shown.output


def put(tree, path, value):
    """The tree with `value` at a path such as `applications.0.name`."""
    changed = copy.deepcopy(tree)
    *folders, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    at = changed
    for folder in folders:
        at = at[folder]
    at[last] = value
    return changed


@pytest.mark.parametrize(
    "path",
    [
        "aplications",
        "http_options.prot",
        "grpc_options",
        "logging_config.enocding",
        "applications.0.route_prefx",
        "applications.0.deployments.0.num_replcas",
        "applications.0.deployments.0.ray_actor_options",
        "applications.0.deployments.0.autoscaling_config",
        "applications.0.runtime_env",
        "applications.0.deployments.0.ray_actor_options.runtime_env",
    ],
)
def test_a_mistyped_key_is_named_by_its_path_at_every_level(path, shipped, said):
    held = {"mistyped": 1}
    if path.endswith("ray_actor_options.runtime_env"):
        shipped = put(shipped, path.rsplit(".", 1)[0], {})
    whole = path.rsplit(".", 1)[-1] in (
        "grpc_options", "ray_actor_options", "autoscaling_config", "runtime_env"
    )  # fmt: skip
    lines = said(put(shipped, path, held if whole else 1))
    wrong = f"{path}.mistyped" if whole else path
    assert any(line.startswith(f"{wrong}: unknown key") for line in lines), lines


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("http_options.port", "http", "http_options.port"),
        ("proxy_location", "Everywhere", "proxy_location"),
        ("applications.0.import_path", "serve_app:bild", "import_path"),
        ("applications.0.deployments.0.name", "Gatway", "no deployment 'Gatway'"),
        ("applications.0.args.config", "nowhere.toml", "nowhere.toml"),
        ("applications.0.args.confg", "a.toml", "args.confg: unknown key"),
        ("applications.0.args.overrides", {"serve": {"prot": 1}}, "serve.prot: unknown key"),
        ("applications.0.args.overrides", {"limits": {"memory_mb": 1}}, "limits.memory_mb: needs"),
        ("http_options.ssl_certfile", "/nowhere/tls.crt", "ssl_keyfile"),
        ("http_options.ssl_ca_certs", "/nowhere/ca.crt", "/nowhere/ca.crt is no file"),
    ],
)
def test_what_would_not_start_is_said_before(path, value, message, shipped, said):
    lines = said(put(shipped, path, value))
    assert any(message in line for line in lines), lines


def test_everything_that_is_wrong_is_said_at_once(shipped, said):
    lines = said(put(put(shipped, "http_options.prot", 1), "applications.0.args.confg", "a"))
    assert len(lines) == 2


def test_every_interface_is_for_fleets_with_tokens_only(shipped, said, tmp_path):
    args = shipped["applications"][0]["args"]
    everywhere = put(shipped, "http_options.host", "0.0.0.0")
    path = tmp_path / "everywhere.yaml"
    path.write_text(yaml.safe_dump(everywhere))
    assert check(path).fleets[0].serve.tokens_file is not None

    bare = tmp_path / "bare.toml"
    text = (ROOT / "configs" / "node.toml").read_text()
    text = re.sub(r"^(tokens_file|host) = .*$", "", text, flags=re.MULTILINE)
    bare.write_text(text)
    args["config"] = str(bare)
    assert "serve.tokens_file is not set" in said(shipped)[0]
    args["overrides"] = {"serve": {"allow_anonymous_loopback": True}}
    assert "0.0.0.0" in said(put(shipped, "http_options.host", "0.0.0.0"))[0]
    del shipped["http_options"]["host"]  # what Serve then takes is every interface
    assert "0.0.0.0" in said(shipped)[0]


def test_a_certificate_that_serve_is_not_told_of_is_refused(shipped, said, tmp_path):
    files = {name: tmp_path / f"tls.{name}" for name in ("crt", "key")}
    for file in files.values():
        file.write_text("")
    tls = {"tls_certificate": str(files["crt"]), "tls_key": str(files["key"])}
    shipped["applications"][0]["args"]["overrides"] = {"serve": tls}
    assert "plain HTTP" in said(shipped)[0]
    told = {"ssl_certfile": str(files["crt"]), "ssl_keyfile": str(files["key"])}
    path = tmp_path / "told.yaml"
    path.write_text(yaml.safe_dump({**shipped, "http_options": {**told, "host": "127.0.0.1"}}))
    assert check(path).fleets


@pytest.mark.parametrize("text", ["- a", "a: [", "", "http_options: {port: 1, port: 2}"])
def test_what_is_no_deploy_file_is_refused(text, said):
    assert said(text)


def test_the_deployments_that_may_be_tuned_are_those_of_the_application():
    assert all(inspect.isclass(getattr(serve_app, name)) for name in DEPLOYMENTS)
    source = inspect.getsource(serve_app)
    assert source.count("serve.deployment(") == len(DEPLOYMENTS)


# The cluster file


@pytest.fixture(scope="module")
def cluster():
    """The cluster file, as Ray completes it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    tree = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(copy.deepcopy(tree))
    validate_config(prepared)
    validate_config(tree)
    return prepared


def test_gpu_nodes_come_only_when_asked_for_and_the_head_has_none(cluster):
    types = cluster["available_node_types"]
    gpu = [name for name, node in types.items() if node["resources"].get("GPU", 0)]
    assert gpu
    assert all(types[name]["min_workers"] == 0 for name in gpu)
    assert all(types[name]["max_workers"] >= 1 for name in gpu)
    head = types[cluster["head_node_type"]]
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    assert head["resources"]["CPU"] >= 2  # the state's actors run there


def test_every_node_starts_with_token_authentication_and_a_dashboard_on_loopback(cluster):
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        before, _, options = command.partition("ray start")
        exported = before[before.index("export ") : before.index(";")]
        assert "RAY_AUTH_MODE=token" in exported
        assert "RAY_USAGE_STATS_ENABLED=0" in exported
        path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", exported)[1]
        assert path in cluster["file_mounts"]
        if "--head" in options:
            assert "--dashboard-host=127.0.0.1" in options
            assert "--autoscaling-config=" in options


def test_the_cluster_runs_the_ray_and_python_that_are_pinned(cluster):
    pins = (ROOT / "constraints.txt").read_text()
    ray = re.search(r"^ray==(.*)$", pins, flags=re.MULTILINE)[1]
    assert cluster["docker"]["image"] == f"rayproject/ray:{ray}-py311"


def test_the_docs_name_the_paths_that_the_cluster_has(cluster):
    text = (ROOT / "docs" / "deploy.md").read_text()
    for remote in cluster["file_mounts"]:
        if not remote.endswith("auth_token"):
            assert remote in text


# The image


def test_the_image_copies_what_is_there_and_is_not_ignored():
    lines = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY")]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    assert "*" in ignore
    for words in copies:
        if any(word.startswith("--from") for word in words):
            continue
        sources = [word for word in words if not word.startswith("--")][:-1]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept, source


def test_the_image_holds_every_module_of_the_wheel():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in {package.split(".")[0] for package in tool["packages"]}:
        assert f"COPY {name} {name}" in text
    for name in tool["py-modules"]:
        assert f"{name}.py" in text
    assert "USER fleetcast" in text
    assert "/readyz" in text


def test_the_entrypoint_is_a_shell_script_that_parses():
    path = ROOT / "deploy" / "entrypoint.sh"
    assert path.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


# Tokens


def scopes_of(path, secret):
    guard = Guard.from_config(ServeConfig(tokens_file=path))
    headers = {"authorization": f"Bearer {secret}"}
    return guard.authorise(headers, "GET", "10.0.0.1", None).scopes


def test_a_new_token_opens_the_door_and_is_nowhere_in_the_file(tmp_path):
    path = tmp_path / "tokens.toml"
    made = CliRunner().invoke(main, ["token", "agents", "--scope", "ingest", "--file", str(path)])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert len(secret) >= 40
    assert scopes_of(path, secret) == {"ingest"}
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_is_added_to_those_there_are_and_comments_stay(tmp_path):
    path = tmp_path / "tokens.toml"
    first, second = Token.make("a", ["read"]), Token.make("a", ["read", "operate"])
    path.write_text(f"# who may call\n{first.entry()}# the end")
    path.chmod(0o644)
    second.append(path)
    assert "# who may call" in path.read_text()
    assert "# the end" in path.read_text()
    assert scopes_of(path, first.secret) == {"read"}
    assert scopes_of(path, second.secret) == {"read", "operate"}
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["tokens.toml"]


@pytest.mark.parametrize("before", ["tokens = []\n", "[[tokens]]\nname = 7\n", "not toml"])
def test_a_file_that_would_not_be_read_is_left_as_it_was(before, tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(before)
    refused = run("token", "a", "--scope", "read", "--file", str(path))
    assert refused.exit_code == 2
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tokens.toml"]


@pytest.mark.parametrize(
    "arguments", [["a", "--scope", "everything"], ["", "--scope", "read"], ["a"]]
)
def test_a_token_without_a_name_or_with_another_scope_is_refused(arguments):
    assert run("token", *arguments).exit_code == 2


# The plan on the command line


def test_a_plan_above_its_limits_exits_1_and_names_them(tmp_path):
    text = (ROOT / "configs" / "node.toml").read_text()
    fits, over = tmp_path / "fits.toml", tmp_path / "over.toml"
    fits.write_text(text)
    over.write_text(f"{text}\n[limits]\nmemory_mb = 100\n")
    shown = run("plan", "--config", str(fits))
    assert shown.exit_code == 0
    assert "memory_mb" in shown.output
    refused = run("plan", "--config", str(over), "--json")
    assert refused.exit_code == 1
    assert "limits.memory_mb: needs" in refused.output


def test_a_run_above_its_limits_is_refused_before_anything_starts(tmp_path):
    over = tmp_path / "over.toml"
    text = (ROOT / "configs" / "laptop.toml").read_text()
    over.write_text(f"{text}\n[limits]\ncpu_seconds_per_step = 0.001\n")
    state = tmp_path / "state"
    refused = run("run", "--config", str(over), "--state-dir", str(state))
    assert refused.exit_code == 2
    assert "limits.cpu_seconds_per_step: needs" in refused.output
    assert not state.exists()
