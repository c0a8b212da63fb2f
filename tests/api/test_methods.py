"""Methods, contrasts and fusion over HTTP: what they answer, in which unit, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.schemas import EXPLANATION_EXAMPLE
from app.explain.methods import DEFAULT, METHODS
from tests.support.asking import PNG, assert_problem, explained, picture_of, png_bytes, predict

OF_A_CLASS = [name for name, method in METHODS.items() if not method.class_agnostic]
UNITLESS = [name for name, method in METHODS.items() if method.units == "unitless"]


@pytest.fixture(scope="module")
def prediction_id(client: httpx.Client) -> str:
    """The id of a prediction whose explanations are asked for."""
    return str(predict(client, png_bytes())["prediction_id"])


def refused(client: httpx.Client, prediction_id: str, problem: str = "bad-parameter", **query: str) -> str:
    """The detail of the refusal, which the same question with a picture sent along gets too."""
    stored = client.get("/gradcam", params={"prediction_id": prediction_id, **query})
    sent_along = client.post("/gradcam", params=query, content=png_bytes(), headers=PNG)
    assert stored.content == sent_along.content
    return assert_problem(stored, 422, problem)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is_and_is_drawn(client: httpx.Client, prediction_id: str, method: str) -> None:
    fused, cnn = (explained(client, "/gradcam", prediction_id, method=method, branch=b) for b in ("fusion", "cnn"))
    of_a_class = method in OF_A_CLASS
    assert (fused["method"], fused["units"]) == (method, METHODS[method].units)
    assert (fused["fuse"], cnn["fuse"]) == ("mean" if method in UNITLESS else "sum", None)
    assert (fused["target"] is not None) is of_a_class
    assert [share["share"] is None for share in fused["branches"].values()] == [method in UNITLESS] * 2
    assert any("scaled to its own maximum" in note for note in fused["notes"]) is (method in UNITLESS)
    assert any("class-agnostic" in note for note in fused["notes"]) is not of_a_class
    drawn = picture_of(client.get("/gradcam", params={"prediction_id": prediction_id, "method": method}))
    bare = picture_of(client.get("/gradcam", params={"prediction_id": prediction_id, "alpha": 0}))
    assert (np.abs(drawn - bare).max() > 10) is not fused["no_positive_evidence"]


def test_methods_differ_and_the_model_lists_them(client: httpx.Client, prediction_id: str) -> None:
    card = client.get("/model").json()
    assert card["methods"][0] == DEFAULT and sorted(card["methods"]) == sorted(METHODS)
    assert card["class_agnostic_methods"] == ["eigencam"]
    maps = [explained(client, "/gradcam", prediction_id, method=name, branch="swin")["heatmap"] for name in METHODS]
    for n, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 1e-4 * np.abs(one).max() for other in maps[:n])


@pytest.mark.parametrize("method", OF_A_CLASS)
def test_every_class_at_once_is_each_by_itself(client: httpx.Client, prediction_id: str, method: str) -> None:
    classes = client.get("/model").json()["classes"]
    asked = {"prediction_id": prediction_id, "method": method, "format": "json"}
    at_once = client.get("/explain", params=asked | {"target": "*"}).json()
    assert [*at_once["every_class"]] == classes
    fields = at_once["every_class"]["benign"].keys()
    for name in classes:
        alone = client.get("/explain", params=asked | {"target": name}).json()
        assert at_once["every_class"][name] == {field: alone[field] for field in fields}
        assert alone["every_class"] is None
    array = np.load(io.BytesIO(client.get("/explain", params=asked | {"target": "*", "format": "npy"}).content))
    np.testing.assert_array_equal(array, [at_once["every_class"][name]["heatmap"] for name in classes])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"format": "png"}, "add format=json or format=npy"),
        ({"against": "benign"}, "leave out against"),
        ({"detail": "fine"}, "leave out compare and detail"),
        ({"method": "eigencam"}, "class-agnostic: leave out target"),
    ],
)
def test_what_every_class_cannot_have_is_refused(
    client: httpx.Client, prediction_id: str, other: dict[str, str], reason: str
) -> None:
    assert reason in refused(client, prediction_id, **({"target": "*", "format": "json"} | other))


def test_the_name_with_plus_signs_works_as_one_types_it(client: httpx.Client, prediction_id: str) -> None:
    typed = client.get(f"/gradcam?prediction_id={prediction_id}&format=json&method=gradcam++")
    assert typed.json()["method"] == "gradcam++"


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam", "integrated"])
def test_a_contrast_is_the_difference_of_both_classes_maps(
    client: httpx.Client, prediction_id: str, method: str
) -> None:
    benign, malignant = (
        explained(client, "/gradcam", prediction_id, method=method, target=name) for name in ("benign", "malignant")
    )
    asked = {"method": method, "target": "malignant", "against": "benign"}
    contrast = explained(client, "/gradcam", prediction_id, **asked)
    assert (contrast["target"], contrast["against"], benign["against"]) == ("malignant", "benign", None)
    expected = malignant["heatmap"] - benign["heatmap"]
    np.testing.assert_allclose(contrast["heatmap"], expected, atol=1e-4 * np.abs(expected).max())
    assert contrast["score"] == pytest.approx(malignant["score"] - benign["score"], abs=1e-5)


@pytest.mark.parametrize("method", OF_A_CLASS)
def test_both_branches_shapley_values_add_up_to_what_the_picture_changes(
    client: httpx.Client, prediction_id: str, method: str
) -> None:
    answer = explained(client, "/gradcam", prediction_id, method=method)
    gained = answer["score"] - answer["reference_score"]
    assert abs(gained) > 1e-3
    assert sum(share["shapley_value"] for share in answer["branches"].values()) == pytest.approx(gained, abs=1e-5)
    sums = [share["integrated_gradients_sum"] for share in answer["branches"].values()]
    if method == "integrated":
        assert sum(sums) == pytest.approx(gained + answer["completeness_error"], abs=1e-5)
        assert abs(answer["completeness_error"]) < 1e-4
        assert sums == [share["signed_sum"] for share in answer["branches"].values()]
    else:
        assert (sums, answer["completeness_error"]) == ([None, None], None)


def test_what_is_of_no_class_has_no_score(client: httpx.Client, prediction_id: str) -> None:
    answer = explained(client, "/gradcam", prediction_id, method="eigencam")
    assert (answer["score"], answer["reference_score"]) == (None, None)
    assert [share["shapley_value"] for share in answer["branches"].values()] == [None, None]


@pytest.mark.parametrize("fuse", ["mean", "max", "product"])
def test_comparators_are_of_scaled_maps_and_say_so(client: httpx.Client, prediction_id: str, fuse: str) -> None:
    asked = {"method": "gradcam", "target": "malignant"}
    fused = explained(client, "/gradcam", prediction_id, **asked, fuse=fuse)
    cnn, swin = (
        np.maximum(explained(client, "/gradcam", prediction_id, **asked, branch=branch)["heatmap"], 0)
        for branch in ("cnn", "swin")
    )
    scaled = [np.kron(cnn, np.ones((2, 2))) / (cnn.max() or 1), swin / (swin.max() or 1)]
    expected = {"mean": np.mean, "max": np.max, "product": np.prod}[fuse](scaled, axis=0)  # type: ignore[operator]
    np.testing.assert_allclose(fused["heatmap"], expected, atol=1e-5)
    assert (fused["units"], fused["fuse"]) == ("unitless", fuse)
    assert f"before their {fuse} was taken" in fused["notes"][0]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"method": "eigencam", "target": "benign"}, "eigencam is class-agnostic: leave out target and against"),
        ({"method": "eigencam", "against": "benign"}, "eigencam is class-agnostic"),
        ({"target": "benign", "against": "benign"}, "benign cannot be contrasted with itself"),
        ({"against": "cat"}, "Unknown class 'cat': choose one of benign, malignant"),
        ({"method": "layercam", "fuse": "sum"}, "no common unit in which to be added: choose fuse mean, max, product"),
        ({"branch": "cnn", "fuse": "max"}, "With cnn alone there is nothing to fuse"),
        ({"fuse": "median"}, "fuse: Input should be 'sum', 'mean', 'max' or 'product'"),
        ({"method": "magic"}, f"Unknown method 'magic': choose one of {', '.join(METHODS)}"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(
    client: httpx.Client, prediction_id: str, query: dict[str, str], sentence: str
) -> None:
    assert sentence in refused(client, prediction_id, **query)


def test_the_class_that_was_answered_cannot_be_contrasted_with_itself(client: httpx.Client) -> None:
    answer = predict(client, png_bytes())
    sentence = refused(client, answer["prediction_id"], against=answer["label"])
    assert f"{answer['label']} cannot be contrasted with itself" in sentence


def test_one_branch_has_nothing_to_fuse_and_is_worth_all(cnn_alone: httpx.Client) -> None:
    prediction_id = predict(cnn_alone, png_bytes())["prediction_id"]
    for method in METHODS:
        fused, cnn = (
            explained(cnn_alone, "/gradcam", prediction_id, method=method, branch=b) for b in ("fusion", "cnn")
        )
        np.testing.assert_array_equal(fused["heatmap"], cnn["heatmap"])
        assert (fused["fuse"], fused["units"]) == (None, METHODS[method].units)
    gained = fused["score"] - fused["reference_score"]
    assert fused["branches"]["cnn"]["shapley_value"] == pytest.approx(gained, abs=1e-6)
    assert "one branch" in refused(cnn_alone, prediction_id, "not-offered", fuse="sum")


def test_the_example_of_an_explanation_has_the_shape_of_a_real_one(client: httpx.Client, prediction_id: str) -> None:
    def shape(content: Any) -> Any:
        if isinstance(content, dict):
            return {name: shape(value) for name, value in content.items()}
        return [shape(content[0])] if isinstance(content, list) and content else type(content)

    asked = {"prediction_id": prediction_id, "format": "json"}
    assert shape(EXPLANATION_EXAMPLE) == shape(client.get("/explain", params=asked).json())
