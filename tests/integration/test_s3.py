"""Training that reads prepared days from a store: the same run as from the local disk."""

import json
import shutil

import pytest

from jobs import evaluate, export, pretrain, rank
from jobs.upload import upload
from pipeline.errors import MissingDayError
from pipeline.partitions import day_folder
from tests.integration.conftest import run, settings_of

pytest_plugins = ["tests.s3"]

pytestmark = pytest.mark.integration

QUICK = ("pretraining.training.epochs=1", "ranking.training.epochs=1")


def losses(root):
    lines = (path.read_text().splitlines() for path in sorted(root.rglob("metrics.jsonl")))
    return [json.loads(line).get("loss") for text in lines for line in text]


def test_the_chain_reads_from_a_store_what_it_reads_locally(shop, s3, s3_folder, tmp_path):
    local = settings_of(shop).data.root
    upload(local, s3_folder)
    results = {}
    for name, examples in (("local", local), ("store", s3_folder)):
        root = tmp_path / name
        places = [f"data.root={root}", f"data.examples={examples}", "reader.workers=2"]
        for verb in (pretrain.pretrain, export.export, rank.rank, evaluate.evaluate):
            run(verb, shop, *places, *QUICK)
        (result,) = root.glob("evaluation/purchase/*/result.json")
        values = json.loads(result.read_text())
        results[name] = (
            losses(root),
            values["strategies"]["ST&SF"]["test"],
            values["baselines"],
        )
    assert results["store"] == results["local"]
    assert results["store"][0]


def test_a_day_that_is_not_in_the_store_is_named(shop, s3, s3_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(settings_of(shop).data.root, copy)
    first = settings_of(shop).days.pretraining[0]
    shutil.rmtree(day_folder(copy, "sequences", first))
    upload(copy, s3_folder)
    with pytest.raises(MissingDayError, match=rf"s3://.*/sequences/day={first}: no such folder"):
        run(pretrain.pretrain, shop, f"data.root={tmp_path}", f"data.examples={s3_folder}")
