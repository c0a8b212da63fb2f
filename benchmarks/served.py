"""What is measured over HTTP: all servers stand side by side, and only the one that is loaded runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Load
from benchmarks.models import Case
from benchmarks.servers import Running, Server, fastapi_server, lit_server, own_server, running

CLIENTS = 16
FEWER_CLIENTS = (1, 2, 4, 8)
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds of every server, and seconds of one load of each kind."""

    rounds: int
    load_s: float
    sweep_s: float
    steady_s: float
    watched_s: float


@dataclass(frozen=True)
class Served:
    """What the servers did. Loads are by server, one a round; a sweep has one load a number of clients.

    `predicts` are of FusionLens without an explanation, `steady` is its long run, `watched` its run with someone
    asking for stored explanations. `memory_mb` is resident memory after all rounds.
    """

    own: str
    own_torch: str
    lit_default: str
    lit_best: str
    lit_gradcam_best: str
    loads: dict[str, list[Load]]
    predicts: list[Load]
    sweep: dict[str, list[Load]]
    steady: Load
    watched: Load
    memory_mb: dict[str, float]

    def rates(self, server: str) -> list[float]:
        """Answers per second of a server under all clients, round by round."""
        return [load.per_second for load in self.loads[server]]


def servers_of(case: Case) -> list[Server]:
    """FusionLens, LitServe in the configurations tried, and FastAPI."""
    cores = os.cpu_count() or 1
    return [
        own_server(case, "openvino"),
        own_server(case, "torch"),
        *(lit_server(case, "bare", *shape) for shape in _shapes(cores)),
        lit_server(case, "bare", cores, 1, batch=8),
        *(lit_server(case, "gradcam", *shape) for shape in _shapes(cores)[:2]),
        fastapi_server(case),
    ]


def _shapes(cores: int) -> list[tuple[int, int]]:
    """Workers and threads of each. First what LitServe and torch do by themselves, then what LitServe advises."""
    return [(1, cores), (cores, 1), (cores, cores)]


def measure(case: Case, effort: Effort, say: Callable[[str], None]) -> Served:
    """Start every server, load them in rounds, then the best of each kind with fewer clients, then ours alone."""
    with ExitStack() as stack:
        up: dict[str, Running] = {}
        for server in servers_of(case):
            say(f"starting {server.name}")
            up[server.name] = stack.enter_context(running(server))
            _load(up[server.name], case, CLIENTS, WARM_UP_S)
        own, own_torch, lit_default, *others = up
        loads: dict[str, list[Load]] = {name: [] for name in up}
        predicts = []
        for number in range(effort.rounds):
            for name, one in up.items():
                loads[name].append(_load(one, case, CLIENTS, effort.load_s))
                say(f"round {number + 1}, {name}: {loads[name][-1].per_second:.2f}/s")
            predicts.append(_load(up[own], case, CLIENTS, effort.load_s, path="/predict"))
        memory_mb = {name: one.memory_mb() for name, one in up.items()}

        def best(kind: str) -> str:
            return max((n for n in up if n.startswith(kind)), key=lambda n: median(x.per_second for x in loads[n]))

        lit_best, lit_gradcam_best = best("LitServe, bare"), best("LitServe, pytorch-grad-cam")
        sweep: dict[str, list[Load]] = {}
        for name in dict.fromkeys((own, lit_best, lit_gradcam_best, others[-1])):
            sweep[name] = [_load(up[name], case, clients, effort.sweep_s) for clients in FEWER_CLIENTS]
            say(f"fewer clients, {name}: {[round(load.per_second, 1) for load in sweep[name]]}/s")
        watched = _load(up[own], case, CLIENTS, effort.watched_s, "--watch", path="/predict")
        steady = _load(up[own], case, CLIENTS, effort.steady_s)
        return Served(
            own,
            own_torch,
            lit_default,
            lit_best,
            lit_gradcam_best,
            loads,
            predicts,
            sweep,
            steady,
            watched,
            memory_mb,
        )


def _load(one: Running, case: Case, clients: int, seconds: float, *options: str, path: str | None = None) -> Load:
    with one.awake():
        return Load.run(one.address, path or one.server.asked, case.picture, clients, seconds, *options)
