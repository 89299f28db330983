"""Pictures with lines: curves, curvature, histories, histograms."""
