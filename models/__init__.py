"""Tensors in, tensors out: encoders, fusions, MMCosine and the classifier made of them."""

from models.classifier import AVClassifier, ClassifierOutput, MultimodalClassifier, SpeakerClassifier
from models.contrastive import contrastive_loss
from models.mmcosine import mmcosine_logits, scale_lower_bound

__all__ = ["AVClassifier", "ClassifierOutput", "MultimodalClassifier", "SpeakerClassifier", "contrastive_loss",
           "mmcosine_logits", "scale_lower_bound"]
