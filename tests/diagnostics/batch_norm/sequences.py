"""Healthy networks over sequences: padded, packed, time first and batch first, with every kind of dropout."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

from tests.diagnostics.activations.data import _characters, characters, characters_of_two_modules
from tests.diagnostics.activations.sequences import FusedLstm, Gpt, RowsAsTokens, TextConvolution
from tests.diagnostics.batch_norm.data import Batch, Classifier, Loaders, Program, digits

Sample = tuple[Tensor, int]


class Stretches(Dataset[Sample]):
    """Stretches of text of different lengths, and which half of the sources they are from."""

    def __init__(self, *, validate: bool) -> None:
        codes, draw = _characters(), random.Random(0)
        self.samples: list[Sample] = []
        place = 0
        while place < len(codes) - 60:
            size = draw.randint(8, 48)
            self.samples.append((codes[place : place + size], int(place > len(codes) // 2)))
            place += size
        draw.shuffle(self.samples)
        cut = len(self.samples) * 4 // 5
        self.samples = self.samples[cut:] if validate else self.samples[:cut]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def padded(samples: Sequence[Sample], *, by_length: bool = False, batch_first: bool = True) -> dict[str, Tensor]:
    """A batch of stretches of one length, the longest first if wanted."""
    if by_length:
        samples = sorted(samples, key=lambda sample: -len(sample[0]))
    return {
        "codes": pad_sequence([codes for codes, _ in samples], batch_first=batch_first),
        "lengths": torch.tensor([len(codes) for codes, _ in samples]),
        "labels": torch.tensor([label for _, label in samples]),
    }


def stretches(**more: bool) -> Loaders:
    """Loaders of padded stretches."""
    collate = partial(padded, **more)
    training, validation = Stretches(validate=False), Stretches(validate=True)
    return DataLoader(training, 32, shuffle=True, collate_fn=collate), DataLoader(validation, 32, collate_fn=collate)


class OfStretches(Classifier):
    """What classifiers of padded stretches share."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch["codes"], batch["lengths"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch["codes"], batch["lengths"]).argmax(1) == batch["labels"]
        self.log("score", right.float().mean(), batch_size=len(right))


class MaskedAttention(OfStretches):
    """An encoder that does not look at the padding, and a mean over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(128, 32), nn.Embedding(48, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 2)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(codes.shape[1], device=codes.device)
        padding = places >= lengths[:, None]
        tokens = self.encoder(self.embed(codes) + self.places(places), src_key_padding_mask=padding)
        tokens = functional.pad(tokens, (0, 0, 0, padding.shape[1] - tokens.shape[1]))
        tokens = tokens.masked_fill(padding[..., None], 0.0)
        return self.head(tokens.sum(1) / lengths[:, None])


class PackedLstm(OfStretches):
    """Lengths are sorted, as packing asks by default."""

    def __init__(self, *, sorts: bool = True) -> None:
        super().__init__()
        self.sorts = sorts
        self.embed, self.lstm = nn.Embedding(128, 24), nn.LSTM(24, 32, 2, batch_first=sorts, dropout=0.1)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 2)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(codes), lengths.cpu(), batch_first=self.sorts, enforce_sorted=self.sorts
        )
        _, (hidden, _) = self.lstm(packed)
        return self.head(self.norm(hidden[-1]))


class MaskedMax(OfStretches):
    """Convolutions with batch norm over padded letters, and the maximum over what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(128, 24, padding_idx=0), nn.Conv1d(24, 32, 5, padding=2)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 2)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(self.embed(codes).transpose(1, 2))))
        padding = torch.arange(codes.shape[1], device=codes.device) >= lengths[:, None]
        return self.head(hidden.masked_fill(padding[:, None], -1.0).amax(2))


