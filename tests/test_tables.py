"""Tables and sentences from records made by hand; what must not be pooled is named."""

import pytest
from conftest import results_of

from lab import tables
from lab.results import condensed
from run_experiments import ALL

MEASURES = {
    **{"corner_distance_before": 8.0, "corner_distance_after": 2.5},
    **{"within_class_variance_before": 0.08, "within_class_variance_after": 0.05},
    **{"ink_kept": 0.99, "ink_area": 0.25},
}


def record_of(runs):
    """{(experiment's id, run): correct images by epoch} -> a record of runs with 1000 test images."""
    record = {}
    for (identity, run), (correct, changes) in runs.items():
        name = next(row for row in ALL if row.id == identity).directory(run)
        record[name] = condensed(results_of(name, correct, **changes))
    return record


def test_results_table_by_hand():
    history = [900, 970, 975, 980, 985, 990]
    table = tables.results_table(record_of({("exp_02", 1): (history, {}), ("exp_02", 2): ([*history[:-1], 980], {})}))
    row = table.splitlines()[2].split(" | ")
    assert row[:4] == ["| `exp_02_reproduce_baseline`", "6", "2", "27,360"]
    assert row[4] == "98.50 ± 6.35"  # t(1, 0.975) = 12.706, standard error 0.5
    assert row[5] == "97.90 ± 1.27"  # 98.0 and 97.8
    assert row[6:] == ["98.84", "5, 70 |"]


def test_differences_table_by_hand():
    runs = {("exp_02", run): ([980 + run], {}) for run in range(1, 8)}
    runs |= {("exp_03", run): ([980 - run], {}) for run in range(1, 7)}
    table = tables.differences_table(record_of(runs), tables.ORIGINAL_PAIRS).splitlines()
    assert len(table) == 3
    row = table[2].split(" | ")
    assert row[:2] == ["| the transformer (exp_02 − exp_03)", "6"]
    assert row[2].startswith("+0.70 ± ")  # 0.2, 0.4, ..., 1.2 points
    assert row[3:6] == ["+70", "6, 0", "0.031"]


def test_perspective_table_by_hand():
    """Errors 10 and 12 % without a transformer, 5 and 6 % affine."""
    runs = {("exp_12", run): ([500, correct], {}) for run, correct in ((1, 900), (2, 880))}
    changes = {"transformer": MEASURES}
    runs |= {("exp_13", run): ([500, correct], changes) for run, correct in ((1, 950), (2, 940))}
    table = tables.transformers_table(record_of(runs), tables.RECORDS["perspective"], True).splitlines()
    assert table[2] == "| `exp_12` bypass localisation | 2 | 11.00 ± 12.71 | 400 |" + 5 * "  |"
    assert table[3] == "| `exp_13` affine | 2 | 5.50 ± 6.35 | 450 | 8.0 → 2.5 | 5.0 | 0.0800 → 0.0500 | 0.990 | 0.25 |"


def test_swings_table_looks_at_the_last_ten_steps():
    correct = [0, 900, 905, 903, 903, 903, 903, 903, 903, 903, 896, 960]
    table = tables.swings_table(record_of({("exp_02", 1): (correct, {})}), ["exp_02", "exp_20"]).splitlines()
    assert table[2] == "| `exp_02` reproduce baseline | 1 | 96.00 | 91.30 | 0 | 64 | 10 % | 64 | 89.60 |"
    assert len(table) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git_commit": "b" * 40}, "git_commit"),
        ({"device_name": "another"}, "device_name"),
        ({"data": {"name": "few", "md5": "1"}}, "data"),
        ({"versions": {"torch": "3"}}, "versions"),
    ],
)
def test_runs_of_another_kind_are_not_pooled(change, reason):
    runs = {("exp_02", run): ([980], {}) for run in (1, 2)} | {("exp_02", 3): ([980], change)}
    record, complaints = tables.poolable(record_of(runs))
    assert [run["run"] for run in record.values()] == [1, 2]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"exp_02_reproduce_baseline: run 03 left out, it has {reason} ")
    assert complaints[0].endswith("(--pool keeps it)")


def test_a_short_look_is_not_pooled_with_full_runs():
    runs = {("exp_02", 1): ([900, 980], {}), ("exp_02", 2): ([900], {})}
    record, complaints = tables.poolable(record_of(runs))
    assert [run["n_epochs"] for run in record.values()] == [2]
    assert "n_epochs 1 instead of 2" in complaints[0]


def test_experiments_of_different_code_are_not_compared_unless_asked():
    runs = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970], {"git_commit": "b" * 40})}
    record = record_of(runs)
    assert tables.poolable(record) == (record, [])
    assert tables.comparisons(record, tables.ORIGINAL_PAIRS) == []
    refused = "exp_02 and exp_03 are not compared: they differ in git_commit (--pool compares them)"
    assert tables.refused(record) == [refused]
    assert refused in tables.comparison_document(record)
    assert len(tables.comparisons(record, tables.ORIGINAL_PAIRS, pool=True)) == 1


