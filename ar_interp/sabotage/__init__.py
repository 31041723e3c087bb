"""Sabotaged and innocent models, and what the claims say of them: do they fail where, and only where, they must?"""

from ar_interp.sabotage.battery import BATTERY, run_battery
from ar_interp.sabotage.core import BatteryResult, Sabotage
from ar_interp.sabotage.sensitivity import Sensitivity, sensitivity

__all__ = ["BATTERY", "BatteryResult", "Sabotage", "Sensitivity", "run_battery", "sensitivity"]
