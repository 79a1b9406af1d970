"""Tensors in, tensors out: encoders, fusions, MMCosine, the classifier made of them, and balancing methods.

`pip install .` makes this folder the package `mmcosine`; docs/library.md has examples.
"""

from importlib import import_module

# Imported when first used: torchvision takes a second, which --help need not wait for.
MODULES = {"AVClassifier": "classifier", "ClassifierOutput": "classifier", "MultimodalClassifier": "classifier",
           "SpeakerClassifier": "classifier", "contrastive_loss": "contrastive", "ENCODERS": "encoders",
           "make_encoders": "encoders", "FUSIONS": "fusion", "MMCosineHead": "mmcosine",
           "mmcosine_logits": "mmcosine", "scale_lower_bound": "mmcosine", "METHODS": "balancing",
           "Learner": "balancing.learner", "Clips": "balancing.method", "Method": "balancing.method",
           "MethodError": "balancing.method"}
__all__ = list(MODULES)


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
