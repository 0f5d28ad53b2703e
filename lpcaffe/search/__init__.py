"""The search for small widths: trials, sensitivity, strategies."""
