"""Ray Serve on this machine: what a second replica adds, and what is lost with one that is killed.

python -m reliability.ray_scaling scaling | killed prints JSON. Each runs apart from the network, as root.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.timing import percentile
from reliability.open_loop import OpenLoad, send_all
from reliability.replicas import Replica, running
from tests.support.asking import scene
from tests.support.pictures import encoded
from tests.support.ray.apart import run_apart
from tests.support.ray.cluster import ADDRESS, CONFIG, ray_serving
from tests.support.redis_server import redis_server

REPLICA, PROXY = "ray::ServeReplica:", "ray::ProxyActor"
JPEG = encoded(scene(600, 450), "JPEG", quality=90)
QUIET_CORES = 0.15
REPLACED_WITHIN_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Phase:
    """Some seconds of clients that wait for each answer. `cpu_ms` is what one request took, by kind of process.

    `others_cores` is how many cores went to what has nothing to do with it: a machine that is not ours alone.
    """

    per_s: float
    p50_ms: float
    cpu_ms: dict[str, float]
    others_cores: float


@dataclass(frozen=True)
class Scaling:
    """Phases that take turns, of which those count, for each contestant, in which others wanted least of the machine.

    `ray_one` and `ray_two` are replicas with a core each, and all else on both cores; `ray_one_core` is one replica
    with proxy, clients and all on one core; `plain_one` is fusionlens serve on one core, `plain_two` on both.
    """

    phases: dict[str, list[Phase]]
    rounds: int

    def per_s(self, name: str) -> float:
        """Its median."""
        return median(phase.per_s for phase in self.phases[name])

    def cpu_ms(self, name: str) -> dict[str, float]:
        """Medians for one request."""
        kinds = sorted({kind for phase in self.phases[name] for kind in phase.cpu_ms})
        return {kind: median(phase.cpu_ms.get(kind, 0.0) for phase in self.phases[name]) for kind in kinds}

    def ratio(self, of: str, to: str) -> float:
        """Of medians."""
        return self.per_s(of) / self.per_s(to)

    @property
    def others_cores(self) -> float:
        """At most, in a phase that counts."""
        return max(phase.others_cores for phases in self.phases.values() for phase in phases)

    @property
    def ratios(self) -> dict[str, float]:
        """Two replicas ÷ (2 × one), which has a core beside it for all else or not; and Ray ÷ the plain service."""
        return {
            "two_to_twice_one": self.ratio("ray_two", "ray_one") / 2,
            "two_to_twice_one_core": self.ratio("ray_two", "ray_one_core") / 2,
            "ray_one_to_plain_one": self.ratio("ray_one", "plain_one"),
            "ray_two_to_plain_two": self.ratio("ray_two", "plain_two"),
        }


@dataclass(frozen=True)
class Killed:
    """One run of open-loop load at two replicas, of which one is killed (SIGKILL) now and then.

    `in_flight` counts requests under way in either replica at a kill: what was lost of these was in the killed one.
    Requests under way at no kill that are lost count as `lost_others`. `two_again_s` is from each kill until a process
    answers that had not answered before.
    """

    rate_per_s: float
    requests: int
    statuses: dict[int, int]
    in_flight: list[int]
    lost_in_flight: list[int]
    lost_others: int
    said: list[str]
    two_again_s: list[float]
    p50_ms: float
    p99_ms: float
    sender_late_ms: float


def scaling(quiet: int, most_rounds: int, phase_s: float, clients: int, **environment: str) -> Scaling:
    """One and two replicas, and the plain service on one and two cores; all loaded, asked in turn.

    It goes on until each had `quiet` quiet phases, or for `most_rounds` rounds; the quietest phases count.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(redis_server(folder)).settings
        config = folder / "ray.yaml"
        config.write_text(yaml.safe_dump(_configuration({"ray_one": 1, "ray_two": 2})))
        stack.enter_context(ray_serving(_settings(**redis) | environment, config, 3, ("/ray_one", "/ray_two")))
        stack.enter_context(running(_plain(8101, "1", folder, redis), _plain(8102, "2", folder, redis)))
        both: set[int] = {*os.sched_getaffinity(0)}
        contestants = {
            "ray_one": (8000, "/ray_one/predict", "ServeReplica:ray_one:", both),
            "ray_two": (8000, "/ray_two/predict", "ServeReplica:ray_two:", both),
            "ray_one_core": (8000, "/ray_one/predict", "nothing", {min(both)}),
            "plain_one": (8101, "/predict", "--port 8101", both),
            "plain_two": (8102, "/predict", "nothing", both),
        }
        found: dict[str, list[Phase]] = {name: [] for name in contestants}
        for number in range(most_rounds + 1):
            for name, (port, path, one_core_each, others) in contestants.items():
                _place(one_core_each, others)
                phase = _asked(port, path, phase_s, clients)
                found[name] += [phase] * bool(number)  # the first one warms up
            if min(sum(one.others_cores < QUIET_CORES for one in phases) for phases in found.values()) >= quiet:
                break
    counted = {name: sorted(phases, key=lambda one: one.others_cores)[:quiet] for name, phases in found.items()}
    return Scaling(counted, number)


