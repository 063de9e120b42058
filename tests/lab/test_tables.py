"""Tables from records made by hand, and which runs are pooled and compared."""

import itertools

import page
import pytest
from conftest import record_of, results_of

from lab import comparison, results, tables
from lab.results import ONE_RUN_EACH, condensed, last_five
from run_experiments import ALL, SETS
from studies.cards.report import strength_curves
from studies.perspective import STUDY
from studies.perspective.report import RECTIFYING

MNIST = {"data": {"name": "MNIST", "md5": results.MNIST_MD5}}
SEVEN = comparison.families()["The seven"]
TRANSFORMER = ("exp_02", "exp_03", "the transformer")
MEASURES = {
    **{"corner_distance_before": 8.0, "corner_distance_after": 2.5},
    **{"within_class_variance_before": 0.08, "within_class_variance_after": 0.05},
    **{"ink_kept": 0.99, "ink_area": 0.25},
}


def pairs_of(differences, first="exp_02", second="exp_03"):
    """A record in which the first experiment has so many more correct images than the second, run by run."""
    runs = {(first, run): ([950 + difference], {}) for run, difference in enumerate(differences, 1)}
    return record_of(runs | {(second, run): ([950], {}) for run in range(1, len(differences) + 1)})


def test_results_table_by_hand():
    history = [900, 970, 975, 980, 985, 990]
    runs = {("exp_02", 1): (history, MNIST), ("exp_02", 2): ([*history[:-1], 980], MNIST)}
    table = tables.results_table(record_of(runs))
    row = table.splitlines()[2].split(" | ")
    assert row[:4] == ["| `exp_02_reproduce_baseline`", "6", "2", "27,360"]
    assert row[4:6] == ["98.50 (no interval)", "98.50 (98.00 to 99.00)"]
    assert row[6] == "97.90 (no interval)"  # 98.0 and 97.8
    assert row[7:] == ["98.84", "5", "70 |"]


def lose(record, name, seen=None):
    """Let a run of four epochs guess from the second on or, with `seen`, see so much of its digits after each."""
    history = record[name]["history"]
    history |= (
        {loss: [0.1, 2.31, 2.31, 2.31] for loss in ("train_loss", "test_loss")} if seen is None else {"seen": seen}
    )


def test_lost_runs_are_counted_and_named():
    """By the losses from the third epoch on, by what is seen from any; the one that finds back is not lost."""
    record = record_of({("exp_02", run): ([900, 901, 902, 900 + run], {}) for run in (1, 2, 3, 4)})
    assert "lost" not in tables.comparison_document(record, ALL)
    names = list(record)
    lose(record, names[0])
    lose(record, names[1], seen=[0.9, 0.19, 0.0, 0.1])
    lose(record, names[2], seen=[0.1, 0.1, 0.2, 0.9])
    header, _, row = (line.split(" | ") for line in tables.results_table(record).splitlines())
    assert row[header.index("lost")] == "2"
    assert row[header.index("runs")] == "4"  # it stays part of every centre
    document = tables.comparison_document(record, ALL)
    assert f"- `{names[0]}` lost the digits in epoch 3.\n- `{names[1]}` lost the digits in epoch 2.\n" in document


def test_all_rows_have_centre_and_interval_whatever_their_runs_look_like():
    """One run of twelve that fell moves neither; of two to five runs it is said that they have none."""
    runs = {("exp_07", run): ([988 + run % 2], {}) for run in range(1, 12)} | {("exp_07", 12): ([850], {})}
    runs |= {("exp_03", run): ([985 + run], {}) for run in range(1, 5)} | {("exp_02", 1): ([989], {})}
    header, _, *rows = (line.split(" | ") for line in tables.results_table(record_of(runs)).splitlines())
    shown = {row[0][3:9]: row[header.index("accuracy %, last epoch: centre (95 %)") :] for row in rows}
    assert shown["exp_07"][:2] == ["98.85 (98.80 to 98.90)", "98.85 (85.00 to 98.90)"]
    assert shown["exp_03"][:2] == ["98.75 (no interval)", "98.75 (98.60 to 98.90)"]
    assert shown["exp_02"][:2] == ["98.90", ""]


