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

import pytest
import yaml
from sources import ROOT, TOOLS, run

from coordinator.shell_settings import ShellSettings

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
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
    """The unit as it would be installed, with a program that is there."""
    name = path.name.replace("@", "@7420")
    (directory / name).write_text(path.read_text().replace("/opt/troth/bin/troth", "/bin/true"))
    return directory / name


@systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_understood(path: Path, tmp_path: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", unit_in(path, tmp_path))
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout


@systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_may_do_little(path: Path, tmp_path: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", unit_in(path, tmp_path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_the_daemon_with_settings_that_there_are(path: Path, tmp_path: Path) -> None:
    (start,) = re.findall(r"^ExecStart=/opt/troth/bin/(.+)$", path.read_text(), re.MULTILINE)
    words = shlex.split(start.replace("%i", "7420").replace("%H", "host"))
    insecure = ["--insecure"] if "0.0.0.0" in start else []
    check([*options(words), *insecure], tmp_path)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_waits_for_a_drain_and_for_every_start(path: Path) -> None:
    settings = dict(re.findall(r"^(\w+)=(.+)$", path.read_text(), re.MULTILINE))
    assert int(settings["TimeoutStopSec"]) > SHELL.drain_seconds + SHELL.goodbye_seconds
    assert settings["Type"] == "notify" and settings["TimeoutStartSec"] == "infinity" and int(settings["WatchdogSec"]) > 0


# ---- Kubernetes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_follows_the_schemas_of_kubernetes(path: Path) -> None:
    done = run(TOOLS / "kubernetes-validate", "--strict", path)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of all manifests."""
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if "template" in document.get("spec", {}):
                yield f"{path.name}-{document['kind']}", document["spec"]["template"]["spec"]


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
