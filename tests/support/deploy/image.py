"""The image, built and run for real without a container engine.

Run as `python -m tests.support.deploy.image [--gpu] [FOLDER]`. With --gpu it is the image for GPUs, which takes many GB
and is run as far as that goes without a GPU: it says that it finds none, and ends.

Needs root and the Debian packages buildah and debootstrap, which makes the base: a stand-in for python:3.11-slim, kept
in FOLDER (by default in the folder for temporary files) for the next time. What is run is image_run.py beside this.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.deploy.tools import APART, ROOT

BASE, IMAGE = "localhost/python:3.11-slim", "localhost/fusionlens:{target}"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
MOST_BYTES = 700_000_000  # of the image for CPUs


class Buildah:
    """buildah with its storage in a folder of ours."""

    def __init__(self, folder: Path) -> None:
        storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]
        self._command = ["buildah", *storage]

    def __call__(self, *arguments: str | Path, timeout_s: float = 600) -> str:
        return said(*self._command, *arguments, timeout_s=timeout_s)

    def has(self, image: str) -> bool:
        found = subprocess.run([*self._command, "inspect", "--type", "image", image], capture_output=True, timeout=60)
        return found.returncode == 0

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The files of the image, for a while."""
        container = self("from", "--pull-never", image)
        try:
            yield Path(self("mount", container))
        finally:
            self("rm", container)


def main(folder: Path, target: str) -> None:
    image = IMAGE.format(target=target)
    check_this_machine()
    own(folder)
    buildah = Buildah(folder)
    if not buildah.has(BASE):
        timed("base", lambda: make_base(buildah, folder))
    timed("build", lambda: build(buildah, folder, target))
    configuration = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    check(configuration)
    with buildah.mounted(BASE) as base:
        base_bytes = size(base)
    with buildah.mounted(image) as root:
        whole = size(root)
        print(f"size: {whole / 1e6:.0f} MB, of which {(whole - base_bytes) / 1e6:.0f} MB are not the base")
        assert target == "gpu" or whole <= MOST_BYTES
        environment = [variable for variable in configuration["Env"] if not variable.startswith("HOME=")]
        timed("run", lambda: run_it(root, environment))


def run_it(root: Path, environment: list[str]) -> None:
    command = [*APART, sys.executable, "-m", "tests.support.deploy.image_run", str(root), *environment]
    if subprocess.run(command, cwd=ROOT, timeout=300).returncode != 0:
        sys.exit("image: it was built, but does not run as it should")


def check_this_machine() -> None:
    """End with the reason where an image cannot be built."""
    if os.geteuid() != 0:
        sys.exit("image: must be root, to make the base and to mount what was built")
    for program, package in (("buildah", "buildah"), ("debootstrap", "debootstrap"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            sys.exit(f"image: {program} is not installed (Debian's package {package})")


def own(folder: Path) -> None:
    """The folder, ours alone: what lies in it is run as root."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        sys.exit(f"image: {folder} is not a folder that only this user can write to; name another")


def make_base(buildah: Buildah, folder: Path) -> None:
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    said("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, timeout_s=600)
    for name in NEEDLESS:
        shutil.rmtree(root / name)
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
    (root / "usr/bin/python").symlink_to("python3")
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, root, "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(root)


def build(buildah: Buildah, folder: Path, target: str) -> None:
    """With this machine's certificates and settings of pip, which are mounted and never part of the image."""
    certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    settings = folder / "pip.conf"
    settings.write_text("[global]\n" + "".join(pip_settings()))
    settings.chmod(0o600)
    mounts = [f"--volume={certificates}:/etc/ssl/certs/ca-certificates.crt:ro", f"--volume={settings}:/etc/pip.conf:ro"]
    try:
        chosen = (f"--target={target}", f"--tag={IMAGE.format(target=target)}")
        timeout_s = 600 if target == "cpu" else 3600  # torch with CUDA is gigabytes
        buildah(
            "bud", "--isolation=chroot", "--pull-never", "--format=docker", *mounts, *chosen, ROOT, timeout_s=timeout_s
        )
    finally:
        settings.unlink()
    buildah("rm", "--all")
    buildah("rmi", "--prune")  # what the last build left, and this one's earlier stages


def pip_settings() -> Iterator[str]:
    """Where pip here gets packages from, as lines of its configuration."""
    for line in said(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        option, text = name.rpartition(".")[2], value.strip("'\"")
        if option in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout") and "file:" not in text:
            yield f"{option} = {text}\n"
    yield "cert = /etc/ssl/certs/ca-certificates.crt\n"


def check(configuration: dict[str, Any]) -> None:
    assert configuration["User"] == "10001:10001"
    assert configuration["Entrypoint"] == ["python", "-m", "app"] and configuration["Cmd"] == ["serve"]
    assert configuration["StopSignal"] == "SIGTERM"
    assert configuration["Healthcheck"]["Test"] == ["CMD", "python", "-m", "app", "health"]
    assert not [variable for variable in configuration["Env"] if "PIP" in variable or "CERT" in variable]


def size(root: Path) -> int:
    return int(said("du", "--summarize", "--bytes", "--one-file-system", root).split()[0])


def said(*command: str | Path, timeout_s: float = 600) -> str:
    """What a command prints. Where it fails, so does this, with the end of what it said."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s)
    if ran.returncode != 0:
        sys.exit(f"image: {command[0]} failed ({ran.returncode}):\n{ran.stdout[-6000:]}")
    return ran.stdout.strip()


def timed(name: str, work: Any) -> None:
    began = time.monotonic()
    work()
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.deploy.image")
    kept = Path(tempfile.gettempdir()) / f"fusionlens-image-{os.geteuid()}"
    parser.add_argument("folder", type=Path, nargs="?", default=kept, help="where the base is kept for the next time")
    parser.add_argument("--gpu", action="store_true", help="the image for GPUs")
    args = parser.parse_args()
    main(args.folder, "gpu" if args.gpu else "cpu")
