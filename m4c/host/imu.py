"""Motion recordings: six channels (accelerometer and gyroscope, three axes each), cut into windows."""

from pathlib import Path

import numpy as np

from m4c.errors import UsageError

Array = np.ndarray


def read_imu(path: Path, channels: int = 6) -> Array:
    """Return a recording (channels, samples), float32, from a ``.csv`` or ``.npy`` file.

    A CSV has one line a sample and one column a channel, and may start with a line of names. An array may have
    its channels first or last. The values are used as they come.

    Raises:
        UsageError: if the file is unreadable, has another number of channels, or a value is not a finite number.
    """
    match path.suffix.lower():
        case ".csv":
            recording = _read_csv(path)
        case ".npy":
            recording = _read_npy(path)
        case other:
            raise UsageError(
                f"not a motion recording: {other or 'no suffix'}", where=str(path), fix="give .csv or .npy"
            )
    return _checked(recording, channels, str(path))


def imu_windows(recording: Array, length: int = 2000) -> tuple[Array, ...]:
    """Return the whole windows of a recording (channels, samples), in order, each (1, channels, length), float32.

    What is left at the end is dropped.

    Raises:
        UsageError: if the recording is shorter than one window.
    """
    samples = recording.shape[1]
    if samples < length:
        raise UsageError(
            f"the recording has {samples} samples, one window has {length}",
            fix="record longer, or resample it",
        )
    cut = recording.astype(np.float32)
    return tuple(cut[None, :, at : at + length] for at in range(0, samples - length + 1, length))


def _checked(recording: Array, channels: int, where: str) -> Array:
    """Return the recording with channels first, if it has the right number of them and only finite values."""
    if recording.ndim != 2 or channels not in recording.shape:
        raise UsageError(
            f"the recording has shape {list(recording.shape)}, not {channels} channels",
            where=where,
            fix=f"give one line a sample with {channels} columns",
        )
    if recording.shape[0] != channels:
        recording = recording.T
    if not np.isfinite(recording).all():
        raise UsageError(
            "the recording has values that are not numbers", where=where, fix="fill or cut the gaps"
        )
    return recording.astype(np.float32)


def _read_csv(path: Path) -> Array:
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the recording: {error}", where=str(path), fix="give a CSV file"
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        cells = line.split(",")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            if number == 1:
                continue  # the line of names
            raise UsageError(
                str(error), where=f"{path}, sample line {number}", fix="give numbers only"
            ) from error
        if len(cells) != len(rows[0]):
            raise UsageError(
                f"{len(cells)} columns, the lines before have {len(rows[0])}",
                where=f"{path}, sample line {number}",
                fix="give every sample the same columns",
            )
    return np.array(rows, np.float64)


def _read_npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"cannot read the recording: {error}", where=str(path), fix="give a .npy file"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise UsageError("the array does not hold numbers", where=str(path), fix="save a float array")
    return array
