"""The paper's results in percent, shown beside runs with the same settings.

Xu, Feng, Zhang, Hu: MMCosine (ICASSP 2023, arXiv 2303.05338), Table 1, the s sweeps and the supplement's contrastive
loss: top-1 accuracy of CREMA-D and SSW60, equal error rate of VoxCeleb. The weight of the contrastive loss, and the
scale of some runs, is not published.
"""

from collections.abc import Mapping

ANY = -1.0  # in place of a scale that is not published
PLAIN = None  # in place of the scale of a run without MMCosine

# {(dataset, size of the test set): {(fusion, scale): result}} of both modalities; sizes in test clips, or trials of the
# first list
RESULTS = {
    ("CREMAD", 744): {
        ("concat", PLAIN): 60.08, ("film", PLAIN): 59.68, ("gated", PLAIN): 60.48,
        ("concat", 2): 63.44, ("concat", 5): 61.69, ("concat", 10): 59.82, ("concat", 30): 62.09,
        ("film", ANY): 61.42, ("gated", ANY): 66.40},
    ("SSW60", 1938): {
        ("concat", PLAIN): 73.32, ("film", PLAIN): 71.67, ("gated", PLAIN): 70.64,
        ("concat", 10): 73.58, ("concat", 20): 75.95, ("concat", 30): 74.87, ("concat", 40): 73.85,
        ("film", 20): 74.30, ("gated", 20): 75.70},
    ("VoxCeleb", 27270): {
        ("concat", PLAIN): 6.81, ("film", PLAIN): 11.50, ("gated", PLAIN): 10.39,
        ("concat", 10): 4.26, ("film", 10): 8.03, ("gated", 10): 5.34},
    ("VoxCeleb", 9822): {
        ("concat", PLAIN): 6.21, ("film", PLAIN): 8.31, ("gated", PLAIN): 7.76,
        ("concat", 10): 4.13, ("concat", 20): 4.91, ("concat", 30): 5.50, ("concat", 40): 5.91,
        ("film", 10): 4.58, ("gated", 10): 4.30},
}
# {modality: {(fusion, scale): result}} of split 1; fusion and scale are not published: shown beside concat at any scale
UCF_SIZE = 3783
UCF_RESULTS = {"rgb+flow": {("concat", PLAIN): 81.15, ("concat", ANY): 82.02},
               "all": {("concat", PLAIN): 82.29, ("concat", ANY): 83.22}}
CONTRASTIVE_RESULTS = {("CREMAD", 744): {("concat", PLAIN): 61.56, ("concat", ANY): 64.02}}
# The paper's settings beside those in RESULTS; ResNet-18 encoders where no other is named.
SETTINGS = {
    "CREMAD": {"imagenet": False, "audio_pretrain": None, "visual_pretrain": None, "audio_frontend": "mmcosine"},
    "SSW60": {},
    "UCF101": {"rgb_encoder": "resnet18", "flow_encoder": "resnet18", "difference_encoder": "resnet18"},
    "VoxCeleb": {"audio_encoder": "se_resnet34", "visual_encoder": "resnet34", "imagenet": False},
}


def paper_result(settings: Mapping[str, object], size: int | None) -> float | None:
    """The paper's result (percent) for these settings, named as the flags, on a test set of `size` clips or trials;
    None where it has none, as for epochs chosen on validation data."""
    results = results_of(settings, size)
    if not results or settings["modulation"] != "none" or settings.get("val_fraction"):
        return None
    if settings["dataset"] == "SSW60" and not (settings.get("audio_pretrain") and settings.get("visual_pretrain")):
        return None  # the paper's encoders are pretrained
    paper = {"audio_encoder": "resnet18", "visual_encoder": "resnet18", "freeze_encoders": False,
             **SETTINGS.get(settings["dataset"], {})}
    if any(settings.get(name, value) != value for name, value in paper.items()):
        return None
    fusion = settings["fusion_method"]
    if not settings["mmcosine"]:
        return results.get((fusion, PLAIN))
    return results.get((fusion, settings["scaling"]), results.get((fusion, ANY)))


def results_of(settings: Mapping[str, object], size: int | None) -> Mapping[tuple[str, float | None], float]:
    """The paper's results on this test set with these modalities, and with or without the contrastive loss."""
    if settings["dataset"] == "UCF101":
        return UCF_RESULTS.get(settings["modality"], {}) if size == UCF_SIZE and not settings["lam"] else {}
    if settings["modality"] != "both":
        return {}
    return (CONTRASTIVE_RESULTS if settings["lam"] else RESULTS).get((settings["dataset"], size), {})


# of the test set, or the first trial list
SIZES = {"CREMAD": 744, "SSW60": 1938, "UCF101": UCF_SIZE, "VoxCeleb": 27270}


def published(settings: Mapping[str, object]) -> float | None:
    """`paper_result` as if the test set were the paper's; None for settings and data sets without one."""
    return paper_result(settings, SIZES.get(str(settings["dataset"])))
