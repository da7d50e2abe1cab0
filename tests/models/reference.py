"""The two models once more, for reading: plain torch.nn, padded, one candidate at a time.

Nothing is packed, shared or computed once: each (history, candidate) pair is a row of its own,
every row is as long as the longest, and a mask says what counts. Parameters are called as in
`models`, so that a state dict of one loads into the other.

Legend: S rows, L length of the longest, D width, H heads, E head width, N negatives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architecture import Architecture
from pipeline.batches import RankingBatch, SequenceBatch
from tests.models.plain import PlainTables

HISTORY, CANDIDATE = 0, 1


class Norm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor, sees: Tensor) -> Tensor:
        """(S, L, D), (S, L), (S, L, L) -> (S, L, D); `sees[s, q, k]`: q may look at k."""
        mixed = []
        for parts in zip(*[v.chunk(self.num_heads, -1) for v in self.projected(x)], strict=True):
            query, key = (turned(part, positions) for part in parts[:2])
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
            weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
            mixed.append(weights @ parts[2])
        return self.output(torch.cat(mixed, -1))

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.query_key_value(x).chunk(3, -1)


def turned(vectors: Tensor, positions: Tensor) -> Tensor:
    """Each adjacent pair of (S, L, E) turned by its position times the pair's own angle."""
    width = vectors.shape[-1]
    result = torch.empty_like(vectors)
    for pair in range(width // 2):
        angle = positions * 10_000.0 ** (-2 * pair / width)
        x, y = vectors[..., 2 * pair], vectors[..., 2 * pair + 1]
        result[..., 2 * pair] = x * angle.cos() - y * angle.sin()
        result[..., 2 * pair + 1] = x * angle.sin() + y * angle.cos()
    return result


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 6 * width, bias=False)
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(gate * gate.sigmoid() * up)


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attention_norm = Norm(width)
        self.attention = Attention(width, num_heads)
        self.feedforward_norm = Norm(width)
        self.feedforward = FeedForward(width)

    def forward(self, x: Tensor, positions: Tensor, sees: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), positions, sees)
        return x + self.feedforward(self.feedforward_norm(x))


class Transformer(nn.Module):
    def __init__(self, architecture: Architecture):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(architecture.width, architecture.num_heads)
            for _ in range(architecture.num_layers)
        )
        self.final_norm = Norm(architecture.width)

    def forward(self, x: Tensor, lengths: Tensor, sees: Tensor) -> Tensor:
        """(S, L, D) -> (S, L, D); what stands behind a row's length is seen by itself alone."""
        positions = torch.arange(x.shape[1]).expand(x.shape[:2])
        real = positions < lengths[:, None]
        alone = torch.eye(x.shape[1], dtype=torch.bool)
        sees = (sees & real[:, None, :] & real[:, :, None]) | alone
        for block in self.blocks:
            x = block(x, positions, sees)
        return self.final_norm(x)


class Tokens(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.segment = nn.Embedding(2, width)

    def forward(self, vectors: list[Tensor], segments: Tensor) -> Tensor:
        return sum(vectors, self.segment(segments))


def padded(values: Tensor, offsets: Tensor) -> Tensor:
    """(T,) in rows -> (S, L), 0 behind the end of each."""
    lengths = offsets.diff().tolist()
    return nn.utils.rnn.pad_sequence(list(values.split(lengths)), batch_first=True)


class ReferenceGenerative(nn.Module):
    def __init__(self, table_rows: dict[str, int], architecture: Architecture):
        super().__init__()
        self.tables = PlainTables(table_rows, architecture.width)
        self.tokens = Tokens(architecture.width)
        self.transformer = Transformer(architecture)
        self.table_rows = table_rows

    def losses(
        self, batch: SequenceBatch, negatives: dict[str, Tensor], temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Sum and count a feature; `negatives` (S or 1, N) of sampled ones, else full softmax."""
        ids = {name: padded(batch.tokens[name], batch.offsets) for name in self.table_rows}
        lengths = batch.offsets.diff()
        vectors = [self.tables.tables[name](ids[name]) for name in self.table_rows]
        segments = torch.full_like(next(iter(ids.values())), HISTORY)
        causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
        hidden = self.transformer(self.tokens(vectors, segments), lengths, causal)
        sums, counts = [], []
        for name in self.table_rows:
            table = functional.normalize(self.tables.tables[name].weight, dim=-1)
            scores = functional.normalize(hidden, dim=-1) @ table.T / temperature
            total, count = 0 * hidden.sum(), torch.zeros(())
            for s, length in enumerate(lengths.tolist()):
                for position in range(length - 1):
                    target = int(ids[name][s, position + 1])
                    weight = batch.weights[s] * (target != 0)
                    against = scores[s, position]
                    if name in negatives:
                        drawn = negatives[name][s % len(negatives[name])]
                        chosen = torch.cat([torch.tensor([target]), drawn[drawn != target]])
                        against, target = against[chosen], 0
                    total = total + weight * functional.cross_entropy(against, torch.tensor(target))
                    count = count + weight
            sums.append(total)
            counts.append(count)
        return torch.stack(sums), torch.stack(counts)


class Head(nn.Module):
    def __init__(self, num_inputs: int, width: int):
        super().__init__()
        self.hidden = nn.Linear(num_inputs, 4 * width)
        self.output = nn.Linear(4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x).relu()).squeeze(-1)


class ReferenceRanking(nn.Module):
    def __init__(
        self,
        item_rows: dict[str, int],
        context_rows: dict[str, int],
        architecture: Architecture,
        *,
        bidirectional: bool = False,
    ):
        super().__init__()
        width = architecture.width
        self.tables = PlainTables({**item_rows, **context_rows}, width)
        self.tokens = Tokens(width)
        self.transformer = Transformer(architecture)
        self.head = Head(width * (1 + len(context_rows)), width)
        self.item_rows, self.context_rows = item_rows, context_rows
        self.bidirectional = bidirectional

    def score(self, batch: RankingBatch) -> Tensor:
        """Logits (C,): every candidate in a row of its own, behind a copy of its history."""
        request = torch.arange(len(batch.row_ids)).repeat_interleave(batch.candidate_offsets.diff())
        lengths = batch.history_offsets.diff()[request]
        row, last = torch.arange(len(request)), max(lengths.tolist(), default=0)
        vectors, segments = [], torch.full((len(request), last + 1), HISTORY)
        segments[row, lengths] = CANDIDATE
        for name in self.item_rows:
            ids = torch.zeros_like(segments)
            for c, r in enumerate(request.tolist()):
                begin, end = batch.history_offsets[r : r + 2].tolist()
                ids[c, : end - begin] = batch.history[name][begin:end]
                ids[c, end - begin] = batch.candidates[name][c]
            vectors.append(self.tables.tables[name](ids))
        hidden = self.transformer(
            self.tokens(vectors, segments), lengths + 1, self.sees(lengths, last + 1)
        )
        context = [
            self.tables.tables[name](batch.context[name])[request] for name in self.context_rows
        ]
        return self.head(torch.cat([hidden[row, lengths], *context], -1))

    def sees(self, lengths: Tensor, size: int) -> Tensor:
        """(C, L, L): causal, or all of the history by all of it; the candidate sees everything."""
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        if not self.bidirectional:
            return causal
        return causal | (torch.arange(size) < lengths[:, None])[:, None, :]

    def losses(self, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        probability = self.score(batch).sigmoid()
        right = torch.where(batch.labels > 0, probability, 1 - probability)
        return -(right.log() * batch.weights).sum()[None], batch.weights.sum()[None]
