"""The reduced ResNet-18 of the online literature (Lopez-Paz & Ranzato, NeurIPS 2017), in PyTorch.

A 3 x 3 convolution, four stages of two residual blocks of widths w, 2w, 4w, 8w (the last three begin with stride 2),
batch normalisation after every convolution, and the mean over the image: 8w features.

In training, batch normalisation uses the moments of the stream and the replayed events together, which run through the
network as one batch; in predictions its running moments, which are state. There a convolution and its normalisation are
one convolution with other weights. A prediction is computed for one image at a time and everything in one thread:
products of other shapes, or on other numbers of threads, have other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, relu

from learners.cells.base import Draws

if "AVX512" not in torch.backends.cpu.get_cpu_capability():
    # oneDNN of PyTorch 2.13.0 corrupts the heap in the way back of such convolutions with AVX2. For the whole process,
    # since the flag is no thread's own.
    torch.backends.mkldnn.set_flags(_enabled=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """What PyTorch computes inside, it computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_Absorbed = tuple[torch.Tensor, torch.Tensor, tuple[int, ...], Any]
"""Weights, biases, stride and padding of a convolution."""


class _Convolution(nn.Module):
    """A convolution and its normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x))

    def absorbed(self) -> _Absorbed:
        """The convolution that does alone what both do in predictions."""
        norm, mean, variance = self.norm, self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        weights = self.convolution.weight * scale[:, None, None, None]
        return weights, norm.bias - mean * scale, self.convolution.stride, self.convolution.padding


class _Block(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(inputs, outputs, 3, stride), _Convolution(outputs, outputs, 3, 1)
        self.past = None if inputs == outputs and stride == 1 else _Convolution(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(self.second(relu(self.first(x))) + (x if self.past is None else self.past(x)))

    def absorbed(self) -> tuple[_Absorbed, _Absorbed, _Absorbed | None]:
        """Its convolutions in predictions."""
        return self.first.absorbed(), self.second.absorbed(), None if self.past is None else self.past.absorbed()


class _Network(nn.Module):
    """All of it."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.entry, self.blocks, inputs = _Convolution(channels, width, 3, 1), nn.Sequential(), width
        for stage, outputs in enumerate((width, 2 * width, 4 * width, 8 * width)):
            self.blocks.append(_Block(inputs, outputs, 1 if stage == 0 else 2)).append(_Block(outputs, outputs, 1))
            inputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(relu(self.entry(x))).mean((2, 3))

    def absorbed(self) -> tuple[_Absorbed, list[tuple[_Absorbed, _Absorbed, _Absorbed | None]]]:
        """Its convolutions in predictions."""
        return self.entry.absorbed(), [block.absorbed() for block in self.blocks if isinstance(block, _Block)]


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
        self._net = _Network(image[0], width).to(kind)
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

    def _images(self, x: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(np.ascontiguousarray(x)).view(len(x), *self._image)
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, x: np.ndarray, train: bool, inferred: int = 0) -> np.ndarray:
        """See `Body`."""
        self._net.train(train)
        self._before = self._held_moments()
        with one_thread():
            self._out = self._net(self._images(x))
        return self._out.detach().numpy()

    def infer(self, x: np.ndarray) -> np.ndarray:
        """See `Body`."""
        out = np.empty((len(x), self.size), self.theta.dtype)
        with one_thread(), torch.no_grad():
            entry, blocks = self._net.absorbed()
            images = self._images(x)
            for row in range(len(x)):
                y = conv2d(images[row : row + 1], *entry).relu_()
                for first, second, past in blocks:
                    added = y if past is None else conv2d(y, *past)
                    y = conv2d(conv2d(y, *first).relu_(), *second).add_(added).relu_()
                out[row] = y.mean((2, 3))[0].numpy()
        return out

    def backward(self, d: np.ndarray) -> None:
        """See `Body`."""
        self.gradient[:] = 0
        with one_thread():
            self._out.backward(torch.from_numpy(d))
        del self._out
        if not np.isfinite(self._held_moments()).all():  # then the step is not finite either, and is not taken
            self._take_moments(self._before)  # not before the way back, for which PyTorch keeps them

    def _held_moments(self) -> np.ndarray:
        """The running moments of batch normalisation, in one array: a copy."""
        return torch.cat(self._moments).numpy()

    def _take_moments(self, moments: np.ndarray) -> None:
        at = 0
        for buffer in self._moments:
            buffer.copy_(torch.from_numpy(np.array(moments[at : at + len(buffer)])))
            at += len(buffer)

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Body`: weights, and the running moments of batch normalisation."""
        return {"body": self.theta, "body.moments": self._held_moments()}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """See `Body`."""
        self.theta[:] = arrays["body"]
        self._take_moments(arrays["body.moments"])


@cache
def numerics() -> dict[str, str]:
    """What the bits of a fold with this network depend on: PyTorch, what it uses of the processor, a canned step."""
    net = ResNet((3, 8, 8), 4, 0, np.dtype(np.float32))
    x = ((np.arange(4 * 192) * 7) % 23 / 11.0 - 1.0).reshape(4, 192).astype(np.float32)
    net.backward(np.ones_like(net.forward(x, True)))
    sha = hashlib.sha256(net.gradient.tobytes() + net.infer(x).tobytes())
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": f"{torch.__version__}, {capability}, 1 thread", "resnet": sha.hexdigest()[:16]}
