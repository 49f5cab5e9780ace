"""Betas from a file: the variances of the noise steps of a schedule that has no name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError


def read_betas(name: str) -> tuple[float, ...]:
    """Read betas from a file.

    Args:
        name: A .npy file without pickles; else text: a list in JSON, or one number per line, where empty lines and
            lines that begin with # count for nothing.

    Raises:
        UserError: If it cannot be read, or holds anything but a list of numbers.
    """
    path, said = Path(name), f"trained_betas {name}"
    try:
        content = path.read_bytes()
        if path.suffix == ".npy":
            return _from_array(said, path)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{said} cannot be read ({error.strerror or error}); give a file of betas") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{said} is neither text nor a .npy file; save the betas as one of the two") from error
    if text.lstrip().startswith(("[", "{")):
        return _from_json(said, text)
    betas = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                betas.append(float(line))
            except ValueError as error:
                raise UserError(
                    f"{said}, line {number}: {line.strip()[:80]} is no number; write one a line"
                ) from error
    return tuple(betas)


def _from_array(said: str, path: Path) -> tuple[float, ...]:
    # It takes a while to import, and few need it.
    import numpy as np

    try:
        betas = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{said} is no array ({reason}); save the betas with numpy.save") from error
    if betas.ndim != 1 or betas.dtype.kind not in "fiu":
        raise UserError(f"{said} is an array of {betas.dtype}, shape {betas.shape}; it must be a list of numbers")
    return tuple(betas.astype(np.float64).tolist())


def _from_json(said: str, text: str) -> tuple[float, ...]:
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise UserError(f"{said} cannot be read as JSON: {error}") from error
    wrong = not isinstance(values, list) or any(type(value) not in (int, float) for value in values)
    if wrong:
        raise UserError(f"{said} holds something else than a list of numbers; write it as [0.0001, 0.0002, ...]")
    return tuple(float(value) for value in values)


def check_betas(said: str, betas: Sequence[float]) -> None:
    """Raise UserError, which begins with `said`, if betas are no variances of noise steps.

    All must lie in (0, 1); the last may be 1, which ends in pure noise.
    """
    if not betas:
        raise UserError(f"{said} holds no betas")
    for number, beta in enumerate(betas, 1):
        # NaN is not in order either.
        if not (0 < beta < 1 or (beta == 1 and number == len(betas))):
            raise UserError(f"{said}: beta {number} of {len(betas)} is {beta:g}; it must be inside (0, 1)")
