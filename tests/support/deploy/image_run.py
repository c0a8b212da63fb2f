"""The image's files, run as docker-compose.yml has them run.

Run as `python -m tests.support.deploy.image_run ROOT VARIABLE=VALUE…`.

It must be alone in its network and mounts (`APART`). The root is read-only, the user is 10001, without capabilities and
without a way to new ones; secrets, the cache and /tmp are mounted as in docker-compose.yml. Redis is this machine's.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from app.server.provision import FILES_OF
from tests.support.deploy import loopback
from tests.support.deploy.tools import DEPLOY, ROOT

USER = 10001
PICTURE = ROOT / "app" / "web" / "examples" / "drawn.webp"
DROPPED = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
HARDENED = ("setpriv", f"--reuid={USER}", f"--regid={USER}", *DROPPED)
COMPOSED = ("FUSIONLENS_SECRETS_DIR=/secrets/api", "FUSIONLENS_LOG=json", "FUSIONLENS_DRAIN_S=1")


class Image:
    """Runs commands of the image."""

    def __init__(self, root: Path, environment: list[str]) -> None:
        self._prefix = ["chroot", str(root), *HARDENED, "env", "--ignore-environment", *environment]

    def start(self, *arguments: str, variables: tuple[str, ...] = COMPOSED) -> subprocess.Popen[str]:
        command = [*self._prefix, *variables, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str, variables: tuple[str, ...] = COMPOSED) -> tuple[int, str]:
        process = self.start(*arguments, variables=variables)
        output = process.communicate(timeout=120)[0]
        return process.returncode, output

    def app(self, *arguments: str, variables: tuple[str, ...] = COMPOSED) -> tuple[int, str]:
        return self.run("python", "-m", "app", *arguments, variables=variables)


def main(root: Path, environment: list[str]) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o711)  # for user 10001 to get through to what is its own
    try:
        loopback.up()
        mount(root, folder)
        image = Image(root, environment)
        if "FUSIONLENS_DEVICE=cuda" in environment:
            without_a_gpu_it_does_not_start(image)
            return
        nothing_can_be_written(image)
        key = keys_are_made_once(image, folder / "secrets")
        for reader in FILES_OF.keys() - {"api"}:  # the service has its own folder alone
            subprocess.run(["umount", root / "secrets" / reader], check=True)
        redis = start_redis(folder / "secrets")
        with serving(image) as service:
            prediction = it_predicts_and_explains(key)
            it_is_healthy_and_counts(image, folder / "secrets")
            prometheus_reads_it(folder)
            it_ends_well(service)
        assert image.app("health")[0] == 1, "health says that nothing answers"
        with serving(image) as service:
            if redis is not None:
                status, _ = ask("GET", f"/gradcam?prediction_id={prediction}", key)
                assert status == 200
                print("a prediction outlives the process that made it, in Redis")
            it_ends_well(service)
    finally:
        shutil.rmtree(folder)


def mount(root: Path, folder: Path) -> None:
    """As docker-compose.yml mounts it; gone with this process's mounts."""
    for reader in FILES_OF:
        place = root / "secrets" / reader
        assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (USER, 0o700), f"a volume at {place} is not ours"
        (folder / "secrets" / reader).mkdir(mode=0o700, parents=True)
        shutil.chown(folder / "secrets" / reader, USER, USER)
    (folder / "secrets").chmod(0o711)
    (folder / "hosts").write_text("127.0.0.1 localhost redis\n")
    owned = f"uid={USER},gid={USER},mode=0700,size=256m"
    for arguments in (
        ("--bind", root, root),
        ("-t", "proc", "proc", root / "proc"),
        ("--rbind", "/sys", root / "sys"),
        ("--rbind", "/dev", root / "dev"),
        ("--bind", folder / "hosts", root / "etc" / "hosts"),
        ("-o", "remount,bind,ro", root),
        ("-t", "tmpfs", "-o", "mode=1777,size=64m,noexec", "tmpfs", root / "tmp"),
        ("-t", "tmpfs", "-o", owned, "tmpfs", root / "var" / "cache" / "fusionlens"),
        *(("--bind", folder / "secrets" / reader, root / "secrets" / reader) for reader in FILES_OF),
    ):
        if arguments[-1] == root / "etc" / "hosts":
            (root / "etc" / "hosts").touch()
        subprocess.run(["mount", *arguments], check=True)


def nothing_can_be_written(image: Image) -> None:
    tried = (
        "touch /x /opt/fusionlens/x /etc/x; touch /tmp/x /var/cache/fusionlens/x && id -u && grep Cap /proc/self/status"
    )
    status, output = image.run("sh", "-c", tried)
    assert status == 0 and output.count("Read-only file system") == 3, output
    assert f"\n{USER}\n" in output and len(re.findall(r"Cap\w+:\t0{16}\n", output)) == 5, output
    status, output = image.run("python", "-m", "pip", "--version")
    assert status != 0 and "No module named pip" in output, output
    status, output = image.app("serve", variables=())
    assert status == 1 and "keys" in output, output
    print("read-only, no capabilities, no pip; without keys it does not start")


def without_a_gpu_it_does_not_start(image: Image) -> None:
    status, output = image.app("serve", variables=("FUSIONLENS_ALLOW_ANONYMOUS=true",))
    assert status == 1 and output.count("\n") == 1 and "but torch finds none" in output, output
    print(f"without a GPU it does not start: {output.strip()}")