def test_experiments_of_different_epochs_or_data_are_not_compared():
    short = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970, 975], {})}
    assert "differ in n_epochs" in tables.refused(record_of(short))[0]
    other = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970], {"data": {"name": "other"}})}
    assert "differ in data" in tables.refused(record_of(other))[0]
    table = {("exp_01", 1): ([980] * 20, {}), ("exp_02", 1): ([980] * 30, {})}
    assert tables.refused(record_of(table)) == []


def sentence(differences):
    runs = {("exp_02", run): ([950 + difference], {}) for run, difference in enumerate(differences, 1)}
    runs |= {("exp_03", run): ([950], {}) for run in range(1, len(differences) + 1)}
    found = tables.comparisons(record_of(runs), tables.ORIGINAL_PAIRS)
    return tables.change_text(*found[0])


def test_a_sentence_claims_no_more_than_the_runs_show():
    one = "In one pair of runs the accuracy changes by +0.20 points with the transformer: no evidence either way."
    assert sentence([2]) == one
    assert sentence([2, 3, 2]).endswith("3 pairs are too few for a test.")
    assert sentence([2, 3, 2, 2, 3, 3, 2]).startswith(
        "The transformer raises the accuracy by 0.24 ± 0.05 points (24 of"
    )
    assert "in 7 of 7 pairs of runs, p = 0.016)" in sentence([2, 3, 2, 2, 3, 3, 2])
    assert sentence([-2, -3, -2, -2, -3, -3, -2]).startswith("The transformer lowers the accuracy by 0.24")
    assert sentence([2, -3, 2, -2, 3, -3, 2]).startswith("No effect of the transformer is shown: +0.01 ± ")


def test_few_pairs_are_told():
    runs = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970], {})}
    document = tables.comparison_document(record_of(runs))
    assert "With fewer than 6 pairs no p-value can fall under 0.05, so none is given." in document
    assert "2 of the experiments have one run only, and therefore no interval" in document


def test_formulations_are_compared_over_the_epochs_that_both_have():
    def form(losses, correct):
        return {
            "run_a": {"train_loss": losses, "test_correct": correct},
            "run_b": {"train_loss": [1, 1], "test_correct": [0, 0]},
        }

    plain = form([2.0, 1.0, 0.5], [9000, 9900, 10])
    fast = form([2.02, 0.9], [9000, 9950])
    text = tables.formulations_table({"plain": plain, "fast": fast, "device_name": "a machine", "git_commit": 40 * "a"})
    assert "| run_a | 2 | +1.00 % | -10.00 % | 37.80 | 37.90 |" in text
    assert "differ by 1.00 % at most" in text
    assert "the last loss changes by -5.0 ± 63.5 %" in text  # t(1, 0.975) = 12.706, standard error 5


def test_the_parts_of_a_run_are_shares_of_its_seconds():
    def row(experiment, images, training, evaluation, tensorboard, kilobytes):
        parts = {"training": training, "evaluation": evaluation, "tensorboard": tensorboard, "rest": 1.0}
        sizes = {"event_file_kb": kilobytes, "seconds": sum(parts.values())}
        return {"experiment": experiment, "log_images": images} | parts | sizes

    rows = [row("exp_03", 5, 45, 3, 1, 200), row("exp_02", 5, 95, 3, 1, 300), row("exp_02", 0, 90, 9, 0.02, 25)]
    record = {"device_name": "a machine", "cores": 2, "git_commit": 40 * "a", "versions": {"torch": "2"}, "rows": rows}
    text = tables.parts_table(record)
    assert "| exp_02 | 100 | 3.00 % | 1.00 % | 1.00 % | 5.00 % |\n| exp_03 | 50 | 6.00 % | 2.00 % |" in text
    assert "| all seven | 150 | 4.00 % | 1.33 % | 1.33 % | 6.67 % |" in text
    said = tables.logging_text(record)
    assert "takes 1.0 seconds in a run of exp_02, 1.0 % of its 100, and 300 kB;" in said
    assert said.endswith("with `--log-images 0` 0.02 seconds and 25 kB.")


def test_the_claim_is_compared_with_the_runs_and_the_interval():
    assert tables.claim_text([98.70]) == "1 of 1 runs reach its 98.69 %."
    inside = tables.claim_text([98.60, 98.75, 98.70])
    assert inside == "2 of 3 runs reach its 98.69 %, which lie inside the interval of the mean."
    assert tables.claim_text([98.5, 98.51, 98.52]) == "0 of 3 runs reach its 98.69 %; the mean lies 0.18 points below."
    assert tables.claim_text([98.9, 98.91, 98.92]).endswith("the mean lies 0.22 points above.")


def test_a_ranking_shows_ties():
    assert tables.ranking({"a": 1.0, "b": 3.0, "c": 1.0, "d": 2.0}) == "b > d > a = c"


def test_the_deepest_fall_is_named():
    correct = [100, 900, *[980] * 12, 300, 985]
    text = tables.deepest_text(record_of({("exp_02", 3): (correct, {}), ("exp_03", 1): ([970] * 16, {})}))
    name = "exp_02_run_03_reproduce_baseline"
    assert (
        text
        == f"The deepest fall in the 2 runs: `{name}` went from 98.00 to 30.00 % in epoch 15, and ended at 98.50 %."
    )