def _place(one_core_each: str, others: set[int]) -> None:
    """Give processes whose name holds this a core each, and let all others have these."""
    cores = cycle(sorted(others))
    for pid, name in sorted(_processes()):
        chosen = {next(cores)} if one_core_each in name else others
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(int(thread.name), chosen)


def killed(rate: float, kills: int, apart_s: float, **environment: str) -> Killed:
    """deploy/ray.yaml as it stands, at `rate` requests a second; the kills are that far apart."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(Path(stack.enter_context(tempfile.TemporaryDirectory())))).settings
        log = stack.enter_context(ray_serving(_settings(log="json", **redis) | {"RAY_DEDUP_LOGS": "0"} | environment))
        _asked(8000, "/predict", 5.0, 4)
        when: list[tuple[float, float]] = []
        for number in range(kills):
            threading.Timer((number + 0.5) * apart_s, lambda: when.append(_kill_one_replica())).start()
        began = time.perf_counter()
        load = asyncio.run(send_all(ADDRESS, JPEG, rate, round(rate * kills * apart_s), None))
        two_again_s = _until_replaced(log, [epoch_s for _, epoch_s in when])
        return _killed(load, [at_s - began for at_s, _ in when], two_again_s)


def _until_replaced(log: Path, kills_s: Sequence[float]) -> list[float]:
    """Ask until each killed replica has been replaced. Returns how long that took from each kill, by the log."""
    until = time.monotonic() + REPLACED_WITHIN_S
    while time.monotonic() < until:
        _asked(8000, "/predict", 2.0, 4)
        first = _first_answers(log.read_text())
        later = [[s for s in first if s > epoch_s] for epoch_s in kills_s]
        if all(later) and len(later[0]) >= len(kills_s):
            return [min(answers) - epoch_s for answers, epoch_s in zip(later, kills_s, strict=True)]
    raise RuntimeError(f"a killed replica was not replaced within {REPLACED_WITHIN_S:g} s")


def _killed(load: OpenLoad, kills_s: Sequence[float], two_again_s: list[float]) -> Killed:
    in_flight = [[one for one in load.sent if 0 <= at_s - one.began_s <= one.took_ms / 1e3] for at_s in kills_s]
    answered, lost = [one.took_ms for one in load.of(200)], load.lost
    return Killed(
        load.rate,
        len(load.sent),
        load.statuses,
        [len(ones) for ones in in_flight],
        [sum(one in lost for one in ones) for ones in in_flight],
        sum(not any(one in ones for ones in in_flight) for one in lost),
        sorted({f"{one.status} {one.error}".strip() for one in lost}),
        two_again_s,
        percentile(answered, 50),
        percentile(answered, 99),
        load.late_ms,
    )


def _kill_one_replica() -> tuple[float, float]:
    """When it was, by the clock of `perf_counter` and since the epoch. It is one at work, if there is one."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        for pid in (pid for pid, name in _processes() if name.startswith(REPLICA)):
            if time.monotonic() > until - 0.1 or _works(pid):
                os.kill(pid, signal.SIGKILL)
                return time.perf_counter(), time.time()
    raise RuntimeError("there is no replica to kill")


def _works(pid: int) -> bool:
    """Whether one of its threads runs."""
    with suppress(OSError):  # a thread has ended
        return any(_fields(file)[0] == "R" for file in Path(f"/proc/{pid}/task").glob("*/stat"))
    return False


