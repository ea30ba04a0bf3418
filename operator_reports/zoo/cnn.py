"""Small and plain convolutional networks, by the layers that their papers list."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import graph


def mlp() -> tuple[Graph, ...]:
    """Build T38: 561 features of a window of motion; the widths are one choice that fits the parameters."""
    net = nn.Sequential(nn.Linear(561, 400), nn.ReLU(), nn.Linear(400, 128), nn.ReLU(), nn.Linear(128, 6))
    return (graph("mlp", net, features=(1, 561)),)


def keyword_spotter() -> tuple[Graph, ...]:
    """Build T37: cnn-trad-fpool3 (Sainath and Parada 2015) as TensorFlow's Speech Commands example has it."""
    net = nn.Sequential(
        nn.Conv2d(1, 64, (20, 8), padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, (10, 4), padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(49 * 20 * 64, 12),
    )
    return (graph("cnn", net, mfcc=(1, 1, 98, 40)),)


def micronnet() -> tuple[Graph, ...]:
    """Build T24: MicronNet (Wong et al. 2018) for images of 48 × 48."""

    def stage(inputs: int, outputs: int, kernel: int, padding: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, padding=padding),
            nn.PReLU(),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        ]

    net = nn.Sequential(
        *stage(3, 1, 1, 0)[:3],
        *stage(1, 29, 5, 0),
        *stage(29, 59, 3, 0),
        *stage(59, 74, 3, 0),
        nn.Flatten(),
        nn.Linear(1184, 300),
        nn.PReLU(),
        nn.Linear(300, 43),
        nn.LogSoftmax(dim=1),
    )
    return (graph("micronnet", net, image=(1, 3, 48, 48)),)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it."""

    def __init__(self, width: int, growth: int) -> None:
        """Make the convolutions."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth if i < 4 else width, 3, padding=1) for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` and a fifth of what the block adds."""
        seen = [x]
        for convolution in self.convolutions[:4]:
            seen.append(functional.leaky_relu(convolution(torch.cat(seen, dim=1)), 0.2))
        added: Tensor = self.convolutions[4](torch.cat(seen, dim=1))
        return x + added * 0.2


