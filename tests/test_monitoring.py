"""The dashboard and the alert rules that are shipped: they ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml

from actors import telemetry
from tests.monitoring_scene import answers, open_metrics, prometheus, trees

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "fleetcast.rules.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "fleetcast.json").read_text())
GROUPS = yaml.safe_load(RULES.read_text())["groups"]

RAYS_OWN = {"ray_node_gpus_utilization"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no prometheus: apt-get install prometheus",
)


def queries() -> list[str]:
    """Every query of the dashboard."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def rules() -> list[dict]:
    return [rule for group in GROUPS for rule in group["rules"]]


def exported() -> set[str]:
    """Every name that the table becomes."""
    names = set[str]()
    for row in telemetry.TABLE:
        if row.kind == "histogram":
            names |= {f"{row.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(row.name)
    return names


# The dashboard


def test_every_query_asks_for_metrics_that_the_table_has_as_ray_names_them():
    for query in queries():
        names = set(re.findall(r"\bray_\w+(?=\{)", query))
        assert names, query
        assert {name.removeprefix("ray_") for name in names - RAYS_OWN} <= exported(), query


def test_what_is_rays_own_is_what_its_own_dashboard_shows():
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    text = (folder / "default_dashboard_panels.py").read_text()
    assert all(name in text for name in RAYS_OWN)


def test_every_query_heeds_the_variables_and_the_data_source():
    variables = [one["name"] for one in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "SessionName", "Cluster", "Fleet"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'SessionName=~"$SessionName"' in target["expr"]
            assert 'ray_io_cluster=~"$Cluster"' in target["expr"]
            chosen = re.findall(r"(ray_\w+)\{([^}]*)\}", target["expr"])
            ours = [labels for name, labels in chosen if name not in RAYS_OWN]
            assert all('fleet=~"$Fleet"' in labels for labels in ours)


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@needs_prometheus
@pytest.mark.slow
async def test_every_query_of_the_dashboard_returns_data(tmp_path):
    told = await trees(tmp_path / "state")
    # What the twin says comes with the second day that it is compared on.
    more = {'ray_fleetcast_learning_gain_ratio{fleet="web",panel="servers",role="web"}': 0}
    more['ray_node_gpus_utilization{instance="10.0.0.1:80",GpuIndex="0"}'] = 3
    chosen = {"SessionName": "session_2026", "Cluster": ".*", "Fleet": ".*"}
    with prometheus(tmp_path, open_metrics(told, more)) as client:
        for query in queries():
            for name, value in chosen.items():
                query = query.replace(f"${name}", value)
            assert answers(client, query), f"no data: {query}"
        for variable in DASHBOARD["templating"]["list"][1:]:
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            query = asked[1]
            for name, value in chosen.items():
                query = query.replace(f"${name}", value)
            assert all(asked[2] in one["metric"] for one in answers(client, query))
        for rule in rules():
            answers(client, rule["expr"])


# The rules


def test_every_rule_asks_for_metrics_that_the_table_has_under_both_names():
    for rule in rules():
        names = re.findall(r'__name__=~"([^"]*)"', rule["expr"])
        assert names, rule["alert"]
        assert all(name.startswith("(ray_)?") for name in names)
        assert {name.removeprefix("(ray_)?") for name in names} <= exported(), rule["alert"]
        assert not re.findall(r"\bfleetcast_\w+\{", rule["expr"])


def test_every_rule_says_how_bad_it_is_and_what_it_means():
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "{{ $labels.fleet }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_every_rule_is_tested_both_ways():
    cases = yaml.safe_load(RULES.with_suffix(".test.yml").read_text())["tests"]
    fires, waits = set(), set()
    for case in cases:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else waits).add(check["alertname"])
    assert fires == waits == {rule["alert"] for rule in rules()}


@needs_promtool
@pytest.mark.parametrize(
    "command", [("check", "rules", RULES), ("test", "rules", RULES.with_suffix(".test.yml"))]
)
def test_promtool_takes_the_rules_and_their_tests_pass(command):
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
