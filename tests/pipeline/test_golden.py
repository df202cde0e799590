"""A stage whose output changes must raise its `version`, or finished shards would be reused that a rerun would not make."""

import json

import pytest

from tests.pipeline.golden import GOLDEN, golden_values

RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return golden_values(tmp_path_factory.mktemp("golden"))


def test_every_stage_of_the_golden_run_is_recorded(values):
    assert values.keys() == RECORDED.keys()


@pytest.mark.parametrize("stage", RECORDED)
def test_output_is_that_of_the_recorded_version(values, stage):
    assert values[stage] == RECORDED[stage], (
        f"stage {stage} makes another output than golden.json records. If that is meant: raise `version` of the "
        "stage's class, then run: python -m tests.pipeline.renew_golden. If not: something changed what it writes."
    )