def test_differences_table_by_hand():
    runs = {("exp_02", run): ([980 + run], {}) for run in range(1, 11)}
    runs |= {("exp_03", run): ([980 - run], {}) for run in range(1, 10)}
    table = tables.differences_table(record_of(runs), SEVEN, ALL).splitlines()
    assert len(table) == 3
    row = table[2].split(" | ")
    assert row[:3] == ["| the transformer (exp_02 − exp_03)", "9", "9, 0"]
    # 0.2, 0.4, ..., 1.8 points; without the five smallest and the five largest of their 45 averages of two
    assert row[3:5] == ["+1.00 (+0.50 to +1.50)", "+1.00 (+0.20 to +1.80)"]
    assert row[5] == "0.023"  # 2 of 512 combinations of signs, times the six comparisons of the family
    assert row[6:8] == ["+1.00 (+0.50 to +1.50)", "0.023"]
    assert row[8:] == ["+0.00 (+0.00 to +0.00)", "0, 0 |"]


def test_the_test_loss_is_compared_by_its_ratio_where_both_runs_have_one():
    """Halved in one pair and twice as large in another, it has not changed."""
    record = pairs_of([1] * 8)

    def loss_cells(losses):
        for run, loss in zip(record.values(), losses, strict=False):
            run["history"] |= {"test_loss": [9.0, loss]}
        return tables.differences_table(record, SEVEN, ALL).splitlines()[2].removesuffix(" |").split(" | ")[-2:]

    assert loss_cells([0.05] * 8) == ["-50.00 (-50.00 to -50.00)", "8, 0"]
    assert loss_cells([0.05, 0.2] * 4) == ["+0.00 (-50.00 to +100.00)", "4, 4"]
    for run in [*record.values()][:3]:
        del run["history"]["test_loss"]  # as in a record of an earlier format
    assert tables.differences_table(record, SEVEN, ALL).splitlines()[2].endswith(" | +0.00 (no interval) | 2, 3 |")
    for run in record.values():
        run["history"].pop("test_loss", None)
    assert tables.differences_table(record, SEVEN, ALL).splitlines()[2].endswith(" | – | – |")


def test_p_values_are_corrected_for_the_comparisons_of_the_family_that_are_missing_too():
    """Fewer experiments make no result more significant."""
    runs = {("exp_02", run): ([980 + run], {}) for run in range(1, 10)}
    for exp_id in ("exp_03", "exp_05"):
        runs |= {(exp_id, run): ([980 - run], {}) for run in range(1, 10)}
    two = comparison.comparisons(record_of(runs), SEVEN, ALL)
    one = comparison.comparisons(record_of({key: run for key, run in runs.items() if key[0] != "exp_05"}), SEVEN, ALL)
    assert len(two) == 2
    assert two[TRANSFORMER].p_value == one[TRANSFORMER].p_value == pytest.approx(6 * 2 / 2**9)


def test_a_run_of_another_recipe_than_its_row_has_is_named_and_left_out():
    """It would be compared as if only the CoordConv layers were added."""
    runs = {(exp_id, run): ([980], {}) for exp_id in ("exp_02", "exp_03", "exp_05") for run in (1, 2)}
    faster = {"learning_rate": 0.05, "localisation_rate": 0.05}
    runs |= {("exp_05", run): ([985], faster) for run in (1, 2)}
    record = record_of(runs)
    assert list(comparison.comparisons(record, SEVEN, ALL)) == [TRANSFORMER]
    (why,) = comparison.list_incomparable(record, ALL)
    settings = "learning_rate 0.05 instead of 0.01, localisation_rate 0.05 instead of 0.01"
    assert why == f"exp_05 and exp_02 are not compared: exp_05 was trained with {settings} (--pool compares them)"
    assert len(comparison.comparisons(record, SEVEN, ALL, pool=True)) == 2


