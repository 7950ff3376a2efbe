"""What is shipped to run the daemon: accepted by its own linters, and started with settings that the daemon knows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sources import ROOT, TOOLS, run

from coordinator.cli.reconcile import reconcile
from coordinator.shell_settings import ShellSettings

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
DAEMONS = [path for path in UNITS if "troth serve" in path.read_text()]
SERVICES = [path for path in UNITS if path.suffix == ".service"]
RECONCILING = DEPLOY / "systemd" / "troth-reconcile.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
CONTAINERFILE = DEPLOY / "container" / "Containerfile"
SHELL = ShellSettings()
EXPOSURE_MAX = 20
"""Tenths of systemd's measure of what a service could do, which goes to 100."""
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")


def options(words: list[str]) -> list[str]:
    """The options of a call of `troth serve`."""
    assert words[:2] == ["troth", "serve"], words
    return words[2:]


def check(arguments: list[str], tmp_path: Path) -> None:
    """Have the daemon's own check look at options; the file that they name is empty here."""
    (tmp_path / "empty.toml").touch()
    words = [re.sub(r"^/etc/troth/(troth|cell)\.toml$", str(tmp_path / "empty.toml"), one) for one in arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "config", "check", *words], env=clean, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- systemd


def unit_in(path: Path, directory: Path) -> Path:
    """The unit as it would be installed, beside the others, with a program that is there."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/troth/bin/troth", "/bin/true")
        (directory / unit.name.replace("@", "@7420")).write_text(text)
    return directory / path.name.replace("@", "@7420")


@systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_understood(path: Path, tmp_path: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", unit_in(path, tmp_path))
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout


@systemd
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_may_do_little(path: Path, tmp_path: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", unit_in(path, tmp_path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DAEMONS, ids=lambda path: path.name)
def test_a_unit_starts_the_daemon_with_settings_that_there_are(path: Path, tmp_path: Path) -> None:
    (start,) = re.findall(r"^ExecStart=/opt/troth/bin/(.+)$", path.read_text(), re.MULTILINE)
    words = shlex.split(start.replace("%i", "7420").replace("%H", "host"))
    insecure = ["--insecure"] if "0.0.0.0" in start else []
    check([*options(words), *insecure], tmp_path)


@pytest.mark.parametrize("path", DAEMONS, ids=lambda path: path.name)
def test_a_unit_waits_for_a_drain_and_for_every_start(path: Path) -> None:
    settings = dict(re.findall(r"^(\w+)=(.+)$", path.read_text(), re.MULTILINE))
    assert int(settings["TimeoutStopSec"]) > SHELL.drain_seconds + SHELL.goodbye_seconds
    assert settings["Type"] == "notify" and settings["TimeoutStartSec"] == "infinity" and int(settings["WatchdogSec"]) > 0


def asked(words: list[str]) -> dict[str, Any]:
    """What a call of `troth reconcile` asks for. Raises what click does about a call that is none."""
    assert words[:1] == ["reconcile"], words
    return reconcile.make_context("troth reconcile", words[1:]).params


def understood(names: set[str]) -> bool:
    """Whether these variables are some that the command takes."""
    taken = {parameter.envvar for parameter in reconcile.params if isinstance(parameter, click.Option)}
    return names <= {*taken, "TROTH_COORDINATOR", "TROTH_DATA_DIRECTORY", "PGPASSWORD"}


def test_the_unit_of_the_timer_reconciles_what_its_file_says_and_changes_nothing(tmp_path: Path) -> None:
    text = RECONCILING.read_text()
    (start,) = re.findall(r"^ExecStart=/opt/troth/bin/troth (.+)$", text, re.MULTILINE)
    (example,) = re.findall(r"^#   TROTH_RECONCILE=(.+)$", text, re.MULTILINE)
    (tmp_path / "shop.db").touch()
    told = shlex.split(start.replace("$TROTH_RECONCILE", example.replace("/var/lib/orders/shop.db", str(tmp_path / "shop.db"))))
    params = asked(told)
    assert (params["dsns"], params["files"]) == (("postgresql://troth@db/bank",), (tmp_path / "shop.db",))
    assert params["as_json"] and not params["applies"]
    assert not asked(shlex.split(start.replace("$TROTH_RECONCILE", "")))["dsns"], "without its file it asks the coordinator alone"
    assert understood(set(re.findall(r"\b(TROTH_(?!RECONCILE)\w+|PGPASSWORD)\b", text)))


def test_the_timer_starts_it() -> None:
    timer = RECONCILING.with_suffix(".timer")
    assert "OnCalendar=*:0/15" in timer.read_text()
    assert "Unit=" not in timer.read_text(), "the service of its own name"


# ---- Kubernetes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_follows_the_schemas_of_kubernetes(path: Path) -> None:
    done = run(TOOLS / "kubernetes-validate", "--strict", path)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of all manifests."""
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            spec = document.get("spec", {})
            spec = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec
            if "template" in spec:
                yield f"{path.name}-{document['kind']}", spec["template"]["spec"]


PODS = dict(pods())


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_has_no_rights_and_writes_only_to_its_volumes(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", ["alone.yaml-StatefulSet", "cell.yaml-Deployment"])
def test_a_pod_starts_the_daemon_with_settings_that_there_are(name: str, tmp_path: Path) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    told = tmp_path / "troth"
    told.write_text("#!/bin/sh\nprintf '%s\\n' troth \"$@\"\n")
    told.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "POD_IP": "10.1.2.3", "NAMESPACE": "shop"}
    command = [*container.get("command", ["troth"]), *container["args"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    check(options(words), tmp_path)
    if name.startswith("cell"):
        assert "advertise=10-1-2-3.troth.shop.svc.cluster.local:7420" in words
    assert pod["terminationGracePeriodSeconds"] > SHELL.drain_seconds + SHELL.goodbye_seconds


def test_the_cron_job_reconciles_and_changes_nothing() -> None:
    (job,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "reconcile.yaml").read_text())
    pod = PODS["reconcile.yaml-CronJob"]
    (container,) = pod["containers"]
    variables = {one["name"] for one in container["env"]}
    assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) == variables & {"NAMESPACE", "BANK_DSN"}
    assert not asked(container["args"])["applies"]
    assert understood(variables - {"NAMESPACE", "BANK_DSN"})
    assert (pod["restartPolicy"], job["spec"]["jobTemplate"]["spec"]["backoffLimit"]) == ("Never", 0), "what is wrong stays seen"
    labels = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert labels["troth.example/peer"] == "true", "or the coordinator's NetworkPolicy keeps it out"


# ---- the image


def test_the_containerfile_is_what_its_linter_wants() -> None:
    done = run(TOOLS / "hadolint", CONTAINERFILE)
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_there_is_and_is_let_into_its_context() -> None:
    text = CONTAINERFILE.read_text()
    copied = [one for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for one in line.split()]
    let_in = re.findall(r"^!(.+)$", (CONTAINERFILE.parent / "Containerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(let_in) and all((ROOT / one).exists() for one in copied)
    assert text.count("--require-hashes") == 2 and re.search(r"^USER 65532:65532$", text, re.MULTILINE)
