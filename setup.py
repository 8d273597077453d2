"""What pyproject.toml cannot say: the CUDA kernels of plugins/kernels are installed inside the package."""

from setuptools import find_namespace_packages, setup

KERNELS = "glip_export.trt.kernel_sources"

setup(
    packages=[*find_namespace_packages(include=["glip_export*"]), KERNELS],
    package_dir={KERNELS: "plugins/kernels"},
)