@pytest.mark.parametrize("change", [{"model": "Net"}, {"arguments": {"passes": 2}}])
def test_a_run_of_another_network_than_its_row_has_is_left_out(change):
    record = pairs_of([2, 3])
    for run in record.values():
        if "exp_02" in run["experiment_name"]:
            run |= change
    assert comparison.comparisons(record, SEVEN, ALL) == {}
    assert "exp_02 was trained with " in comparison.list_incomparable(record, ALL)[0]


def test_a_columns_format_is_decided_by_all_its_rows():
    """The first row of a measure may have nothing to show."""
    rows = {"a": {1: {"value": ""}}, "b": {1: {"value": [1.0, 2.0]}}, "c": {1: {"value": [4.0, 4.0]}}}
    table = tables.experiments_table(rows, ("x", lambda runs: runs[1]["value"])).splitlines()
    assert table[0] == "|  | x: centre (95 %) |"
    assert table[2:] == ["| a |  |", "| b | 1.50 (no interval) |", "| c | 4.00 (no interval) |"]


def test_a_comparison_is_found_by_its_pair_whatever_else_is_there():
    """The first pair of the family cannot be made here."""
    found = comparison.comparisons(pairs_of([2, 3, 4]), SEVEN, ALL)
    assert list(found) == [TRANSFORMER]
    assert found[TRANSFORMER].interval.centre == pytest.approx(0.3)


def test_a_family_that_can_never_be_significant_has_no_p_values():
    """Three comparisons of six pairs: at best 3 · 2/64 = 0.094."""
    runs = {("exp_02", run): ([950], {}) for run in range(1, 7)}
    for exp_id in ("exp_20", "exp_21", "exp_22"):
        runs |= {(exp_id, run): ([960 + run], {}) for run in range(1, 7)}
    family = comparison.families()["The swings"]
    record = record_of(runs)
    assert [c.p_value for c in comparison.comparisons(record, family, ALL).values()] == [None] * 3
    header, _, *rows = (line.split(" | ") for line in tables.differences_table(record, family, ALL).splitlines())
    assert {row[index] for row in rows for index, title in enumerate(header) if title == "p"} == {"–"}
    (one,) = comparison.comparisons(record, family[:1], ALL).values()
    assert one.p_value == pytest.approx(2 / 64)


def test_perspective_table_by_hand():
    """Errors 10 and 12 % without a transformer, 5 and 6 % affine; the paper has 6.60 % without one."""
    runs = {("exp_12", run): ([500, correct], {}) for run, correct in ((1, 900), (2, 880))}
    changes = {"transformer": MEASURES}
    runs |= {("exp_13", run): ([500, correct], changes) for run, correct in ((1, 950), (2, 940))}
    table = tables.chosen_table(record_of(runs), STUDY.records["perspective"], ALL, RECTIFYING, "perspective_")
    none, affine = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:])
    assert none[:4] == ["`exp_12` bypass localisation", "2", "11.00 (no interval)", "11.00 (10.00 to 12.00)"]
    assert none[4:] == ["6.60", "400", *[""] * 5]
    assert affine[:4] == ["`exp_13` affine", "2", "5.50 (no interval)", "5.50 (5.00 to 6.00)"]
    assert affine[4:] == ["", "450", "8.0 → 2.5", "5.0", "0.0800 → 0.0500", "0.990", "0.25"]


