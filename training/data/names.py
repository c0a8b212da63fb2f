"""Names of classes, groups and splits in their many spellings.

Unicode has several spellings of one name: macOS writes `é` as two characters where others write one. All names of
labels and groups are therefore normalised to NFC. Labels that differ in case or blanks only are kept apart, because
they may be meant, and reported, because they mostly are not. Labels that look the same are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from pydantic import TypeAdapter, ValidationError

from app.bundles.texts import ClassName, appearance, look_alike, shown
from app.predicting.request import EVERY_CLASS
from training.data.sample import SPLITS, DataError, Finding, Sample

_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "development"),
    "test": ("test", "tests", "testing", "tst"),
    "calibration": ("calibration", "calibrate", "calib"),
}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# Some call the split that chooses a model so, and others the one that is looked at once.
_AMBIGUOUS = {"eval", "evaluation", "evaluate", "holdout", "heldout", "unseen"}
# What may stand beside such a word without a meaning of its own.
_DECORATION = {"set", "sets", "data", "dataset", "datasets", "split", "part", "subset", "folder", "dir", "images",
               "image", "imgs", "img", "pictures", "photos", "samples"}  # fmt: skip
_MISSING = {"", "nan", "-nan", "none", "null", "n/a", "<na>", "#n/a", "nat", "undefined"}
# What a column that marks one split has beside the split's name.
_MARKING = {"is", "in", "for", "of", "use", "used", "flag", "mask", "indicator", "only", "label"}
_COPY_WORD = r"(?:copy|copie|kopie|copia|cópia|kopia|kopi)"
_COPY = re.compile(
    rf"(.+?)(?:[\s_\-.]+\(?{_COPY_WORD}\)?(?:[\s_\-.]*\(?\d+\)?)?|\s*\(\d+\))|{_COPY_WORD} (?:of|von|de|di|av|af) (.+)",
    re.IGNORECASE,
)
_RENAME = "give them one name if they are the same, or names that differ more"
_CLASS_NAME = TypeAdapter[str](ClassName)


def split_words(name: str) -> set[str]:
    """Return the splits that the words of a name may mean; `?` is one that may mean val or test."""
    words = _words(name)
    return {_SPLIT_OF.get(word, "?") for word in words if word in _SPLIT_OF or word in _AMBIGUOUS}


def is_split_name(name: str) -> bool:
    """Whether a name says nothing but a split: `Training`, `valid_set`, `2_test`, or the ambiguous `eval`."""
    words = [word for word in _words(name) if not word.isdigit() and word not in _DECORATION]
    return bool(words) and all(word in _SPLIT_OF or word in _AMBIGUOUS for word in words)


def split_of(name: str) -> str:
    """Return the split that a name means, one of SPLITS. Raises DataError for any other name."""
    if not is_split_name(name):
        raise DataError(f"unknown split {name}: choose one of {', '.join(SPLITS)}")
    meant = split_words(name)
    if len(meant) > 1 or "?" in meant:
        raise DataError(
            f"the split {name} may mean more than one of {', '.join(SPLITS)}: call it by one of these names"
        )
    return meant.pop()


def is_split_mark(name: str) -> bool:
    """Whether a column's name says that it marks a split, as `is_train`, `train` or `used_for_testing` do."""
    words = [
        re.sub("^is(?=.)", "", word) for word in _words(name) if word not in _MARKING
    ]  # names are in small letters
    return is_split_name(" ".join(words))


def without_split_words(name: str) -> str | None:
    """What a name says beside the words of a split: `cat` for `cat_test`. None if there are no such words, or only."""
    if not split_words(name) or is_split_name(name):
        return None
    return plain_words(" ".join(word for word in _words(name) if word not in _SPLIT_OF and word not in _AMBIGUOUS))


def plain_words(name: str) -> str:
    """The words of a name in small letters, without such as `images` that say nothing, with one blank between them."""
    words = _words(name)
    return " ".join([word for word in words if word not in _DECORATION] or words)


def without_copy_mark(name: str) -> str | None:
    """The name of which a file manager has made this one for a copy, as `cat - Copy` or `dog (1)`. None for others."""
    copied = _COPY.fullmatch(name)
    return next(filter(None, copied.groups()), "").strip() or None if copied else None


def renamed_splits(names: Iterable[str]) -> Iterator[str]:
    """Yield a fact that names all splits with another spelling than that of SPLITS."""
    if others := sorted({name for name in names if name not in SPLITS}):
        yield "splits: " + ", ".join(f"{name} was read as {split_of(name)}" for name in others)


