"""What trains when: the parameters of each stage by name, and that what rests stays as it was to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from app.models.cnnswin import CNNViTFusion
from tests.support.bundles import tiny_architecture
from training.loop.ema import Ema
from training.loop.loss import Loss
from training.loop.optim import build_optimizer, group_of, set_rates, warmup_cosine
from training.loop.plan import activation_bytes
from training.loop.processes import Processes
from training.loop.stages import BatchNorm, apply_stage, cnn_blocks, trainable_names
from training.loop.update import BatchPart, Updater
from training.recipe.config import PROGRESSIVE, LastUnits, ModelConfig, Recipe, RecipeError, Stage

GOLDEN = Path(__file__).parent / "golden"
WARMUP, MAIN = PROGRESSIVE
NARROW = {"embed_dim": 16, "num_heads": [1, 2, 4, 8]}
LABELS = [0, 1] * 4
_tiny = tiny_architecture().model_dump() | {"image_size": (64, 64)}
UNDROPPED = _tiny | {"dropout": 0.0, "swin_options": _tiny["swin_options"] | {"drop_path_rate": 0.0}}


def recipe_of(**changes: object) -> Recipe:
    """The progressive stages on a tiny model."""
    return Recipe.model_validate({"name": "tiny", "model": _tiny, "batch_size": 8, **changes})


def updater_of(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Updater:
    torch.manual_seed(recipe.seed)
    model = CNNViTFusion(2, **recipe.model.model_dump()).to(dtype)
    alone = Processes(0, 1, torch.device("cpu"))
    return Updater(
        model, build_optimizer(model, recipe), Loss.from_labels(LABELS, 2, recipe.imbalance, 0.1), recipe, alone
    )


def noise(seed: int, pictures: int = 8) -> BatchPart:
    generator = torch.Generator().manual_seed(seed)
    cnn, swin = (torch.randint(0, 256, (pictures, 3, 64, 64), dtype=torch.uint8, generator=generator) for _ in "ab")
    return cnn, swin, torch.tensor(LABELS[:pictures])


def values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, copied."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


FAMILIES = (
    *("efficientnet_b0", "tf_efficientnet_lite0", "resnet18", "convnext_atto", "mobilenetv4_conv_small", "regnety_002"),
    *("densenet121", "edgenext_xx_small"),
)


@pytest.mark.parametrize("cnn", FAMILIES)
def test_the_parameters_that_train_in_each_stage_are_the_golden_ones(cnn: str) -> None:
    model = CNNViTFusion(2, cnn=cnn, swin_options=NARROW, dim=16, heads=2)
    units = {"warmup": WARMUP, "main, 5 blocks": MAIN, "5 stages or all": Stage(name="s", epochs=1, cnn=_stages(cnn))}
    lines = []
    for name, stage in units.items():
        names = trainable_names(model, stage)
        assert names <= {name for name, _ in model.named_parameters()}
        lines += [f"[{name}]", *whole_modules(model, names)]
    assert lines == (GOLDEN / f"stages-{cnn}.txt").read_text().splitlines()


def whole_modules(model: nn.Module, names: set[str], prefix: str = "") -> Iterator[str]:
    """The largest modules, in their order, whose parameters are all among `names`: together these are all of them.

    So what trains is told without the names that timm gives to a block's parameters.
    """
    for name, module in model.named_children():
        inside = {f"{prefix}{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if inside and inside <= names:
            yield f"{prefix}{name}"
        elif inside & names:
            yield from whole_modules(module, names, f"{prefix}{name}.")
    own = [f"{prefix}{name}" for name, _ in model.named_parameters(recurse=False)]
    yield from (name for name in own if name in names)


def _stages(cnn: str) -> LastUnits:
    return LastUnits(unit="stage", last=5 if "efficientnet" in cnn else 4)


def test_the_head_only_stage_trains_the_head_alone() -> None:
    model = CNNViTFusion(2, **recipe_of().model.model_dump())
    names = trainable_names(model, Stage(name="head-only", epochs=1, cnn="frozen", swin="frozen"))
    assert names == {name for name, _ in model.named_parameters() if name.startswith("head.")}


def test_more_blocks_than_there_are_is_an_error_that_says_how_many() -> None:
    model = CNNViTFusion(2, **recipe_of().model.model_dump())
    assert model.cnn is not None
    blocks = len(cnn_blocks(model.cnn, "block"))
    with pytest.raises(RecipeError, match=f"it has {blocks}"):
        trainable_names(model, Stage(name="main", epochs=1, cnn=LastUnits(last=blocks + 1)))


@pytest.mark.parametrize(
    "cnn", [*(name for name in FAMILIES if name != "densenet121"), "fastvit_t8", "inception_next_atto"]
)
@pytest.mark.parametrize("unit", ["block", "stage"])
def test_the_last_unit_is_of_the_last_stage_and_not_only_what_is_behind_it(cnn: str, unit: str) -> None:
    backbone = timm.create_model(cnn, num_classes=0)
    last_stage = list(backbone.feature_info)[-1]["module"]  # type: ignore[arg-type]
    assert any(name.startswith(f"{last_stage}.") for name in cnn_blocks(backbone, unit)[-1])


def test_a_backbone_whose_layers_timm_does_not_tell_is_refused_where_they_are_needed() -> None:
    model = recipe_of().model.model_dump() | {"cnn": "poolformerv2_s12", "swin": "poolformer_s12", "swin_options": {}}
    recipe = recipe_of(model=model, rates={"swin_layer_decay": 0.5})
    built = CNNViTFusion(2, **recipe.model.model_dump())
    with pytest.raises(RecipeError, match="does not say what the layers of MetaFormer are: use cnn: all"):
        trainable_names(built, MAIN)
    with pytest.raises(
        RecipeError, match=r"does not say what the layers of MetaFormer are: use rates\.swin_layer_decay: 1"
    ):
        build_optimizer(built, recipe)


def test_what_rests_stays_bit_equal_and_what_trains_moves() -> None:
    updater = updater_of(recipe_of(batch_norm="sync", weight_decay=0.5))
    model, identities = updater.model, [id(parameter) for parameter in updater.model.parameters()]
    for stage in (WARMUP, Stage(name="main", epochs=1, cnn=LastUnits(last=2)), WARMUP):
        apply_stage(model, stage, "sync")
        before = values(model)
        for update in range(2):
            updater.gradients([noise(update)], LABELS, 0, update)
            assert updater.apply()
        changed, training = differing(before, values(model)), trainable_names(model, stage)
        assert {name for name in changed if name in dict(model.named_parameters())} == training
        frozen = [name for name, parameter in model.named_parameters() if name not in training]
        assert all(model.get_parameter(name).grad is None for name in frozen)
        assert not any(name.startswith("cnn.") for name in changed) or stage is not WARMUP
    assert [id(parameter) for parameter in model.parameters()] == identities


@pytest.mark.parametrize("batch_norm", ["frozen", "sync"])
def test_batch_norms_learn_statistics_only_where_their_block_trains_and_the_recipe_says_so(batch_norm: str) -> None:
    updater = updater_of(recipe_of(batch_norm=batch_norm))
    stage = Stage(name="main", epochs=1, cnn=LastUnits(last=2))
    apply_stage(updater.model, stage, batch_norm)
    before = values(updater.model)
    updater.gradients([noise(0)], LABELS, 0, 0)
    moved = {name for name in differing(before, values(updater.model)) if "running_mean" in name}
    means, training = {name for name in before if "running_mean" in name}, trainable_names(updater.model, stage)
    expected = {name for name in means if name.replace("running_mean", "weight") in training}
    assert moved == (expected if batch_norm == "sync" else set())
    assert expected and expected < means


def test_a_frozen_branch_leaves_nothing_behind_for_a_backward_pass() -> None:
    recipe = recipe_of()
    model = CNNViTFusion(2, **recipe.model.model_dump())
    frozen, partly, whole = (
        activation_bytes(model, Stage(name="s", epochs=1, cnn=cnn, swin="frozen"), recipe)
        for cnn in ("frozen", LastUnits(last=1), "all")
    )
    assert frozen < partly < whole
    assert model.cnn is not None
    apply_stage(model, WARMUP, "frozen")
    assert model.encode(torch.rand(1, 3, 64, 64)).cnn.requires_grad is False  # type: ignore[union-attr]


def test_every_parameter_of_the_default_model_is_in_its_golden_group() -> None:
    recipe = Recipe(name="default", model=ModelConfig())
    model = CNNViTFusion(2, **recipe.model.model_dump())
    groups = build_optimizer(model, recipe).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in model.parameters()}
    group_with = {id(p): group for group in groups for p in group["params"]}
    table: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        group = group_with[id(parameter)]
        assert (group["rate"], group["weight_decay"] > 0) == group_of(name, parameter)
        line = f"{group['rate']} {group['lr']:g} decay {group['weight_decay']:g}"
        assert table.setdefault(kind_of_parameter(model, name), line) == line, name
    lines = [f"{kind}: {line}" for kind, line in table.items()]
    assert lines == (GOLDEN / "groups.txt").read_text().splitlines()


LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (nn.Conv2d,),
    "linear": (nn.Linear,),
    "norm": (BatchNorm, nn.LayerNorm),
}


def kind_of_parameter(model: nn.Module, name: str) -> str:
    """A head's parameter by its name, which is ours; a backbone's by the layer that it is of.

    What belongs to no layer, but to a module of timm's itself, is a table of positions.
    """
    if name.startswith("head."):
        return name
    owner, _, role = name.rpartition(".")
    layers = [layer for layer, types in LAYERS.items() if isinstance(model.get_submodule(owner), types)]
    return " ".join([name.partition(".")[0], *([*layers, role] if layers else ["table of positions"])])


def test_the_rates_follow_the_golden_curve_and_keep_their_ratios() -> None:
    factors = [warmup_cosine(update, 10, 110) for update in range(110)]
    golden = [float(line) for line in (GOLDEN / "schedule.txt").read_text().splitlines()]
    assert factors[::10] == pytest.approx(golden, abs=1e-12)
    assert factors[:10] == pytest.approx([(update + 1) / 10 for update in range(10)])
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)
    recipe = recipe_of(warmup_share=0.1)
    adam = updater_of(recipe).adam
    for update in (0, 3, 50, 99):
        rates = set_rates(adam, recipe, update, 100)
        assert rates["head"] / rates["norm_and_bias"] == pytest.approx(4)
        assert {group["rate"]: group["lr"] for group in adam.param_groups} == rates


def test_rates_fall_from_the_last_layer_of_the_transformer_to_the_first() -> None:
    vit = {"swin": "vit_tiny_patch16_224", "swin_options": {"depth": 3, "embed_dim": 24, "num_heads": 2}}
    fields = recipe_of().model.model_dump() | vit
    recipe = Recipe.model_validate({"name": "vit", "model": fields, "rates": {"swin_layer_decay": 0.5}})
    model = CNNViTFusion(2, **recipe.model.model_dump())
    adam = build_optimizer(model, recipe)
    rates = set_rates(adam, recipe, 10, 100)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shares = {names[id(p)]: group["lr"] / rates[group["rate"]] for group in adam.param_groups for p in group["params"]}
    assert {share for name, share in shares.items() if not name.startswith("swin.")} == {1.0}
    for number in range(3):
        of_block = [share for name, share in shares.items() if f"swin.blocks.{number}." in name]
        assert of_block and of_block == [pytest.approx(0.5 ** (2 - number))] * len(of_block)
    assert shares["swin.patch_embed.proj.weight"] == shares["swin.pos_embed"] == pytest.approx(0.5**3)
    decayed = {names[id(p)] for group in adam.param_groups if group["weight_decay"] for p in group["params"]}
    assert not {"swin.pos_embed", "swin.cls_token"} & decayed


def test_adams_state_survives_the_change_of_stage() -> None:
    updater = updater_of(recipe_of())
    for stage in PROGRESSIVE[:1] * 3:
        apply_stage(updater.model, stage, "frozen")
        updater.gradients([noise(0)], LABELS, 0, 0)
        updater.apply()
    apply_stage(updater.model, Stage(name="main", epochs=1, cnn=LastUnits(last=1)), "frozen")
    updater.gradients([noise(0)], LABELS, 0, 0)
    updater.apply()
    state = updater.adam.state
    assert updater.model.cnn is not None
    trained_all_along = updater.model.get_parameter("head.classifier.weight")
    frozen, *_, joined = updater.model.cnn.parameters()
    assert float(state[trained_all_along]["step"]) == 4
    assert float(state[joined]["step"]) == 1
    assert frozen not in state


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    """In float64, with MixUp, smoothing and class weights, and the parts' weights differing."""
    labels, views = [0, 0, 0, 1, 0, 0, 1, 1], noise(5)
    views = (*views[:2], torch.tensor(labels))
    gradients = []
    for accumulate in (1, 2, 4):
        recipe = recipe_of(model=UNDROPPED, accumulate=accumulate, imbalance="class_weights")
        updater = updater_of(recipe, torch.float64)
        updater.loss = Loss.from_labels([0] * 9 + [1] * 3, 2, "class_weights", 0.1)
        apply_stage(updater.model, Stage(name="all", epochs=1), "frozen")
        size = 8 // accumulate
        parts = [tuple(t[k * size : (k + 1) * size] for t in views) for k in range(accumulate)]
        sums = updater.gradients(parts, labels, 1, 3)  # type: ignore[arg-type]
        gradients.append([torch.tensor(sums.loss), *(p.grad for p in updater.model.parameters() if p.grad is not None)])
    for other in gradients[1:]:
        for whole, parts_sum in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(parts_sum, whole, rtol=1e-9, atol=1e-11)


