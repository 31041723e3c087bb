"""Figures of every model, whether theory speaks of it or not."""

from ar_interp.studies.base import Study

STUDY = Study(
    name="any model",
    source="",
    question="What does the model hold, and what does it do with it?",
    covers=lambda setting: True,
)
