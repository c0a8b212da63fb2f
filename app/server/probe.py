"""The command `fusionlens health`: a readiness probe for containers.

It imports the standard library alone, because containers run it every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from app.addresses import LISTENING_HOST
from app.arguments import whole_number

DESCRIPTION = "ask the service on this machine whether it accepts new clients"
TIMEOUT_S = 5.0


def main(arguments: Sequence[str], program: str) -> int:
    """Print `ready` or the reason why not. Returns the exit status: 0 if the service accepts new clients."""
    parser = argparse.ArgumentParser(prog=f"{program} health", description=DESCRIPTION)
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        reason = why_not_ready(_host(), _port() if args.port is None else args.port)
    except ValueError as error:
        parser.exit(1, f"{program} health: {error}\n")
    print(reason or "ready", file=sys.stderr if reason else sys.stdout)
    return 1 if reason else 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    help_text = "port of the service (default: FUSIONLENS_PORT, else PORT)"
    parser.add_argument("--port", type=whole_number(1, 65535), help=help_text)


def _setting(name: str) -> str | None:
    """The text of a setting as the service reads it: from a variable in any case, or from a file of secrets.

    Raises ValueError for a folder or a file that cannot be read.
    """
    variables = {variable.upper(): text for variable, text in os.environ.items()}
    if (text := variables.get(name)) is not None:
        return text
    folder = os.environ.get("FUSIONLENS_SECRETS_DIR")
    try:
        files = [file for file in Path(folder).iterdir() if file.name.upper() == name] if folder else []
        return files[0].read_text(encoding="utf-8").strip() if files else None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} cannot be read from the folder FUSIONLENS_SECRETS_DIR: {error}") from error


def _host() -> str:
    """The address that the service listens on. Raises ValueError if the setting is none."""
    host = _setting("FUSIONLENS_HOST")
    if host is not None and re.fullmatch(LISTENING_HOST, host) is None:
        raise ValueError(f"FUSIONLENS_HOST is {host!r}, but it must be an address to listen on, or be left out")
    return host or "127.0.0.1"


def _port() -> int:
    """The port that the service listens on. Raises ValueError if the setting is none, or one that nobody knows."""
    name, text = "FUSIONLENS_PORT", _setting("FUSIONLENS_PORT")
    if text is None:
        name, text = "PORT", os.environ.get("PORT", "8000")
    try:
        port = whole_number(0, 65535)(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name} is {text!r}, but it must be a port, 1 to 65535: set it, or give --port") from error
    if port == 0:
        raise ValueError(f"{name} is 0, so the service has chosen a free port: give --port, as the service says it")
    return port


def why_not_ready(host: str, port: int) -> str | None:
    """The reason why the service on this machine accepts no new clients, as a sentence; None if it accepts them."""
    import urllib.error  # here, since they take 40 ms, and every command knows the options of this one
    import urllib.request
    from http.client import HTTPException

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
