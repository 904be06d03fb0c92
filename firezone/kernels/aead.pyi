import enum

import numpy as np
from numpy.typing import NDArray

KEY_SIZE: int
TAG_SIZE: int
MAX_LENGTH: int

class CpuFeatures(enum.IntFlag):
    AVX2 = 1
    AVX512 = 2

def cpu_features() -> CpuFeatures: ...
def force_features(mask: int | None) -> CpuFeatures: ...
def seal_many(
    slab: NDArray[np.uint8],
    offset: NDArray[np.uint32],
    length: NDArray[np.uint32],
    keys: NDArray[np.uint8],
    counter: NDArray[np.uint64],
) -> None: ...
def open_many(
    slab: NDArray[np.uint8],
    offset: NDArray[np.uint32],
    length: NDArray[np.uint32],
    keys: NDArray[np.uint8],
    counter: NDArray[np.uint64],
) -> NDArray[np.bool_]: ...
