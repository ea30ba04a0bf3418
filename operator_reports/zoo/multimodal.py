"""Models of two modalities: matting by a text, captions of images, retrieval, sound to image, questions on images."""

from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BeitConfig,
    BeitModel,
    CLIPConfig,
    CLIPModel,
    EfficientNetConfig,
    EfficientNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import Ids, Stack, graph
from m4c.operator_reports.zoo.resnet import ResNet
from m4c.operator_reports.zoo.speech import sinusoids
from m4c.operator_reports.zoo.text import ROBERTA


class MaskHead(nn.Module):
    """DETR's head for masks: attention maps of each query, refined by convolutions."""

    def __init__(self, width: int = 256, heads: int = 8) -> None:
        """Make the attention and the convolutions."""
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        widths = (width + heads, 128, 64, 32, 16)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.GroupNorm(8, widths[i + 1]), nn.ReLU()
            )
            for i in range(4)
        )
        self.out = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return a mask (queries, 1, side, side) of each of ``queries`` (1, n, width) over ``memory`` (1, width, h, w)."""
        n, (height, width) = queries.shape[1], memory.shape[2:]
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(memory.flatten(2).transpose(1, 2)).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)
        maps = (q @ k * q.shape[-1] ** -0.5).transpose(1, 2).flatten(2).softmax(-1)
        maps = maps.reshape(n, self.heads, height, width)
        x = torch.cat([memory.expand(n, -1, -1, -1), maps], dim=1)
        for layer in self.layers:
            x = functional.interpolate(layer(x), scale_factor=2, mode="nearest")
        masks: Tensor = self.out(x)
        return masks


class Mdetr(nn.Module):
    """MDETR (Kamath et al. 2021): EfficientNet-B5 and RoBERTa, both read by one DETR; boxes, words and masks come out."""

    def __init__(self, queries: int = 100, width: int = 256) -> None:
        """Make them."""
        super().__init__()
        self.image = EfficientNetModel(
            EfficientNetConfig(image_size=448, width_coefficient=1.6, depth_coefficient=2.2, hidden_dim=2048)
        )
        self.text = RobertaModel(RobertaConfig(**ROBERTA))
        self.project, self.words = (
            nn.Conv2d(2048, width, 1),
            nn.Sequential(nn.Linear(768, width), nn.LayerNorm(width, 1e-12)),
        )
        self.register_buffer("positions", sinusoids(14 * 14, width), persistent=False)
        self.encoder = Stack([nn.TransformerEncoderLayer(width, 8, 2048, batch_first=True) for _ in range(6)])
        self.decoder = Stack([nn.TransformerDecoderLayer(width, 8, 2048, batch_first=True) for _ in range(6)])
        self.queries = nn.Parameter(torch.zeros(1, queries, width))
        self.norm, self.classes = nn.LayerNorm(width), nn.Linear(width, 256)
        self.boxes = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )
        self.masks = MaskHead(width)

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each query, which words it is, its box and its mask."""
        seen = self.project(self.image(image).last_hidden_state)
        places = seen.shape[2] * seen.shape[3]
        flat = seen.flatten(2).transpose(1, 2) + self.positions
        memory = self.encoder(torch.cat([flat, self.words(self.text(tokens).last_hidden_state)], dim=1))
        found = self.norm(self.decoder(self.queries, memory))
        memory = memory[:, :places].transpose(1, 2).reshape(seen.shape)
        return self.classes(found), self.boxes(found).sigmoid(), self.masks(found, memory)


def mdetr() -> tuple[Graph, ...]:
    """Build T31."""
    return (graph("mdetr", Mdetr(), image=(1, 3, 448, 448), tokens=Ids((1, 32))),)


class ImageEncoder(nn.Module):
    """ResNet-101 to 14 × 14 places, as Show, Attend and Tell is usually built (Xu et al. 2015)."""

    def __init__(self, width: int = 512) -> None:
        """Make the network and the first state of the LSTM."""
        super().__init__()
        self.net = ResNet(101)
        self.hidden, self.cell = nn.Linear(2048, width), nn.Linear(2048, width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return places (batch, 196, 2048) and the first state."""
        places = functional.adaptive_avg_pool2d(self.net(image)[-1], 14).flatten(2).transpose(1, 2)
        mean = places.mean(1)
        return places, self.hidden(mean), self.cell(mean)


class WordDecoder(nn.Module):
    """One word by an LSTM that looks at the image."""

    def __init__(self, words: int = 9490, width: int = 512) -> None:
        """Make embedding, attention, LSTM and output."""
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.image, self.state, self.score = (
            nn.Linear(2048, width),
            nn.Linear(width, width),
            nn.Linear(width, 1),
        )
        self.gate, self.lstm = nn.Linear(width, 2048), nn.LSTMCell(width + 2048, width)
        self.out = nn.Linear(width, words)

    def forward(
        self, word: Tensor, hidden: Tensor, cell: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of the next word and the new state."""
        scores = self.score(functional.relu(self.image(places) + self.state(hidden)[:, None]))
        context = (places * scores.softmax(1)).sum(1) * self.gate(hidden).sigmoid()
        hidden, cell = self.lstm(torch.cat([self.embed(word), context], dim=1), (hidden, cell))
        return self.out(hidden), hidden, cell


def image_captioner() -> tuple[Graph, ...]:
    """Build T44 and T45."""
    return (
        graph("encoder", ImageEncoder(), image=(1, 3, 448, 448)),
        graph(
            "decoder", WordDecoder(), word=Ids((1,)), hidden=(1, 512), cell=(1, 512), places=(1, 196, 2048)
        ),
    )  # fmt: skip


class Cclm(nn.Module):
    """CCLM (Zeng et al. 2023): BEiT-B, XLM-R-B and six layers in which the text attends to the image."""

    def __init__(self, width: int = 768) -> None:
        """Make the encoders, the fusion, projections and the score of a match."""
        super().__init__()
        self.image = BeitModel(BeitConfig(use_relative_position_bias=True), add_pooling_layer=False)
        sizes = {
            "vocab_size": 250002,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        }
        self.text = XLMRobertaModel(XLMRobertaConfig(**sizes, pad_token_id=1), add_pooling_layer=False)
        self.fusion = Stack(
            [
                nn.TransformerDecoderLayer(width, 12, 3072, activation="gelu", batch_first=True)
                for _ in range(6)
            ]
        )
        self.of_image, self.of_text = nn.Linear(width, 256), nn.Linear(width, 256)
        self.match = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 2)
        )

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both embeddings and the scores of a match."""
        seen, read = self.image(image).last_hidden_state, self.text(input_ids=tokens).last_hidden_state
        fused = self.fusion(read, seen)
        a, b = (
            functional.normalize(self.of_image(seen[:, 0]), dim=-1),
            functional.normalize(self.of_text(read[:, 0]), dim=-1),
        )
        return a, b, self.match(fused[:, 0])


def cclm() -> tuple[Graph, ...]:
    """Build T46 and T47."""
    return (graph("cclm", Cclm(), image=(1, 3, 224, 224), tokens=Ids((1, 40))),)


class Wav2Clip(nn.Module):
    """Wav2CLIP (Wu et al. 2022): ResNet-18 over a spectrogram, into the space of CLIP."""

    def __init__(self) -> None:
        """Make the network and two layers."""
        super().__init__()
        self.net = ResNet(18, channels=1)
        self.map = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return embeddings (batch, 512) of unit length."""
        x = functional.adaptive_avg_pool2d(self.net(spectrogram)[-1], 1).flatten(1)
        return functional.normalize(self.map(x), dim=-1)


