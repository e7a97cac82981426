"""The alert rules and the Prometheus config: promtool accepts them, they fire when they should, and each is
explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[5]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("LOOKALIKE_REQUIRE_PROMTOOL") == "1":
            pytest.fail("promtool is not installed; it comes with Debian's package prometheus")
        pytest.skip("promtool is not installed; it comes with Debian's package prometheus")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", ALERTS),
        ("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml"),
        ("test", "rules", Path(__file__).with_name("alerts_test.yml")),
    ],
    ids=["rules", "config", "what fires"],
)
def test_promtool_accepts_the_rules(promtool: str, arguments: tuple[str, str, Path]) -> None:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stdout + done.stderr


def _alerts() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _link(rule: dict[str, dict[str, str]]) -> tuple[str, str, str]:
    """The URL of the documents, the page, and the place on it."""
    found = re.fullmatch(r"(https://\S+/)(\w+\.md)#(\w+)", rule["annotations"]["runbook_url"])
    assert found is not None
    return found[1], found[2], found[3]


def test_one_command_changes_where_the_links_point(promtool: str, tmp_path: Path) -> None:
    rules = tmp_path / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"
    for file in (ROOT / "Makefile", ALERTS, ROOT / rules.relative_to(tmp_path)):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    command = ["make", "--no-print-directory", "runbooks"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert refused.returncode
    assert "error: DOCS: set it to the URL of docs/\n" in refused.stderr
    # Twice: a link that was changed once can be changed again.
    for docs in ("https://git.example.com/us/lookalike/blob/main/docs", "https://wiki.example.com/docs/"):
        subprocess.run([*command, f"DOCS={docs}"], cwd=tmp_path, check=True, timeout=60)
        changed = yaml.safe_load((tmp_path / ALERTS.relative_to(ROOT)).read_text())
        links = [_link(rule) for group in changed["groups"] for rule in group["rules"]]
        assert [link[1:] for link in links] == [_link(rule)[1:] for rule in _alerts()]  # type: ignore[arg-type]
        assert {link[0] for link in links} == {docs.rstrip("/") + "/"}
        assert yaml.safe_load(rules.read_text())["spec"] == changed
    subprocess.run([promtool, "check", "rules", tmp_path / ALERTS.relative_to(ROOT)], check=True, timeout=60)


def test_every_alert_has_a_test() -> None:
    tried = set(re.findall("alertname=.(Lookalike\\w+)", Path(__file__).with_name("alerts_test.yml").read_text()))
    assert tried == {rule["alert"] for rule in _alerts()}


@pytest.mark.parametrize("rule", _alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_links_to_its_remedy(rule: dict[str, dict[str, str]]) -> None:
    _, page, anchor = _link(rule)
    headings = re.findall("^#+ (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert anchor in [re.sub("[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_are_valid_and_use_the_provisioned_datasource(
    promtool: str, file: Path, tmp_path: Path
) -> None:
    datasources = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "lookalike.yaml"
    uid = yaml.safe_load(datasources.read_text())["datasources"][0]["uid"]
    dashboard = json.loads(file.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 0
    rules = []
    for panel in panels:
        assert panel["datasource"]["uid"] == uid
        assert panel["targets"]
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": expression})
    # Every expression as a rule: promtool reads each.
    as_rules = tmp_path / "rules.yml"
    as_rules.write_text(yaml.safe_dump({"groups": [{"name": file.stem, "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", as_rules], capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stdout + done.stderr
