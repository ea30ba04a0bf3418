"""Detectors, each in graphs of fixed shapes: what sees the image, and what judges a fixed number of regions.

Between them the host picks the best regions, drops those that overlap and cuts their features out (top-k, NMS, RoIAlign): the
number of regions depends on the image, and no graph of fixed shapes can tell it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SwinBackbone, SwinConfig

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import graph
from m4c.operator_reports.zoo.resnet import ResNet

REGIONS = 256
"""Regions that the heads judge at once."""


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017): maps of one width at every scale, fine ones told of coarse ones."""

    def __init__(self, widths: Sequence[int], width: int = 256) -> None:
        """Make two convolutions a scale."""
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)
        self.outer = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a map of ``width`` channels for each of ``maps``, the finest first."""
        inner = [convolution(x) for convolution, x in zip(self.inner, maps, strict=True)]
        for index in range(len(inner) - 1, 0, -1):
            size = inner[index - 1].shape[2:]
            inner[index - 1] = inner[index - 1] + functional.interpolate(
                inner[index], size=size, mode="nearest"
            )
        return [convolution(x) for convolution, x in zip(self.outer, inner, strict=True)]


class Balanced(nn.Module):
    """Libra R-CNN's balanced pyramid: all scales brought to one, averaged, refined by non-local attention, given back."""

    LEVEL = 2

    def __init__(self, width: int = 256) -> None:
        """Make the attention (embedded Gaussian, keys and queries of the same width)."""
        super().__init__()
        self.theta, self.phi, self.g, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps, each with what the average says; each is twice as large as the next."""
        sizes = [x.shape[2:] for x in maps]
        same = [_resized(x, i, self.LEVEL, sizes) for i, x in enumerate(maps)]
        mean = torch.stack(same).mean(0)
        scores = (self.theta(mean).flatten(2).transpose(1, 2) @ self.phi(mean).flatten(2)) * mean.shape[
            1
        ] ** -0.5
        mixed = scores.softmax(-1) @ self.g(mean).flatten(2).transpose(1, 2)
        refined = mean + self.out(mixed.transpose(1, 2).reshape(mean.shape))
        return [x + _resized(refined, self.LEVEL, i, sizes) for i, x in enumerate(maps)]


def _resized(x: Tensor, level: int, wanted: int, sizes: Sequence[torch.Size]) -> Tensor:
    """Bring the map of ``level`` to the size of ``wanted``: the largest of each part, or the nearest."""
    if level < wanted:
        return functional.max_pool2d(x, 1 << (wanted - level))
    return functional.interpolate(x, size=sizes[wanted], mode="nearest") if level > wanted else x


class LibraFeatures(nn.Module):
    """ResNet-50, pyramid, balanced pyramid and the network that proposes regions (three anchors a place)."""

    def __init__(self) -> None:
        """Make them."""
        super().__init__()
        self.net = ResNet(50)
        self.pyramid, self.balanced = Pyramid(self.net.widths), Balanced()
        self.rpn = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())
        self.objectness, self.deltas = nn.Conv2d(256, 3, 1), nn.Conv2d(256, 12, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return, for each of five scales, features, the logarithm of odds that an object is there, and its box."""
        maps = self.pyramid(self.net(image))
        maps = self.balanced([*maps, functional.max_pool2d(maps[-1], 1, 2)])
        seen = [self.rpn(x) for x in maps]
        return (*maps, *[self.objectness(x).sigmoid() for x in seen], *[self.deltas(x) for x in seen])


class BoxHead(nn.Module):
    """Two layers over the features of a region, then classes and a box for each, or for all (``shared``)."""

    def __init__(self, classes: int, shared: bool = False) -> None:
        """Make them for ``classes``, nothing included."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(256 * 49, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU())
        self.classes, self.boxes = (
            nn.Linear(1024, classes),
            nn.Linear(1024, 4 if shared else 4 * (classes - 1)),
        )

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and boxes of ``regions`` (regions, 256, 7, 7)."""
        x = self.net(regions.flatten(1))
        return self.classes(x).softmax(-1), self.boxes(x)


def libra_rcnn() -> tuple[Graph, ...]:
    """Build T14: Libra R-CNN (Pang et al. 2019), ResNet-50, 80 classes of COCO."""
    return (
        graph("features", LibraFeatures(), image=(1, 3, 832, 1344)),
        graph("boxes", BoxHead(81), regions=(REGIONS, 256, 7, 7)),
    )


class CenterFeatures(nn.Module):
    """Swin-L, pyramid and CenterNet's head, which says how likely each place is the middle of an object, and its box."""

    def __init__(self) -> None:
        """Make them."""
        super().__init__()
        self.net = SwinBackbone(
            SwinConfig(
                image_size=384,
                embed_dim=192,
                depths=[2, 2, 18, 2],
                num_heads=[6, 12, 24, 48],
                window_size=12,
                out_features=["stage2", "stage3", "stage4"],
            )
        )
        self.pyramid = Pyramid((384, 768, 1536))
        self.more = nn.ModuleList(nn.Conv2d(256, 256, 3, 2, 1) for _ in range(2))
        layers = [(nn.Conv2d(256, 256, 3, padding=1), nn.GroupNorm(32, 256), nn.ReLU()) for _ in range(4)]
        self.tower = nn.Sequential(*(layer for three in layers for layer in three))
        self.heat, self.box = nn.Conv2d(256, 1, 3, padding=1), nn.Conv2d(256, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(5))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return, for each of five scales, features, heat and boxes."""
        maps = self.pyramid(self.net(image).feature_maps)
        maps.append(self.more[0](maps[-1]))
        maps.append(self.more[1](functional.relu(maps[-1])))
        seen = [self.tower(x) for x in maps]
        boxes = [functional.relu(self.scales[i] * self.box(x)) for i, x in enumerate(seen)]
        return (*maps, *[self.heat(x).sigmoid() for x in seen], *boxes)


class MaskHead(nn.Module):
    """Four convolutions, twice the side, a mask for each class or for all."""

    def __init__(self, classes: int) -> None:
        """Make them."""
        super().__init__()
        layers = [(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()) for _ in range(4)]
        self.net = nn.Sequential(*(layer for pair in layers for layer in pair))
        self.up, self.out = nn.ConvTranspose2d(256, 256, 2, 2), nn.Conv2d(256, classes, 1)

    def forward(self, regions: Tensor) -> Tensor:
        """Return masks (regions, classes, 28, 28) of ``regions`` (regions, 256, 14, 14)."""
        return torch.sigmoid(self.out(functional.relu(self.up(self.net(regions)))))


def x_paste() -> tuple[Graph, ...]:
    """Build T15: the detector of X-Paste (Zhao et al. 2023), CenterNet2 (Zhou et al. 2021), 1203 classes of LVIS."""
    return (
        graph("features", CenterFeatures(), image=(1, 3, 896, 896)),
        *(graph(f"boxes_{i}", BoxHead(1204, shared=True), regions=(REGIONS, 256, 7, 7)) for i in range(3)),
        graph("masks", MaskHead(1), regions=(REGIONS, 256, 14, 14)),
    )
