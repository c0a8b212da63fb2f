"""The errors of training. The command line turns every one of them into a sentence, and no other kind is expected."""

from __future__ import annotations


class TrainingProblem(Exception):
    """Base class of every error that a user of training can act on. Its text is a sentence that says what to do."""
