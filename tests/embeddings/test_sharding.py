from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from embeddings.initialization import initialize
from embeddings.parameters import dense_parameters, table_parameters
from embeddings.settings import EmbeddingSettings
from embeddings.sharding import describe_plan, set_table_learning_rate
from embeddings.tables import EmbeddingTables, tables_of
from pipeline.errors import ConfigError
from tests.distributed import run_distributed
from tests.embeddings.small_model import (
    CPU,
    META,
    RATES,
    ROWS,
    SPECS,
    SmallModel,
    batches,
    plain_model,
    shard,
    sharded_model,
    train,
    whole_tables,
)

CASES = {
    "table_wise": EmbeddingSettings(),
    "column_wise": EmbeddingSettings(
        optimizer="adagrad", sharding={"item_id": "column_wise", "type": "table_column_wise"}
    ),
    "data_parallel": EmbeddingSettings(optimizer="adamw"),
}


def reference_training(settings: EmbeddingSettings, model, steps) -> tuple[list[list[float]], dict]:
    """One process, nothing sharded, the optimizers written out; each step has a batch a rank."""
    weights = {
        name: dict(model.tables.trainable.named_parameters())[f"embedding_bags.table_{name}.weight"]
        for name in model.tables.specs
    }
    dense = [*model.linear.parameters()]
    if settings.optimizer == "adamw":
        dense += weights.values()
    optimizer = torch.optim.AdamW(dense, lr=0.01)
    sums = dict.fromkeys(weights, 0.0)
    losses = []
    for rate, ranks in zip(RATES, steps, strict=False):
        model.zero_grad()
        parts = [model(ids) for ids in ranks]
        (sum(parts) / len(parts)).backward()
        optimizer.step()
        losses.append([part.item() for part in parts])
        if settings.optimizer == "adamw":
            continue
        with torch.no_grad():
            for name, weight in weights.items():
                squares = weight.grad.square()
                if settings.optimizer == "rowwise_adagrad":
                    squares = squares.mean(dim=1, keepdim=True)
                sums[name] = sums[name] + squares
                weight.sub_(rate * weight.grad / (sums[name].sqrt() + settings.eps))
    return losses, whole_tables(model)


def train_sharded(settings: EmbeddingSettings) -> tuple[list[float], dict]:
    model = sharded_model(settings)
    assert whole_tables(model) == whole_tables(plain_model(settings))
    return train(model), whole_tables(model)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_sharded_training_equals_one_plain_process(case, world_size):
    plain = plain_model(CASES[case])
    losses, tables = reference_training(CASES[case], plain, [[ids] for ids in batches(3)])
    losses = [loss for (loss,) in losses]
    for found_losses, found_tables in run_distributed(train_sharded, world_size, CASES[case]):
        assert found_losses == pytest.approx(losses, rel=1e-5)
        for name, rows in tables.items():
            torch.testing.assert_close(
                torch.tensor(found_tables[name]), torch.tensor(rows), rtol=1e-4, atol=1e-6
            )


class JaggedModel(SmallModel):
    """Each table has a number of ids of its own, which may be none."""

    def forward(self, ids):
        vectors = self.tables.lookup(ids).values()
        tokens = [table.distinct[table.inverse] * 10 for table in vectors]
        return sum((self.linear(token) - 1).square().sum() / 10 for token in tokens)