def keys_are_made_once(image: Image, secrets: Path) -> str:
    status, output = image.app("setup", "/secrets")
    assert status == 0 and "/secrets/operator/first_key" in output, output
    made = {file: file.read_bytes() for file in secrets.rglob("*") if file.is_file()}
    assert image.app("setup", "/secrets")[0] == 0
    assert {file: file.read_bytes() for file in secrets.rglob("*") if file.is_file()} == made
    for file, content in made.items():
        assert file.stat().st_uid == USER and not file.stat().st_mode & 0o077, file.name
        assert content.decode() not in output, file.name
    print(f"setup made {', '.join(sorted(file.name for file in made))}, and made them once")
    return (secrets / "operator" / "first_key").read_text()


def start_redis(secrets: Path) -> subprocess.Popen[bytes] | None:
    program = shutil.which("redis-server")
    if program is None:
        print("SKIPPED LOUDLY: redis-server is not installed, so predictions are not kept")
        return None
    command = [*HARDENED, program, str(secrets / "redis" / "redis.conf")]
    process = subprocess.Popen(command, cwd=secrets, stdout=subprocess.DEVNULL)
    loopback.wait_for("127.0.0.1", 6379)
    return process


@contextmanager
def serving(image: Image) -> Iterator[subprocess.Popen[str]]:
    """The service, from when it is ready."""
    began = time.monotonic()
    process = image.start("python", "-m", "app", "serve")
    try:
        loopback.wait_for("127.0.0.1", 8000, within_s=60)
        while ask("GET", "/health/ready")[0] != 200:
            assert time.monotonic() - began < 60, "it does not become ready"
            time.sleep(0.1)
        print(f"ready {time.monotonic() - began:.1f} s after its start")
        yield process
    except BaseException:
        process.kill()
        print((process.communicate()[0] or "")[-4000:])
        raise
    finally:
        process.kill()


def it_predicts_and_explains(key: str) -> str:
    assert ask("POST", "/predict", body=PICTURE.read_bytes())[0] == 401
    status, answer = ask("POST", "/predict", key, PICTURE.read_bytes())
    assert status == 200, answer
    prediction = json.loads(answer)
    assert prediction["label"] == "benign", prediction
    status, overlay = ask("GET", prediction["links"]["gradcam"], key)
    assert status == 200 and overlay.startswith(b"\x89PNG")
    print("it predicts and explains, with the key alone")
    return str(prediction["prediction_id"])


def it_is_healthy_and_counts(image: Image, secrets: Path) -> None:
    began = time.monotonic()
    status, output = image.app("health")
    assert status == 0, output
    print(f"health takes {time.monotonic() - began:.1f} s")
    assert ask("GET", "/metrics")[0] == 401
    status, metrics = ask("GET", "/metrics", (secrets / "prometheus" / "metrics_key").read_text())
    assert status == 200 and b'fusionlens_predictions_total{label="benign"} 1.0' in metrics
    memory = re.search(rb"\nprocess_resident_memory_bytes (\S+)", metrics)
    assert memory
    print(f"it counts, for Prometheus's key alone; {float(memory[1]) / 1e6:.0f} MB of memory")


def prometheus_reads_it(folder: Path) -> None:
    """With deploy/prometheus.yml, but for the names that only docker-compose's network knows."""
    program = shutil.which("prometheus")
    if program is None:
        print("SKIPPED LOUDLY: prometheus is not installed")
        return
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    configuration["global"]["scrape_interval"] = "1s"
    service = configuration["scrape_configs"][0]
    del service["dns_sd_configs"]
    service["static_configs"] = [{"targets": ["127.0.0.1:8000"]}]
    service["authorization"]["credentials_file"] = str(folder / "secrets" / "prometheus" / "metrics_key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(DEPLOY / "alerts.yml", folder)
    places = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
    process = subprocess.Popen([program, *places, "--web.listen-address=127.0.0.1:9090"], stderr=subprocess.DEVNULL)
    try:
        loopback.wait_for("127.0.0.1", 9090)
        expected = {"fusionlens_ready": "1", 'up{job="fusionlens"}': "1", "fusionlens_store_up": "1"}
        end, found = time.monotonic() + 20, dict[str, str]()
        while found != expected and time.monotonic() < end:
            time.sleep(0.5)
            found = {expression: asked_of_prometheus(expression) for expression in expected}
        assert found == expected, found
    finally:
        process.kill()
        process.wait(timeout=20)
    print("Prometheus reads it with its key: up, ready, the store too")


def asked_of_prometheus(expression: str) -> str:
    """The value of the one series, or nothing."""
    _, answer = ask("GET", f"/api/v1/query?{urlencode({'query': expression})}", port=9090)
    series = json.loads(answer)["data"]["result"]
    return str(series[0]["value"][1]) if len(series) == 1 else ""


def it_ends_well(service: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    service.send_signal(signal.SIGTERM)
    output = service.communicate(timeout=60)[0]
    assert service.returncode == 0, output
    assert "Traceback" not in output, output
    print(f"SIGTERM ends it in {time.monotonic() - began:.1f} s, with status 0")


def ask(method: str, path: str, key: str = "", body: bytes | None = None, port: int = 8000) -> tuple[int, bytes]:
    headers: dict[str, Any] = {"Content-Type": "image/webp"} if body else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers | ({"Authorization": f"Bearer {key}"} if key else {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
