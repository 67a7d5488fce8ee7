"""The reduced ResNet-18 of the online literature (Lopez-Paz & Ranzato, NeurIPS 2017), in PyTorch.

A 3 x 3 convolution, four stages of two residual blocks of widths w, 2w, 4w, 8w (the last three begin with stride 2),
batch normalisation after every convolution, and the mean over the image: 8w features.

In training, batch normalisation uses the moments of the stream and the replayed events together, which run through the
network as one batch; in predictions its running moments, which are state. A prediction is computed for one image at a
time and everything in one thread: products of other shapes, or on other numbers of threads, have other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import relu

from learners.cells.base import Draws


@contextmanager
def one_thread() -> Iterator[None]:
    """What PyTorch computes inside, it computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, 3, stride), _conv(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.past = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(self.second(relu(self.first(x))) + self.past(x))


def _network(channels: int, width: int) -> nn.Module:
    blocks, inputs = [], width
    for stage, outputs in enumerate((width, 2 * width, 4 * width, 8 * width)):
        blocks += [_Block(inputs, outputs, 1 if stage == 0 else 2), _Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(_conv(channels, width, 3, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _shaped(flat: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """A view of the array with that shape; filters have their channels last, which convolutions are faster with."""
    if len(shape) != 4:
        return torch.from_numpy(flat).view(shape)
    filters, channels, height, width = shape
    return torch.from_numpy(flat).view(filters, height, width, channels).permute(0, 3, 1, 2)


class ResNet:
    """The network as a `learners.replay.classifier.Body`; its weights and gradient are flat arrays.

    Initial weights are those of PyTorch's convolutions in distribution: uniform in (-1/sqrt(inputs), 1/sqrt(inputs)).
    """

    def __init__(self, image: tuple[int, int, int], width: int, seed: int, dtype: np.dtype) -> None:
        self.size, self._image = 8 * width, image
        kind = torch.float64 if dtype == np.float64 else torch.float32
        self._net = _network(image[0], width).to(kind)
        parameters = list(self._net.parameters())
        self.theta = np.zeros(sum(p.numel() for p in parameters), dtype)
        self.gradient = np.zeros_like(self.theta)
        at = 0
        for number, parameter in enumerate(parameters):
            part, shape = slice(at, at + parameter.numel()), tuple(parameter.shape)
            if len(shape) == 4:
                bound = float(np.prod(shape[1:])) ** -0.5
                self.theta[part] = Draws(seed, number).uniform(0, parameter.numel(), low=-bound, high=bound)
            else:
                self.theta[part] = parameter.detach().numpy()
            parameter.data = _shaped(self.theta[part], shape)
            parameter.grad = _shaped(self.gradient[part], shape)
            at = part.stop
        named = self._net.named_buffers()
        self._moments = [buffer for name, buffer in named if name.endswith(("running_mean", "running_var"))]

    def _run(self, x: np.ndarray, train: bool) -> torch.Tensor:
        self._net.train(train)
        images = torch.from_numpy(np.ascontiguousarray(x)).view(len(x), *self._image)
        return self._net(images.contiguous(memory_format=torch.channels_last))

    def forward(self, x: np.ndarray, train: bool, inferred: int = 0) -> np.ndarray:
        """See `Body`."""
        with one_thread():
            self._out = self._run(x, train)
        return self._out.detach().numpy()

    def infer(self, x: np.ndarray) -> np.ndarray:
        """See `Body`."""
        out = np.empty((len(x), self.size), self.theta.dtype)
        with one_thread(), torch.no_grad():
            for row in range(len(x)):
                out[row] = self._run(x[row : row + 1], False)[0].numpy()
        return out

    def backward(self, d: np.ndarray) -> None:
        """See `Body`."""
        self.gradient[:] = 0
        with one_thread():
            self._out.backward(torch.from_numpy(d))
        del self._out

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Body`: weights, and the running moments of batch normalisation."""
        return {"body": self.theta, "body.moments": torch.cat(self._moments).numpy()}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """See `Body`."""
        self.theta[:] = arrays["body"]
        at = 0
        for buffer in self._moments:
            part = arrays["body.moments"][at : at + len(buffer)]
            buffer.copy_(torch.from_numpy(np.array(part)))
            at += len(buffer)


@cache
def numerics() -> dict[str, str]:
    """What the bits of a fold with this network depend on: PyTorch, what it uses of the processor, a canned step."""
    net = ResNet((3, 8, 8), 4, 0, np.dtype(np.float32))
    x = ((np.arange(4 * 192) * 7) % 23 / 11.0 - 1.0).reshape(4, 192).astype(np.float32)
    net.backward(np.ones_like(net.forward(x, True)))
    sha = hashlib.sha256(net.gradient.tobytes() + net.infer(x).tobytes())
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": f"{torch.__version__}, {capability}, 1 thread", "resnet": sha.hexdigest()[:16]}
