"""What figures have in common: sheets, scales, labels, notes."""
