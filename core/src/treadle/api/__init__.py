"""PyTorch's signatures over the catalogue: functions of the package and methods of Tensor, one module per theme."""
