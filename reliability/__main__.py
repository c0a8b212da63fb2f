"""Everything under fire: python -m reliability [PART…], in a network of its own; writes docs/measured/reliability.md.

Needs root (for the network), redis-server and faketime; nothing leaves this machine. --quick runs each part for
seconds, to see that it works, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from app.files import DEMO_BUNDLE
from app.server.provision import add_key
from reliability import attacks, costs, faults, fleet, oddities, overload, protocol, results, soak, swaps, uploads
from reliability.replicas import ROOT, Replica, running
from reliability.results import Row
from tests.support.artifacts import build_once
from tests.support.deploy import loopback
from tests.support.deploy.tools import APART

_INSIDE = "FUSIONLENS_TORTURE_APART"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reliability")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"by default all: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, and no page")
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    args = parser.parse_args()
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: choose of {', '.join(PARTS)}")
    if os.environ.pop(_INSIDE, None) is None:
        for program in ("unshare", "redis-server", "taskset"):
            if shutil.which(program) is None:
                sys.exit(f"{program} is not installed: apt install redis-server faketime util-linux")
        os.execvpe(APART[0], [*APART, sys.executable, "-m", "reliability", *sys.argv[1:]], os.environ | {_INSIDE: "1"})
    loopback.up()
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        given = Given(Path(folder), args.quick, args.soak_minutes)
        for name in args.parts or PARTS:
            began = time.monotonic()
            title, run = PARTS[name]
            rows = list(run(given))
            for row in rows:
                print(f"{row.what}: {row.found}", flush=True)
            missed += [row for row in rows if row.met is False]
            if not args.quick:
                results.keep(title, rows, (time.monotonic() - began) / 60, [of for of, _ in PARTS.values()])
    for row in missed:
        print(f"MISSED: {row.what}: {row.goal}; {row.found}")
    if args.quick:
        sys.exit(bool(missed))


class Given:
    """What every part is given: bundles, a picture, folders of its own, and how long it may take."""

    def __init__(self, folder: Path, quick: bool, soak_minutes: float) -> None:
        self._folder, self.quick = folder, quick
        self.soak_minutes = 0.3 if quick else soak_minutes
        self.demo = DEMO_BUNDLE
        self.tiny = build_once("tests.support.bundles:write_compiled_bundle", folder / "tiny")
        self.picture = folder / "picture.jpg"
        with Image.open(ROOT / "app" / "web" / "examples" / "drawn.webp") as drawn:
            drawn.convert("RGB").save(self.picture, quality=90)

    def folder(self) -> Path:
        """A new one."""
        return Path(tempfile.mkdtemp(dir=self._folder))


def _uploads(given: Given) -> Iterable[Row]:
    replica = Replica("127.0.0.1", 8111, given.folder(), bundle=str(given.tiny))
    real = ROOT.parent / "shared" / "data" / "awkward"
    with running(replica):
        report = uploads.attack(
            replica.address, replica.pid, 300 if given.quick else 10_000, seed=1, real=real if real.is_dir() else None
        )
    yield from results.of_uploads(report)


def _attacks(given: Given) -> Iterable[Row]:
    quick, picture = given.quick, given.picture.read_bytes()
    replica = Replica("127.0.0.1", 8112, given.folder(), bundle=str(given.demo))
    yield results.of_price(costs.price(picture, 50 if quick else 500))
    with running(replica):
        yield from results.of_costs(costs.all_costs(replica))
        yield from results.of_beside(attacks.all_beside(replica, picture, 2 if quick else 10))


def _oddities(given: Given) -> Iterable[Row]:
    quick, picture = given.quick, given.picture.read_bytes()
    replica = Replica("127.0.0.1", 8113, given.folder(), bundle=str(given.tiny))
    with running(replica):
        statuses = oddities.mutated(replica, 400 if quick else 200_000, seed=1)
        yield results.of_statuses("mutated pictures", statuses)
        statuses = oddities.odd_queries(replica, picture, 400 if quick else 20_000, seed=1)
        yield results.of_statuses("requests with odd query parameters", statuses)


def _protocol(given: Given) -> Iterable[Row]:
    quick, picture = given.quick, given.picture.read_bytes()
    keys = given.folder() / "keys.toml"
    add_key(keys, "somebody", ["predict"])
    guarded = Replica("127.0.0.1", 8114, given.folder(), bundle=str(given.tiny), keys=str(keys))
    open_to_all = Replica("127.0.0.1", 8116, given.folder(), bundle=str(given.tiny))
    with running(guarded, open_to_all):
        requests = protocol.requests().items()
        yield results.of_waits({name: protocol.busy(open_to_all, one) for name, one in requests})
        yield results.of_memory({name: protocol.busy(guarded, one) for name, one in requests})
        yield results.of_fuzzed(protocol.fuzzed(open_to_all, picture, 200 if quick else 10_000, seed=1))
    files, count = 128, 100 if quick else 1000
    crowded = Replica("127.0.0.1", 8115, given.folder(), bundle=str(given.tiny))
    crowded.limit_files(files)
    with running(crowded):
        found = {name: protocol.beside_idle(crowded, sent, count) for name, sent in protocol.IDLE.items()}
        yield from results.of_idle(found, count, files)


def _overload(given: Given) -> Iterable[Row]:
    found = overload.overload(given.demo, given.picture, given.folder(), 10 if given.quick else 60)
    yield from results.of_overload(found, *overload.hung_up(given.demo, given.picture, given.folder()))


def _restarts(given: Given) -> Iterable[Row]:
    count = 300 if given.quick else 2000
    rolled = fleet.rolling_restart(given.tiny, given.picture, given.folder(), count)
    yield results.of_fleet(rolled, f"{count} requests, replicas restarted in turn by SIGTERM", "0 lost")
    killed = fleet.killed(given.tiny, given.picture, given.folder(), count)
    what = f"{count} requests, one of three replicas killed by SIGKILL and started again after 5 s"
    yield results.of_fleet(killed, what, "0 lost but what was in flight in the killed one")


def _swaps(given: Given) -> Iterable[Row]:
    yield from results.of_swaps(swaps.swap(given.tiny, given.picture, given.folder(), 10 if given.quick else 200))


def _faults(given: Given) -> Iterable[Row]:
    of = (given.tiny, given.picture)
    yield from results.of_faults(
        faults.redis_lost(*of, given.folder()),
        faults.full_disk(*of, given.folder()),
        faults.clock_jumps(*of, given.folder()),
        faults.bundle_replaced(*of, given.folder()),
    )


def _soak(given: Given) -> Iterable[Row]:
    yield from results.of_soak(soak.soak(given.tiny, given.picture, given.folder(), given.soak_minutes))


PARTS: dict[str, tuple[str, Callable[[Given], Iterable[Row]]]] = {
    "uploads": ("Hostile uploads", _uploads),
    "attacks": ("Attacks on processor and memory", _attacks),
    "oddities": ("Mutated pictures and odd queries", _oddities),
    "protocol": ("Attacks on connections and on the protocol", _protocol),
    "overload": ("Overload", _overload),
    "restarts": ("Restarted and killed replicas", _restarts),
    "swaps": ("Replacing the bundle under load", _swaps),
    "faults": ("Failures outside the service", _faults),
    "soak": ("Soak test", _soak),
}

if __name__ == "__main__":
    main()
