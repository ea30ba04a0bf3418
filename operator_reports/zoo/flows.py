"""Two networks that are searched or invertible: MSINet and StyleFlow, by the sizes that their papers and code state."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.cnn import convolved
from m4c.operator_reports.zoo.network import graph
from m4c.operator_reports.zoo.resnet import normed


class Flow(nn.Module):
    """A step of Glow (Kingma and Dhariwal 2018): scale, mix channels, add to one half what the other half says."""

    def __init__(self, channels: int, width: int = 512) -> None:
        """Make the mixture and its inverse as two matrices, since at inference both are constants, and the coupling."""
        super().__init__()
        self.loc, self.scale = (
            nn.Parameter(torch.zeros(1, channels, 1, 1)),
            nn.Parameter(torch.ones(1, channels, 1, 1)),
        )
        self.mix, self.unmix = (nn.Parameter(torch.eye(channels)[:, :, None, None]) for _ in range(2))
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, channels // 2, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` one step further."""
        a, b = functional.conv2d(self.scale * (x + self.loc), self.mix).chunk(2, dim=1)
        return torch.cat([a, b + self.net(a)], dim=1)

    def reverse(self, y: Tensor) -> Tensor:
        """Return what ``forward`` made ``y`` of."""
        a, b = y.chunk(2, dim=1)
        x = functional.conv2d(torch.cat([a, b - self.net(a)], dim=1), self.unmix)
        return x / self.scale - self.loc


class Flows(nn.Module):
    """Flows in a row, at half the side."""

    def __init__(self, channels: int, count: int) -> None:
        """Make ``count`` flows."""
        super().__init__()
        self.flows = [Flow(channels) for _ in range(count)]
        self.kept = nn.ModuleList(self.flows)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, channels / 4, height, width) as (batch, channels, height / 2, width / 2)."""
        x = functional.pixel_unshuffle(x, 2)
        for flow in self.flows:
            x = flow(x)
        return x

    def reverse(self, y: Tensor) -> Tensor:
        """Return what ``forward`` made ``y`` of."""
        for flow in reversed(self.flows):
            y = flow.reverse(y)
        return functional.pixel_shuffle(y, 2)


class StyleNorm(nn.Module):
    """A norm of each channel whose mean and deviation come from the style."""

    def __init__(self, channels: int, style: int = 1920) -> None:
        """Make two layers from the style's statistics."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(style, 512), nn.ReLU(), nn.Linear(512, 2 * channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Return ``x`` in the style."""
        mean, deviation = self.net(style)[:, :, None, None].chunk(2, dim=1)
        styled: Tensor = functional.instance_norm(x) * deviation + mean
        return styled


class StyleFlow(nn.Module):
    """StyleFlow (Fan et al. 2022): a content image forth through a Glow, restyled, and back."""

    VGG = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256, 256), (256, 512))

    def __init__(self, blocks: int = 2, flows: int = 15) -> None:
        """Make VGG-19 up to its fourth level, the flow and the norms."""
        super().__init__()
        self.vgg = nn.ModuleList(
            nn.Sequential(
                *(
                    layer
                    for i in range(len(s) - 1)
                    for layer in (nn.Conv2d(s[i], s[i + 1], 3, padding=1), nn.ReLU())
                )
            )
            for s in self.VGG
        )
        self.flows = [Flows(12 * 4**b, flows) for b in range(blocks)]
        self.blocks = nn.ModuleList(self.flows)
        self.norms = nn.ModuleList(StyleNorm(12 * 4**b) for b in range(blocks))

    def statistics(self, image: Tensor) -> Tensor:
        """Return mean and deviation of every channel of four levels of VGG-19: 1920 values."""
        x, made = image, []
        for index, level in enumerate(self.vgg):
            x = level(functional.max_pool2d(x, 2) if index else x)
            flat = x.flatten(2)
            made += [flat.mean(2), (flat.var(2) + 1e-5).sqrt()]
        return torch.cat(made, dim=1)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Return ``content`` (batch, 3, height, width) in the style of ``style``."""
        statistics, x = self.statistics(style), content
        for block, norm in zip(self.flows, self.norms, strict=True):
            x = norm(block(x), statistics)
        for block in reversed(self.flows):
            x = block.reverse(x)
        return x


def styleflow() -> tuple[Graph, ...]:
    """Build T18."""
    return (graph("styleflow", StyleFlow(), content=(1, 3, 256, 256), style=(1, 3, 256, 256)),)


class Light(nn.Module):
    """A convolution over channels, then one of each channel for itself."""

    def __init__(self, width: int) -> None:
        """Make both."""
        super().__init__()
        self.over = nn.Conv2d(width, width, 1, bias=False)
        self.each = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` convolved."""
        return functional.relu(self.norm(self.each(self.over(x))))


