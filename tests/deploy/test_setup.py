"""`fusionlens setup`: what the first key may do, and how much of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from app.api.keys.keys import Keys
from app.server.provision import set_up


def test_the_first_key_has_limits_and_no_right_but_to_predict(tmp_path: Path) -> None:
    key = next(iter(set_up(tmp_path))).rpartition(" ")[2]
    entries = tomllib.loads((tmp_path / "keys.toml").read_text(encoding="utf-8"))["keys"]
    assert entries.keys() == {"prometheus", "first"}
    first = entries["first"]
    assert first["rights"] == ["predict"]
    assert 60 <= first["requests_per_minute"] <= 6000 and 1 <= first["concurrent"] <= 64
    owner = Keys.read(tmp_path / "keys.toml").find(key.encode())
    assert owner is not None and owner[0] == "first"
    assert (owner[1].requests_per_minute, owner[1].concurrent) == (first["requests_per_minute"], first["concurrent"])


def test_a_second_setup_changes_nothing(tmp_path: Path) -> None:
    list(set_up(tmp_path))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    said = list(set_up(tmp_path))
    assert len(said) == 1 and {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
