"""Triton kernels, one file per op family; installed as ``vlae_fast.kernels``."""

# "kernels" is the name of another project's package: found by accident on sys.path, this folder must not pass for it.
if __name__ == "kernels":
    raise ImportError("this folder is vlae_fast.kernels: run `pip install -e .` and import it under that name")
