"""Commands in a network of their own: the packets that each sends, and the files that it leaves in the home folder.

Run as `python -m tests.support.captured FOLDER` in `APART`. FOLDER has the bundle `tiny` and the pictures `data`, and
gets `report.json`. Every address is this machine's own there, so that a packet to anywhere passes the loopback and is
seen there, and no command waits for an answer that does not come.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import httpx

from app.files import EXAMPLE
from tests.support.deploy import loopback
from tests.support.served_process import ROOT, serving
from tests.support.waiting import wait_until

PYTHON = (sys.executable, "-c")
APP, TRAINING = ((sys.executable, "-m", package) for package in ("app", "training"))
# Small, since tracing a Swin would take a minute. A process that loads pictures, and both trackers, are part of it.
SMALL = ("-s", "model.fusion=cnn", "-s", "model.image_size=[64, 64]", "-s", "stages=[{name: main, epochs: 1}]")
TRACKED = ("--track", "wandb", "--track", "tensorboard")
LIBRARY = """
import app.engines.openvino, openvino, torch
openvino.convert_model(torch.nn.ReLU(), example_input=torch.zeros(1))
"""
COMMANDS = {
    "check": (*APP, "check", "tiny"),
    "predict": (*APP, "predict", str(EXAMPLE), "--bundle", "tiny", "--explain", "overlay.png"),
    "fit": (*TRAINING, "fit", "smoke", *SMALL, *TRACKED, "--data", "data", "--out", "run"),
    "export": (*TRAINING, "export", "run", "exported", "--positive", "malignant"),
    "compile": (*TRAINING, "compile", "exported", "compiled"),
    "a library's user": (*PYTHON, LIBRARY),
}
# What is seen of those that do connect, or look a name up.
CONTROLS = {
    "TCP": (*PYTHON, "import socket; socket.socket().connect_ex(('192.0.2.1', 443))"),
    "TCP, IPv6": (*PYTHON, "import socket; socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 443))"),
    "UDP": (*PYTHON, "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'.', ('192.0.2.1', 9))"),
    "a name": (
        *PYTHON,
        "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('a.test', 80)",
    ),
    "OpenVINO alone": (*PYTHON, "import openvino"),
}
_ALL_PROTOCOLS, _RECEIVE_BUFFER_FORCED, _PACKETS, _STATISTICS = 3, 33, 263, 6
_TCP, _UDP, _DNS_PORT = 6, 17, 53


class Captured(TypedDict):
    """What a command did: its exit status, its output, where its packets went, and what it left in the home folder."""

    status: int
    output: str
    sent_to: list[str]
    files: list[str]


class Capture:
    """The packets that leave any process of this network."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCED, 256 << 20)
        self._socket.setblocking(False)

    def sent_to(self) -> list[str]:
        """Where packets went since the last call: each name that was asked for, and each address but the loopback's."""
        places: dict[str, None] = {}
        with suppress(BlockingIOError):
            while True:
                packet, (_, _, kind, _, _) = self._socket.recvfrom(1 << 16)
                if kind == socket.PACKET_OUTGOING and (place := _destination(packet)):
                    places[place] = None
        _, dropped = struct.unpack("II", self._socket.getsockopt(_PACKETS, _STATISTICS, 8))
        if dropped:
            raise RuntimeError(f"{dropped} packets were not captured")
        return list(places)


def _destination(packet: bytes) -> str | None:
    """A packet's destination, or the name that it asks for; None for other packets to the loopback."""
    if packet[0] >> 4 == 4:
        protocol, address, payload = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
    else:
        protocol, address, payload = packet[6], packet[24:40], packet[40:]
    port = int.from_bytes(payload[2:4], "big") if protocol in (_TCP, _UDP) else None
    if port == _DNS_PORT:
        question = payload[20:].partition(b"\0")[0]  # after the headers of UDP and DNS
        return f"DNS: {''.join(chr(c) if 32 < c < 127 else '.' for c in question[1:])}"
    destination = ipaddress.ip_address(address)
    return None if destination.is_loopback else f"{destination} port {port}"


def main(folder: Path) -> None:
    """Run every command, and write the report."""
    loopback.up()
    loopback.take_every_address()
    for file, text in (
        ("resolv.conf", "nameserver 192.0.2.53\noptions attempts:1\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        (folder / file).write_text(text)
        subprocess.run(["mount", "--bind", folder / file, Path("/etc") / file], check=True)
    home = folder / "home"
    # Nothing of this process's own environment, which may name a proxy, another home, or CI, where OpenVINO is silent.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    capture, report = Capture(), dict[str, Captured]()
    for name, command in {"serve and health": (), **COMMANDS, **CONTROLS}.items():
        home.mkdir()
        status, output = _run(command, folder, environment) if command else _serve(folder, environment)
        wait_until(_is_alone)
        files = [str(file.relative_to(home)) for file in home.rglob("*")]
        report[name] = {"status": status, "output": output, "sent_to": capture.sent_to(), "files": files}
        shutil.rmtree(home)
    (folder / "report.json").write_text(json.dumps(report))


def _run(command: tuple[str, ...], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    ran = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return ran.returncode, ran.stdout


def _serve(folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Start the service, predict, explain, ask for its health, and stop it."""
    with serving(folder, environment | {"FUSIONLENS_LOG": "off"}, "--bundle", "tiny") as served:
        answer = httpx.post(f"{served.address}/predict", files={"file": EXAMPLE.read_bytes()}, timeout=60).json()
        for path in (answer["links"]["explain"], "/", "/docs"):
            httpx.get(served.address + path, timeout=60).raise_for_status()
        health, output = _run((*APP, "health", "--port", str(served.port)), folder, environment)
        status, errors = served.stop(signal.SIGTERM)
        return status or health, output + errors


def _is_alone() -> bool:
    """Whether no other process is left here. This one is the first of the namespace, so it buries the others."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    return {entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()} == {str(os.getpid())}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
