"""From raw Khmer and English text to a trained, evaluated, exported language model."""

import os
import sys

# The C++ libraries read these when they are loaded, which is later than this line: errors only, no start-up chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# `python -m tonsai_jax.train` takes seconds to import everything; Ctrl-C during that time is not an error to be traced.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = lambda kind, *error: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *error)
