"""The methods' train steps in PyTorch, for comparison: same networks, losses and sizes, Adam.

In PyTorch's own ways where it has them: channels last, fused Adam, its attention, autocast for
bfloat16. Eager, as most PyTorch code for reinforcement learning runs. No dependency of the package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cql_atari.core import settings
from cql_atari.networks import transformer

ACTIONS = 18


def make_step(
    config: settings.Config, batch: dict[str, np.ndarray], dtype: str, clock: Callable[[], float]
) -> Callable[[], float]:
    """A train step on one fixed batch, called once; each call returns seconds.

    Args:
      config: of the run.
      batch: columns as the method reads them.
      dtype: "float32" or "mixed_bfloat16".
      clock: seconds.
    """
    torch.manual_seed(0)
    columns = {name: torch.from_numpy(column) for name, column in batch.items()}
    model, loss = MAKERS[config.train.method](config)
    model = model.to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, 1e-4, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"):
            total = loss(columns)
        adam.zero_grad()
        total.backward()
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(trained, config.optimizer.clip_norm)
        adam.step()
        return float(total.detach())

    def timed() -> float:
        start = clock()
        step()
        return clock() - start

    timed()
    return timed


class Encoder(nn.Module):
    """ResNet with group norm; frames uint8 [B, 4, 84, 84] -> feature map [B, C, H, W]."""

    def __init__(self, network: settings.Network) -> None:
        super().__init__()
        width, kernel = network.widths[0], network.stem_kernel
        border = 2 if kernel == 8 else kernel // 2  # maps of the same sizes as TensorFlow's
        layers: list[nn.Module] = [
            nn.Conv2d(4, width, kernel, network.stem_stride, border, bias=False),
            nn.GroupNorm(network.groups, width),
            nn.ReLU(),
        ]
        if network.stem_pool:
            layers.append(nn.MaxPool2d(3, 2, 1))
        inputs = width
        for depth, width, stride in zip(network.depths, network.widths, network.strides):
            for i in range(depth):
                block = Residual(inputs, width, stride if i == 0 else 1, network)
                layers.append(block)
                inputs = block.outputs
        self.layers, self.outputs = nn.Sequential(*layers), inputs

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = (frames.float() / 255).to(memory_format=torch.channels_last)
        return self.layers(x)


class Residual(nn.Module):
    """A basic or bottleneck block, normalised after each convolution."""

    def __init__(self, inputs: int, width: int, stride: int, network: settings.Network) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                nn.GroupNorm(network.groups, outputs),
            )

        if network.block == "basic":
            self.outputs = width
            self.body = nn.Sequential(
                conv(inputs, width, 3, stride), nn.ReLU(), conv(width, width, 3)
            )
        else:
            self.outputs = 4 * width
            self.body = nn.Sequential(
                conv(inputs, width, 1), nn.ReLU(), conv(width, width, 3, stride), nn.ReLU(),
                conv(width, self.outputs, 1),
            )  # fmt: skip
        same = stride == 1 and inputs == self.outputs
        self.shortcut = nn.Identity() if same else conv(inputs, self.outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.shortcut(x) + self.body(x))


class Pooled(nn.Module):
    """An encoder and its spatial embedding: frames -> [B, C * F]."""

    def __init__(self, network: settings.Network) -> None:
        super().__init__()
        self.encoder = Encoder(network)
        with torch.no_grad():
            height, width = self.encoder(torch.zeros(1, 4, 84, 84)).shape[2:]
        self.cells, self.side = height * width, math.ceil(84 / height)
        channels = self.encoder.outputs
        self.embedding = nn.Parameter(
            torch.randn(height, width, channels, network.embedding_blocks) / height
        )
        self.outputs = channels * network.embedding_blocks

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,hwcf->bcf", features, self.embedding).flatten(1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.pool(self.encoder(frames))


class QNetwork(nn.Module):
    """Pooled features, feed-forward layers, normalised features, one head a game."""

    def __init__(self, config: settings.Config, atoms: int) -> None:
        super().__init__()
        self.pooled, self.atoms = Pooled(config.network), atoms
        widths = [self.pooled.outputs, *config.network.feed_forward]
        self.feed_forward = mlp(widths)
        games = len(config.data.games)
        self.kernel = nn.Parameter(torch.randn(games, widths[-1], ACTIONS * atoms) / widths[-1])
        self.bias = nn.Parameter(torch.zeros(games, ACTIONS * atoms))

    def forward(self, frames: torch.Tensor, games: torch.Tensor) -> torch.Tensor:
        x = self.feed_forward(self.pooled(frames)).float()
        x = functional.normalize(x, dim=-1).reshape(len(games), -1, x.shape[-1])
        x = torch.bmm(x, self.kernel[games]) + self.bias[games][:, None]
        return x.reshape(-1, ACTIONS, self.atoms).float()


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU."""
    pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def scaled_q(config: settings.Config) -> tuple[nn.Module, Callable]:
    """C51 + CQL."""
    atoms, n_step = config.loss.num_atoms, config.feed.n_step
    model, target = QNetwork(config, atoms), QNetwork(config, atoms)
    target.to(memory_format=torch.channels_last).requires_grad_(False)
    support = torch.linspace(-config.loss.v_max, config.loss.v_max, atoms)
    width = support[1] - support[0]

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        games = batch["games"][:: config.feed.transitions_per_draw].long()
        rows, actions = torch.arange(len(batch["actions"])), batch["actions"].long()
        logits = model(batch["frames"][:, :4], games)
        with torch.no_grad():
            following = target(batch["frames"][:, n_step:], games).softmax(-1)
            best = (following @ support).argmax(-1)
            shifted = batch["rewards"][:, None] + batch["discounts"][:, None] * support
            shifted = shifted.clamp(support[0], support[-1])
            kernel = (1 - (shifted[:, None] - support[:, None]).abs() / width).relu()
            wanted = torch.einsum("bij,bj->bi", kernel, following[rows, best])
        td = -(wanted * logits[rows, actions].log_softmax(-1)).sum(-1)
        q = logits.softmax(-1) @ support
        cql = q.logsumexp(-1) - q[rows, actions]
        return (td + config.loss.cql_alpha * cql).mean()

    return model, loss


