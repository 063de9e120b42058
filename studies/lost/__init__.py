"""What keeps transformers from losing their digits: candidates, each tried on held-out cards with the same 20 seeds.

exp_50 is exp_35 as it was before the trial, four passes taught by nothing but digits, for six epochs at a constant
rate, as in the first six of its 20 epochs the rate hardly falls. Every other row changes one thing, or a pair of things
that can go together. All have runs 21 to 40. The candidate that is used is the one with the fewest lost runs and, among
equals, the highest median of numbers read.

exp_61 to exp_64, with runs 21 to 30, ask the same for one and two passes. There no run is lost, but half of the rate
reads fewer numbers of the test set. For each number of passes, the same rule decides between both rates.
"""

from lab.catalogue import Study
from lab.settings import Experiment
from studies.cards import FINDING

EPOCHS, PASSES = 6, 4
CONSTANT = FINDING._replace(localisation_rate=0.001, decay=False)
HALF, QUARTER = (CONSTANT._replace(localisation_rate=CONSTANT.localisation_rate / part) for part in (2, 4))
LEASH = {"leash": 1.0}
IN_TWO_STEPS = {"later_passes": True}
CANDIDATE = "Net_Card_Candidate"

# With four passes, the localisation network's rate divided by the number of passes is a quarter of it.
# fmt: off
CANDIDATES = tuple(
    Experiment(exp_id, f"lost_{title}", CANDIDATE, EPOCHS, question, {"passes": PASSES} | arguments, recipe,
               "held-out cards")
    for exp_id, title, question, arguments, recipe in (
        ("exp_50", "as_it_is",
         "How many of 20 readers with four passes lose the card as things are?", {}, CONSTANT),
        ("exp_51", "half_rate",
         "And with half the rate for the localisation network?", {}, HALF),
        ("exp_52", "quarter_rate",
         "And with a quarter, which is the rate by the number of passes?", {}, QUARTER),
        ("exp_53", "leash",
         "And with a loss on corners outside of the picture?", LEASH, CONSTANT),
        ("exp_54", "near_identity",
         "And with an L2 loss on what each pass changes?", {"identity_weight": 0.1}, CONSTANT),
        ("exp_55", "bounded",
         "And with parameters that are bounded by tanh?", {"bound": 1.0}, CONSTANT),
        ("exp_56", "passes_in_two_steps",
         "And with two passes at first, and four in the second half?", IN_TWO_STEPS, CONSTANT),
        ("exp_57", "clipped_passes",
         "And with the gradient of each pass clipped by itself?", {"pass_norm": 1.0}, CONSTANT),
        ("exp_58", "half_rate_leash",
         "And with half the rate and the leash?", LEASH, HALF),
        ("exp_59", "quarter_rate_leash",
         "And with a quarter of the rate and the leash?", LEASH, QUARTER),
        ("exp_60", "quarter_rate_passes_in_two_steps",
         "And with a quarter of the rate and the later passes later?", IN_TWO_STEPS, QUARTER),
    )
)
FEWER_PASSES = tuple(
    Experiment(f"exp_{61 + number}", f"lost_{title}", CANDIDATE, EPOCHS, question, {"passes": passes}, recipe,
               "held-out cards")
    for number, (title, passes, question, recipe) in enumerate((
        ("one_pass_as_it_is", 1, "How many numbers does a reader with one pass read as things are?", CONSTANT),
        ("one_pass_half_rate", 1, "And with half the rate for the localisation network?", HALF),
        ("two_passes_as_it_is", 2, "How many with two passes as things are?", CONSTANT),
        ("two_passes_half_rate", 2, "And with half the rate?", HALF),
    ))
)
# fmt: on

STUDY = Study(
    rank=5,
    sets={"lost": CANDIDATES, "fewer_passes": FEWER_PASSES},
    networks={CANDIDATE: "studies.lost.networks"},
    families={
        "What keeps the card": tuple(
            (row.id, CANDIDATES[0].id, row.title.removeprefix("lost_").replace("_", " ")) for row in CANDIDATES[1:]
        ),
        "Half of the rate with fewer passes": tuple(
            (half.id, whole.id, f"half rate, {half.arguments['passes']} passes".replace("1 passes", "1 pass"))
            for whole, half in (FEWER_PASSES[:2], FEWER_PASSES[2:])
        ),
    },
    records={"lost": tuple(row.id for row in CANDIDATES), "fewer_passes": tuple(row.id for row in FEWER_PASSES)},
    section="studies/lost/results.md.jinja",
)
