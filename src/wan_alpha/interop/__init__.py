"""Other people's checkpoints, in and out: `python -m wan_alpha.interop.official --help`."""
