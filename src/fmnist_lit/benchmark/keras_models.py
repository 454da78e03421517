"""The five models in Keras, layer by layer the same, for a comparison of speed."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from fmnist_lit.benchmark.work import Work

MLPS = {"mlp4": ((500, 250, 250), "relu"), "mlp_custom": ((900, 500, 450, 250), "leaky_relu")}


def hidden(width: int, activation: str) -> list[Any]:
    """Return a hidden layer with activation and dropout."""
    return [layers.Dense(width), layers.Activation(activation), layers.Dropout(0.2)]


def convolution(filters: int, padded_width: bool = True) -> list[Any]:
    """Return a 3x3 convolution; without a padded width it is padded above and below alone."""
    if padded_width:
        return [layers.Conv2D(filters, 3, padding="same")]
    return [layers.ZeroPadding2D((1, 0)), layers.Conv2D(filters, 3)]


def model_layers(name: str) -> list[Any]:
    """Return the layers of one of the five models; logits out, but for cnn_b's softmax."""
    if name in MLPS:
        widths, activation = MLPS[name]
        stack = [layer for width in widths for layer in hidden(width, activation)]
        return [layers.Flatten(), *stack, layers.Dense(10)]
    if name == "cnn_a":
        block = [layers.BatchNormalization, layers.ReLU, layers.MaxPooling2D]
        blocks = [part for _ in range(2) for part in [*convolution(4), *(kind() for kind in block)]]
        return [*blocks, layers.Flatten(), layers.Dense(10)]
    first = [*convolution(32, padded_width=False), layers.ReLU(), layers.MaxPooling2D()]
    if name == "cnn_b":
        return [*first, layers.Flatten(), layers.Dense(100, "relu"), layers.Dense(10), layers.Softmax()]
    second = [*convolution(4), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    return [
        *first,
        *second,
        layers.Flatten(),
        *hidden(100, "leaky_relu"),
        *hidden(150, "leaky_relu"),
        layers.Dense(10),
    ]


def fit(work: Work, pixels: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Return a measurement of ``model.fit`` over one epoch, arrays in memory; the seconds of its steps."""
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    tf.config.threading.set_inter_op_parallelism_threads(work.threads)
    model = keras.Sequential([layers.Input((28, 28, 1)), *model_layers(work.model)])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    pixels = pixels[..., None]

    def measure() -> float:
        started = time.perf_counter()
        model.fit(pixels, labels, batch_size=work.batch_size, epochs=1, verbose=0)
        return time.perf_counter() - started

    return measure
