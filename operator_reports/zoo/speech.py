"""Models of speech and sound, T32 to T35 and T42, T43, by the sizes of SpeechBrain's recipes and of the captioner's code."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import Ids, Stack, graph


class Convolutions(nn.Module):
    """The first part of a CRDNN: blocks of two convolutions normed over channels and bins, each halving bins and time."""

    def __init__(self, bins: int, widths: tuple[int, ...], halve_time: bool = False) -> None:
        """Make a block for each of ``widths``; ``halve_time`` pools over time too."""
        super().__init__()
        self.layers, self.norms, self.pools = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = 1
        for width in widths:
            for _ in range(2):
                self.layers.append(nn.Conv2d(inputs, width, 3, padding=1))
                self.norms.append(nn.LayerNorm((bins, width)))
                inputs = width
            self.pools.append(nn.MaxPool2d(2 if halve_time else (1, 2)))
            bins //= 2
        self.outputs = inputs * bins

    def forward(self, features: Tensor) -> Tensor:
        """Turn ``features`` (batch, time, bins) into (batch, time, outputs)."""
        x = features[:, None]
        for index, (convolution, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(convolution(x).permute(0, 2, 3, 1))
            x = functional.leaky_relu(x).permute(0, 3, 1, 2)
            if index % 2:
                x = self.pools[index // 2](x)
        return x.permute(0, 2, 1, 3).flatten(2)


class Crdnn(nn.Module):
    """CRDNN (Ravanelli et al. 2021): convolutions, recurrence in both directions, dense layers."""

    def __init__(self, bins: int, layers: int, units: int, dense: int = 512, time_pool: int = 4) -> None:
        """Make ``layers`` LSTMs of ``units`` a direction; ``time_pool`` steps become one."""
        super().__init__()
        self.convolutions = Convolutions(bins, (128, 256))
        self.pool = nn.MaxPool1d(time_pool)
        self.rnn = nn.LSTM(self.convolutions.outputs, units, layers, batch_first=True, bidirectional=True)
        self.dense = nn.ModuleList(nn.Linear(2 * units if i == 0 else dense, dense) for i in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(dense) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """Turn ``features`` (batch, time, bins) into (batch, time / time_pool, dense)."""
        pooled = self.pool(self.convolutions(features).transpose(1, 2)).transpose(1, 2)
        x: Tensor = self.rnn(pooled)[0]
        for layer, norm in zip(self.dense, self.norms, strict=True):
            x = functional.leaky_relu(norm(layer(x).transpose(1, 2)).transpose(1, 2))
        return x


class Encoder(nn.Module):
    """The CRDNN of LibriSpeech's recipe and the scores that CTC is trained by."""

    def __init__(self, tokens: int) -> None:
        """Make both."""
        super().__init__()
        self.encoder, self.ctc = Crdnn(40, 4, 1024), nn.Linear(512, tokens)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return states and CTC's log-probabilities."""
        states = self.encoder(features)
        return states, self.ctc(states).log_softmax(-1)