class Rrdb(nn.Module):
    """Three dense blocks beside a short cut."""

    def __init__(self, width: int, growth: int) -> None:
        """Make the blocks."""
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` and a fifth of what the blocks make."""
        made: Tensor = self.blocks(x)
        return x + made * 0.2


class RrdbNet(nn.Module):
    """The generator of ESRGAN (Wang et al. 2018) and Real-ESRGAN (2021): four times the side."""

    def __init__(self, width: int = 64, blocks: int = 23, growth: int = 32) -> None:
        """Make it."""
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(Rrdb(width, growth) for _ in range(blocks)))
        self.tail = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge ``image`` (batch, 3, height, width)."""
        x = self.first(image)
        x = x + self.tail[0](self.body(x))
        for convolution in self.tail[1:3]:
            x = functional.leaky_relu(
                convolution(functional.interpolate(x, scale_factor=2, mode="nearest")), 0.2
            )
        large: Tensor = self.last(functional.leaky_relu(self.tail[3](x), 0.2))
        return large


def real_esrgan() -> tuple[Graph, ...]:
    """Build T17."""
    return (graph("rrdbnet", RrdbNet(), image=(1, 3, 64, 64)),)


def convolved(inputs: int, outputs: int, kernel: int, relu: bool = True) -> nn.Sequential:
    """Return a convolution that keeps the size, batch normalisation and, unless it is the last, ReLU."""
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class Branches(nn.Module):
    """Three convolutions of different sizes beside the input itself."""

    def __init__(self, width: int) -> None:
        """Make kernels of 1, 3 and 5 after a squeeze to half the width."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(convolved(width, width // 2, 1), convolved(width // 2, width, kernel))
            for kernel in (1, 3, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return four times as many channels."""
        return torch.cat([*[branch(x) for branch in self.branches], x], dim=1)


class Sasnet(nn.Module):
    """SASNet (Song et al. 2021): a density of people at five scales, weighted by a confidence at each."""

    STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))

    def __init__(self) -> None:
        """Make VGG-16's convolutions, the way back up and two heads a level."""
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(*(convolved(s[i], s[i + 1], 3) for i in range(len(s) - 1))) for s in self.STAGES
        )
        self.deepest = nn.Sequential(convolved(512, 1024, 3), convolved(1024, 512, 3))
        widths = (64, 128, 256, 512)
        self.up = nn.ModuleList(
            nn.Sequential(convolved(2 * w, w, 3), convolved(w, max(w // 2, 64), 3)) for w in widths
        )
        outputs = (64, 64, 128, 256, 512)
        self.densities = nn.ModuleList(
            nn.Sequential(Branches(w), convolved(4 * w, 1, 1, relu=False)) for w in outputs
        )
        self.confidences = nn.ModuleList(
            nn.Sequential(convolved(w, w // 2, 1), convolved(w // 2, 1, 1, relu=False)) for w in outputs
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the density of each pixel."""
        x, maps = image, []
        for index, stage in enumerate(self.stages):
            x = stage(functional.max_pool2d(x, 2) if index else x)
            maps.append(x)
        x = self.deepest(functional.max_pool2d(x, 2))
        x = functional.interpolate(x, size=maps[4].shape[2:], mode="bilinear")
        levels = [x]
        for index in (3, 2, 1, 0):
            x = functional.interpolate(x, size=maps[index].shape[2:], mode="bilinear")
            x = self.up[index](torch.cat([maps[index], x], dim=1))
            levels.insert(0, x)
        size = image.shape[2:]
        pairs = zip(levels, self.densities, self.confidences, strict=True)
        made = [(density(level), confidence(level)) for level, density, confidence in pairs]
        density = torch.cat([functional.interpolate(d, size=size, mode="nearest") for d, _ in made], dim=1)
        weight = torch.cat([functional.interpolate(c, size=size, mode="nearest") for _, c in made], dim=1)
        return (density * torch.softmax(weight, dim=1)).sum(dim=1, keepdim=True)


def sasnet() -> tuple[Graph, ...]:
    """Build T30."""
    return (graph("sasnet", Sasnet(), image=(1, 3, 512, 512)),)


class AcdNet(nn.Module):
    """ACDNet (Mohaimenuzzaman et al. 2023): raw sound to a spectrogram of its own, then a picture network."""

    def __init__(self, classes: int = 50) -> None:
        """Make both halves."""
        super().__init__()

        def layer(
            inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]
        ) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, kernel, (1, stride), padding, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        self.sound = nn.Sequential(
            layer(1, 8, (1, 9), 2, (0, 0)), layer(8, 64, (1, 5), 2, (0, 0)), nn.MaxPool2d((1, 50))
        )
        widths = (1, 32, 64, 64, 128, 128, 256, 256, 512, 512)
        picture: list[nn.Module] = []
        for i in range(len(widths) - 1):
            picture.append(layer(widths[i], widths[i + 1], (3, 3), 1, (1, 1)))
            if i in {0, 2, 4, 6, 8}:
                picture.append(nn.MaxPool2d(2))
        self.picture = nn.Sequential(*picture, nn.Dropout(0.2), layer(512, classes, (1, 1), 1, (0, 0)))
        self.pool, self.fc = nn.AvgPool2d((2, 4)), nn.Linear(classes, classes)

    def forward(self, sound: Tensor) -> Tensor:
        """Return the probability of each class of ``sound`` (batch, 1, 1, samples at 20 kHz)."""
        x = self.picture(self.sound(sound).permute(0, 2, 1, 3))
        return torch.softmax(self.fc(self.pool(x).flatten(1)), dim=1)


def acdnet() -> tuple[Graph, ...]:
    """Build T36."""
    return (graph("acdnet", AcdNet(), sound=(1, 1, 1, 30225)),)
