"""Fixtures that all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import pytest


@pytest.fixture(autouse=True)
def clean_gin():
    """gin keeps one global configuration; no test sees another's."""
    gin.clear_config()
    yield
    gin.clear_config()
