"""What the measured figures imply for many requests and for millions of pictures: arithmetic, no measurement.

python -m benchmarks.scaling writes docs/scaling.md from the JSON files of docs/measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import page as benchmarks_page
from benchmarks.cases import DEMO, RANDOM

DOCS = Path(__file__).parents[1] / "docs"
MEASURED = DOCS / "measured"
RATES_PER_S = (10, 100, 1000)
BUSY, CORE_HOUR, MACHINE_CORES = 0.6, 0.05, 16  # the assumptions, which the page states
TTL_S, REDIS_MB = 900, 512  # FUSIONLENS_STORE_TTL_S, and maxmemory in docker-compose.yml
NIGHT_PICTURES, NIGHT_H = 10_000_000, 10


@dataclass(frozen=True)
class Costs:
    """What one picture costs. Times are those of one core, in ms; sizes are in bytes.

    `predict_ms` and `explained_ms` are by HTTP, without and with a heatmap in the same request, `batch_ms` in a batch
    job. `picture` is the upload, `stored` its entry in Redis, `row` that in a Parquet file. `process_mb` is the memory
    of one process of the service under a mixed load.
    """

    predict_ms: float
    explained_ms: float
    batch_ms: float
    picture: float
    stored: float
    row: float
    process_mb: float


def costs(measured: Path) -> dict[str, Costs]:
    """By model, from the files of one folder."""
    served = benchmarks_page.read(measured)
    batch, memory = (json.loads((measured / f"benchmarks-{name}.json").read_text()) for name in ("batch", "memory"))
    cores = batch["cores"]
    found = {}
    for name in (DEMO, RANDOM):
        of_model, job = served.models[name].served, batch["cases"][name]
        large = job["600"]
        found[name] = Costs(
            predict_ms=_core_ms(cores, [load.per_second for load in of_model.predicts]),
            explained_ms=_core_ms(cores, of_model.rates(of_model.own)),
            batch_ms=_core_ms(cores, [large["per_s"]["job"]]),
            picture=large["picture_bytes"],
            stored=large["stored_bytes"],
            row=large["row_bytes"],
            process_mb=memory["served"][name]["openvino"]["mix"],
        )
    return found


def _core_ms(cores: int, per_s: Sequence[float]) -> float:
    return cores / median(per_s) * 1e3


def page(found: Mapping[str, Costs]) -> str:
    """The page, in Markdown."""
    return "\n".join([*_head(found), *_requests(found), *_night(found), *_bottlenecks(found[DEMO])]) + "\n"


def _head(found: Mapping[str, Costs]) -> Iterator[str]:
    yield f"""# Scale

How many machines do a thousand requests a second need, and ten million pictures in a night? `python -m
benchmarks.scaling` computes this page from what was measured on **one machine with two cores**:
[Benchmarks](measured/benchmarks.md), [Memory](measured/benchmarks-memory.md) and
[Batch jobs](measured/benchmarks-batch.md). Nothing larger was measured. What the arithmetic assumes is stated here, so
that it can be replaced:

* **Cores add up.** One process uses all the cores that it is given. Pictures are independent, and replicas share
  nothing but Redis, so this page multiplies. On the two cores of the measurement, where clients, proxy and replicas
  shared them, two replicas reached 0.77 of twice the rate of one (see [Ray Serve](guides/deploy.md#ray-serve)).
* **Cores are busy {BUSY:.0%} of the time** in a service, so that bursts do not wait, and always in a batch job.
* **A machine has {MACHINE_CORES} cores**, and a core costs {CORE_HOUR:g} dollars an hour. Put in your own price.
* A picture is a JPEG of 600 × 600 px. Predictions stay for the default of {TTL_S} s.

| one picture | {" | ".join(found)} |
| --- |{" --: |" * len(found)}"""
    rows: list[tuple[str, list[str]]] = [
        ("`POST /predict`, ms of a core", [f"{one.predict_ms:.0f}" for one in found.values()]),
        ("prediction and heatmap in one request, ms of a core", [f"{one.explained_ms:.0f}" for one in found.values()]),
        ("in a batch job, ms of a core", [f"{one.batch_ms:.0f}" for one in found.values()]),
        ("the upload, kB", [f"{one.picture / 1e3:.0f}" for one in found.values()]),
        ("its entry in Redis, kB", [f"{one.stored / 1e3:.0f}" for one in found.values()]),
        ("its row in a Parquet file, bytes", [f"{one.row:.0f}" for one in found.values()]),
        ("a process of the service under load, MB", [f"{one.process_mb:.0f}" for one in found.values()]),
    ]
    for name, values in rows:
        yield f"| {name} | {' | '.join(values)} |"


def _requests(found: Mapping[str, Costs]) -> Iterator[str]:
    yield f"""
## Requests a second

Every request sends a picture and is answered with the probabilities and a heatmap; the prediction is stored. Cores
are rate × time of a core ÷ {BUSY:g}, machines are rounded up, and never fewer than two, so that one can be lost.
Redis holds rate × {TTL_S} s × the size of an entry. The network between replicas and Redis carries each entry once in
and, if a further explanation is asked for, once out.

| model | requests/s | cores | machines | Redis, GB | uploads, Mbit/s | to Redis, Mbit/s | dollars a month |
| --- | --: | --: | --: | --: | --: | --: | --: |"""
    for name, one in found.items():
        for rate in RATES_PER_S:
            cores = rate * one.explained_ms / 1e3 / BUSY
            machines = max(2, math.ceil(cores / MACHINE_CORES))
            in_use = max(cores, 2.0)
            yield (
                f"| {name} | {rate:,} | {cores:.1f} | {machines} | {rate * TTL_S * one.stored / 1e9:.1f} "
                f"| {_mbit(rate * one.picture)} | {_mbit(rate * one.stored)} | {in_use * CORE_HOUR * 730:,.0f} |"
            )
    yield """
The price is that of the cores alone, and of two of them at least. Ten requests a second need a few cores: two small
machines do."""


def _mbit(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:,.0f}"


def _night(found: Mapping[str, Costs]) -> Iterator[str]:
    rate = NIGHT_PICTURES / NIGHT_H / 3600
    yield f"""
## {NIGHT_PICTURES // 10**6} million pictures in a night

{NIGHT_PICTURES:,} pictures in {NIGHT_H} hours are {rate:.0f} a second. [`fusionlens batch`](guides/batch.md) answers
them, on one machine, on several with a part of the pictures each, or on a Ray cluster. It needs no service, no Redis
and no proxy.

| model | cores | machines | core-hours | dollars | read, GB | read, MB/s | written, GB |
| --- | --: | --: | --: | --: | --: | --: | --: |"""
    for name, one in found.items():
        cores = rate * one.batch_ms / 1e3
        hours = NIGHT_PICTURES * one.batch_ms / 3.6e6
        yield (
            f"| {name} | {cores:.1f} | {math.ceil(cores / MACHINE_CORES)} | {hours:.0f} | {hours * CORE_HOUR:.1f} "
            f"| {NIGHT_PICTURES * one.picture / 1e9:.0f} | {rate * one.picture / 1e6:.0f} "
            f"| {NIGHT_PICTURES * one.row / 1e9:.1f} |"
        )


def _bottlenecks(one: Costs) -> Iterator[str]:
    entries = REDIS_MB * 1e6 / one.stored
    yield f"""
## What runs out first

For the demo bundle, in this order:

1. **Redis's memory.** `docker-compose.yml` gives it {REDIS_MB} MB, which are {entries:,.0f} entries, or
   {entries / TTL_S:.1f} predictions a second for {TTL_S} s each. Beyond it the least recently used ones go, and their
   explanations answer 404. Raise `maxmemory`, or lower `FUSIONLENS_STORE_TTL_S`: people look at a heatmap within
   seconds, so 60 s divide the memory by {TTL_S / 60:.0f}.
2. **Cores.** The trunk's pass is most of a request, and further explanations take a small part of it.
3. **The network to Redis.** At 1,000 requests a second it carries {_mbit(1000 * one.stored)} Mbit/s one way. Several
   Redis servers do not help as it is: the service knows one address. A shorter life does not help either, since every
   entry is still sent. What helps is a service of its own for callers that want the heatmap at once and come back for
   nothing: one replica each without Redis, behind a proxy that sends a caller to the same replica.
4. **The proxy.** One Caddy opens a connection for every request. It was tested for what it loses, not for how many it
   can carry. At 1,000 requests a second, put two behind a load balancer.
5. **Storage**, in a batch job: all machines together read as fast as the table says. A folder of millions of names is
   sorted in memory, which tar files of some thousand pictures each avoid.

## What was not measured

More than two cores, more than one machine, a real network between them, object storage, and a GPU. Where one process
gets more than about eight cores, measure before you believe the multiplication: passes of a small model do not fill
many cores. `FUSIONLENS_THREADS` says how many one takes."""


def read_page(docs: Path) -> str:
    """The page that the JSON files in the folder `measured` of `docs` give."""
    return page(costs(docs / "measured"))


if __name__ == "__main__":
    text = read_page(DOCS)
    (DOCS / "scaling.md").write_text(text, encoding="utf-8")
    print(text)
