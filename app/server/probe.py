"""The command `fusionlens health`: a readiness probe for containers.

It imports the standard library alone, because containers run it every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

from app.arguments import whole_number

DESCRIPTION = "ask the service on this machine whether it accepts new clients"
TIMEOUT_S = 5.0


def main(arguments: Sequence[str], program: str) -> int:
    """Print `ready` or the reason why not. Returns the exit status: 0 if the service accepts new clients."""
    parser = argparse.ArgumentParser(prog=f"{program} health", description=DESCRIPTION)
    add_options(parser)
    args = parser.parse_args(arguments)
    reason = why_not_ready(os.environ.get("FUSIONLENS_HOST", "127.0.0.1"), args.port)
    print(reason or "ready", file=sys.stderr if reason else sys.stdout)
    return 1 if reason else 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    port = os.environ.get("FUSIONLENS_PORT", os.environ.get("PORT", "8000"))
    help_text = "port of the service (default: FUSIONLENS_PORT, else PORT)"
    parser.add_argument("--port", type=whole_number(1, 65535), default=port, help=help_text)


def why_not_ready(host: str, port: int) -> str | None:
    """The reason why the service on this machine accepts no new clients, as a sentence; None if it accepts them."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    url = f"http://[{host}]:{port}/health/ready" if ":" in host else f"http://{host}:{port}/health/ready"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is on this machine: no proxy
    try:
        with opener.open(url, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        body = error.read()
        try:
            return str(json.loads(body)["detail"])
        except (ValueError, KeyError, TypeError):
            return f"{url} answers {error.code}."
    except UnicodeError:
        return f"{host!r} is no name that a host can have."
    except HTTPException:
        return f"What answers at {url} is no HTTP service."
    except (urllib.error.URLError, OSError) as error:
        return f"Nothing answers at {url}: {getattr(error, 'reason', error)}."
