"""A page to try it: `python -m wan_alpha.demo`."""
