"""Made-up lists of a synthesis, of the sizes of the published ones unless a test wants others."""

from __future__ import annotations

from medray.synth.lists.values import Age, Domain, Lists, Profession, Setting, Sex, StyleTitle, Task

AGES: tuple[str, ...] = (
    *("Infants", "Toddlers", "Preschoolers", "School-age Children", "Adolescents", "Young Adults", "Adults"),
    *("Middle-aged Adults", "Older Adults", "Elderly", "Centenarians"),
)
OPTIONS = (5, 5, 6, 14, 3, 3)
WEIGHTS = (2.0, 2.0, 2.0, 2.0, 1.0, 1.0)
TOPICS = ("Pediatrics", "Geriatrics", "Neonatology", "Pain Management", "Occupational Health")


def lists(
    *,
    tasks: int = 13,
    professions: int = 21,
    specialties: int = 129,
    domains: int = 49,
    subtopics: int = 976,
    topics: int = 49,
) -> Lists:
    """Return lists of these sizes. The first specialty is Obstetrics and Gynecology, for young and middle-aged adults."""
    names = ["Obstetrics and Gynecology", *(f"specialty {number}" for number in range(1, specialties))]
    groups = [tuple(names[number::professions]) for number in range(professions)]
    all_subtopics = [f"subtopic {number}" for number in range(subtopics)]
    made = tuple(Profession(name=f"profession {n}", specialties=group) for n, group in enumerate(groups))
    allowed = {(each.name, name): AGES for each in made for name in each.specialties}
    allowed["profession 0", names[0]] = AGES[5:8]
    cis = tuple(f"gender {number}" for number in range(7))
    rates = (0.9, 0.05, *(0.01,) * 5)
    return Lists(
        tasks=tuple(
            Task(number=n, name=f"task {n}", description="Do it.", max_tokens=100, instruction="")
            for n in range(tasks)
        ),
        professions=made,
        domains=tuple(
            Domain(name=f"domain {n}", subtopics=tuple(all_subtopics[n::domains])) for n in range(domains)
        ),
        topics=(*TOPICS, *(f"topic {number}" for number in range(len(TOPICS), topics)))[:topics],
        settings=tuple(Setting(name=f"setting {n}", description="It is so.") for n in range(4)),
        styles=tuple(
            StyleTitle(
                number=n + 1,
                name=f"title {n + 1}",
                options=tuple(f"option {n + 1}{chr(65 + k)}" for k in range(OPTIONS[n])),
                weight=WEIGHTS[n],
                turns={5: 3, 6: 1}.get(n + 1),
                languages=dict(zip("ABCDEFGH", ("fr", "es", "pt", "ar", "sw", "hi", "de", "zh"), strict=True))
                if n == 3
                else {},
            )
            for n in range(6)
        ),
        ages=tuple(Age(name=name, range=f"range of {name}") for name in AGES),
        specialty_ages=allowed,
        sexes=(
            Sex(name="Male", genders=cis, rates=rates),
            Sex(name="Female", genders=cis, rates=rates),
            Sex(name="Intersex", genders=cis, rates=(0.45, 0.45, *(0.02,) * 5)),
        ),
        countries=tuple(
            tuple(f"{group}-{number}, land" for number in range(size))
            for group, size in (("high", 51), ("upper", 41), ("lower", 38), ("low", 34))
        ),
    )
