"""The paper's figures, in percent, for the tables that stand runs beside them.

Xu, Feng, Zhang, Hu: MMCosine (ICASSP 2023, arXiv 2303.05338), Table 1, the s sweeps and the supplement's contrastive
loss: top-1 % of CREMA-D and SSW60, equal error rate % of VoxCeleb. How strong the contrastive loss was, and the scale
of some runs, is not published.
"""

from collections.abc import Mapping

ANY = -1.0  # in place of a scale that nobody published
PLAIN = None  # in place of the scale of a run without MMCosine

# Figures stand beside those of a test set of the same size only: test clips, or trials of the first list.
FUSIONS = {  # {(dataset, size of the test set): {(fusion, scale): figure}}
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
CONTRASTIVE = {("CREMAD", 744): {("concat", PLAIN): 61.56, ("concat", ANY): 64.02}}


def published(settings: Mapping[str, object], size: int) -> float | None:
    """The paper's figure (percent) for a run with these settings, names as the flags, on a test set of `size` clips or
    trials; None where it has none."""
    if settings["modality"] != "both" or settings["modulation"] != "none":
        return None
    figures = (CONTRASTIVE if settings["lam"] else FUSIONS).get((settings["dataset"], size), {})
    fusion = settings["fusion_method"]
    if not settings["mmcosine"]:
        return figures.get((fusion, PLAIN))
    return figures.get((fusion, settings["scaling"]), figures.get((fusion, ANY)))
