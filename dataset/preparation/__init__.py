"""What the prepare scripts share."""
