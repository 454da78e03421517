"""Image classification on Fashion-MNIST: conf -> one run -> run directory -> readers."""

__version__ = "0.1.0"
