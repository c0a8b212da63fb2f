"""Requests without sense, in great number: no answer to them may be an error of the service."""

from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import islice
from random import Random
from urllib.parse import quote, urlencode

from reliability.client import Client
from reliability.hostile import hostile_uploads
from reliability.replicas import Replica

MUTATORS = 2  # connections that send mutated pictures


def mutated(replica: Replica, count: int, seed: int) -> Counter[int]:
    """The statuses of so many hostile uploads, drawn from this seed and the next ones."""
    statuses: Counter[int] = Counter()

    def send(sender: int) -> None:
        client = Client(replica.address)
        for upload in islice(hostile_uploads(seed + sender), count // MUTATORS):
            statuses[client.post("/predict", upload.data, "image/png").status] += 1

    threads = [threading.Thread(target=send, args=[sender]) for sender in range(MUTATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def odd_queries(replica: Replica, picture: bytes, count: int, seed: int) -> Counter[int]:
    """The statuses of so many requests with odd query parameters, drawn from this seed."""
    rng, statuses, client = Random(seed), Counter[int](), Client(replica.address)
    paths = json.loads(replica.get("/openapi.json")[1])["paths"]
    routes = [(path, operation) for path in paths for operation in paths[path] if operation in ("get", "post")]
    prediction_id = json.loads(replica.post(picture)[1])["prediction_id"]
    for _ in range(count):
        path, method = rng.choice(routes)
        documented = [given["name"] for given in paths[path][method].get("parameters", []) if given["in"] == "query"]
        query = [(rng.choice([*documented, "other"]), odd_value(rng)) for _ in range(rng.randrange(4))]
        if rng.random() < 0.8:
            query.append(("prediction_id", prediction_id))
        path = path.replace("{prediction_id}", quote(odd_value(rng), safe=""))
        address = f"{path}?{urlencode(query, errors='surrogatepass')}"
        body = picture if method == "post" else b""
        statuses[client.send(method.upper(), address, body, "image/png").status] += 1
    return statuses


def odd_value(rng: Random) -> str:
    """A value that a parameter may get from someone who means no good, or does not know better."""
    number = rng.choice(
        ["1" + "0" * 400, "-1", "0", "1e400", "nan", "inf", "-0", "1_0", "0x10", str(rng.randrange(2**70))]
    )
    text = "".join(chr(rng.choice([*range(32), 0x200D, 0xFFFF, 0x1F600, rng.randrange(0xD800)])) for _ in range(5))
    known = rng.choice(["cnn", "swin", "benign", "malignant", "json", "npy", "png", "fine", "0.5", "1", "all"])
    return rng.choice([number, text, known, "", known + text, "a" * 3000, f"{number},{number}", "null", "[]", "true"])