class LocationAttention(nn.Module):
    """Attention that sees where it looked before (Chorowski et al. 2015)."""

    def __init__(self, states: int, query: int, width: int, outputs: int) -> None:
        """Make the projections and the convolution over the last weights."""
        super().__init__()
        self.keys, self.query = nn.Linear(states, width), nn.Linear(query, width)
        self.where = nn.Conv1d(1, 10, 201, padding=100, bias=False)
        self.place, self.score = nn.Linear(10, width), nn.Linear(width, 1, bias=False)
        self.out = nn.Linear(states, outputs)

    def forward(self, states: Tensor, query: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixture of ``states`` (batch, time, width), and the weights (batch, time)."""
        place = self.place(self.where(last[:, None]).transpose(1, 2))
        energy = self.score(torch.tanh(self.keys(states) + self.query(query)[:, None] + place))
        weights = energy[..., 0].softmax(-1)
        return self.out((weights[:, None] @ states)[:, 0]), weights


class Decoder(nn.Module):
    """One step of the GRU that writes the tokens."""

    def __init__(self, tokens: int) -> None:
        """Make embedding, recurrence, attention and output."""
        super().__init__()
        self.embed = nn.Embedding(tokens, 128)
        self.cell = nn.GRUCell(128 + 1024, 1024)
        self.attention = LocationAttention(512, 1024, 1024, 1024)
        self.join, self.out = nn.Linear(2048, 1024), nn.Linear(1024, tokens)

    def forward(
        self, token: Tensor, state: Tensor, context: Tensor, last: Tensor, states: Tensor
    ) -> tuple[Tensor, ...]:
        """Return log-probabilities and the new state, context and weights."""
        state = self.cell(torch.cat([self.embed(token), context], dim=-1), state)
        context, weights = self.attention(states, state, last)
        scores = self.out(self.join(torch.cat([context, state], dim=-1))).log_softmax(-1)
        return scores, state, context, weights


def crdnn_asr() -> tuple[Graph, ...]:
    """Build T32: CTC and attention, 1000 tokens; the encoder, and one step of the decoder."""
    return (
        graph("encoder", Encoder(1000), features=(1, 400, 40)),
        graph(
            "decoder", Decoder(1000),
            token=Ids((1,)), state=(1, 1024), context=(1, 1024), last=(1, 100), states=(1, 100, 512),
        ),
    )  # fmt: skip


class SpeechIntent(nn.Module):
    """Convolutions, a transformer encoder, and an intent from the mean over time."""

    def __init__(self, classes: int = 31, width: int = 512, layers: int = 12) -> None:
        """Make them; 31 are the intents of Fluent Speech Commands."""
        super().__init__()
        self.convolutions = Convolutions(80, (64, 64), halve_time=True)
        self.first = nn.Linear(self.convolutions.outputs, width)
        self.register_buffer("positions", sinusoids(100, width), persistent=False)
        self.layers = Stack(
            [
                nn.TransformerEncoderLayer(width, 8, 2048, batch_first=True, norm_first=True)
                for _ in range(layers)
            ]
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probability of each intent of ``features`` (batch, 400, 80)."""
        x = self.layers(self.first(self.convolutions(features)) + self.positions)
        scores: Tensor = self.out(self.norm(x).mean(1)).log_softmax(-1)
        return scores


def sinusoids(steps: int, width: int) -> Tensor:
    """Return fixed positions (steps, width): sines at even places, cosines at odd ones (Vaswani et al. 2017)."""
    rates = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.arange(steps, dtype=torch.float32)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def transformer_slu() -> tuple[Graph, ...]:
    """Build T33."""
    return (graph("transformer", SpeechIntent(), features=(1, 400, 80)),)


class CrdnnSlu(nn.Module):
    """A CRDNN, and an intent from the mean over time."""

    def __init__(self, classes: int = 60) -> None:
        """Make them; 60 are the intents of SLURP."""
        super().__init__()
        self.encoder, self.out = Crdnn(40, 3, 512), nn.Linear(512, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probability of each intent."""
        scores: Tensor = self.out(self.encoder(features).mean(1)).log_softmax(-1)
        return scores


def crdnn_slu() -> tuple[Graph, ...]:
    """Build T34."""
    return (graph("crdnn", CrdnnSlu(), features=(1, 400, 40)),)


class Tdnn(nn.Module):
    """Convolution over time, ReLU, norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        """Make them; the ends of time are mirrored."""
        super().__init__()
        padding = dilation * (kernel // 2)
        self.convolution = nn.Conv1d(
            inputs,
            outputs,
            kernel,
            dilation=dilation,
            padding=padding,
            padding_mode="reflect" if padding else "zeros",
        )
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, channels, time) after it."""
        made: Tensor = self.norm(functional.relu(self.convolution(x)))
        return made


class Res2Block(nn.Module):
    """Eight groups of channels, each convolved with what the one before made; then a gate over channels."""

    GROUPS = 8

    def __init__(self, width: int, dilation: int) -> None:
        """Make them."""
        super().__init__()
        self.first, self.last = Tdnn(width, width, 1), Tdnn(width, width, 1)
        self.groups = nn.ModuleList(
            Tdnn(width // self.GROUPS, width // self.GROUPS, 3, dilation) for _ in range(self.GROUPS - 1)
        )
        self.gate = nn.Sequential(nn.Conv1d(width, 128, 1), nn.ReLU(), nn.Conv1d(128, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` after the block."""
        made: list[Tensor] = []
        for index, part in enumerate(self.first(x).chunk(self.GROUPS, dim=1)):
            made.append(
                part if index == 0 else self.groups[index - 1](part + made[-1] if index > 1 else part)
            )
        y: Tensor = self.last(torch.cat(made, dim=1))
        gate: Tensor = self.gate(y.mean(2, keepdim=True))
        return x + y * gate


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN (Desplanques et al. 2020), 1024 channels, as SpeechBrain's recipe for IEMOCAP has it."""

    def __init__(self, classes: int = 4, bins: int = 80, width: int = 1024) -> None:
        """Make blocks, pooling by attention and classifier."""
        super().__init__()
        self.first = Tdnn(bins, width, 5)
        self.blocks = nn.ModuleList(Res2Block(width, dilation) for dilation in (2, 3, 4))
        self.join = Tdnn(3 * width, 3 * width, 1)
        self.attention, self.weights = Tdnn(9 * width, 128, 1), nn.Conv1d(128, 3 * width, 1)
        self.norm, self.fc = nn.BatchNorm1d(6 * width), nn.Conv1d(6 * width, 192, 1)
        self.classes = nn.Parameter(torch.empty(classes, 192))

    def forward(self, features: Tensor) -> Tensor:
        """Return cosines between ``features`` (batch, time, bins) and each class."""
        x, made = self.first(features.transpose(1, 2)), []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        x = self.join(torch.cat(made, dim=1))
        even = torch.full_like(x[:, :1], 1 / x.shape[2])
        seen = torch.cat([x, *(part.expand_as(x) for part in _moments(x, even))], dim=1)
        weights = self.weights(torch.tanh(self.attention(seen))).softmax(2)
        pooled = self.norm(torch.cat(_moments(x, weights), dim=1))
        return functional.linear(
            functional.normalize(self.fc(pooled)[..., 0]), functional.normalize(self.classes)
        )


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean and deviation over time, (batch, channels, 1) each."""
    mean = (weights * x).sum(2, keepdim=True)
    return mean, (weights * (x - mean).square()).sum(2, keepdim=True).clamp(1e-12).sqrt()


def ecapa_tdnn() -> tuple[Graph, ...]:
    """Build T35."""
    return (graph("ecapa", EcapaTdnn(), features=(1, 300, 80)),)


class Captioner(nn.Module):
    """CNN10 of PANNs (Kong et al. 2020) and a small transformer decoder, as the DCASE captioners are."""

    def __init__(self, words: int = 4368, width: int = 192, steps: int = 22) -> None:
        """Make both."""
        super().__init__()
        self.norm = nn.BatchNorm2d(64)
        widths = (1, 64, 128, 256, 512)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
                nn.Conv2d(widths[i + 1], widths[i + 1], 3, padding=1, bias=False),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
                nn.AvgPool2d(2),
            )
            for i in range(4)
        )
        self.fc, self.audio = nn.Linear(512, 512), nn.Linear(512, width)
        self.embed = nn.Embedding(words, width)
        self.register_buffer("positions", sinusoids(steps, width), persistent=False)
        self.register_buffer(
            "causal", nn.Transformer.generate_square_subsequent_mask(steps), persistent=False
        )
        self.decoder = Stack([nn.TransformerDecoderLayer(width, 4, 2048, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(width, words)

    def forward(self, mel: Tensor, written: Tensor) -> Tensor:
        """Return scores (batch, written, words) for ``mel`` (batch, time, 64)."""
        x = self.norm(mel[:, None].transpose(1, 3)).transpose(1, 3)
        for block in self.blocks:
            x = block(x)
        x = x.mean(3).transpose(1, 2)
        memory = functional.relu(self.audio(functional.relu(self.fc(x))))
        words = self.embed(written) * self.embed.embedding_dim**0.5 + self.positions
        scores: Tensor = self.out(self.decoder(words, memory, tgt_mask=self.causal, tgt_is_causal=True))
        return scores


def captioner() -> tuple[Graph, ...]:
    """Build T42 and T43."""
    return (graph("captioner", Captioner(), mel=(1, 1000, 64), written=Ids((1, 22))),)
