"""What the command lines share: option types, device identity, token file, start and end of a program."""

import os

# numpy starts a thread per core for linear algebra that no program here does; they would spin and hold memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