def cloning(config: settings.Config) -> tuple[nn.Module, Callable]:
    """Cross-entropy of the action."""
    model = QNetwork(config, 1)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        games = batch["games"][:: config.feed.transitions_per_draw].long()
        logits = model(batch["frames"][:, :4], games)[..., 0]
        return functional.cross_entropy(logits, batch["actions"].long())

    return model, loss


def contrastive(config: settings.Config) -> tuple[nn.Module, Callable]:
    """InfoNCE with a bilinear score."""
    pooled = Pooled(config.network)
    width = config.contrastive.projection[-1]
    model = nn.Sequential(pooled, mlp([pooled.outputs, *config.contrastive.projection]))
    model.bilinear = nn.Parameter(torch.randn(width, width) / width)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        states = model(batch["frames"][:, :4])
        successors = model(batch["frames"][:, config.feed.n_step :])
        scores = (states @ model.bilinear @ successors.T).float()
        return functional.cross_entropy(scores, torch.arange(len(scores)))

    return model, loss


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, sees: torch.Tensor | None) -> torch.Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(self.norms[0](x)).reshape(batch, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(batch, count, width)))
        y = functional.gelu(self.expand(self.norms[1](x)), approximate="tanh")
        return x + self.dropout(self.contract(y))


class MaskedAutoencoder(nn.Module):
    """As `cql_atari.networks.decoder`."""

    def __init__(self, config: settings.Config) -> None:
        super().__init__()
        sizes = config.masked_autoencoder
        self.pooled, width = Pooled(config.network), sizes.width
        cells = self.pooled.cells
        self.visible = max(1, min(round(cells * (1 - sizes.mask_share)), cells - 1))
        self.embed = nn.Linear(self.pooled.encoder.outputs, width)
        self.embed_pooled = nn.Linear(self.pooled.outputs, width)
        shapes = {"token": (1, 1, width), "positions": (cells, width), "mask": (1, width),
                  "decoder_positions": (cells, width)}  # fmt: skip
        self.tables = nn.ParameterDict({n: torch.randn(*s) * 0.02 for n, s in shapes.items()})

        def blocks(depth: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, sizes.heads, 0.0) for _ in range(depth))

        self.blocks, self.decoder = blocks(sizes.depth), blocks(sizes.decoder_depth)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.draw = nn.Linear(width, self.pooled.side**2 * 4)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        features = self.pooled.encoder(frames)
        batch, channels, height, width = features.shape
        cells, side = height * width, self.pooled.side
        keep = torch.rand(batch, cells).argsort(-1)[:, : self.visible]
        seen = torch.zeros(batch, cells).scatter_(1, keep, 1.0)
        shown = features * seen.reshape(batch, 1, height, width)
        flat = shown.flatten(2).transpose(1, 2)
        x = flat.gather(1, keep[..., None].expand(-1, -1, channels))
        x = self.embed(x) + self.tables["positions"][keep]
        whole = self.embed_pooled(self.pooled.pool(shown))[:, None] + self.tables["token"]
        x = torch.cat([whole, x], dim=1)
        for block in self.blocks:
            x = block(x, None)
        x = self.norms[0](x)
        y = self.tables["mask"].expand(batch, cells, -1).to(x.dtype)
        y = y.scatter(1, keep[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:])
        y = torch.cat([x[:, :1], y + self.tables["decoder_positions"]], dim=1)
        for block in self.decoder:
            y = block(y, None)
        y = self.draw(self.norms[1](y)[:, 1:]).float()
        y = y.reshape(batch, height, width, 4, side, side).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(batch, 4, height * side, width * side)[:, :, :84, :84]


