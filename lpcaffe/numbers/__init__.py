"""Number formats, one file each, and the rounding that puts values into them."""
