"""Both views of a picture, and the order in which a run loads pictures: what is random, and what it depends on."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from itertools import chain, pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as torchvision

from app.pictures.decode import Limits, decode
from app.pictures.prepare import prepare
from tests.support.drawn import draws
from training.data.samples import DataError, Sample
from training.loading.augment import TwoViews
from training.loading.views import EpochBatches, EvaluationSet, SampleKey, TrainingSet
from training.recipe.config import Augmentation, Geometry, Photometry

STILL = Geometry(flip=False, rotation_degrees=0, translate=0, scale=(1, 1))
PLAIN = Photometry(brightness=0, contrast=0, saturation=0, hue=0)
SIZE = (24, 32)


def views_of(image: Tensor, seed: int, geometry: Geometry = STILL, cnn: Photometry = PLAIN) -> tuple[Tensor, Tensor]:
    """The CNN's view in the colours of `cnn`, and the Swin's in its own."""
    config = Augmentation(geometry=geometry, cnn=cnn, swin=PLAIN)
    return TwoViews(config, (image.shape[1], image.shape[2]))(image, np.random.default_rng(seed))


def noise(height: int, width: int, low: int = 0, high: int = 256) -> Tensor:
    values = np.random.default_rng(0).integers(low, high, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def test_a_marker_lies_at_the_same_place_in_both_views_in_different_colours() -> None:
    marker = torch.zeros(3, 160, 224, dtype=torch.uint8)
    marker[:, 60:75, 120:135] = 200
    usual = Augmentation()
    views = TwoViews(usual.model_copy(update={"swin": usual.swin.model_copy(update={"erasing": 0})}), (160, 224))
    places = []
    for seed in range(8):
        cnn, swin = (view.float().sum(dim=0) for view in views(marker, np.random.default_rng(seed)))
        centres = [torch.nonzero(view > view.max() / 2).float().mean(dim=0) for view in (cnn, swin)]
        assert torch.allclose(centres[0], centres[1], atol=0.5)
        assert not torch.equal(cnn, swin)
        places.append(centres[0])
    assert all(not torch.allclose(one, other, atol=1) for one, other in pairwise(places))


def test_a_flip_is_exact_and_each_of_the_four_comes() -> None:
    image = noise(20, 30)
    flipped = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
    seen = set()
    for seed in range(24):
        cnn, swin = views_of(image, seed, STILL.model_copy(update={"flip": True}))
        assert torch.equal(cnn, swin)
        seen.add([torch.equal(cnn, one) for one in flipped].index(True))
    assert seen == {0, 1, 2, 3}


def test_a_picture_is_turned_scaled_and_shifted_about_its_middle() -> None:
    dot = torch.zeros(3, 101, 101, dtype=torch.uint8)
    dot[:, 50, 70] = 255
    radii, angles, middles = [], [], []
    for seed in range(12):
        turned = views_of(dot, seed, Geometry(flip=False, rotation_degrees=45, translate=0, scale=(1.5, 1.5)))[0][0]
        y, x = (torch.nonzero(turned > turned.max() / 2).float().mean(dim=0) - 50).tolist()
        radii.append(np.hypot(x, y))
        angles.append(np.degrees(np.arctan2(y, x)))
        shifted = views_of(dot, seed, STILL.model_copy(update={"translate": 0.1}))[0][0]
        middles.append((torch.nonzero(shifted > shifted.max() / 2).float().mean(dim=0) - torch.tensor([50, 70])).abs())
    assert radii == pytest.approx([30] * 12, abs=0.8)
    assert -46 < min(angles) < -15 and 15 < max(angles) < 46
    assert 5 < torch.stack(middles).max() < 10.6


def test_no_black_corner_comes_in() -> None:
    white = torch.full((3, 40, 60), 255, dtype=torch.uint8)
    for seed in range(10):
        assert views_of(white, seed, Geometry(translate=0.5, scale=(0.5, 1)))[0].min() == 255


def test_without_strength_nothing_changes() -> None:
    image = noise(20, 30)
    for view in views_of(image, 0):
        assert torch.equal(view, image)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_change_as_in_torchvision(name: str) -> None:
    image, adjust = noise(16, 16, 60, 180), getattr(torchvision, f"adjust_{name}")
    candidates = [(factor, adjust(image, factor).int()) for factor in np.arange(0.69, 1.31, 0.005)]
    found = []
    for seed in range(12):
        view = views_of(image, seed, cnn=PLAIN.model_copy(update={name: 0.3}))[0].int()
        worst, factor = min((int((view - candidate).abs().max()), factor) for factor, candidate in candidates)
        assert worst <= 2
        found.append(factor)
    assert 0.69 < min(found) < 0.85 and 1.15 < max(found) < 1.31


def test_hue_turns_colours_about_grey() -> None:
    image = noise(16, 16, 60, 180).double()
    colour = image - image.mean(dim=0)
    turns = []
    for seed in range(12):
        view = views_of(image.byte(), seed, cnn=PLAIN.model_copy(update={"hue": 0.1}))[0].double()
        assert (view.mean(dim=0) - image.mean(dim=0)).abs().max() <= 0.5
        turned = view - view.mean(dim=0)
        assert (turned.norm(dim=0) - colour.norm(dim=0)).abs().max() <= 1
        # From red towards green, as torchvision's does for a positive turn.
        sine = (torch.linalg.cross(colour, turned, dim=0).sum(dim=0) / 3**0.5).sum() / colour.square().sum()
        turns.append(float(torch.asin(sine)) / (2 * np.pi))
    assert -0.1 < min(turns) < -0.03 and 0.03 < max(turns) < 0.1


def test_blur_and_erasing_come_as_often_as_told() -> None:
    image = noise(32, 48)
    for name in ("blur", "jpeg", "erasing"):
        views = [views_of(image, seed, cnn=PLAIN.model_copy(update={name: 0.5})) for seed in range(60)]
        assert 18 <= sum(not torch.equal(cnn, image) for cnn, _ in views) <= 42
        assert all(torch.equal(swin, image) for _, swin in views)


def test_blur_smooths() -> None:
    image, spreads = noise(32, 48, 0, 100).double(), []
    for seed in range(6):
        blurred = views_of(image.byte(), seed, cnn=PLAIN.model_copy(update={"blur": 1}))[0].double()
        assert blurred.mean() == pytest.approx(float(image.mean()), abs=2)
        spreads.append(float(blurred.std() / image.std()))
    assert min(spreads) < 0.4 and max(spreads) <= 1


def test_compression_is_that_of_jpeg_with_qualities_from_the_range() -> None:
    image = torch.nn.functional.interpolate(noise(6, 6)[None].float(), (48, 48), mode="bicubic")[0].clamp(0, 255).byte()
    # Pillow's encoder gives what each quality looks like; the colour channels would show if they were swapped.
    looks = {}
    for quality in range(20, 100):
        encoded = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(encoded, "JPEG", quality=quality)
        looks[quality] = torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1).int()
    found = []
    for seed in range(30):
        view = views_of(image, seed, cnn=PLAIN.model_copy(update={"jpeg": 1.0, "jpeg_quality": (30, 60)}))[0].int()
        error, quality = min((float((view - look).abs().float().mean()), quality) for quality, look in looks.items())
        assert error < 0.5
        found.append(quality)
    assert 29 <= min(found) < 38 and 52 < max(found) <= 61


def test_one_rectangle_is_erased_to_the_mean_colour() -> None:
    image = noise(64, 96)
    mean = image.double().mean(dim=(1, 2), keepdim=True)
    shares = []
    for seed in range(20):
        erased = views_of(image, seed, cnn=PLAIN.model_copy(update={"erasing": 1}))[0]
        changed = torch.nonzero((erased != image).any(dim=0))
        top, left = changed.amin(dim=0).tolist()
        bottom, right = (changed.amax(dim=0) + 1).tolist()
        assert ((erased[:, top:bottom, left:right] - mean).abs() <= 0.5).all()
        shares.append((bottom - top) * (right - left) / (64 * 96))
    assert 0.01 < min(shares) < 0.12 and 0.2 < max(shares) < 0.35


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(24, 32\) px, not \(32, 24\)"):
        TwoViews(Augmentation(), SIZE)(noise(32, 24), np.random.default_rng(0))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Twelve pictures of noise, 3 of class 1 and 9 of class 0."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(path)
        made.append(Sample(path, label=str(int(number < 3)), group=None, split="train", mask=None))
    return made


def training_set(samples: list[Sample], seed: int = 0) -> TrainingSet:
    return TrainingSet(
        samples, [int(sample.label) for sample in samples], TwoViews(Augmentation(), SIZE), SIZE, seed, None
    )


def same(one: tuple[Tensor, Tensor, int], other: tuple[Tensor, Tensor, int]) -> bool:
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True))


def test_a_key_gives_the_same_views_from_any_worker_and_with_any_random_state(samples: list[Sample]) -> None:
    labels, dataset = [int(sample.label) for sample in samples], training_set(samples)
    batches = EpochBatches(labels, draws(labels, 5), 4)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=2, persistent_workers=True)
    for epoch in (1, 0):
        batches.start(epoch, 0)
        loaded = [picture for batch in loader for picture in zip(*batch, strict=True)]
        keys = list(chain.from_iterable(batches))
        assert len(keys) == len(loaded) == 12
        for key, picture in reversed(list(zip(keys, loaded, strict=True))):
            torch.rand(3), np.random.rand(3)
            assert same(training_set(samples)[key], picture)


def test_a_visit_leaves_the_global_random_states_as_they_were(samples: list[Sample]) -> None:
    before = torch.get_rng_state(), np.random.get_state()
    training_set(samples)[0, 1, 2]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])


def test_another_epoch_position_or_seed_gives_other_views_of_the_same_picture(samples: list[Sample]) -> None:
    keys: list[SampleKey] = [(0, 0, 3), (1, 0, 3), (0, 1, 3), (2, 0, 3), (0, 2, 3)]
    visits = [training_set(samples)[key] for key in keys] + [training_set(samples, seed=1)[0, 0, 3]]
    for number, visit in enumerate(visits):
        assert not any(same(visit, other) for other in visits[:number])
        assert visit[2] == 0


def test_evaluation_sees_what_the_service_prepares(samples: list[Sample]) -> None:
    pictures = EvaluationSet(samples, SIZE, None)
    assert len(pictures) == 12
    expected = prepare(decode(samples[7].path.read_bytes(), Limits()), SIZE).image
    assert np.array_equal(pictures[7].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:900])])
def test_a_file_that_cannot_be_read_is_named(samples: list[Sample], damage: Callable[[Path], object]) -> None:
    damage(samples[4].path)
    with pytest.raises(DataError, match=r"4\.png cannot be read"):
        training_set(samples)[0, 0, 4]
    with pytest.raises(DataError, match=r"4\.png cannot be read"):
        EvaluationSet(samples, SIZE, None)[4]


LABELS = [int(number % 10 == 0) for number in range(101)]  # 11 of class 1


def keys_of(rank: int, world: int, accumulate: int, update: int = 0) -> list[list[SampleKey]]:
    batches = EpochBatches(LABELS, draws(LABELS, 7), 24, rank, world, accumulate)
    batches.start(3, update)
    assert len(batches) == len(list(batches))
    return list(batches)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 1)])
def test_all_processes_and_parts_together_load_the_same_updates(world: int, accumulate: int) -> None:
    by_rank = [keys_of(rank, world, accumulate) for rank in range(world)]
    order = draws(LABELS, 7).order(3)
    expected = [[(3, place, order[place]) for place in range(24 * u, 24 * (u + 1))] for u in range(len(LABELS) // 24)]
    for update, keys in enumerate(expected):
        parts = (by_rank[rank][update * accumulate + part] for rank, part in product(range(world), range(accumulate)))
        assert list(chain.from_iterable(parts)) == keys
    assert all(len(parts) == len(expected) * accumulate for parts in by_rank)


def test_an_order_is_a_permutation_of_its_own_epoch_and_seed() -> None:
    orders = [draws(LABELS, seed).order(epoch) for epoch, seed in product(range(3), range(3))]
    for number, order in enumerate(orders):
        assert sorted(order) == list(range(101))
        assert not any(np.array_equal(order, other) for other in orders[:number])
    assert np.array_equal(orders[5], draws(LABELS, 2).order(1))


def test_an_epoch_taken_up_again_has_exactly_its_tail() -> None:
    for update in range(5):
        assert keys_of(1, 2, 3, update) == keys_of(1, 2, 3)[update * 3 :]


def test_an_epoch_taken_up_again_loads_nothing_of_what_it_skips(samples: list[Sample]) -> None:
    batches = EpochBatches([0] * 12, draws([0] * 12, 0), 4)
    for _, _, index in chain.from_iterable(list(batches)[:2]):
        samples[index].path.unlink()
    batches.start(0, 2)
    assert len(list(DataLoader(training_set(samples), batch_sampler=batches))) == 1


@pytest.mark.parametrize("balanced", [False, True])
def test_every_process_knows_the_labels_of_the_whole_update(balanced: bool) -> None:
    both = [EpochBatches(LABELS, draws(LABELS, 7, balanced), 24, rank, 2) for rank in range(2)]
    for batches in both:
        batches.start(2, 1)
    for update, parts in enumerate(zip(*both, strict=True), start=1):
        expected = [LABELS[index] for _, _, index in chain.from_iterable(parts)]
        assert all(batches.labels_of_update(2, update) == expected for batches in both)
    assert both[0].labels_of_update(5, 0) == [LABELS[i] for i in draws(LABELS, 7, balanced).order(5)[:24]]


def test_balanced_sampling_draws_every_class_and_every_picture_of_it_equally_often() -> None:
    orders = [draws(LABELS, 0, True).order(epoch) for epoch in range(100)]
    assert {len(order) for order in orders} == {101}
    drawn = Counter(np.concatenate(orders).tolist())
    rare = np.array([drawn[index] for index in range(101) if LABELS[index]])
    usual = np.array([drawn[index] for index in range(101) if not LABELS[index]])
    assert rare.sum() / 10_100 == pytest.approx(0.5, abs=0.03)
    assert rare.std() < 0.1 * rare.mean() and usual.std() < 0.25 * usual.mean()


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulate", "message"),
    [
        (20, 3, 1, "batch_size 20 cannot be split into 3 equal parts .*choose a multiple of 6"),
        (18, 1, 4, "batch_size 18 cannot be split into 4 equal parts"),
        (18, 2, 3, "of even size, which mixing in pairs needs: choose a multiple of 12"),
        (102, 1, 1, "an epoch of 101 pictures is less than one batch of 102"),
    ],
)
def test_batches_that_cannot_be_are_refused(batch_size: int, world: int, accumulate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(LABELS, draws(LABELS, 0), batch_size, 0, world, accumulate)
