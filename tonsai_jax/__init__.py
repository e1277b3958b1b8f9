"""From raw Khmer and English text to a trained, evaluated, exported language model."""

import os

# The C++ libraries read these when they are loaded, which is later than this line: errors only, no start-up chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
