"""Tensors in, tensors out: encoders, fusions, MMCosine and the classifier made of them."""

from importlib import import_module

# Imported when first used: torchvision takes a second, which --help need not wait for.
MODULES = {"AVClassifier": "classifier", "ClassifierOutput": "classifier", "MultimodalClassifier": "classifier",
         "SpeakerClassifier": "classifier", "contrastive_loss": "contrastive", "ENCODERS": "encoders",
         "make_encoders": "encoders", "mmcosine_logits": "mmcosine", "scale_lower_bound": "mmcosine"}
__all__ = list(MODULES)


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
