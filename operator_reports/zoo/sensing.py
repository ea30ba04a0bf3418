"""LIMU-BERT with a recurrent head, T39 and T40."""

from torch import Tensor, nn
from torch.nn import functional

from m4c.models.attention import attend, join_heads, split_heads
from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import graph


class Layer(nn.Module):
    """Attention, a projection, two linear layers; each normed after it is added."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        """Make them."""
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, steps, width) after the layer."""
        q, k, v = (split_heads(part(x), self.heads) for part in (self.q, self.k, self.v))
        x = self.norm1(x + self.proj(join_heads(attend(q, k, v, None))))
        normed: Tensor = self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        return normed


class LimuBert(nn.Module):
    """LIMU-BERT (Xu et al. 2021): a transformer over motion, and a GRU that tells the activity.

    The released code runs one layer four times; four layers fit the size that is printed.
    """

    def __init__(self, classes: int = 6, width: int = 72, steps: int = 120) -> None:
        """Make both."""
        super().__init__()
        self.first, self.norm1 = nn.Linear(6, width), nn.LayerNorm(width, 1e-12)
        self.positions, self.norm2 = nn.Embedding(steps, width), nn.LayerNorm(width, 1e-12)
        self.layers = nn.Sequential(*(Layer(width, 4, 144) for _ in range(4)))
        self.gru = nn.GRU(width, 20, 2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(20, 10), nn.Linear(10, classes)

    def forward(self, motion: Tensor) -> Tensor:
        """Return scores (batch, classes) of ``motion`` (batch, steps, 6)."""
        x = self.layers(self.norm2(self.norm1(self.first(motion)) + self.positions.weight))
        scores: Tensor = self.fc2(functional.relu(self.fc1(self.gru(x)[0][:, -1])))
        return scores


def limu_bert() -> tuple[Graph, ...]:
    """Build T39 and T40."""
    return (graph("limu_bert", LimuBert(), motion=(1, 120, 6)),)
