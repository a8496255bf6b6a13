"""Healthy networks over sequences: transformers, recurrent networks, language models on characters."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnostics.activations.data import (
    Batch,
    Classifier,
    Program,
    characters,
    characters_of_two_modules,
    digits,
)


class RowsAsTokens(Classifier):
    """An encoder layer as torch has it by default: norm last, ReLU, sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.places = nn.Parameter(torch.randn(8, 1, 32) / 10)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.embed(inputs.view(-1, 8, 8).transpose(0, 1)) + self.places
        return self.head(self.encoder(rows).mean(0))


class NormFirstRelu(Classifier):
    """Norm first, ReLU, batch first, a wide feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.places = nn.Parameter(torch.randn(1, 8, 32) / 10)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 128, 0.0, batch_first=True, norm_first=True) for _ in range(3)
        )
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs.view(-1, 8, 8)) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(tokens.mean(1))


class LanguageModel(Classifier):
    """What models of characters share: the next one is predicted."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        return functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", (self(batch[0]).argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=4e-3)


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        size = inputs.shape
        parts = self.qkv(self.ln_1(inputs)).view(*size[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        inputs = inputs + self.proj(mixed.transpose(1, 2).reshape(size))
        return inputs + self.mlp(self.ln_2(inputs))


class Gpt(LanguageModel):
    def __init__(self, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(128, width), nn.Embedding(32, width)
        self.blocks = nn.Sequential(*(GptBlock(width, 4) for _ in range(layers)))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 128, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        places = torch.arange(codes.shape[1], device=codes.device)
        return self.lm_head(self.ln_f(self.blocks(self.wte(codes) + self.wpe(places))))


class RmsNorm(nn.Module):
    """Written by hand, as in many repositories."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(inputs)) * self.w3(inputs))


class GatedMlps(LanguageModel):
    """Gated feed-forwards behind hand-written norms, on a residual stream; the past is a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 48)
        self.norms = nn.ModuleList(RmsNorm(96) for _ in range(5))
        self.blocks = nn.ModuleList(SwiGlu(96, 96) for _ in range(5))
        self.head = nn.Linear(96, 128)

    def forward(self, codes: Tensor) -> Tensor:
        letters = self.embed(codes)
        before = functional.pad(letters, (0, 0, 1, 0))[:, :-1]
        stream = torch.cat([letters, before], dim=-1)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            stream = stream + block(norm(stream))
        return self.head(stream)


class FusedLstm(LanguageModel):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(128, 32), nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 128))

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(codes))[0])


class LstmByHand(Classifier):
    """A cell of ``torch.sigmoid`` and ``torch.tanh`` over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(8 + 48, 4 * 48)
        self.head = nn.Linear(48, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = cell = inputs.new_zeros(len(inputs), 48)
        for row in inputs.view(-1, 8, 8).unbind(1):
            enter, forget, leave, new = self.gates(torch.cat([row, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(forget + 1) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(leave) * torch.tanh(cell)
        return self.head(hidden)


class LstmInChunks(Classifier):
    """The gates are computed at once and cut apart afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.new = nn.Linear(8 + 48, 3 * 48), nn.Linear(8 + 48, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = cell = inputs.new_zeros(len(inputs), 48)
        for row in inputs.view(-1, 8, 8).unbind(1):
            both = torch.cat([row, hidden], 1)
            enter, forget, leave = torch.sigmoid(self.gates(both)).chunk(3, 1)
            cell = forget * cell + enter * torch.tanh(self.new(both))
            hidden = leave * torch.tanh(cell)
        return self.head(hidden)


class GruOverRows(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 48, 2), nn.Linear(48, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.gru(inputs.view(-1, 8, 8).transpose(0, 1))[0][-1])


class ReluRecurrence(Classifier):
    """An Elman network with ReLU, its recurrence starting at the identity (Le et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.onward = nn.Linear(8, 64), nn.Linear(64, 64)
        nn.init.eye_(self.onward.weight)
        nn.init.zeros_(self.onward.bias)
        self.head = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        state = inputs.new_zeros(len(inputs), 64)
        for row in inputs.view(-1, 8, 8).unbind(1):
            state = functional.relu(self.inward(row) + self.onward(state))
        return self.head(state)


class BagOfLetters(Classifier):
    """Which of two sources a stretch of text is from."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(128, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class TextConvolution(Classifier):
    """Convolutions of several widths over letters, and the maximum over time (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 24)
        self.convs = nn.ModuleList(nn.Conv1d(24, 24, size, padding=size // 2) for size in (3, 5, 7))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(72, 2))

    def forward(self, codes: Tensor) -> Tensor:
        letters = self.embed(codes).transpose(1, 2)
        return self.head(torch.cat([functional.relu(conv(letters)).amax(-1) for conv in self.convs], 1))


class Dilated(LanguageModel):
    """Causal convolutions with gates of tanh and sigmoid, as WaveNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.convs = nn.ModuleList(nn.Conv1d(32, 64, 2, dilation=2**power) for power in range(4))
        self.mixes = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU(), nn.Conv1d(64, 128, 1))

    def forward(self, codes: Tensor) -> Tensor:
        stream = self.embed(codes).transpose(1, 2)
        total = torch.zeros_like(stream)
        for power, (conv, mix) in enumerate(zip(self.convs, self.mixes, strict=True)):
            value, gate = conv(functional.pad(stream, (2**power, 0))).chunk(2, 1)
            out = mix(torch.tanh(value) * torch.sigmoid(gate))
            stream, total = stream + out, total + out
        return self.head(total / math.sqrt(4)).transpose(1, 2)


class AttentionPooling(Classifier):
    """Rows as a set: tanh and sigmoid gate a weight for each, which sums up the bag (Ilse et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8 + 8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.value, self.gate, self.weight = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 1)
        self.head = nn.Linear(64, 10)
        self.register_buffer("places", torch.eye(8))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.view(-1, 8, 8)
        bag = self.embed(torch.cat([rows, self.places.expand(len(inputs), -1, -1)], 2))
        weight = self.weight(torch.tanh(self.value(bag)) * torch.sigmoid(self.gate(bag))).softmax(1)
        return self.head((weight * bag).sum(1))


PROGRAMS = (
    Program(RowsAsTokens, digits, 8, 0.88),
    Program(NormFirstRelu, digits, 10, 0.9),
    Program(Gpt, characters, 5, 0.3),
    Program(GatedMlps, characters, 3, 0.35),
    Program(FusedLstm, characters, 5, 0.3),
    Program(LstmByHand, digits, 15, 0.8),
    Program(LstmInChunks, digits, 12, 0.8),
    Program(GruOverRows, digits, 12, 0.88),
    Program(ReluRecurrence, digits, 12, 0.8),
    Program(BagOfLetters, characters_of_two_modules, 8, 0.75),
    Program(TextConvolution, characters_of_two_modules, 6, 0.7),
    Program(Dilated, characters, 5, 0.35),
    Program(AttentionPooling, digits, 20, 0.8),
)