class TimeFirst(Classifier):
    """An LSTM as torch has it by default, over batches whose first axis is time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.norm, self.head = nn.LSTM(8, 48), nn.BatchNorm1d(48), nn.Linear(48, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.lstm(inputs)[0][-1]))


def time_first(samples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Rows of images are time, along the first axis."""
    images, labels = zip(*samples, strict=True)
    return [torch.stack([image.view(8, 8) for image in images], 1), torch.stack(labels)]


def rows_over_time() -> Loaders:
    """Digits as sequences of rows, time first."""
    training, validation = digits()()
    return (
        DataLoader(training.dataset, 48, shuffle=True, collate_fn=time_first),
        DataLoader(validation.dataset, 48, collate_fn=time_first),
    )


class Chunks(Dataset[Batch]):
    """Ready batches for a language model: 32 letters by 20 streams, time first."""

    def __init__(self, start: float, end: float) -> None:
        codes = _characters()
        codes = codes[int(len(codes) * start) : int(len(codes) * end)]
        self.streams = codes[: len(codes) // 20 * 20].view(20, -1).T

    def __len__(self) -> int:
        return (len(self.streams) - 1) // 32

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        place = index * 32
        return [self.streams[place : place + 32], self.streams[place + 1 : place + 33]]


def chunks() -> Loaders:
    """Loaders that give what the dataset has as it is."""
    return DataLoader(Chunks(0, 0.8), batch_size=None, shuffle=True), DataLoader(Chunks(0.8, 1), batch_size=None)


class LettersOverTime(Classifier):
    """A language model over batches whose first axis is time, with batch norm over streams and time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.norm = nn.Embedding(128, 32), nn.LSTM(32, 64), nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 128)

    def forward(self, codes: Tensor) -> Tensor:
        hidden = self.lstm(self.embed(codes))[0]
        return self.head(self.norm(hidden.flatten(0, 1))).view(*codes.shape, 128)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", (self(batch[0]).argmax(-1) == batch[1]).float().mean(), batch_size=20)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class DropPath(nn.Module):
    """The branch of a sample is left out at random in training."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        keep = torch.rand(len(inputs), *[1] * (inputs.dim() - 1), device=inputs.device) >= self.chance
        return inputs * keep / (1 - self.chance)


class EveryDropout(Classifier):
    """Dropout as a module, as a function, in attention, in a recurrence, of channels, of paths and of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.gru = nn.GRU(32, 32, 2, batch_first=True, dropout=0.1)
        self.qkv = nn.Linear(32, 96)
        self.path, self.channels, self.alpha = DropPath(0.1), nn.Dropout1d(0.05), nn.AlphaDropout(0.05)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = functional.dropout(self.embed(inputs.view(-1, 8, 8)), 0.1, self.training)
        tokens = tokens + self.path(self.attention(tokens, tokens, tokens, need_weights=False)[0])
        query, key, value = self.qkv(tokens).chunk(3, -1)
        chance = 0.1 if self.training else 0.0
        tokens = tokens + functional.scaled_dot_product_attention(query, key, value, dropout_p=chance)
        tokens = self.alpha(self.channels(self.gru(tokens)[0]))
        tokens = functional.dropout1d(tokens, p=0.05, training=self.training)
        return self.head(self.norm(tokens.transpose(1, 2)).mean(2))


PROGRAMS = (
    Program(MaskedAttention, stretches, 3, 0.55),
    Program(partial(PackedLstm), partial(stretches, by_length=True), 3, 0.55, "PackedLstm"),
    Program(partial(PackedLstm, sorts=False), partial(stretches, batch_first=False), 3, 0.55, "PackedTimeFirst"),
    Program(MaskedMax, stretches, 3, 0.55),
    Program(TimeFirst, rows_over_time, 6, 0.7),
    Program(LettersOverTime, chunks, 3, 0.2),
    Program(EveryDropout, digits(), 6, 0.6),
    Program(RowsAsTokens, digits(), 5, 0.7),
    Program(TextConvolution, characters_of_two_modules, 3, 0.6),
    Program(Gpt, characters, 2, 0.2),
    Program(FusedLstm, characters, 2, 0.2),
)
