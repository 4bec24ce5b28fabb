"""Trainings of every objective and stage keep their numbers (golden_runs.py)."""

import json

import pytest
from golden_runs import GOLDEN, RUNS, differences, processor, run_all

pytestmark = pytest.mark.slow
ELSEWHERE = 0.2  # on another processor rounding differs, and forty steps of two networks enlarge it


def test_trainings_of_every_objective_and_stage_keep_their_numbers(tmp_path):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["runs"].keys() == RUNS.keys()
    same = golden["processor"] == processor()
    assert not differences(run_all(tmp_path), golden["runs"], rel=0.0 if same else ELSEWHERE)
