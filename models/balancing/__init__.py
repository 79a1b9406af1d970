"""Balancing methods beside MMCosine, by the name that --modulation takes: a file each, a line each here."""

from .agm import Agm
from .arl import Arl
from .dgl import Dgl
from .gradient_blending import GradientBlending
from .inforeg import InfoReg
from .lfm import Lfm, LfmLearned
from .mcr import Mcr
from .method import Method
from .mla import Mla
from .mlb import Mlb
from .mmpareto import MMPareto
from .mslr import Mslr
from .multiloss import MultiLoss
from .ogm import Ogm, OgmGe
from .opm import Opm
from .pmr import Pmr
from .reconboost import ReconBoost
from .relearning import Relearning
from .remix import Remix
from .tcmax import TcMax
from .umt import Umt

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
    "lfm_learned": LfmLearned,
    "dnr": Relearning,
    "mcr": Mcr,
    "dgl": Dgl,
    "opm": Opm,
    "inforeg": InfoReg,
    "mslr": Mslr,
    "reconboost": ReconBoost,
    "umt": Umt,
    "mlb": Mlb,
    "arl": Arl,
    "remix": Remix,
    "tcmax": TcMax,
}
METHOD_FLAGS = {flag.name: flag for method in METHODS.values() for flag in method.flags}
__all__ = ["METHODS", "METHOD_FLAGS", "Method"]
