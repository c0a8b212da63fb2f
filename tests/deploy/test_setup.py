"""`fusionlens setup`: who can read what, what the first key may do, and what an interruption leaves."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api.keys.keys import Keys
from app.server.provision import add_key, set_up
from tests.support.deploy.tools import ROOT

OLD = {
    "keys.toml": "",  # see `old_layout`
    "metrics_key": "",
    "fusionlens_keys": "",
    "fusionlens_redis_url": "redis://:a-password@redis:6379/0",
    "fusionlens_redis_secret": "s" * 64,
    "redis.conf": "requirepass a-password\nmaxmemory 1gb\n",
    "grafana_password": "another-password",
}


def files(folder: Path) -> dict[str, str]:
    """The content of each, by its path in the folder."""
    return {str(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in folder.rglob("*") if f.is_file()}


def old_layout(folder: Path, path_of_keys: Path) -> dict[str, str]:
    """What setup wrote before readers had folders of their own; the service found its keys at `path_of_keys`."""
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, exist_ok=True)
    written = OLD | {"metrics_key": add_key(folder / "keys.toml", "prometheus", ["metrics"])}
    add_key(folder / "keys.toml", "mine", ["predict"], requests_per_minute=7.0)
    written |= {"keys.toml": (folder / "keys.toml").read_text(), "fusionlens_keys": str(path_of_keys)}
    for name, content in written.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    return written


def assert_private(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def assert_complete(folder: Path) -> None:
    """Every part is there, fits the others, and is private."""
    content = files(folder)
    keys = Keys.read(Path(content["api/fusionlens_keys"]))
    assert Path(content["api/fusionlens_keys"]) == folder / "api" / "keys.toml"
    owner = keys.find(content["prometheus/metrics_key"].encode())
    assert owner is not None and owner[1].rights == {"metrics"}
    (password,) = re.findall(r"(?m)^requirepass (\S+)$", content["redis/redis.conf"])
    assert content["api/fusionlens_redis_url"] == f"redis://:{password}@redis:6379/0" and len(password) >= 10
    assert len(content["api/fusionlens_redis_secret"]) >= 32 and len(content["grafana/grafana_password"]) >= 10
    assert not [name for name in content if Path(name).name.startswith(".")], "an unfinished file is left"
    assert_private(folder)


def test_everybody_finds_what_is_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    said = list(set_up(folder))
    assert_complete(folder)
    assert {*files(folder)} == {
        *(
            f"api/{name}"
            for name in ("keys.toml", "fusionlens_keys", "fusionlens_redis_url", "fusionlens_redis_secret")
        ),
        *("redis/redis.conf", "prometheus/metrics_key", "grafana/grafana_password", "operator/first_key"),
    }
    assert not [secret for secret in files(folder).values() if secret in " ".join(said)], "a secret is in the log"


def test_the_first_key_has_limits_and_no_right_but_to_predict(tmp_path: Path) -> None:
    list(set_up(tmp_path))
    entries = tomllib.loads((tmp_path / "api" / "keys.toml").read_text(encoding="utf-8"))["keys"]
    assert entries.keys() == {"prometheus", "first"}
    first = entries["first"]
    assert first["rights"] == ["predict"]
    assert 60 <= first["requests_per_minute"] <= 6000 and 1 <= first["concurrent"] <= 64
    owner = Keys.read(tmp_path / "api" / "keys.toml").find((tmp_path / "operator" / "first_key").read_bytes())
    assert owner is not None and owner[0] == "first"
    assert (owner[1].requests_per_minute, owner[1].concurrent) == (first["requests_per_minute"], first["concurrent"])


def test_a_second_setup_changes_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    list(set_up(tmp_path))
    before = files(tmp_path)
    list(set_up(tmp_path))
    assert files(tmp_path) == before
    (tmp_path / "operator" / "first_key").unlink()  # as its reader is told to
    list(set_up(tmp_path))
    assert files(tmp_path) == {name: content for name, content in before.items() if name != "operator/first_key"}


@pytest.mark.parametrize("lost", ["api", "redis", "prometheus", "grafana"])
def test_what_was_lost_is_made_anew_and_fits(tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "new"
    list(set_up(folder))
    for file in (folder / lost).iterdir():
        file.unlink()
    list(set_up(folder))
    assert_complete(folder)


@pytest.mark.parametrize("place", ["", "api"], ids=["in one folder", "in the volume that is the api's now"])
def test_an_old_layout_is_moved_with_all_that_is_in_it(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "old"
    before = old_layout(folder / place, folder / "keys.toml")
    list(set_up(folder))
    assert_complete(folder)
    after = {Path(name).name: content for name, content in files(folder).items()}
    assert after == before | {"fusionlens_keys": str(folder / "api" / "keys.toml")}, "something was lost, or kept twice"


def test_an_old_file_that_others_could_read_is_theirs_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    old_layout(folder / "api", folder / "keys.toml")
    for path in (folder / "api", *(folder / "api").iterdir()):
        path.chmod(path.stat().st_mode | 0o055)
    list(set_up(folder))
    assert_private(folder / "api")


def test_a_path_to_other_keys_and_another_redis_stay(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    old_layout(folder / "api", tmp_path / "mine.toml")
    (folder / "api" / "fusionlens_redis_url").write_text("rediss://me:theirs@elsewhere:6380/1")
    (folder / "api" / "redis.conf").unlink()
    list(set_up(folder))
    assert (folder / "api" / "fusionlens_keys").read_text() == str(tmp_path / "mine.toml")
    assert (folder / "api" / "fusionlens_redis_url").read_text() == "rediss://me:theirs@elsewhere:6380/1"
    assert "theirs" not in (folder / "redis" / "redis.conf").read_text(), "Redis here got the password of another"


# Ends without any clean-up before the nth time that a file or a folder is opened, made, renamed, changed or removed.
INTERRUPTED = """
import os, sys
left, folder = int(sys.argv[1]), sys.argv[2]

