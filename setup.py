"""What pyproject.toml cannot say: the CUDA kernels and the build recipes are installed inside the package."""

from setuptools import find_namespace_packages, setup

MOVED = {"glip_export.trt.kernel_sources": "plugins/kernels", "glip_export.trt.recipes": "engines"}

setup(packages=[*find_namespace_packages(include=["glip_export*"]), *MOVED], package_dir=MOVED)
