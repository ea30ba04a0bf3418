"""Residual networks (He et al. 2016) in the form that torchvision publishes, also dilated, and what is little more than one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import graph

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage by the count of layers; 18 has blocks of two convolutions, the others of three."""


def normed(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution that keeps the size (divided by ``stride``), and its batch normalisation."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two or three convolutions beside a short cut."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, deep: bool) -> None:
        """Make the convolutions, and one in the short cut where sizes change."""
        super().__init__()
        outputs = width * 4 if deep else width
        layers = (
            [
                normed(inputs, width, 1),
                nn.ReLU(),
                normed(width, width, 3, stride, dilation),
                nn.ReLU(),
                normed(width, outputs, 1),
            ]
            if deep
            else [
                normed(inputs, width, 3, stride, dilation),
                nn.ReLU(),
                normed(width, outputs, 3, 1, dilation),
            ]
        )
        self.body = nn.Sequential(*layers)
        self.short = normed(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` after the block."""
        return functional.relu(self.body(x) + self.short(x))


class ResNet(nn.Module):
    """All but the classifier; returns what each of the four stages makes."""

    def __init__(self, layers: int = 50, channels: int = 3, strides: Sequence[int] = (1, 2, 2, 2)) -> None:
        """Make ``layers`` layers; a stage of stride 1 after the first is dilated instead, which keeps its field of view."""
        super().__init__()
        deep = layers >= 50
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.widths = tuple(width * (4 if deep else 1) for width in (64, 128, 256, 512))
        self.stages = nn.ModuleList()
        inputs, dilation = 64, 1
        for stage, blocks in enumerate(DEPTHS[layers]):
            before, stride = dilation, strides[stage]
            dilation = dilation * 2 if stage and stride == 1 else dilation
            width = 64 << stage
            made = [Block(inputs, width, stride, before, deep)]
            made += [Block(self.widths[stage], width, 1, dilation, deep) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*made))
            inputs = self.widths[stage]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of the four stages."""
        x, made = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made


class Classifier(nn.Module):
    """A residual network with a mean over the image and a linear layer."""

    def __init__(self, layers: int, classes: int) -> None:
        """Make both."""
        super().__init__()
        self.net = ResNet(layers)
        self.fc = nn.Linear(self.net.widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (batch, classes)."""
        scores: Tensor = self.fc(functional.adaptive_avg_pool2d(self.net(image)[-1], 1).flatten(1))
        return scores


def resnet152() -> tuple[Graph, ...]:
    """Build T23."""
    return (graph("resnet", Classifier(152, 1000), image=(1, 3, 224, 224)),)


class ArcFace(nn.Module):
    """ResNet-50 whose scores are cosines between the image and each identity (Deng et al. 2019)."""

    def __init__(self, identities: int = 3997) -> None:
        """Make the network and a row for each of the identities of In-shop Clothes Retrieval's training part."""
        super().__init__()
        self.net = ResNet(50)
        self.identities = nn.Linear(2048, identities, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return cosines (batch, identities)."""
        x = functional.adaptive_avg_pool2d(self.net(image)[-1], 1).flatten(1)
        return functional.linear(functional.normalize(x), functional.normalize(self.identities.weight))


def arcface() -> tuple[Graph, ...]:
    """Build T16."""
    return (graph("arcface", ArcFace(), image=(1, 3, 224, 224)),)


class DeepLab(nn.Module):
    """DeepLabV3+ (Chen et al. 2018) over a residual network of output stride 8, as mmsegmentation configures it (r50-d8)."""

    def __init__(self, layers: int, classes: int) -> None:
        """Make backbone, pyramid of dilated convolutions, skip and head."""
        super().__init__()
        self.net = ResNet(layers, strides=(1, 2, 1, 1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *normed(2048, 512, 1), nn.ReLU())
        self.branches = nn.ModuleList(
            [nn.Sequential(*normed(2048, 512, 1), nn.ReLU()), *map(_separable_branch, (12, 24, 36))]
        )
        self.bottleneck = nn.Sequential(*normed(5 * 512, 512, 3), nn.ReLU())
        self.skip = nn.Sequential(*normed(256, 48, 1), nn.ReLU())
        self.head = nn.Sequential(separable(560, 512), separable(512, 512), nn.Conv2d(512, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return a score for each class and pixel."""
        low, _, _, high = self.net(image)
        pooled = functional.interpolate(self.pool(high), size=high.shape[2:], mode="bilinear")
        x = self.bottleneck(torch.cat([pooled, *[branch(high) for branch in self.branches]], dim=1))
        x = functional.interpolate(x, size=low.shape[2:], mode="bilinear")
        x = self.head(torch.cat([x, self.skip(low)], dim=1))
        return functional.interpolate(x, size=image.shape[2:], mode="bilinear")


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution of each channel for itself and one over channels, each normalised."""
    return nn.Sequential(
        *normed(inputs, inputs, 3, 1, dilation, inputs), nn.ReLU(), *normed(inputs, outputs, 1), nn.ReLU()
    )


def _separable_branch(dilation: int) -> nn.Sequential:
    return separable(2048, 512, dilation)


def deeplab(layers: int, classes: int) -> tuple[Graph, ...]:
    """Build T19 and T20."""
    return (graph("deeplab", DeepLab(layers, classes), image=(1, 3, 512, 512)),)
