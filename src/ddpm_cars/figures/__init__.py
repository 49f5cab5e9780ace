"""Grids and curves as PNG files, in one style."""
