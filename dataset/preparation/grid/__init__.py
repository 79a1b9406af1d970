"""What scripts/prepare_grid.py makes of the GRID corpus: words, babble over them, and data sets by folds and levels."""
