"""Models of images and videos other than plain convolutional ones: global filters, outlook attention, flows, two speeds."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
from transformers.initialization import no_init_weights

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import Ids, graph


def clip_large() -> CLIPModel:
    """Return CLIP ViT-L/14 (Radford et al. 2021)."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    return CLIPModel(
        CLIPConfig(text_config={**text, "projection_dim": 768}, vision_config=vision, projection_dim=768)
    )


def similarity(model: CLIPModel, image: Tensor, tokens: Tensor) -> Tensor:
    """Return how much each image is like each text."""
    scores: Tensor = model(input_ids=tokens, pixel_values=image).logits_per_image
    return scores


def clip(texts: int) -> tuple[Graph, ...]:
    """Build T21 and T27: an image beside as many texts."""
    return (graph("clip", clip_large(), similarity, image=(1, 3, 224, 224), tokens=Ids((texts, 77))),)


def vitpose() -> tuple[Graph, ...]:
    """Build T28: ViTPose-B (Xu et al. 2022), the classic decoder, 17 points."""
    backbone = VitPoseBackboneConfig(out_indices=[12])
    config = VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
    with no_init_weights():  # drawing them would look at fake values
        model = VitPoseForPoseEstimation(config)
    return (graph("vitpose", model, lambda model, image: model(image).heatmaps, image=(1, 3, 256, 192)),)


class GlobalFilter(nn.Module):
    """A product with learned numbers in the frequencies of the image."""

    def __init__(self, width: int, side: int) -> None:
        """Make a complex number for each frequency and channel."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(side, side // 2 + 1, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Filter ``x`` (batch, side, side, width)."""
        frequencies = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(self.weight)
        filtered: Tensor = torch.fft.irfft2(frequencies, s=x.shape[1:3], dim=(1, 2), norm="ortho")
        return filtered


