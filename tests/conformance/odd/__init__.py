"""Three correct backends that are unlike the CPU: without strides, without host memory, without waiting.

They test the seam.
"""
