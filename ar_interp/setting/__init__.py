"""Which part of theory speaks of a (config, process), and all that it says of them.

    setting = setting_of(config, process)       # a Setting, or a Silent one that says why_not
    setting.minimum, setting.exact_loss(parameters), setting.hypothesis, setting.sentence("context")

This is the one place that decides it: training, probes, claims, figures, report and explorer ask here. A part of theory
of your own is a subclass of `Setting` in a module of your own.
"""

from ar_interp.setting.augmented import FirstTokenLaw, GradientStep, HaarStack
from ar_interp.setting.base import ESTIMATED, EXACT, NONE, ExpectedLoss, Setting, Silent, setting_of
from ar_interp.setting.diagonal import DiagonalHeads, OneCoordinate
from ar_interp.setting.plain import PaperFigure, PlainHeads

__all__ = [
    "ESTIMATED",
    "EXACT",
    "NONE",
    "DiagonalHeads",
    "ExpectedLoss",
    "FirstTokenLaw",
    "GradientStep",
    "HaarStack",
    "OneCoordinate",
    "PaperFigure",
    "PlainHeads",
    "Setting",
    "Silent",
    "setting_of",
]
