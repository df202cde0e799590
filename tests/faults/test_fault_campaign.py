"""A seeded campaign: every stage is disturbed again and again, and the same command ends with the undisturbed bytes."""

import os
import random

import pytest

from pipeline.run_folder import RunFolder
from tests.faults.campaign import Campaign

# Faults that each campaign injects at least; their sum over all campaigns is at least 200 (docs/faults.md).
CAMPAIGNS = {"without_writer": (range(4), 28), "with_writer": (range(2), 46)}
# Workers are forked from this process: threads that other tests leave behind would be forked in the middle of their work.
pytestmark = pytest.mark.skipif("SAFETROVE_FAULTS" not in os.environ, reason="make test-faults runs the campaigns")
CASES = [(name, seed, least) for name, (seeds, least) in CAMPAIGNS.items() for seed in seeds]


def test_at_least_200_faults_are_injected():
    assert sum(least for _, _, least in CASES) >= 200


@pytest.mark.parametrize(("reference", "seed", "least"), CASES)
def test_campaign(request, tmp_path, reference, seed, least):
    undisturbed = request.getfixturevalue(reference)
    marks = tmp_path / "marks"
    marks.mkdir()
    draws = random.Random(f"{reference} {seed}")
    campaign = Campaign(undisturbed.recipe, RunFolder(tmp_path / "run"), undisturbed, draws, marks)
    for stage in undisturbed.stages:
        for _ in range(2):
            campaign.disturb_worker(stage)
        draws.choice([campaign.damage, campaign.damage, lambda stage=stage: campaign.kill_tree(stage)])()
    campaign.finish()
    print(sum(campaign.struck.values()), dict(sorted(campaign.struck.items())))
    assert sum(campaign.struck.values()) >= least
