"""Does a run repeat?  Some of its steps are taken again and compared with what it wrote down.

    python -m wan_alpha.verify RUN [steps=N] [tolerance=1e-4]

RUN is a run directory, finished or still running.  The steps begin at its second newest checkpoint (or at the start),
on one device, with the recorded configuration and global batch, in a temporary directory; RUN is not touched.  Exit
code 0: everything is the same within the tolerance, 1: something is not, or it cannot be told.
"""

from __future__ import annotations

import sys

from wan_alpha.command import ConfigError, run_command
from wan_alpha.training.config import RunConfig

USAGE = "usage: python -m wan_alpha.verify RUN [steps=N] [tolerance=1e-4]"


def main(arguments: list[str]) -> bool:
    """Replay and report; whether all is the same.

    Raises:
        ConfigError: the arguments are not these.
        CheckpointError: RUN is no run, or has nothing to compare with.
    """
    given = [word for word in arguments if word.startswith(("steps=", "tolerance="))]
    places = [word for word in arguments if word not in given]
    if len(places) != 1:
        raise ConfigError(USAGE)
    options = dict(word.split("=", 1) for word in given)
    try:
        steps, tolerance = int(options.get("steps", 0)), float(options.get("tolerance", 1e-4))
    except ValueError as error:
        raise ConfigError(f"{error}; {USAGE}") from None
    if steps < 0:
        raise ConfigError(f"steps={steps}: expected at least 1, or 0 for all up to the newest checkpoint")
    from wan_alpha.training.replay import verify  # after the check: a typo should not wait for the imports

    return verify(places[0], steps, tolerance)


if __name__ == "__main__":
    same = False

    def command() -> None:
        global same
        same = main(sys.argv[1:])

    run_command(command, RunConfig, "nothing was changed")
    sys.exit(0 if same else 1)