def masked_autoencoder(config: settings.Config) -> tuple[nn.Module, Callable]:
    """Mean squared error over all pixels."""
    model = MaskedAutoencoder(config)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        frames = batch["frames"][:, :4]
        return functional.mse_loss(model(frames), frames.float() / 255)

    return model, loss


class DecisionTransformer(nn.Module):
    """As `cql_atari.networks.transformer`, with its return tokens."""

    def __init__(self, chosen: settings.Transformer) -> None:
        super().__init__()
        width, patches = chosen.width, transformer.PATCHES
        step = patches + 3
        hidden = [t * step + patches for t in range(1, chosen.steps)]
        sees = transformer.attention_mask(chosen.steps, 3, tuple(hidden))
        full = np.ones((chosen.steps * step, 1), np.float32)
        full[hidden] = 0
        self.register_buffer("sees", torch.from_numpy(sees))
        self.register_buffer("full", torch.from_numpy(full))
        self.patches = nn.Linear(transformer.PATCH**2, width)
        self.patch_positions = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(chosen.steps * step, width) * 0.02)
        sizes = (transformer.NUM_RETURNS, ACTIONS, transformer.NUM_REWARDS)
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        heads = width // transformer.HEAD_WIDTH
        self.blocks = nn.ModuleList(
            Block(width, heads, chosen.dropout) for _ in range(chosen.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.readouts = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, frames: torch.Tensor, tokens: list[torch.Tensor]) -> list[torch.Tensor]:
        batch, steps = frames.shape[:2]
        rows = 84 // transformer.PATCH
        cut = frames.reshape(batch, steps, rows, transformer.PATCH, rows, transformer.PATCH)
        cut = cut.permute(0, 1, 2, 4, 3, 5).reshape(batch, steps, transformer.PATCHES, -1)
        x = self.patches(cut.float() / 255) + self.patch_positions
        parts = [table(token)[:, :, None] for table, token in zip(self.tables, tokens)]
        x = torch.cat([x, *parts], dim=2).flatten(1, 2)
        x = (x + self.positions) * self.full
        for block in self.blocks:
            x = block(x, self.sees)
        x = self.norm(x).reshape(batch, steps, transformer.PATCHES + 3, -1)
        places = transformer.PATCHES - 1 + np.arange(3)
        return [readout(x[:, :, place]) for readout, place in zip(self.readouts, places)]


def decision_transformer(config: settings.Config) -> tuple[nn.Module, Callable]:
    """Three cross-entropies; the return's of the first step only."""
    model = DecisionTransformer(config.transformer)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        returns = (batch["returns"].round().clamp(-20, 100) + 20).long()
        tokens = [returns, batch["actions"].long(), batch["rewards"].sign().long() + 1]
        found = model(batch["frames"], tokens)
        ends = (found[0][:, 0], returns[:, 0]), *zip(found[1:], tokens[1:])
        terms = [functional.cross_entropy(a.flatten(0, -2).float(), b.flatten()) for a, b in ends]
        return sum(terms) / 3

    return model, loss


MAKERS = {
    "scaled_q": scaled_q, "cloning": cloning, "contrastive": contrastive,
    "masked_autoencoder": masked_autoencoder, "decision_transformer": decision_transformer,
}  # fmt: skip