def jagged_ids(counts, seed):
    """Random ids, table -> as many as asked for; few distinct ones, so that ranks meet in them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, min(num_rows, 60), (count,), generator=generator) * step
        for (name, num_rows), step, count in zip(ROWS.items(), (1100, 1, 1), counts, strict=True)
    }


def train_jagged(settings: EmbeddingSettings, steps) -> tuple[list[float], dict]:
    """This rank's losses, and the tables of all."""
    model = shard(JaggedModel(EmbeddingTables(SPECS, settings, device=META)), CPU)
    initialize(model, seed=1)
    parameters = [*dense_parameters(model).values(), *table_parameters(model).values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    losses = []
    for rate, ranks in zip(RATES, steps, strict=False):
        set_table_learning_rate(model, rate)
        loss = model(ranks[dist.get_rank()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, whole_tables(model)


# Numbers of ids of each table: of one rank, of both, of one to three steps.
COUNTS = st.tuples(*[st.just(0) | st.integers(0, 60)] * len(ROWS))
STEPS = st.lists(st.tuples(st.just((0,) * len(ROWS)) | COUNTS, COUNTS), min_size=1, max_size=3)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=4, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(STEPS, st.integers(0, 2**20), st.booleans())
def test_ranks_with_any_numbers_of_ids_train_as_one_process(case, counts, seed, turned):
    """Also where a rank has none of a table, or none at all."""
    steps = [
        [jagged_ids(own, seed + 2 * n + m) for m, own in enumerate(ranks[:: -1 if turned else 1])]
        for n, ranks in enumerate(counts)
    ]
    plain = JaggedModel(EmbeddingTables(SPECS, CASES[case], device=CPU))
    initialize(plain, seed=1)
    losses, tables = reference_training(CASES[case], plain, steps)
    found = run_distributed(train_jagged, 2, CASES[case], steps)
    for rank, (found_losses, found_tables) in enumerate(found):
        assert found_losses == pytest.approx([step[rank] for step in losses], rel=1e-4)
        for name, rows in tables.items():
            torch.testing.assert_close(
                torch.tensor(found_tables[name]), torch.tensor(rows), rtol=1e-4, atol=1e-5
            )


def count_ids_looked_up() -> list[tuple[int, int]]:
    """(ids the collection was given, distinct ids in the batch) of two lookups."""
    model = sharded_model(EmbeddingSettings())
    given: list[int] = []
    model.module.tables.trainable.register_forward_pre_hook(
        lambda module, arguments: given.append(arguments[0].values().numel())
    )
    wanted = []
    for ids in batches(2):
        model(ids)
        wanted.append(sum(len(set(table.tolist())) for table in ids.values()))
    return list(zip(given, wanted, strict=True))


def test_every_distinct_id_is_looked_up_once():
    for rank in run_distributed(count_ids_looked_up, 2):
        assert all(given == wanted for given, wanted in rank)


def plan_lines() -> list[str]:
    settings = EmbeddingSettings(
        optimizer="adagrad", sharding={"item_id": "column_wise", "department": "data_parallel"}
    )
    model = sharded_model(settings, frozen=["department"])
    return describe_plan(model)


def random_roundings(settings: EmbeddingSettings) -> list[bool]:
    """Of each kernel that stores rows: whether it rounds at random."""
    tables = tables_of(sharded_model(settings, ["department"]))
    lookups = [*tables.trainable._lookups, *tables.frozen._lookups]
    kernels = [
        module
        for lookup in lookups
        for module in lookup.modules()
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
    ]
    return [
        flag
        for kernel in kernels
        for flag in (kernel.stochastic_rounding, kernel.optimizer_args.stochastic_rounding)
    ]


@pytest.mark.parametrize("sharding", [{}, {"item_id": "column_wise"}])
def test_no_kernel_rounds_at_random(sharding):
    settings = EmbeddingSettings(
        dtype="fp16", optimizer="adagrad", sharding=sharding, replicated_bytes=0
    )
    flags = run_distributed(random_roundings, 2, settings)
    assert [*flags[0], *flags[1]]
    assert not any([*flags[0], *flags[1]])


def test_plan_says_where_every_table_is():
    lines = run_distributed(plan_lines, 2)[0]
    assert lines[0] == (
        "table department: 7 x 8, replicated, frozen; bytes: rank 0 224, rank 1 224"
    )
    assert lines[1] == (
        "table item_id: 70000 x 8, column_wise (fused); bytes: rank 0 1,120,000, rank 1 1,120,000"
    )
    assert lines[2].startswith("table type: 40 x 8, table_wise (fused); bytes: rank ")


def shard_with(settings: EmbeddingSettings, frozen: Sequence[str] = ()) -> str:
    assert dist.is_initialized()
    try:
        shard(SmallModel(EmbeddingTables(SPECS, settings, frozen=frozen, device=META)), CPU)
    except ConfigError as error:
        return str(error)
    return "no error"


def test_row_wise_is_refused_on_cpu():
    settings = EmbeddingSettings(sharding={"item_id": "row_wise"})
    message = run_distributed(shard_with, 1, settings)[0]
    assert message.startswith("embeddings.sharding.item_id: row_wise needs CUDA")


def test_tables_that_do_not_fit_the_memory_are_refused():
    settings = EmbeddingSettings(memory_per_rank_bytes=100_000)
    for message in run_distributed(shard_with, 2, settings):
        assert "no placement of the tables fits; raise memory_per_rank_bytes" in message


def test_whole_tables_take_from_the_memory_that_the_others_have():
    num_bytes = next(4 * spec.num_rows * spec.dim for spec in SPECS if spec.name == "item_id")
    settings = EmbeddingSettings(memory_per_rank_bytes=num_bytes + 1000)
    message = run_distributed(shard_with, 1, settings, ["item_id"])[0]
    assert "no placement of the tables fits" in message
    settings = EmbeddingSettings(memory_per_rank_bytes=4 * num_bytes)
    assert run_distributed(shard_with, 1, settings, ["item_id"])[0] == "no error"
