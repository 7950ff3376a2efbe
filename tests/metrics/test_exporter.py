"""What Prometheus reads of a daemon and of a service, and that what we ship names nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from coordinator.config import load
from coordinator.metrics import families
from coordinator.metrics.endpoint import Endpoint
from coordinator.metrics.outcomes import OTHER, Outcomes
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogResource, Participant, Refuse
from participant_sdk import metrics as sdk
from participant_sdk.client import Client, call
from tests.given_back import no_task_and_no_timer_is_left as no_task_and_no_timer_is_left
from troth.errors import Aborted

ROOT = Path(__file__).resolve().parents[2]
ALERTS = (ROOT / "docs" / "monitoring" / "alerts.yml").read_text(encoding="utf-8")
RUNBOOKS = ROOT / "docs" / "runbooks"
DASHBOARD = json.loads((ROOT / "docs" / "monitoring" / "grafana.json").read_text(encoding="utf-8"))


@pytest.fixture
async def daemon(tmp_path: Path) -> Any:
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "metrics_listen": "127.0.0.1:0"}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def scrape(daemon: Daemon) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample by its name and the values of its labels."""
    assert daemon.observing.exporter is not None
    url = f"http://{daemon.observing.exporter.address}/metrics"
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def participant(daemon: Daemon, directory: Path, name: str) -> Participant:
    made = Participant(name, coordinator=daemon.address, resource=LogResource(), data_directory=directory / name)

    @made.operation
    def note(_: Any, *, text: str) -> str:
        if text == "no":
            raise Refuse("NO")
        return text

    @made.invariant(every_seconds=0.05)
    def holds() -> bool:
        return True

    return made


async def test_every_metric_that_is_named_is_served(daemon: Daemon, tmp_path: Path) -> None:
    bank, stock = participant(daemon, tmp_path, "bank"), participant(daemon, tmp_path, "stock")
    async with bank, stock, Client(daemon.address) as client:
        await asyncio.gather(bank.wait_connected(), stock.wait_connected())
        await client.run(call("bank", "note", text="a"), call("stock", "note", text="b"), wait="complete")
        with pytest.raises(Aborted):
            await client.run(call("bank", "note", text="no"), call("stock", "note", text="b"))
        with pytest.raises(Aborted):
            await client.run(call("bank", "note", text="a"), call("nobody", "note", text="b"))
        found = await scrape(daemon)
        collected = {sample.name for one in sdk.ParticipantCollector(bank).collect() for sample in one.samples}
    served = {name for name in found if not name.endswith("_created")}
    assert served == families.names()
    outcomes = found["troth_over_total"]
    assert outcomes[("COMMITTED", "")] == 1 and sum(outcomes.values()) == 2
    assert found["troth_refusals_total"] == {("caller", "UNKNOWN_PARTICIPANT"): 1}
    assert found["troth_objective_total"] == {("met",): 2, ("missed",): 0}
    assert found["troth_phase_seconds_count"][("commit",)] == 1
    assert found["troth_participant_connected"] == {("bank",): 1, ("stock",): 1}
    assert found["troth_sync_seconds_count"][("c1",)] >= 1
    assert found["troth_log_bytes"][("c1",)] > 0
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    assert collected == {one.name + end for one in sdk.FAMILIES for end in ends.get(one.kind, ("",))}


async def test_probes_are_told_that_it_lives_and_whether_it_takes_new_work(daemon: Daemon) -> None:
    assert daemon.observing.exporter is not None
    address = daemon.observing.exporter.address

    async def probed(path: str) -> int:
        def ask() -> int:
            try:
                with urllib.request.urlopen(f"http://{address}{path}") as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        return await asyncio.to_thread(ask)

    assert (await probed("/live"), await probed("/ready")) == (200, 200)
    await daemon.drain()
    assert (await probed("/live"), await probed("/ready")) == (200, 503)


def test_a_loop_that_stands_still_is_neither_alive_nor_ready() -> None:
    def asked() -> bool:
        raise TimeoutError

    endpoint = Endpoint("127.0.0.1", 0, CollectorRegistry(), asked)
    try:
        for path in ("/live", "/ready"):
            with pytest.raises(urllib.error.HTTPError, match="503") as raised:
                urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}{path}")
            raised.value.close()
    finally:
        endpoint.close()


async def test_a_collector_tells_of_a_participant_before_it_is_started(tmp_path: Path) -> None:
    idle = Participant("bank", coordinator="127.0.0.1:1", resource=LogResource(), data_directory=tmp_path)
    told = {sample.name: sample.value for one in sdk.ParticipantCollector(idle).collect() for sample in one.samples}
    assert told["troth_sdk_connected"] == 0 and "troth_sdk_records_total" not in told


def test_a_reason_that_somebody_made_up_is_no_label_of_its_own() -> None:
    from types import SimpleNamespace

    outcomes = Outcomes()
    over = SimpleNamespace(outcome=2, cause=SimpleNamespace(reason="because"), moments=SimpleNamespace(steps=()), trace=None)
    outcomes.hear(over)  # type: ignore[arg-type]  # what it looks at
    assert list(outcomes.over.values()) == [1] and next(iter(outcomes.over))[1] == OTHER


# ---- what we ship


def expressions() -> Iterator[str]:
    yield from re.findall(r"^ +expr: (.+)$", ALERTS, re.MULTILINE)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_alerts_and_dashboard_name_only_what_is_served() -> None:
    known = families.names()
    for one in sdk.FAMILIES:
        known |= {one.name, *(f"{one.name}_{end}" for end in ("bucket", "sum", "count"))}
    for expression in expressions():
        for name in re.findall(r"\btroth_\w+", expression):
            assert name in known, f"{name} in {expression}"


def test_each_alert_has_a_page_that_names_it() -> None:
    pages = re.findall(r"- alert: (\w+)\n.*?runbook: docs/runbooks/([\w-]+\.md)\n", ALERTS, re.DOTALL)
    assert len(pages) == len(re.findall(r"- alert:", ALERTS)) == len(re.findall(r"runbook:", ALERTS))
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for alert, page in pages:
        assert f"`{alert}`" in (RUNBOOKS / page).read_text(encoding="utf-8"), f"{page} does not name {alert}"
        assert re.search(rf"^\| .*`{alert}`.* \| \[.+\]\({page}\) \|", index, re.MULTILINE), f"the index has no {alert}"
    assert set(re.findall(r"`(Troth\w+)`", index)) == {alert for alert, _ in pages}


def test_each_runbook_is_in_the_index() -> None:
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}


def test_panels_do_not_overlap_and_have_a_data_source() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(places) == len(set(places)) and len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in DASHBOARD["panels"])


@pytest.mark.skipif(not os.environ.get("TEST_PROMTOOL_BIN"), reason="promtool is not there")
def test_promtool_accepts_the_rules() -> None:
    promtool = Path(os.environ["TEST_PROMTOOL_BIN"]) / "promtool"
    rules = ROOT / "docs" / "monitoring" / "alerts.yml"
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
