"""Which part of theory speaks of a (config, process), and all that it says of them.

    setting = setting_of(config, process)       # a Setting, or a Silent one that says why_not
    setting.minimum, setting.exact_loss(parameters), setting.hypothesis, setting.sentence("context")

This is the one place that decides it: training, probes, claims, figures, report and explorer ask here. A part of theory
of your own is a subclass of `Setting` in a module of your own.
"""

from ar_interp.setting.augmented import FirstTokenLaw as FirstTokenLaw
from ar_interp.setting.augmented import GradientStep as GradientStep
from ar_interp.setting.augmented import HaarStack as HaarStack
from ar_interp.setting.base import ESTIMATED as ESTIMATED
from ar_interp.setting.base import EXACT as EXACT
from ar_interp.setting.base import NONE as NONE
from ar_interp.setting.base import ExpectedLoss as ExpectedLoss
from ar_interp.setting.base import Setting as Setting
from ar_interp.setting.base import Silent as Silent
from ar_interp.setting.base import setting_of as setting_of
from ar_interp.setting.chains import ChainPredictors as ChainPredictors
from ar_interp.setting.diagonal import DiagonalHeads as DiagonalHeads
from ar_interp.setting.diagonal import OneCoordinate as OneCoordinate
from ar_interp.setting.merged import Emergence as Emergence
from ar_interp.setting.noise import NoisyHeads as NoisyHeads
from ar_interp.setting.noise import NoisyStack as NoisyStack
from ar_interp.setting.noise import NoisyStep as NoisyStep
from ar_interp.setting.plain import PaperFigure as PaperFigure
from ar_interp.setting.plain import PlainHeads as PlainHeads
from ar_interp.setting.regression import RegressionPrompts as RegressionPrompts
from ar_interp.setting.regression import SoftmaxPrompts as SoftmaxPrompts
