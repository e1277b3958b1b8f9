"""The names that a config may choose among, known to the config that checks them and to the code that acts on them."""

OPTIMIZERS = ("adamw", "muon", "lion", "adafactor")
SCHEDULES = ("cosine", "wsd", "linear")
OBJECTIVES = ("next_token", "dpo", "ipo")
MU_DTYPES = ("float32", "bfloat16")
OPTIMIZATION_LEVELS = ("auto", "default", "O0", "O1", "O2", "O3")
SPIKE_ACTIONS = ("warn", "skip", "roll_back")