def _vqgan() -> nn.Module:
    """Return the VQGAN of 16 384 codes and 16 pixels a code (Esser et al. 2021) by diffusers' class."""
    model: nn.Module = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 128, 256, 256, 512),
        layers_per_block=2,
        latent_channels=256,
        num_vq_embeddings=16384,
        vq_embed_dim=256,
        norm_num_groups=32,
        sample_size=256,
    )
    return model


def _embedded(model: Any, image: Tensor) -> Tensor:
    vector: Tensor = model.visual_projection(model.vision_model(image).pooler_output)
    return functional.normalize(vector, dim=-1)


def _decoded(model: Any, latent: Tensor) -> Tensor:
    image: Tensor = model.decode(latent, return_dict=False)[0]
    return image


def wav2clip() -> tuple[Graph, ...]:
    """Build T48: sound to CLIP, image to CLIP (ViT-B/32), codes to image; the search for codes is the host's."""
    return (
        graph("sound", Wav2Clip(), spectrogram=(1, 1, 257, 500)),
        graph("image", CLIPModel(CLIPConfig()), _embedded, image=(1, 3, 224, 224)),
        graph("decoder", _vqgan(), _decoded, latent=(1, 256, 16, 16)),
    )


class Fusion(nn.Module):
    """MUTAN (Ben-younes et al. 2017): a product of two vectors by a tensor of low rank."""

    def __init__(self, image: int, question: int, hidden: int, outputs: int = 510, rank: int = 5) -> None:
        """Make projections to 310 (or ``hidden``) and, for each rank, to ``outputs``."""
        super().__init__()
        self.image, self.question = nn.Linear(image, hidden), nn.Linear(question, 310)
        self.images = nn.ModuleList(nn.Linear(hidden, outputs) for _ in range(rank))
        self.questions = nn.ModuleList(nn.Linear(310, outputs) for _ in range(rank))

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Return the product of ``image`` (batch, n, width) and ``question`` (batch, 1, width)."""
        x, q = torch.tanh(self.image(image)), torch.tanh(self.question(question))
        terms = [
            torch.tanh(a(x)) * torch.tanh(b(q)) for a, b in zip(self.images, self.questions, strict=True)
        ]
        return torch.tanh(torch.stack(terms, dim=1).sum(1))


class Mutan(nn.Module):
    """Question answering on images by two glimpses: ResNet-152, skip-thoughts' GRU, MUTAN twice."""

    def __init__(self, words: int = 15000, answers: int = 2000) -> None:
        """Make them; ``words`` is a vocabulary of the size that VQA v2.0's questions have."""
        super().__init__()
        self.net = ResNet(152)
        self.embed, self.gru = nn.Embedding(words, 620), nn.GRU(620, 2400, batch_first=True)
        self.attend = Fusion(2048, 2400, 310)
        self.glimpses = nn.Linear(510, 2)
        self.answer = Fusion(2 * 2048, 2400, 620)
        self.out = nn.Linear(510, answers)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Return scores (batch, answers) for an ``image`` of 448 pixels and a ``question`` of tokens."""
        places = self.net(image)[-1].flatten(2).transpose(1, 2)
        asked = self.gru(self.embed(question))[0][:, -1:]
        weights = self.glimpses(self.attend(places, asked)).softmax(1)
        seen = (weights.transpose(1, 2) @ places).flatten(1)[:, None]
        scores: Tensor = self.out(self.answer(seen, asked))[:, 0]
        return scores


def mutan() -> tuple[Graph, ...]:
    """Build T49 and T50."""
    return (graph("mutan", Mutan(), image=(1, 3, 448, 448), question=Ids((1, 26))),)


def tts() -> tuple[Graph, ...]:
    """Build T41, which is M4's own ``tts_dec``."""
    from m4c.models import build

    return build("tts_dec", "m4").graphs
