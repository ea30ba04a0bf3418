"""Which parts of M4 each of the 50 tasks switches on: the paper's four paths, numbered as its section 3.3 numbers them."""

from dataclasses import dataclass

PATHS = {
    1: "encoders, backbone and generator",
    2: "encoders alone",
    3: "backbone and generator",
    4: "a generator alone",
}
"""What is on."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one task switches on."""

    path: int
    """A key of ``PATHS``."""
    submodels: tuple[str, ...]
    """In the order in which they run."""

    @property
    def adapted(self) -> str:
        """The sub-model that the task's adapter is for: the backbone where it is on, else the first part."""
        return "backbone" if "backbone" in self.submodels else self.submodels[0]


TEXT = Parts(3, ("backbone", "gen_dec"))
IMAGE = Parts(2, ("img_enc", "txt_enc"))
SOUND = Parts(2, ("aud_b_enc", "txt_enc"))
MOTION = Parts(2, ("imu_enc", "txt_enc"))
SPEECH = Parts(1, ("aud_i_enc", "backbone", "gen_dec"))
SOUND_TO_TEXT = Parts(1, ("aud_b_enc", "projection", "backbone", "gen_dec"))
IMAGE_TO_TEXT = Parts(1, ("img_enc", "projection", "backbone", "gen_dec"))

_OTHERS = {
    "T17": Parts(4, ("img_dec",)),
    "T18": Parts(2, ("img_enc", "img_dec")),
    "T41": Parts(4, ("tts_dec",)),
    "T48": Parts(2, ("aud_b_enc", "img_dec")),
}

_SPANS = (
    (1, 13, TEXT),
    (14, 31, IMAGE),
    (32, 34, SPEECH),
    (35, 36, SOUND),
    (37, 37, SPEECH),
    (38, 40, MOTION),
    (42, 43, SOUND_TO_TEXT),
    (44, 45, IMAGE_TO_TEXT),
    (46, 47, IMAGE),
    (49, 50, IMAGE_TO_TEXT),
)

PARTS = {f"T{task}": parts for first, last, parts in _SPANS for task in range(first, last + 1)} | _OTHERS
"""The parts of each task. The path is the paper's, or that of the authors' release where the paper names none. Which
encoder and which generator it is follows from what the task takes and gives; T18 and T48 make images without the backbone."""
