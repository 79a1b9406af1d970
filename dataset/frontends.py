"""What turns a batch as the workers hand it over into network input, on the device: B clips, N samples, T frames."""

import librosa
import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