def test_swings_table_looks_at_the_last_ten_steps():
    correct = [0, 900, 905, 903, 903, 903, 903, 903, 903, 903, 896, 960]
    record = record_of({("exp_02", 1): (correct, {})})
    table = tables.chosen_table(record, ["exp_02", "exp_20"], ALL, tables.STABILITY).splitlines()
    assert table[2] == "| `exp_02` reproduce baseline | 1 | 96.00 | 91.30 | 0 | 64 | 10 % | 64 | 89.60 |"
    assert len(table) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git_commit": "b" * 40}, "code"),
        ({"device_name": "another"}, "device_name"),
        ({"data": {"name": "few", "md5": "1"}}, "data"),
        ({"versions": {"torch": "3"}}, "versions"),
    ],
)
def test_runs_of_another_kind_are_not_pooled(change, reason):
    runs = {("exp_02", run): ([980], {}) for run in (1, 2)} | {("exp_02", 3): ([980], change)}
    record, complaints = comparison.drop_incompatible_runs(record_of(runs))
    assert [run["run"] for run in record.values()] == [1, 2]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"exp_02_reproduce_baseline: run 03 left out, it has {reason} ")
    assert complaints[0].endswith("(--pool keeps it)")


def test_runs_are_pooled_however_many_cores_their_machine_had():
    """Each has one thread, so the number of cores changes nothing in it."""
    record = record_of({("exp_02", run): ([980], {"cores": run}) for run in (1, 2)})
    assert comparison.drop_incompatible_runs(record) == (record, [])


def test_a_short_look_is_not_pooled_with_full_runs():
    runs = {("exp_02", 1): ([900, 980], {}), ("exp_02", 2): ([900], {})}
    record, complaints = comparison.drop_incompatible_runs(record_of(runs))
    assert [run["n_epochs"] for run in record.values()] == [2]
    assert "n_epochs 1 instead of 2" in complaints[0]


def test_a_transformer_that_has_lost_the_digits_has_no_distance_at_equal_size():
    lost = MEASURES | {"ink_area": 0.0}
    record = record_of({("exp_13", run): ([980], {"transformer": lost}) for run in (1, 2)})
    assert "at equal size" not in tables.chosen_table(record, ["exp_13"], ALL, RECTIFYING)  # nothing stands in it
    record |= record_of({("exp_14", 1): ([980], {"transformer": MEASURES})})
    assert "| 8.0 → 2.5 |  |" in tables.chosen_table(record, ["exp_13", "exp_14"], ALL, RECTIFYING)
    record |= record_of({("exp_13", 2): ([980], {"transformer": MEASURES})})
    assert "| 8.0 → 2.5 | 5.0 |" in tables.chosen_table(record, ["exp_13"], ALL, RECTIFYING)


def test_curves_over_the_strength_are_medians_of_runs():
    """A run that never learnt to read moves them little."""
    runs = {}
    for run, (weak, strong) in enumerate(((90.0, 80.0), (0.0, 0.0), (94.0, 70.0)), 1):
        curve = {"strength": [0.5, 1.0], "numbers_read": [weak, strong]}
        runs["exp_33", run] = ([980], {"transformer": {"by_strength": curve}})
    panels = dict(strength_curves(record_of(runs), ALL))
    assert panels["numbers read whole, %"] == [("exp_33", [0.5, 1.0], [90.0, 70.0])]
    assert panels["IoU"] == []
    assert strength_curves({}, ALL) == []


def test_experiments_of_different_code_are_not_compared_unless_asked():
    runs = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970], {"git_commit": "b" * 40})}
    record = record_of(runs)
    assert comparison.drop_incompatible_runs(record) == (record, [])
    assert comparison.comparisons(record, SEVEN, ALL) == {}
    refused = "exp_02 and exp_03 are not compared: they differ in code (--pool compares them)"
    assert comparison.list_incomparable(record, ALL) == [refused]
    assert refused in tables.comparison_document(record, ALL)
    assert list(comparison.comparisons(record, SEVEN, ALL, pool=True)) == [TRANSFORMER]


