"""Redis in a network of its own: python -m tests.support.deploy.checked_redis REDIS-SERVER FOLDER CHECK.

Prints what the check finds before it runs, while it runs and after; and what Redis answers without a password.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.deploy import loopback


def main(program: str, folder: Path, check: str) -> None:
    def health() -> None:
        found = subprocess.run(["sh", "-c", check], capture_output=True, timeout=20).returncode
        print("unhealthy" if found else "healthy")

    loopback.up()
    health()
    server = subprocess.Popen([program, folder / "redis.conf"], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        loopback.wait_for("127.0.0.1", 6379)
        health()
        print("refused" if "NOAUTH" in ask("PING") else "open")
        password = (folder / "redis.conf").read_text().partition("requirepass ")[2].split()[0]
        limits = ask(f"AUTH {password}", "CONFIG GET maxmemory", "CONFIG GET maxmemory-policy")
        print("512mb-lru" if "536870912" in limits and "allkeys-lru" in limits else limits)
    finally:
        server.terminate()
        server.wait(timeout=20)
    health()


def ask(*commands: str) -> str:
    lines = "\n".join(commands)
    return subprocess.run(["redis-cli"], input=lines, capture_output=True, text=True, timeout=20).stdout


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
