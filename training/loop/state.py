"""What a checkpoint holds of a run: everything that changes while it trains. There is no random state in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.models.cnnswin import CNNViTFusion
from training.loop.best import Best
from training.loop.distil import teacher_digests
from training.loop.ema import Ema
from training.loop.update import Updater
from training.runs.run import RunError
from training.runs.torch_files import not_finite_tensor


@dataclass
class Progress:
    """The updates made so far, the summed loss of the current epoch's updates, and the pictures skipped so far."""

    update: int = 0
    loss_sum: float = 0.0
    skipped: list[str] = field(default_factory=list)


@dataclass
class TrainState:
    """The model with its optimizer, its average and its best epoch so far, and the progress of the run."""

    updater: Updater
    ema: Ema[CNNViTFusion]
    progress: Progress = field(default_factory=Progress)
    best: Best = field(default_factory=Best)

    def document(self, log_bytes: int) -> dict[str, Any]:
        """The content of a checkpoint. `log_bytes` is the size of the log that belongs to it."""
        updater = self.updater
        return {
            "model": updater.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": updater.adam.state_dict(),
            "scaler": updater.scaler.state_dict(),
            "distillers": updater.distillers.state_dict(),
            "teachers": teacher_digests(updater.distillers),
            "progress": asdict(self.progress),
            "best": self.best.state(),
            "log_bytes": log_bytes,
        }

    def restore(self, document: dict[str, Any], checkpoints: Path) -> int:
        """Take what a checkpoint holds, and return the size of its log. Raises RunError if it does not fit."""
        updater = self.updater
        if document.get("teachers", {}) != teacher_digests(updater.distillers):
            raise RunError("a teacher has other weights than when the run started: put the former ones back")
        try:
            updater.model.load_state_dict(document["model"])
            self.ema.model.load_state_dict(document["ema"])
            updater.adam.load_state_dict(document["optimizer"])
            updater.scaler.load_state_dict(document["scaler"])
            # Checkpoints of older versions have neither of these two.
            updater.distillers.load_state_dict(document.get("distillers", {}))
            self.best = Best(**document.get("best", {}))
            self.progress, log_bytes = Progress(**document["progress"]), int(document["log_bytes"])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(
                f"the newest checkpoint in {checkpoints} is not of this model or this version "
                f"({str(error).splitlines()[0]}): resume it with the versions that wrote it"
            ) from error
        for name, model in (("model", updater.model), ("ema", self.ema.model)):
            if (broken := not_finite_tensor(model.state_dict())) is not None:
                raise RunError(
                    f"the newest checkpoint in {checkpoints} has values that are not finite in {broken} "
                    f"({name}): remove it to go on from an older one, or start a new run with lower rates"
                )
        return log_bytes
