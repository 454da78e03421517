"""The five models in Keras, layer by layer the same, for a comparison of speed."""

from typing import Any

import keras
import tensorflow as tf
from keras import layers


def hidden(activation: str, *widths: int) -> list[Any]:
    """Return hidden layers with activation and dropout."""
    kinds = [(layers.Dense(width), layers.Activation(activation), layers.Dropout(0.2)) for width in widths]
    return [layer for of_width in kinds for layer in of_width]


def block(filters: int) -> list[Any]:
    """Return a 3x3 convolution with batch normalization, ReLU and pooling."""
    convolution = layers.Conv2D(filters, 3, padding="same")
    return [convolution, layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]


def model_layers(name: str) -> list[Any]:
    """Return the layers of one of the five models; logits out, but for cnn_b's softmax."""
    flat, logits = layers.Flatten(), layers.Dense(10)
    if name == "mlp4":
        return [flat, *hidden("relu", 500, 250, 250), logits]
    if name == "mlp_custom":
        return [flat, *hidden("leaky_relu", 900, 500, 450, 250), logits]
    if name == "cnn_a":
        return [*block(4), *block(4), flat, logits]
    # Padded above and below alone.
    first = [layers.ZeroPadding2D((1, 0)), layers.Conv2D(32, 3), layers.ReLU(), layers.MaxPooling2D()]
    if name == "cnn_b":
        return [*first, flat, layers.Dense(100, "relu"), logits, layers.Softmax()]
    return [*first, *block(4), flat, *hidden("leaky_relu", 100, 150), logits]


def compiled(name: str, threads: int) -> Any:
    """Return one of the five models, ready for ``fit``."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = keras.Sequential([layers.Input((28, 28, 1)), *model_layers(name)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"])
    return model