def name_findings(samples: Iterable[Sample]) -> Iterator[Finding]:
    """Yield findings about labels that are probably the same, and labels that stand for a missing value."""
    pictures = Counter(sample.label for sample in samples)
    for labels in _alike(pictures):
        if len({appearance(label) for label in labels}) == 1:
            yield Finding("label", f"the classes {_counted(labels, pictures, ascii)} look the same: {_RENAME}")
            continue
        alike = "are equal as numbers" if as_number(labels[0]) is not None else "differ only in case, blanks or hyphens"
        yield Finding("label", f"the classes {_counted(labels, pictures, shown)} {alike}: {_RENAME}")
    for label in sorted(pictures):
        if is_missing(label):
            yield Finding("label", f"the class {shown(label)} ({pictures[label]}) looks like a missing label")


def is_missing(name: str) -> bool:
    """Whether a name is what programs write for a missing value."""
    return name.casefold() in _MISSING


def as_number(name: str) -> Decimal | None:
    """The number that a name is, such as `1`, `01`, `1.0`, `1,0` or `1e+05`. None if it is none."""
    if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-][0-9]{1,3})?", name) is None:
        return None
    return Decimal(name.replace(",", "."))


def refuse_look_alikes(samples: Iterable[Sample]) -> None:
    """Raises DataError for classes that nobody can tell apart by their names."""
    pictures = Counter(sample.label for sample in samples)
    for labels in look_alike(pictures):
        raise DataError(f"the classes {_counted(labels, pictures, ascii)} look the same: {_RENAME}")


def refuse_joined(labels: Iterable[str]) -> None:
    """Raises DataError for labels that are several of the others in one, as tables of multi-label data have them.

    A bar or a semicolon says so if one of the parts is a class, and a list if one is in another list too. Other marks
    may be part of a name, so that every part must be a class.
    """
    parts = {label: _joined_parts(label) for label in {*labels}}
    in_lists = Counter(part for label in parts if _is_list(label) for part in parts[label])
    for label in sorted(parts):
        classes = parts[label] & (parts.keys() - {label})
        if _is_list(label):
            classes |= {part for part in parts[label] if in_lists[part] > 1}
        if classes and (_is_list(label) or re.search(r"[|;]", label) or classes == parts[label]):
            raise DataError(
                f"the label {shown(label)} joins classes, such as {shown(min(classes))}: a picture has one class here, "
                "so give each one label, or leave out the pictures that have several"
            )


def _joined_parts(label: str) -> set[str]:
    """The names that a label may join, or the label itself."""
    parts = re.split(r"[|;,/+&]", label[1:-1] if _is_list(label) else label)
    return {part.strip(" '\"") for part in parts} - {""} if all(part.strip() for part in parts) else {label}


def _is_list(label: str) -> bool:
    return bool(re.fullmatch(r"\[.+\]|\(.*,.*\)|\{.+\}", label))


def unusable_class(name: str) -> str | None:
    """Why no bundle can have a class of this name. None if it can."""
    if appearance(name) == EVERY_CLASS:
        return "has the name that stands for every class where explanations are asked for"
    try:
        _CLASS_NAME.validate_python(name)
    except ValidationError as error:
        return f"can be in no bundle ({error.errors(include_url=False)[0]['msg'].removeprefix('Value error, ')})"
    return None


def is_utf8(name: str) -> bool:
    """Whether a file's name is text. Other names come from archives that were unpacked with a wrong encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(name: str) -> list[str]:
    """Split a name at everything but letters and digits, at capitals, and between letters and digits."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+|\d+", spaced.casefold())
    joined = [_SEPARATED.get(word, (word,)) for word in words]
    merged = " ".join(part for parts in joined for part in parts)
    return re.sub(r"\b(hold|held) out\b", r"\1out", merged).split()


def _separable() -> dict[str, tuple[str, str]]:
    words = (*_SPLIT_OF, *_AMBIGUOUS)
    return {word + other: (word, other) for word in words for other in _DECORATION if len(other) > 1}


_SEPARATED = _separable()  # `trainset` is two words


def _alike(labels: Iterable[str]) -> list[list[str]]:
    sets: defaultdict[object, list[str]] = defaultdict(list)
    for label in sorted(labels):
        sets[_label_key(label)].append(label)
    return [alike for alike in sets.values() if len(alike) > 1]


def _label_key(label: str) -> object:
    number = as_number(label)
    # Only within a name: HER2- and HER2 may be two classes.
    folded = re.sub(r"(?<=[^\W_])[\s_\-\u2014\u2015]+(?=[^\W_])", "", appearance(label).casefold())
    return number if number is not None else folded


def _counted(labels: Sequence[str], pictures: Mapping[str, int], quoted: Callable[[str], str]) -> str:
    return " and ".join(f"{quoted(label)} ({pictures[label]})" for label in labels)
