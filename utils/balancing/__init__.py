"""Balancing methods beside MMCosine, by the name that --modulation takes: a file each, a line each here."""

from utils.balancing.agm import Agm
from utils.balancing.dgl import Dgl
from utils.balancing.gradient_blending import GradientBlending
from utils.balancing.inforeg import InfoReg
from utils.balancing.lfm import Lfm
from utils.balancing.mcr import Mcr
from utils.balancing.method import Method
from utils.balancing.mla import Mla
from utils.balancing.mmpareto import MMPareto
from utils.balancing.mslr import Mslr
from utils.balancing.multiloss import MultiLoss
from utils.balancing.ogm import Ogm, OgmGe
from utils.balancing.opm import Opm
from utils.balancing.pmr import Pmr
from utils.balancing.reconboost import ReconBoost
from utils.balancing.relearning import Relearning
from utils.balancing.umt import Umt

METHODS = {
    "none": Method,
    "ogm": Ogm,
    "ogm_ge": OgmGe,
    "gblend": GradientBlending,
    "pmr": Pmr,
    "multiloss": MultiLoss,
    "mmpareto": MMPareto,
    "agm": Agm,
    "mla": Mla,
    "lfm": Lfm,
    "dnr": Relearning,
    "mcr": Mcr,
    "dgl": Dgl,
    "opm": Opm,
    "inforeg": InfoReg,
    "mslr": Mslr,
    "reconboost": ReconBoost,
    "umt": Umt,
}
METHOD_FLAGS = {flag.name: flag for method in METHODS.values() for flag in method.flags}
__all__ = ["METHODS", "METHOD_FLAGS", "Method"]
