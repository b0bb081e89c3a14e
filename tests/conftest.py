"""Fixtures for golden numbers and real video: skipped when their variable is unset, a failure when it points nowhere."""

import os
from pathlib import Path

import pytest


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs {variable}")
        pytest.skip(f"{variable} is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is no folder")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers."""
    return _folder("SEMIVSS_GOLDEN")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid in the VSPW layout."""
    return _folder("SEMIVSS_CAMVID")
