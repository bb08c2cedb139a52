"""Fixtures that all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gin
import pytest
import tensorflow as tf

# Two logical devices, so that strategies with several replicas run on any machine.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def clean_gin():
    """gin keeps one global configuration; no test sees another's."""
    gin.clear_config()
    yield
    gin.clear_config()
