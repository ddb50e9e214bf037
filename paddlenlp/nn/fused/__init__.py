"""The operations of external_ops that have matrix products of their own, as `nn/kernels.py` wants them: float32 on
a CPU. What they can't do is left to `nn/cpu`."""
