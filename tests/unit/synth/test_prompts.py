"""Tests of the requests for opening questions: counts of the published sizes, ids, and the distributions of draws."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter

import pytest
import synth_lists

from medray.cli.main import main
from medray.config.synth import SynthPromptsConfig
from medray.errors import InputError
from medray.synth.draws import Draws
from medray.synth.lists.read import read_lists
from medray.synth.prompts.demographics import SEX_RATES, allowed_ages, draw_patients
from medray.synth.prompts.grid import contexts, decode, requests
from medray.synth.prompts.questions import EMERGENCY, Question, parse, styled

PUBLISHED = synth_lists.lists()
CONFIG = SynthPromptsConfig()


def within_4_sigma(count: int, draws: int, probability: float) -> bool:
    """Return whether a binomial count is at most four standard deviations from its mean."""
    sigma = math.sqrt(draws * probability * (1 - probability))
    return abs(count - draws * probability) <= 4 * sigma


@pytest.fixture(scope="module")
def made() -> dict[int, list]:  # type: ignore[type-arg]
    found: dict[int, list] = {1: [], 2: [], 3: []}  # type: ignore[type-arg]
    for request in requests(PUBLISHED, CONFIG, 7):
        found[request.part].append(request)
    return found


def test_the_published_sizes_give_the_published_counts(made: dict[int, list]) -> None:  # type: ignore[type-arg]
    assert [len(made[part]) for part in (1, 2, 3)] == [6_321, 12_688, 2_587]
    assert sum(len(request.question_ids) for request in made[3]) == 10_348
    ids = [request.id for part in made.values() for request in part]
    assert len(set(ids)) == len(ids)
    # One reply of the published part 2 is missing.
    replies = {request.id: f"Question {request.id}?" for request in made[2][1:]}
    found = parse(made[2], replies, PUBLISHED.styles, 7)
    assert (len(found.questions), found.dropped) == (12_687, {"no reply": 1})


def test_styles_double_the_questions_of_part_3_but_for_emergencies(made: dict[int, list]) -> None:  # type: ignore[type-arg]
    """301 single rows give the published 20,395: the first 301 questions whose draw is in favour are emergencies."""
    names = [name for request in made[3] for name in request.question_ids]
    single = [name for name in names if Draws(7, "style", name).chance(0.5)]
    assert within_4_sigma(len(single), len(names), 0.5)
    chosen = set(single[:301])
    replies = {
        request.id: "\n###\n".join(
            f"{n}. Is {name} an {'EMERGENCY' if name in chosen else 'urgent case'}?"
            for n, name in enumerate(request.question_ids, 1)
        )
        for request in made[3]
    }
    found = parse(made[3], replies, PUBLISHED.styles, 7)
    assert (found.bases, len(found.questions)) == (10_348, 20_395)
    assert sum(row.style == EMERGENCY for row in found.questions) == 301
    assert len({row.id for row in found.questions}) == 20_395
    letter, number, style, country = found.questions[0].id.split("-", 3)  # a country may contain "-"
    assert (letter, number, style) == ("A", "0", found.questions[0].style)
    assert country in PUBLISHED.all_countries


def test_part_3_numbers_decode_to_task_and_context(made: dict[int, list]) -> None:  # type: ignore[type-arg]
    rows = contexts(PUBLISHED)
    pairs = [decode(number, len(rows)) for number in range(2_587)]
    assert len(set(pairs)) == 2_587
    assert pairs[-1] == (12, 198)
    task, context = pairs[1_000]
    assert made[3][1_000].context == (task + 1, f"task {task}", context + 1, rows[context].label)
    assert [rows[0].topic, rows[129].specialty, rows[150].topic] == [None, None, "Pediatrics"]


def test_patients_are_drawn_by_the_published_rules() -> None:
    many, sexes, genders = 3_000, Counter[str](), Counter[str]()
    ages = Counter[str]()
    for number in range(many):
        found = draw_patients(PUBLISHED, PUBLISHED.ages, None, 4, Draws(3, str(number)))
        assert len({patient.country.split("-")[0] for patient in found}) == 4  # one of each income group
        sexes.update(patient.sex for patient in found)
        ages.update(patient.age for patient in found)
        for patient in found:
            assert (patient.gender is None) == (patient.age in synth_lists.AGES[:4])
            if patient.sex != "Intersex" and patient.gender:
                genders[patient.gender] += 1
    for name, rate in SEX_RATES.items():
        assert within_4_sigma(sexes[name], 4 * many, rate)
    for name in synth_lists.AGES:
        assert within_4_sigma(ages[name], 4 * many, 1 / 11)
    assert within_4_sigma(genders["gender 0"], genders.total(), 0.9)
    assert within_4_sigma(genders["gender 1"], genders.total(), 0.05)
    women = draw_patients(PUBLISHED, PUBLISHED.ages, "Obstetrics and Gynecology", 500, Draws(3))
    assert {patient.sex for patient in women} <= {"Female", "Intersex"}


def test_ages_follow_specialty_and_topic() -> None:
    def names(specialty: str | None, topic: str | None) -> list[str]:
        profession = "profession 0" if specialty else None
        return [age.name for age in allowed_ages(PUBLISHED, profession, specialty, topic)]

    assert names("Obstetrics and Gynecology", None) == ["Young Adults", "Adults", "Middle-aged Adults"]
    assert names(None, "Neonatology") == ["Infants"]
    assert names("Obstetrics and Gynecology", "Pain Management") == ["Adults", "Middle-aged Adults"]
    with pytest.raises(InputError, match="no age category fits both"):
        names("Obstetrics and Gynecology", "Geriatrics")


def question(number: int, text: str) -> Question:
    return Question(id=f"A-{number}", prompt=text, part=3, context="", speaker="physician", country="Fiji")


def test_two_styles_have_different_titles_and_the_published_weights() -> None:
    many = 4_000
    first, options = Counter[str](), Counter[str]()
    for number in range(many):
        one, two = styled(question(number, "What now?"), PUBLISHED.styles, 5)
        assert one.style
        assert two.style
        assert one.style[0] != two.style[0]
        assert one.prompt.startswith("What now?\noption ")
        first[one.style[0]] += 1
        options[one.style] += one.style[0] == "4"
    for title, weight in zip("123456", synth_lists.WEIGHTS, strict=True):
        assert within_4_sigma(first[title], many, weight / 10)
    assert within_4_sigma(options["4A"], first["4"], 1 / 14)
    translated = [styled(question(n, "Please TRANSLATE this."), PUBLISHED.styles, 5) for n in range(300)]
    assert not any(row.style and row.style[0] == "4" for rows in translated for row in rows)
    emergencies = [styled(question(n, "An Emergency!"), PUBLISHED.styles, 5) for n in range(1_000)]
    assert within_4_sigma(sum(len(rows) == 1 for rows in emergencies), 1_000, 0.5)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('1. "What is the dose?"', "What is the dose?"),
        ("**Dose** of **drug**: 2**3 mg?", "Dose of drug: 2**3 mg?"),
        (r"Is $2 \times 3$ right, and C:\temp\ " + "\\", r"Is $2 \times 3$ right, and C:\temp\ " + "\\"),
        ("«Quelle dose ?»", "Quelle dose ?"),
        ('"A" or "B"?', '"A" or "B"?'),
        ("2024 was bad? \U0001f9ec \U00020000", "2024 was bad? \U0001f9ec \U00020000"),
    ],
)
def test_a_question_keeps_its_words(reply: str, expected: str, made: dict[int, list]) -> None:  # type: ignore[type-arg]
    request = made[1][0]
    assert [row.prompt for row in parse([request], {request.id: reply}, PUBLISHED.styles, 0).questions] == [
        expected
    ]


def test_unusable_replies_are_counted_and_the_rest_is_kept(made: dict[int, list]) -> None:  # type: ignore[type-arg]
    one, two, three = made[3][:3]
    replies = {one.id: "a?\n###\nb?\n###\n\n### c?\n###d?", two.id: "a?###b?", three.id: "###\n \n###"}
    found = parse([one, two, three], replies, PUBLISHED.styles, 0)
    assert (found.bases, found.dropped) == (4, {"wrong number of questions": 1, "empty": 1})


def test_near_duplicates_are_dropped(made: dict[int, list]) -> None:  # type: ignore[type-arg]
    text = "Which dose of the medicine is right for a patient with severe kidney disease who weighs {} kilograms today"
    replies = {
        made[1][0].id: text.format("sixty") + "?",
        made[1][1].id: text.format("sixty") + "!!",
        made[1][2].id: "Is there anything else that I should know about the treatment of leprosy?",
    }
    found = parse(made[1][:3], replies, PUBLISHED.styles, 0, near_duplicates=0.8)
    assert [row.id for row in found.questions] == ["20-0", "20-2"]
    assert found.dropped == {"near-duplicate": 1}


def test_the_same_seed_gives_the_same_requests_on_any_machine() -> None:
    """The hash was computed once; another one means that another machine or version would draw other patients."""
    own = read_lists(None)
    config = SynthPromptsConfig(sample=30, use_setting=True)
    found = json.dumps([request.to_json() for request in requests(own, config, 42)], ensure_ascii=True)
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == "510cf407bda1548b"
    assert found != json.dumps([request.to_json() for request in requests(own, config, 43)])
    assert "in this setting" in found


def test_the_verb_writes_requests_and_refuses_another_seed(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "synth.yaml"
    config.write_text("prompts: {sample: 2}\n")
    assert main(["synth", "prompts", str(config), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["requests"] == 6
    file = tmp_path / "runs" / "synth" / "requests.jsonl"
    before = file.read_bytes()
    assert main(["synth", "prompts", str(config)]) == 0
    assert file.read_bytes() == before
    assert main(["synth", "prompts", str(config), "run.seed=1"]) == 2
    assert "another seed" in capsys.readouterr().err
    assert main(["synth", "prompts", str(config), "prompts.samples=1"]) == 2
    assert "did you mean prompts.sample?" in capsys.readouterr().err
