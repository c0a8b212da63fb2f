"""Every setting refuses what it cannot be, in a sentence that names its variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.__main__ import main
from app.addresses import web_origins
from app.cli import with_platform_port
from app.errors import InvalidSettings
from app.settings import Settings, load_settings

NUMBERS = ["", "x", "-1", "1e999", "nan", "9" * 5000, "٣٣x", "[1]", "0x10", "1_", "1_0", "99999999999999999999999"]
# What a setting cannot be. A setting of a new type must be added here.
WRONG = {
    "bundle": ["", " "],
    "cache": ["", " "],
    "keys": ["", " "],
    "bundle_sha256": ["", "abc", "g" * 64, "0" * 65],
    "host": ["", " ", "a b", "http://x", "a..b", "x" * 70, "[::1]", "ä", "a/b", "a,b"],
    "root_path": ["lens", "/lens/", "/", "/a b", "//", "http://x", "/%2e"],
    "cors_origins": [
        "localhost:3000",
        "[1]",
        "[",
        "[" * 100_000,
        "http://a/b",
        "ftp://a",
        "http://",
        "http://a b",
        "null",
    ],
    "more_formats": ["JPEG", "AVIF,x", "[1]", "[", "[" * 100_000, "avif heif"],
    "redis_url": [
        *("", "x", "http://x", "redis:/x", "redis://", "redis://:p@", "redis://h:port/0", "redis://[x/0"),
        *(f"redis://:ge{character}heim@redis:6379/0" for character in "/#?"),
        *("redis://:12/heim@redis:6379/0", "redis://h:0/0", "redis://h/0#x", "redis://h/zero"),
    ],
    "redis_secret": ["", "short"],
    "otlp_endpoint": [
        *(
            "",
            " ",
            "localhost:4318",
            "ftp://x",
            "http://",
            "http://:4318",
            "http:///v1/traces",
            "http://a:",
            "http://a:0",
        ),
        *("http://a:port/", "http://a:99999", "http://a b", "http://a/\tb", "http://a..b", "http://[x]", "http://[::1"),
        *("http://a#b", "http://999.1.1.1", "http://a,b", "http:/a", "http//a", "collector"),
    ],
}


def refusal(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    with monkeypatch.context() as environment:
        environment.setenv(variable, value)
        with pytest.raises(InvalidSettings) as refused:
            load_settings()
    return refused.value.sentences[0]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_what_a_setting_cannot_be_is_refused_by_the_name_of_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Settings.model_fields[name]
    words = ["", "maybe", "-1", "[]"] if field.annotation is bool or "Literal" in str(field.annotation) else None
    wrong = WRONG.get(name) or words or (NUMBERS if field.annotation in (int, float) else None)
    assert wrong, f"{name} is of a new type: say in WRONG what it cannot be"
    for value in wrong:
        assert f"FUSIONLENS_{name.upper()}" in refusal(monkeypatch, f"FUSIONLENS_{name.upper()}", value), value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_number_has_a_lowest_and_a_highest_value(name: str) -> None:
    field = Settings.model_fields[name]
    if field.annotation in (int, float):
        kinds = {type(bound) for bound in field.metadata}
        assert kinds & {Ge, Gt} and kinds & {Le, Lt}


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://collector:4318/v1/traces",
            "https://traces.example.org",
            "http://127.0.0.1:4318/",
            "http://[::1]:4318",
        ),
        *("https://user:pass@host/otlp/v1/traces?tenant=a", "http://my_collector:4318/v1/traces"),
    ],
)
def test_an_address_for_traces_is_taken_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONLENS_OTLP_ENDPOINT", url)
    assert load_settings().otlp_endpoint == url


def test_a_secret_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hunter2" not in refusal(monkeypatch, "FUSIONLENS_REDIS_SECRET", "hunter2")
    assert "hunter2" not in refusal(monkeypatch, "FUSIONLENS_REDIS_URL", "http://:hunter2@x")
    assert "hunter2" not in refusal(monkeypatch, "FUSIONLENS_OTLP_ENDPOINT", "http://me:hunter2@x:port/")


def test_a_file_of_secrets_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fusionlens_redis_secret").write_bytes(b"\xff" * 40)
    assert "redis_secret" in refusal(monkeypatch, "FUSIONLENS_SECRETS_DIR", str(tmp_path))
    assert "not a folder" in refusal(monkeypatch, "FUSIONLENS_SECRETS_DIR", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("http://localhost:3000", ("http://localhost:3000",)),
        ("https://a.example, http://b.example/ ", ("https://a.example", "http://b.example")),
        ('["https://a.example/"]', ("https://a.example",)),
        ("HTTPS://A.Example:443", ("https://a.example",)),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("https://bücher.example", ("https://xn--bcher-kva.example",)),
        ("*", ("*",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_origins_are_taken_in_every_usual_form_and_kept_as_browsers_send_them(
    text: str, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONLENS_CORS_ORIGINS", text)
    assert load_settings().cors_origins == origins


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["http", "://", "a", ".", ":", "80", "[", "]", "/", "@", "ß", "*", " "])).map("".join))
@example("http://[")
@example("http://a:99999")
@example("http://ａ..b")
def test_any_text_is_origins_or_refused(text: str) -> None:
    try:
        origins = web_origins([text])
    except ValueError:
        return
    assert web_origins(origins) == origins


@pytest.mark.parametrize("port", ["", "abc", "-1", "70000", "8000.0", "9" * 5000])
def test_a_platforms_port_that_is_none_is_told(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", port)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.startswith("fusionlens: PORT is ")
    with pytest.raises(SystemExit):
        main(["health"])


def test_a_platforms_port_is_taken_where_the_service_has_none_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_platform_port(load_settings()).port == 8000
    monkeypatch.setenv("PORT", "5001")
    assert with_platform_port(load_settings()).port == 5001
    assert with_platform_port(load_settings(port=8000)).port == 8000  # what --port says
    (tmp_path / "fusionlens_port").write_text("5002")
    monkeypatch.setenv("FUSIONLENS_SECRETS_DIR", str(tmp_path))
    assert with_platform_port(load_settings()).port == 5002
    monkeypatch.setenv("FUSIONLENS_PORT", "5003")
    assert with_platform_port(load_settings()).port == 5003


@pytest.mark.parametrize("text", ["1_0", "1.0", "+1", "1e0", "٣", "１", "0x1", "1 0", "--1"])
def test_a_port_in_another_form_is_none_for_the_service_and_for_the_probe(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "FUSIONLENS_PORT" in refusal(monkeypatch, "FUSIONLENS_PORT", text)
    monkeypatch.setenv("FUSIONLENS_PORT", text)
    with pytest.raises(SystemExit):
        main(["health"])


def test_blanks_around_a_port_are_nothing_to_both(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSIONLENS_PORT", " 1\n")
    assert load_settings().port == 1 and main(["health"]) == 1
    assert "http://127.0.0.1:1/" in capsys.readouterr().err


def test_the_probe_asks_at_the_platforms_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "1")
    assert main(["health"]) == 1
    assert "http://127.0.0.1:1/" in capsys.readouterr().err


NUMERIC = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize("name", NUMERIC)
def test_beyond_every_bound_a_number_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"FUSIONLENS_{name.upper()}"
    for bound in Settings.model_fields[name].metadata:
        beyond = {
            Ge: lambda: bound.ge - 1,  # noqa: B023 - called at once
            Gt: lambda: bound.gt,  # noqa: B023
            Le: lambda: bound.le + 1,  # noqa: B023
            Lt: lambda: bound.lt,  # noqa: B023
        }.get(type(bound))
        if beyond is not None:
            assert variable in refusal(monkeypatch, variable, str(beyond()))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("fusionlens_bundle_sha256", "is not a file"), ("fusionlens_prot", "did you mean fusionlens_port")],
)
def test_what_is_no_file_of_a_setting_is_told(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "of another program").mkdir()
    assert sentence in refusal(monkeypatch, "FUSIONLENS_SECRETS_DIR", str(tmp_path))


def test_a_setting_in_small_and_in_capital_letters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("fusionlens_threads", "1")
    assert load_settings().threads == 1
    assert "FUSIONLENS_THREADS is set twice" in refusal(monkeypatch, "FUSIONLENS_THREADS", "2")
