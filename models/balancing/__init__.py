"""Balancing methods beside MMCosine, by the name that --modulation takes: a file each, a line each here."""

from collections.abc import Mapping
from inspect import signature

from torch import nn

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


def make_method(name: str, model: nn.Module, settings: Mapping[str, object]) -> Method:
    """The method of this name for `model`, a MultimodalClassifier. Raises ValueError: its constructor refuses the
    settings, or does not take what its flags give."""
    taken = signature(METHODS[name]).parameters.keys() - {"model"}
    if taken != METHODS[name].uses():
        raise ValueError(f"the constructor of {METHODS[name].__name__} takes {', '.join(sorted(taken)) or 'nothing'} "
                         f"beside the model, its flags are {', '.join(sorted(METHODS[name].uses())) or 'none'}: give "
                         "each flag an argument of its name")
    return METHODS[name](model, **settings)


__all__ = ["METHODS", "METHOD_FLAGS", "Method", "make_method"]
