"""Questions that were asked once, with the code that answered them: python -m studies.NAME."""
