"""What predictions and heatmaps can be asked, whether the answer is waited for or awaited."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fusionlens_client.answers import ExplanationAnswer, PredictionAnswer
from fusionlens_client.calls import Question, Subject, parameters

H = TypeVar("H")


@dataclass(frozen=True)
class Explainable(PredictionAnswer, Generic[H]):
    """A prediction that answers questions for heatmaps: with a heatmap, or with what can be awaited for one.

    Parameters that are None are left to the service; its HTTP reference says what each of them does. Every question
    raises Problem, ConnectionFailed and UnexpectedAnswer.
    """

    _subject: Subject = field(repr=False, compare=False)

    def explain(
        self,
        *,
        method: str | None = None,
        target: str | None = None,
        against: str | None = None,
        branch: str | None = None,
        fuse: str | None = None,
        detail: str | None = None,
    ) -> H:
        """What speaks for the class `target`, by default the label.

        `against` contrasts it with another class. The target `*` stands for every class.
        """
        return self._heatmap(
            "/explain", method=method, target=target, against=against, branch=branch, fuse=fuse, detail=detail
        )

    def attention(
        self,
        *,
        method: str | None = None,
        layer: str | None = None,
        query: int | None = None,
        head: int | None = None,
        target: str | None = None,
        against: str | None = None,
    ) -> H:
        """Where the transformer's tokens look, by default on average over the tokens and the heads."""
        return self._heatmap(
            "/attention", method=method, layer=layer, query=query, head=head, target=target, against=against
        )

    def tokens(self, *, token_stage: int | None = None, target: str | None = None, against: str | None = None) -> H:
        """How much the transformer's tokens at one of its stages matter for the class `target`."""
        return self._heatmap("/tokens", token_stage=token_stage, target=target, against=against)

    def novelty(self, *, detail: str | None = None) -> H:
        """Which parts of the picture are unlike the training pictures, whatever the class."""
        return self._heatmap("/novelty", detail=detail)

    def _heatmap(self, path: str, **given: str | int | None) -> H:
        return self._ask_heatmap(Question(self._subject, path, parameters(**given)))

    @abstractmethod
    def _ask_heatmap(self, question: Question) -> H:
        """The answer to this question."""


@dataclass(frozen=True, eq=False)
class Drawable(ExplanationAnswer):
    """A heatmap that the service can draw over the picture."""

    answer: dict[str, Any] = field(repr=False)
    """the service's JSON, with fields that this version of the client may not know"""
    _question: Question = field(repr=False)