def test_experiments_of_different_epochs_or_data_are_not_compared():
    short = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970, 975], {})}
    assert "differ in n_epochs" in comparison.list_incomparable(record_of(short), ALL)[0]
    other = {("exp_02", 1): ([980], {}), ("exp_03", 1): ([970], {"data": {"name": "other"}})}
    assert "differ in data" in comparison.list_incomparable(record_of(other), ALL)[0]
    table = {("exp_01", 1): ([980] * 20, {}), ("exp_02", 1): ([980] * 30, {})}
    assert comparison.list_incomparable(record_of(table), ALL) == []


def test_single_runs_have_no_interval_and_no_p_value():
    document = tables.comparison_document(pairs_of([1]), ALL)
    assert "2 of the experiments have fewer than 6 runs, and therefore no interval." in document
    assert "| the transformer (exp_02 − exp_03) | 1 | 1, 0 | +0.10 | +0.10 | – |" in document


def test_one_run_of_each_is_called_what_it_is():
    document = tables.comparison_document(pairs_of([1]), ALL)
    assert ONE_RUN_EACH in document
    assert ONE_RUN_EACH not in tables.comparison_document(pairs_of([1, 2]), ALL)


def test_the_runs_that_a_comparison_still_needs():
    def cells(differences, within):
        document = tables.comparison_document(pairs_of(differences), ALL, within=within)
        section = document[document.index(f"### How many runs it takes for ± {within} points") :]
        row = next(line for line in section.splitlines() if line.startswith("| the transformer"))
        return [cell.strip() for cell in row.strip("|").split("|")[1:]]

    pairs, interval, needed, more = cells([1, 3, 2, 4, 2, 1], 0.05)
    assert (pairs, interval) == ("6", "± 0.15")
    assert int(more) == int(needed) - 6 > 0
    assert 6 <= int(cells([1, 3, 2, 4, 2, 1], 0.08)[2]) < int(needed)
    assert cells([1, 3], 0.05) == ["2", "none", "at least 6", "at least 4"]


def test_deep_falls_are_told():
    quiet, fallen = [980] * 30, [980] * 20 + [970, 980] + [980] * 8
    table = {("exp_02", 1): (quiet, {}), ("exp_02", 2): (fallen, {})}
    document = tables.comparison_document(record_of(table), ALL)
    assert "### Falls of 0.5 points and more from one epoch to the next" in document
    assert "| 21 | 98.00 | 97.00 | 98.00 |" in document
    assert "### Falls" not in tables.comparison_document(record_of({("exp_02", 1): (quiet, {})}), ALL)


def test_forms_are_compared_run_by_run():
    def form(shift, *losses):
        record = record_of({("exp_02", run): ([980 + run + shift] * 5, {}) for run in (1, 2)})
        for run, loss in zip(record.values(), losses, strict=True):
            run["history"]["train_loss"] = [loss] * 5
        return record

    text = page.formulations_table({"fast": form(2, 2.02, 1.0), "plain": form(0, 2.0, 1.0)})
    same = "+0.20 (no interval)"
    cells = f"| 2 | +0.50 (no interval) | 1.00 % | 98.35 | 98.15 | {same} | {same} |"
    assert f"| `exp_02_reproduce_baseline` {cells}" in text
    assert f"| all {cells}" in text


def test_forms_are_compared_by_seed_whatever_the_numbers_of_their_runs():
    fast = record_of({("exp_02", run): ([900 + 10 * run] * 5, {"seed": 10 + run}) for run in (1, 2)})
    plain = record_of({("exp_02", run): ([900 + 10 * (3 - run)] * 5, {"seed": 13 - run}) for run in (1, 2)})
    plain |= record_of({("exp_02", 3): ([500] * 5, {"seed": 99})})  # of no pair
    row = page.formulations_table({"fast": fast, "plain": plain}).splitlines()[2]
    assert row.startswith(
        "| `exp_02_reproduce_baseline` | 2 | +0.00 (no interval) | 0.00 % | 91.50 | 91.50 | +0.00 (no interval) |"
    )


