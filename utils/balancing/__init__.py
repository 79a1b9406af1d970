"""Balancing methods beside MMCosine, by the name that --modulation takes: a file each, a line each here."""

from utils.balancing.gradient_blending import GradientBlending
from utils.balancing.method import Method, Trial
from utils.balancing.ogm import Ogm, OgmGe
from utils.balancing.pmr import Pmr

METHODS = {"none": Method, "ogm": Ogm, "ogm_ge": OgmGe, "gblend": GradientBlending, "pmr": Pmr}
__all__ = ["METHODS", "Method", "Trial"]