def test_the_average_starts_fast_and_takes_buffers_along() -> None:
    model = nn.BatchNorm1d(1)
    ema = Ema(model, 0.9)
    for name, value in {"weight": 11.0, "running_mean": 20.0, "num_batches_tracked": 7}.items():
        model.state_dict()[name].fill_(value)

    def average(name: str) -> float:
        return float(ema.model.state_dict()[name])

    ema.update(model, 0)  # (1 + 0) / (10 + 0) of the old value stays
    assert [average("weight"), average("running_mean")] == pytest.approx([10.0, 18.0])
    assert average("num_batches_tracked") == 7
    ema.update(model, 10_000)
    assert average("weight") == pytest.approx(0.9 * 10 + 0.1 * 11)


def test_clipping_bounds_the_step_and_leaves_small_gradients_alone() -> None:
    norms = {}
    for clip in (0.01, 1e6):
        updater = updater_of(recipe_of(clip_norm=clip))
        apply_stage(updater.model, MAIN_TINY, "frozen")
        updater.gradients([noise(0)], LABELS, 0, 0)
        before = updater.gradient_norms()
        updater.apply()
        norms[clip] = (before, updater.gradient_norms())
    assert norms[0.01][0] == norms[1e6][0] == norms[1e6][1]
    total = sum(norm**2 for norm in norms[0.01][1].values()) ** 0.5
    assert total == pytest.approx(0.01, rel=1e-3)


MAIN_TINY = Stage(name="main", epochs=1, cnn=LastUnits(last=2))


def test_half_precision_takes_nearly_the_same_step() -> None:
    gradients = []
    for precision in ("fp32", "bf16"):
        updater = updater_of(recipe_of(precision=precision))
        apply_stage(updater.model, MAIN_TINY, "frozen")
        updater.gradients([noise(0)], LABELS, 0, 0)
        gradients.append(torch.cat([p.grad.flatten() for p in updater.model.parameters() if p.grad is not None]))
    full, half = gradients
    assert not torch.equal(full, half)
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.98
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        updater_of(recipe_of(precision="fp16"))
