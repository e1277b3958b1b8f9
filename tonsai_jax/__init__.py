"""From raw Khmer and English text to a trained, evaluated, exported language model."""

import os
import sys

# The C++ libraries read these when they are loaded, which is later than this line: errors only, no start-up chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# A command takes seconds to import everything. At this line the first word is still "-m" for `python -m tonsai_jax.train`.
if sys.argv[:1] == ["-m"] or [os.path.basename(word) for word in sys.argv[:1]] == ["tonsai"]:
    from tonsai_jax.interrupts import end_at_signals

    end_at_signals()
    # A closed stdout or stderr (`>&-`) would be the next file that is opened: warnings of C++ libraries would go into it.
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