def _first_answers(log: str) -> list[float]:
    """When each replica answered first, in seconds since the epoch."""
    first: dict[str, float] = {}
    for pid, line in re.findall(r"ServeReplica:\S+ pid=(\d+)\)\S* (\{.*\})", log):
        if (entry := json.loads(line)).get("event") == "request":
            first.setdefault(pid, datetime.fromisoformat(entry["timestamp"]).timestamp())
    return [*first.values()]


def _configuration(replicas: Mapping[str, int]) -> dict[str, Any]:
    """deploy/ray.yaml, with an application for each of these names that has a fixed number of replicas."""
    config = yaml.safe_load(CONFIG.read_text())
    (application,) = config.pop("applications")
    (deployment,) = application.pop("deployments")
    del deployment["autoscaling_config"]
    applications = {
        "applications": [
            application
            | {"name": name, "route_prefix": f"/{name}", "deployments": [deployment | {"num_replicas": number}]}
            for name, number in replicas.items()
        ]
    }
    return {**config, **applications}


def _settings(**settings: str) -> dict[str, str]:
    chosen = {"allow_anonymous": "true", "log": "off"} | settings
    return {f"FUSIONLENS_{name.upper()}": value for name, value in chosen.items()}


def _plain(port: int, threads: str, folder: Path, redis: dict[str, str]) -> Replica:
    settings = {"threads": threads, "log": "off", **redis}
    return Replica("127.0.0.1", port, folder, None, **settings)


def _asked(port: int, path: str, seconds: float, clients: int) -> Phase:
    took_ms: list[float] = []
    before, busy_s, began = _cpu_s(), _busy_s(), time.monotonic()
    threads = [threading.Thread(target=_ask, args=(port, path, began + seconds, took_ms)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken_s, spent = time.monotonic() - began, defaultdict[str, float](float)
    for (pid, kind), cpu_s in _cpu_s().items():
        spent[kind] += cpu_s - before.get((pid, kind), 0.0)
    others_cores, count = (_busy_s() - busy_s - sum(spent.values())) / taken_s, len(took_ms)
    cpu_ms = {kind: cpu_s / count * 1e3 for kind, cpu_s in spent.items()}
    return Phase(count / taken_s, median(took_ms), cpu_ms, others_cores)


def _ask(port: int, path: str, until: float, took_ms: list[float]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < until:
        began = time.perf_counter()
        connection.request("POST", path, JPEG, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body.decode(errors='replace')}")
        took_ms.append((time.perf_counter() - began) * 1e3)
    connection.close()


def _busy_s() -> float:
    """Seconds in which the machine's cores had work, whosever it was."""
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_PER_S


def _cpu_s() -> dict[tuple[int, str], float]:
    found = {}
    for pid, name in _processes():
        with suppress(OSError):  # it has ended
            fields = _fields(Path(f"/proc/{pid}/stat"))
            found[pid, _kind(pid, name)] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


def _fields(stat: Path) -> list[str]:
    """What the kernel says of a process or thread, from its state on."""
    return stat.read_text().rpartition(") ")[2].split()


def _kind(pid: int, name: str) -> str:
    if pid == os.getpid():
        return "clients"
    kinds = {REPLICA: "replicas", PROXY: "proxy", "haproxy": "proxy", "redis-server": "redis"}
    for start, kind in kinds.items():
        if name.startswith(start) or f"/{start}" in name:
            return kind
    return "replicas" if "-m app serve" in name else "rest of Ray"


def _processes() -> Iterator[tuple[int, str]]:
    """Those of this namespace, and how they were called."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            yield int(entry.name), name


def main(measurement: str, *options: str) -> None:
    """Prints JSON. An option NAME=VALUE is for Ray's environment."""
    environment = dict(option.split("=", 1) for option in options)
    if os.getpid() != 1:
        print(run_apart("reliability.ray_scaling", measurement, *options, within_s=1800))
    elif measurement == "scaling":
        found = scaling(quiet=7, most_rounds=30, phase_s=3.0, clients=6, **environment)
        medians = {name: {"per_s": found.per_s(name), "cpu_ms": found.cpu_ms(name)} for name in found.phases}
        print(
            json.dumps(
                {"ratios": found.ratios, "medians": medians, "others_cores": found.others_cores, **asdict(found)}
            )
        )
    else:
        print(json.dumps(asdict(killed(rate=12.0, kills=4, apart_s=25.0, **environment))))


if __name__ == "__main__":
    main(*sys.argv[1:])