def count(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.chmod") and str(arguments[0]).startswith(folder):
        left -= 1
        if left < 0:
            os._exit(9)

from app.server.provision import set_up
os.umask(0)
sys.addaudithook(count)
list(set_up(__import__("pathlib").Path(folder)))
"""


def interrupted(folder: Path, prepare: bool) -> Iterator[dict[str, str]]:
    """Setups in new folders, each interrupted one step later than the one before, until one ends by itself.

    Yields what was in the old layout before; nothing where there was none.
    """
    for step in range(200):
        own = folder / f"{step}"
        before = old_layout(own / "api", own / "keys.toml") if prepare else {}
        command = [sys.executable, "-c", INTERRUPTED, str(step), str(own)]
        status = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60).returncode
        assert status in (0, 9)
        yield before
        if status == 0:
            assert step > 20, "it was not interrupted"
            return
    raise AssertionError("it does not end")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [False, True], ids=["new", "old layout"])
def test_whenever_it_is_interrupted_nothing_is_readable_or_lost(tmp_path: Path, prepare: bool) -> None:
    for step, before in enumerate(interrupted(tmp_path, prepare)):
        folder = tmp_path / f"{step}"
        if folder.exists():
            assert_private(folder)
        list(set_up(folder))
        assert_complete(folder)
        if prepare:
            after = {Path(name).name: content for name, content in files(folder).items()}
            assert after == before | {"fusionlens_keys": str(folder / "api" / "keys.toml")}
        else:
            keys = Keys.read(folder / "api" / "keys.toml")
            assert keys.find((folder / "operator" / "first_key").read_bytes()), "the first key is not valid"


# No file gets longer than this: what a full disk leaves.
CUT = """
import pathlib, resource, sys
from app.server.provision import set_up
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
list(set_up(pathlib.Path(sys.argv[2])))
"""


@pytest.mark.parametrize("most_bytes", [20, 60, 200])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, most_bytes: int) -> None:
    folder = tmp_path / "new"
    command = [sys.executable, "-B", "-c", CUT, str(most_bytes), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "File too large" in ran.stderr
    assert_private(folder)
    list(set_up(folder))
    assert_complete(folder)


FULL = """
import pathlib, resource, sys
from app.errors import KeysError
from app.server.provision import add_key
keys = pathlib.Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (keys.stat().st_size + 60,) * 2)
try:
    add_key(keys, "hospital", ["predict"])
except KeysError as error:
    sys.stderr.write(str(error))
"""


def test_a_key_that_does_not_fit_on_the_disk_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    list(set_up(tmp_path / "new"))
    keys = tmp_path / "new" / "api" / "keys.toml"
    before = keys.read_text()
    command = [sys.executable, "-B", "-c", FULL, str(keys)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "cannot be written: File too large" in ran.stderr
    assert keys.read_text() == before and [path.name for path in keys.parent.glob(".*")] == []


def test_a_further_key_leaves_owner_rights_and_links_of_the_file(tmp_path: Path) -> None:
    file, link = tmp_path / "keys.toml", tmp_path / "link.toml"
    add_key(file, "first", ["predict"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    link.symlink_to(file)
    second = add_key(link, "second", ["predict"])
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert "first" in Keys.read(file) and Keys.read(file).find(second.encode())