class ChannelGate(nn.Module):
    """The same gate over the channels of either branch."""

    def __init__(self, width: int) -> None:
        """Make two layers around a 16th of the width."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width // 16, 1), nn.ReLU(), nn.Conv2d(width // 16, width, 1)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches, gated."""
        x, y = (t * torch.sigmoid(self.net(functional.adaptive_avg_pool2d(t, 1))) for t in (a, b))
        return x, y


class CrossAttention(nn.Module):
    """Each branch mixed by how alike its channels are to those of the other."""

    def __init__(self) -> None:
        """Make the shares of the mixture."""
        super().__init__()
        self.share = nn.Parameter(torch.zeros(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches."""
        x, y = a.flatten(2), b.flatten(2)
        scores = x @ y.transpose(1, 2)
        scores = scores.amax(-1, keepdim=True) - scores
        mixed = (
            (scores.softmax(-1) @ y).reshape(a.shape),
            (scores.transpose(1, 2).softmax(-1) @ x).reshape(b.shape),
        )
        return a + self.share[0] * mixed[0], b + self.share[1] * mixed[1]


class Exchange(nn.Module):
    """The branches change places."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the other way round."""
        return b, a


class Cell(nn.Module):
    """Two branches, of one and of three light convolutions, which interact twice."""

    def __init__(self, inputs: int, outputs: int, interactions: tuple[str, str]) -> None:
        """Make branches, interactions and the short cut."""
        super().__init__()
        width = outputs // 4
        made = {"gate": lambda: ChannelGate(width), "attention": CrossAttention, "exchange": Exchange}
        self.first = convolved(inputs, width, 1)
        self.near = nn.ModuleList(Light(width) for _ in range(2))
        self.far = nn.ModuleList(nn.Sequential(*(Light(width) for _ in range(3))) for _ in range(2))
        self.interactions = nn.ModuleList(made[name]() for name in interactions)
        self.last = normed(width, outputs, 1)
        self.short = normed(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` after the cell."""
        a = b = self.first(x)
        for near, far, interact in zip(self.near, self.far, self.interactions, strict=True):
            a, b = interact(near(a), far(b))
        return functional.relu(self.last(a + b) + self.short(x))


class MsiNet(nn.Module):
    """MSINet (Gu et al. 2023): cells of two scales; which interactions stand where is a choice of ours (see the registry)."""

    INTERACTIONS = (
        ("gate", "exchange"),
        ("gate", "attention"),
        ("attention", "gate"),
        ("exchange", "gate"),
        ("gate", "attention"),
        ("gate", "exchange"),
    )

    def __init__(self, identities: int = 576) -> None:
        """Make stem, three stages of two cells, and the scores of the identities of VeRi-776's training part."""
        super().__init__()
        self.stem = nn.Sequential(*normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = (64, 256, 256, 384, 384, 512, 512)
        self.cells = nn.ModuleList(Cell(widths[i], widths[i + 1], self.INTERACTIONS[i]) for i in range(6))
        self.downs = nn.ModuleList(nn.Sequential(convolved(w, w, 1), nn.AvgPool2d(2, 2)) for w in (256, 384))
        self.norm, self.scores = nn.BatchNorm1d(512), nn.Linear(512, identities, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (batch, identities)."""
        x = self.stem(image)
        for index, cell in enumerate(self.cells):
            x = cell(x)
            if index in {1, 3}:
                x = self.downs[index // 2](x)
        scores: Tensor = self.scores(self.norm(functional.adaptive_avg_pool2d(x, 1).flatten(1)))
        return scores


def msinet() -> tuple[Graph, ...]:
    """Build T25."""
    return (graph("msinet", MsiNet(), image=(1, 3, 256, 256)),)