class FilterBlock(nn.Module):
    """Norm, filter, norm and two linear layers beside a short cut, scaled."""

    def __init__(self, width: int, side: int) -> None:
        """Make them."""
        super().__init__()
        self.norm1, self.filter, self.norm2 = (
            nn.LayerNorm(width, 1e-6),
            GlobalFilter(width, side),
            nn.LayerNorm(width, 1e-6),
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gamma = nn.Parameter(1e-5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, side, side, width) after the block."""
        added: Tensor = self.gamma * self.mlp(self.norm2(self.filter(self.norm1(x))))
        return x + added


class GfNet(nn.Module):
    """GFNet-H-B (Rao et al. 2021)."""

    def __init__(
        self,
        classes: int,
        widths: tuple[int, ...] = (96, 192, 384, 768),
        depths: tuple[int, ...] = (3, 3, 27, 3),
    ) -> None:
        """Make four stages, each at half the side of the one before."""
        super().__init__()
        self.patches, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            size = 2 if stage else 4
            self.patches.append(nn.Conv2d(widths[stage - 1] if stage else 3, width, size, size))
            self.stages.append(nn.Sequential(*(FilterBlock(width, 56 >> stage) for _ in range(depth))))
        self.positions = nn.Parameter(torch.zeros(1, 56, 56, widths[0]))
        self.norm, self.head = nn.LayerNorm(widths[-1], 1e-6), nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (batch, classes)."""
        x = image
        for stage, (patch, blocks) in enumerate(zip(self.patches, self.stages, strict=True)):
            x = patch(x).permute(0, 2, 3, 1)
            x = blocks(x + self.positions if stage == 0 else x).permute(0, 3, 1, 2)
        scores: Tensor = self.head(self.norm(x.flatten(2).transpose(1, 2)).mean(1))
        return scores


def gfnet(classes: int) -> tuple[Graph, ...]:
    """Build T22."""
    return (graph("gfnet", GfNet(classes), image=(1, 3, 224, 224)),)


class Tower(nn.Module):
    """One of the two 3-D residual networks of SlowFast, of bottleneck blocks."""

    DEPTHS = (3, 4, 23, 3)

    def __init__(self, width: int, kernels: tuple[int, ...], stem: int, lateral: int) -> None:
        """Make stem and stages; ``kernels`` are the steps of time that a block's first convolution sees in each stage.

        ``lateral`` is the factor by which the input of each stage is wider.
        """
        super().__init__()
        self.stem = nn.Sequential(
            _conv3(3, width, (stem, 7, 7), (1, 2, 2)),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.stages, inputs = nn.ModuleList(), width
        for stage, depth in enumerate(self.DEPTHS):
            inner = width << stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage and index == 0 else 1
                made = inputs + inputs * lateral // 8 if index == 0 else inner * 4
                blocks.append(_Block3(made, inner, kernels[stage], stride))
            self.stages.append(nn.Sequential(*blocks))
            inputs = inner * 4


def _conv3(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm3d(outputs)
    )


class _Block3(nn.Module):
    """A bottleneck over time and space."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3(inputs, width, (kernel, 1, 1)),
            nn.ReLU(),
            _conv3(width, width, (1, 3, 3), (1, stride, stride)),
            nn.ReLU(),
            _conv3(width, 4 * width, (1, 1, 1)),
        )
        change = inputs != 4 * width or stride != 1
        self.short = _conv3(inputs, 4 * width, (1, 1, 1), (1, stride, stride)) if change else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` after the block."""
        return functional.relu(self.body(x) + self.short(x))


class SlowFast(nn.Module):
    """SlowFast 8 × 8 R101 (Feichtenhofer et al. 2019): few frames in many channels, many frames in few."""

    def __init__(self, classes: int = 400) -> None:
        """Make both towers, what joins them and the head."""
        super().__init__()
        self.slow = Tower(64, (1, 1, 3, 3), 1, 2)
        self.fast = Tower(8, (3, 3, 3, 3), 5, 0)
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(w, 2 * w, (7, 1, 1), (4, 1, 1), (3, 0, 0), bias=False),
                nn.BatchNorm3d(2 * w),
                nn.ReLU(),
            )
            for w in (8, 32, 64, 128)
        )
        self.head = nn.Linear(2048 + 256, classes)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Return scores (batch, classes) of 8 ``slow`` and 32 ``fast`` frames (batch, 3, frames, side, side)."""
        slow, fast = self.slow.stem(slow), self.fast.stem(fast)
        for index, lateral in enumerate(self.lateral):
            slow = self.slow.stages[index](torch.cat([slow, lateral(fast)], dim=1))
            fast = self.fast.stages[index](fast)
        pooled = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], dim=1)
        scores: Tensor = self.head(pooled)
        return scores


def slowfast() -> tuple[Graph, ...]:
    """Build T29."""
    return (graph("slowfast", SlowFast(), slow=(1, 3, 8, 256, 256), fast=(1, 3, 32, 256, 256)),)


class Outlook(nn.Module):
    """Attention whose weights over a window come from its middle alone (VOLO, Yuan et al. 2022)."""

    def __init__(self, width: int, heads: int, kernel: int = 3) -> None:
        """Make values, weights and output; windows are 2 apart."""
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.v = nn.Linear(width, width, bias=False)
        self.attn, self.proj = nn.Linear(width, heads * kernel**4), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixture for ``x`` (batch, height, width, channels)."""
        batch, height, width, channels = x.shape
        places, window = math.ceil(height / 2) * math.ceil(width / 2), self.kernel**2
        v = functional.unfold(self.v(x).permute(0, 3, 1, 2), self.kernel, padding=1, stride=2)
        v = v.reshape(batch, self.heads, channels // self.heads, window, places).permute(0, 1, 4, 3, 2)
        middle = functional.avg_pool2d(x.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1)
        weights = self.attn(middle).reshape(batch, places, self.heads, window, window).permute(0, 2, 1, 3, 4)
        weights = (weights * (channels // self.heads) ** -0.5).softmax(dim=-1)
        mixed = (weights @ v).permute(0, 1, 4, 3, 2).reshape(batch, channels * window, places)
        folded = functional.fold(mixed, (height, width), self.kernel, padding=1, stride=2)
        out: Tensor = self.proj(folded.permute(0, 2, 3, 1))
        return out


class SelfAttention(nn.Module):
    """Attention over all places."""

    def __init__(self, width: int, heads: int) -> None:
        """Make the projections."""
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attend from ``x`` (batch, …, width) to ``seen`` of the same rank, by default itself."""
        seen = x if seen is None else seen
        flat = [part.flatten(1, -2) for part in (self.q(x), *self.kv(seen).chunk(2, dim=-1))]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in flat)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2).reshape(x.shape))
        return out


class VoloBlock(nn.Module):
    """Norm, attention, norm, two linear layers."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        """Make it around ``attention``."""
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor, *seen: Tensor) -> Tensor:
        """Return ``x`` after the block; ``seen`` is what a class token attends to beside itself."""
        x = x + self.attn(self.norm1(x), *[self.norm1(torch.cat([x, *seen], dim=1)) for _ in seen])
        added: Tensor = self.mlp(self.norm2(x))
        return x + added


class Stem(nn.Module):
    """Image to patches of 8 × 8."""

    def __init__(self, width: int) -> None:
        """Make three convolutions and the patches."""
        super().__init__()

        def layer(inputs: int, kernel: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, 64, kernel, stride, kernel // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU())

        self.layers = nn.Sequential(
            layer(3, 7, 2), layer(64, 3, 1), layer(64, 3, 1), nn.Conv2d(64, width, 4, 4)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return (batch, side, side, width)."""
        made: Tensor = self.layers(image).permute(0, 2, 3, 1)
        return made


class CrossBottleneck(nn.Module):
    """Two maps joined: each attends to the other, and two linear layers bring them back to one (MiVOLO)."""

    def __init__(self, width: int, heads: int) -> None:
        """Make both attentions."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attn = nn.ModuleList(SelfAttention(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(2 * width)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, face: Tensor, body: Tensor) -> Tensor:
        """Return one map of both."""
        a, b = self.norms[0](face), self.norms[1](body)
        joined = torch.cat([self.attn[0](a, b), self.attn[1](b, a)], dim=-1)
        made: Tensor = self.mlp(self.norm(joined))
        return made


class MiVolo(nn.Module):
    """MiVOLO-D1 (Kuprashevich and Tolstykh 2023): VOLO-D1 over a face and a body; age and two scores of gender."""

    def __init__(self) -> None:
        """Make stems, outlookers, transformers and class attention."""
        super().__init__()
        self.face, self.body, self.join = Stem(192), Stem(192), CrossBottleneck(192, 6)
        self.outlookers = nn.Sequential(*(VoloBlock(192, Outlook(192, 6)) for _ in range(4)))
        self.down = nn.Conv2d(192, 384, 2, 2)
        self.positions = nn.Parameter(torch.zeros(1, 14, 14, 384))
        self.blocks = nn.Sequential(*(VoloBlock(384, SelfAttention(384, 12)) for _ in range(14)))
        self.token = nn.Parameter(torch.zeros(1, 1, 384))
        self.last = nn.ModuleList(VoloBlock(384, SelfAttention(384, 12)) for _ in range(2))
        self.norm, self.head, self.aux = nn.LayerNorm(384), nn.Linear(384, 3), nn.Linear(384, 3)

    def forward(self, face: Tensor, body: Tensor) -> Tensor:
        """Return (batch, 3)."""
        x = self.outlookers(self.join(self.face(face), self.body(body)))
        x = self.blocks(self.down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + self.positions).flatten(1, 2)
        token = self.token.expand(x.shape[0], 1, 384)
        for block in self.last:
            token = block(token, x)
        x = self.norm(torch.cat([token, x], dim=1))
        scores: Tensor = self.head(x[:, 0]) + 0.5 * self.aux(x[:, 1:]).amax(1)
        return scores


def mivolo() -> tuple[Graph, ...]:
    """Build T26."""
    return (graph("mivolo", MiVolo(), face=(1, 3, 224, 224), body=(1, 3, 224, 224)),)