def test_the_parts_of_a_run_are_shares_of_its_seconds():
    rows = [
        {"experiment": "exp_03", "train": 45, "test": 3, "log": 1, "other": 1},
        {"experiment": "exp_02", "train": 95, "test": 3, "log": 1, "other": 1},
    ]
    text = page.parts_table({"rows": rows})
    assert "| exp_02 | 100 | 3.00 % | 1.00 % | 1.00 % | 5.00 % |\n| exp_03 | 50 | 6.00 % | 2.00 % |" in text
    assert "| all | 150 | 4.00 % | 1.33 % | 1.33 % | 6.67 % |" in text


def test_each_of_the_seven_has_its_question_and_its_answers_under_both_recipes():
    seven = {(f"exp_0{n}", run): ([980 + n + (n == 1) * run], {}) for n in range(1, 8) for run in range(1, 7)}
    steady = {(f"exp_{n:02d}", run): ([980 + n + run], {}) for n in (3, 4, 21, 23, 24, 25) for run in range(1, 8)}
    lines = page.questions_table(record_of(seven), record_of(steady), ALL).splitlines()[2:]
    assert [line[:10] for line in lines] == [f"| `exp_0{n}`" for n in range(1, 8)]
    for line, exp_id in zip(lines, [f"exp_0{n}" for n in range(1, 8)], strict=True):
        assert ALL[exp_id].question in line
        assert line.count("|") == lines[0].count("|")
    assert "1 of 6 runs reach 98.69 %" in lines[0]  # 98.2 to 98.7
    assert "| the transformer: -0.10 (-0.10 to -0.10) (exp_02 − exp_03) |" in lines[2]
    assert "| the transformer: +1.80 (+1.80 to +1.80) (exp_21 − exp_03) |" in lines[2]
    assert "| +0.30 (+0.30 to +0.30) (exp_05 − exp_02) |" in lines[4]
    assert "| +0.20 (+0.20 to +0.20) (exp_23 − exp_21) |" in lines[4]


def test_too_few_pairs_have_no_difference_that_would_be_seen():
    record = pairs_of([1, 2, 3, 4, 5])
    lines = page.questions_table(record, record, ALL).splitlines()
    assert "| the transformer: +0.30 (no interval) (exp_02 − exp_03) | – | – |" in lines[3]


def test_a_ranking_shows_ties():
    assert page.ranking({"a": 1.0, "b": 3.0, "c": 1.0, "d": 2.0}) == "b > d > a = c"


def test_the_deepest_falls_are_named():
    correct = [100, 900, *[980] * 12, 300, 985]
    record = record_of({("exp_02", 3): (correct, {}), ("exp_03", 1): ([970] * 15 + [969], {})})
    rows = tables.drops_table(record).splitlines()[2:]
    assert rows == [
        "| `exp_02_run_03_reproduce_baseline` | 15 | 98.00 | 30.00 | 98.50 |",
        "| `exp_03_run_01_bypass_localisation` | 16 | 97.00 | 96.90 | 96.90 |",
    ]


def test_the_mean_of_the_last_five_epochs():
    run = condensed(results_of("exp_02_run_01_reproduce_baseline", [0, 900, 910, 920, 930, 940]))
    assert last_five(run) == pytest.approx(92)


def test_families_name_experiments_of_the_tables_and_each_pair_once():
    for family in comparison.families().values():
        assert len({pair[:2] for pair in family}) == len(family)
    pairs = list(itertools.chain.from_iterable(comparison.families().values()))
    assert len({pair[:2] for pair in pairs}) == len(set(pairs))  # one that two families share is told in the same words
    only_told = {"exp_30", "exp_41", "exp_42", "exp_43", "exp_44", "exp_256", "exp_257"} | {
        row.id for row in (*SETS["paper_recipe"], *SETS["pictures"])
    }
    assert {exp_id for pair in pairs for exp_id in pair[:2]} == ALL.keys() - only_told
