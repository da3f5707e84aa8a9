"""The words of the simulated clinic: conditions, drugs, symptoms, histories and the turns of a consultation.

There are two vocabularies. A `name` is the word of the note, in house style; `forms` are the words that people say.
No name is part of another name, so that a dictionary matcher reads a note without guessing. Every drug has at least
three doses, so that a wrong one is always available, and every form fits after "any" and "some" (symptoms) or "my" and
"your" (conditions). The tables are the project's own and are no medical advice.

The file is long because it holds tables only: they refer to each other by name, and one search finds every word.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Sex = Literal["man", "woman"]


class Drug(NamedTuple):
    """A drug of the clinic.

    doses: at least three texts "<number> <unit>". frequency: how often the clinic prescribes it.
    """

    name: str
    doses: tuple[str, ...]
    frequency: str


class Symptom(NamedTuple):
    """A symptom of the clinic. cue: the words before its name when the note says that the symptom is absent."""

    name: str
    cue: str
    forms: tuple[str, ...]


class Condition(NamedTuple):
    """A condition that the clinic treats. drugs, symptoms: names of its drugs and symptoms.

    ages: youngest and oldest patient in years. sex: sex of its patients, None for both.
    """

    name: str
    forms: tuple[str, ...]
    drugs: tuple[str, ...]
    symptoms: tuple[str, ...]
    ages: tuple[int, int]
    sex: Sex | None
    acute: bool


class Allergen(NamedTuple):
    """A substance to which a patient may be allergic. avoid: drugs that no patient with this allergy gets."""

    name: str
    forms: tuple[str, ...]
    avoid: tuple[str, ...]


class Vital(NamedTuple):
    """A vital sign, such as blood pressure. The note writes name + " " + value.

    ranges: (low, high) of each number in the value. scale: divisor of a drawn integer. note, spoken: templates of the
    value in the note and in speech.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]
    scale: int
    note: str
    spoken: tuple[str, ...]


class Heredity(NamedTuple):
    name: str
    forms: tuple[str, ...]


class Habit(NamedTuple):
    """A habit in the social history: how the doctor asks about it, and the patient's answers that affirm and deny it."""

    name: str
    ask: tuple[str, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]


class Exchange(NamedTuple):
    """One line of the doctor and one of the patient."""

    doctor: str
    patient: str


class Turns(NamedTuple):
    """Phrasings of one kind of exchange. Any line of the doctor fits any line of the patient.

    fixed: pairs of lines that belong together.
    """

    doctor: tuple[str, ...]
    patient: tuple[str, ...]
    fixed: tuple[Exchange, ...] = ()


def _drug(name: str, doses: str, unit: str, frequency: str) -> Drug:
    return Drug(name, tuple(f"{dose} {unit}" for dose in doses.split()), frequency)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _symptom(name: str, forms: str, cue: str = "Denies") -> Symptom:
    return Symptom(name, cue, _split(forms))


def _condition(
    name: str,
    forms: str,
    drugs: str,
    symptoms: str,
    ages: tuple[int, int],
    sex: Sex | None = None,
    acute: bool = False,
) -> Condition:
    return Condition(name, _split(forms), _split(drugs), _split(symptoms), ages, sex, acute)


# The formatter would put every word on its own line; these tables should read as tables.
# fmt: off
DAILY, TWICE, THRICE = "once daily", "twice daily", "three times daily"
BEDTIME, WEEKLY, NEEDED = "at bedtime", "once weekly", "as needed"

FREQUENCY_FORMS: dict[str, tuple[str, ...]] = {
    DAILY: ("once a day", "every day", "one time a day"),
    TWICE: ("twice a day", "two times a day", "morning and evening"),
    THRICE: ("three times a day", "morning, noon and evening"),
    BEDTIME: ("before bed", "when I go to bed", "at bedtime"),
    WEEKLY: ("once a week", "every Sunday", "one day a week"),
    NEEDED: ("when I need it", "only as needed", "on bad days"),
}

UNIT_FORMS: dict[str, str] = {"mg": "milligrams", "mcg": "micrograms", "units": "units"}

DIGITS: tuple[str, ...] = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS: tuple[str, ...] = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

DRUGS: tuple[Drug, ...] = (
    _drug("acetaminophen", "325 500 650 1000", "mg", THRICE),
    _drug("acyclovir", "200 400 800", "mg", THRICE),
    _drug("albuterol", "90 180 360", "mcg", NEEDED),
    _drug("alendronate", "35 40 70", "mg", WEEKLY),
    _drug("allopurinol", "100 200 300", "mg", DAILY),
    _drug("amitriptyline", "10 25 50", "mg", BEDTIME),
    _drug("amlodipine", "2.5 5 10", "mg", DAILY),
    _drug("amoxicillin", "250 500 875", "mg", TWICE),
    _drug("apixaban", "2.5 5 10", "mg", TWICE),
    _drug("apremilast", "10 20 30", "mg", TWICE),
    _drug("aspirin", "81 162 325", "mg", DAILY),
    _drug("atenolol", "25 50 100", "mg", DAILY),
    _drug("atomoxetine", "25 40 60", "mg", DAILY),
    _drug("atorvastatin", "10 20 40 80", "mg", DAILY),
    _drug("azathioprine", "50 75 100", "mg", DAILY),
    _drug("azithromycin", "250 500 600", "mg", DAILY),
    _drug("baclofen", "5 10 20", "mg", THRICE),
    _drug("benzonatate", "100 150 200", "mg", THRICE),
    _drug("budesonide", "90 180 360", "mcg", TWICE),
    _drug("bupropion", "100 150 300", "mg", DAILY),
    _drug("buspirone", "5 10 15", "mg", TWICE),
    _drug("carbamazepine", "100 200 400", "mg", TWICE),
    _drug("carvedilol", "3.125 6.25 12.5 25", "mg", TWICE),
    _drug("celecoxib", "100 200 400", "mg", DAILY),
    _drug("cephalexin", "250 500 750", "mg", THRICE),
    _drug("cetirizine", "5 10 20", "mg", DAILY),
    _drug("cholecalciferol", "1000 2000 5000", "units", DAILY),
    _drug("ciprofloxacin", "250 500 750", "mg", TWICE),
    _drug("citalopram", "10 20 40", "mg", DAILY),
    _drug("clindamycin", "75 150 300", "mg", THRICE),
    _drug("clopidogrel", "75 150 300", "mg", DAILY),
    _drug("colchicine", "0.3 0.6 1.2", "mg", DAILY),
    _drug("cyanocobalamin", "250 500 1000", "mcg", DAILY),
    _drug("cyclobenzaprine", "5 7.5 10", "mg", BEDTIME),
    _drug("cyclosporine", "25 50 100", "mg", TWICE),
    _drug("dicyclomine", "10 20 40", "mg", THRICE),
    _drug("diclofenac", "25 50 75", "mg", TWICE),
    _drug("digoxin", "62.5 125 250", "mcg", DAILY),
    _drug("diltiazem", "120 180 240", "mg", DAILY),
    _drug("docusate", "50 100 250", "mg", DAILY),
    _drug("donepezil", "5 10 23", "mg", BEDTIME),
    _drug("doxazosin", "1 2 4", "mg", BEDTIME),
    _drug("doxycycline", "50 75 100", "mg", TWICE),
    _drug("duloxetine", "20 30 60", "mg", DAILY),
    _drug("escitalopram", "5 10 20", "mg", DAILY),
    _drug("estradiol", "0.5 1 2", "mg", DAILY),
    _drug("famotidine", "10 20 40", "mg", TWICE),
    _drug("febuxostat", "40 80 120", "mg", DAILY),
    _drug("ferrous sulfate", "160 200 325", "mg", DAILY),
    _drug("fexofenadine", "60 120 180", "mg", DAILY),
    _drug("fluconazole", "50 100 150 200", "mg", WEEKLY),
    _drug("fluoxetine", "10 20 40", "mg", DAILY),
    _drug("fluticasone", "50 100 250", "mcg", TWICE),
    _drug("furosemide", "20 40 80", "mg", DAILY),
    _drug("gabapentin", "100 300 600", "mg", THRICE),
    _drug("glipizide", "2.5 5 10", "mg", DAILY),
    _drug("guaifenesin", "200 400 600", "mg", TWICE),
    _drug("hydrochlorothiazide", "12.5 25 50", "mg", DAILY),
    _drug("hydroxychloroquine", "200 300 400", "mg", DAILY),
    _drug("hydroxyzine", "10 25 50", "mg", BEDTIME),
    _drug("ibuprofen", "200 400 600 800", "mg", THRICE),
    _drug("insulin glargine", "10 20 30", "units", BEDTIME),
    _drug("isosorbide mononitrate", "30 60 120", "mg", DAILY),
    _drug("lamotrigine", "25 100 200", "mg", DAILY),
    _drug("levetiracetam", "250 500 750", "mg", TWICE),
    _drug("levofloxacin", "250 500 750", "mg", DAILY),
    _drug("levothyroxine", "25 50 75 100", "mcg", DAILY),
    _drug("lisinopril", "5 10 20 40", "mg", DAILY),
    _drug("lithium", "300 450 600", "mg", TWICE),
    _drug("loperamide", "2 4 6", "mg", NEEDED),
    _drug("loratadine", "5 10 20", "mg", DAILY),
    _drug("losartan", "25 50 100", "mg", DAILY),
    _drug("meclizine", "12.5 25 50", "mg", NEEDED),
    _drug("medroxyprogesterone", "2.5 5 10", "mg", DAILY),
    _drug("melatonin", "1 3 5", "mg", BEDTIME),
    _drug("meloxicam", "7.5 10 15", "mg", DAILY),
    _drug("memantine", "5 10 20", "mg", TWICE),
    _drug("mesalamine", "400 800 1200", "mg", THRICE),
    _drug("metformin", "500 850 1000", "mg", TWICE),
    _drug("methimazole", "5 10 20", "mg", DAILY),
    _drug("methocarbamol", "500 750 1000", "mg", THRICE),
    _drug("methotrexate", "7.5 10 15", "mg", WEEKLY),
    _drug("methylphenidate", "5 10 20", "mg", TWICE),
    _drug("metoprolol", "25 50 100", "mg", TWICE),
    _drug("metronidazole", "250 375 500", "mg", TWICE),
    _drug("minocycline", "50 75 100", "mg", TWICE),
    _drug("mirtazapine", "7.5 15 30", "mg", BEDTIME),
    _drug("montelukast", "4 5 10", "mg", BEDTIME),
    _drug("naproxen", "250 375 500", "mg", TWICE),
    _drug("nifedipine", "30 60 90", "mg", DAILY),
    _drug("nitrofurantoin", "25 50 100", "mg", TWICE),
    _drug("nortriptyline", "10 25 50 75", "mg", BEDTIME),
    _drug("omeprazole", "10 20 40", "mg", DAILY),
    _drug("ondansetron", "4 8 16", "mg", NEEDED),
    _drug("oseltamivir", "30 45 75", "mg", TWICE),
    _drug("oxybutynin", "2.5 5 10", "mg", TWICE),
    _drug("pantoprazole", "20 40 80", "mg", DAILY),
    _drug("pioglitazone", "15 30 45", "mg", DAILY),
    _drug("pramipexole", "0.125 0.25 0.5", "mg", BEDTIME),
    _drug("prednisone", "5 10 20 40", "mg", DAILY),
    _drug("pregabalin", "50 75 150", "mg", TWICE),
    _drug("propranolol", "20 40 80", "mg", TWICE),
    _drug("quetiapine", "25 50 100", "mg", BEDTIME),
    _drug("risedronate", "5 30 35", "mg", WEEKLY),
    _drug("rivaroxaban", "10 15 20", "mg", DAILY),
    _drug("ropinirole", "0.25 0.5 1", "mg", BEDTIME),
    _drug("rosuvastatin", "5 10 20", "mg", DAILY),
    _drug("senna", "8.6 15 17.2", "mg", BEDTIME),
    _drug("sertraline", "25 50 100", "mg", DAILY),
    _drug("sildenafil", "25 50 100", "mg", NEEDED),
    _drug("simvastatin", "10 20 40", "mg", BEDTIME),
    _drug("sitagliptin", "25 50 100", "mg", DAILY),
    _drug("spironolactone", "12.5 25 50", "mg", DAILY),
    _drug("sulfasalazine", "500 1000 1500", "mg", TWICE),
    _drug("sumatriptan", "25 50 100", "mg", NEEDED),
    _drug("tadalafil", "5 10 20", "mg", NEEDED),
    _drug("tamsulosin", "0.2 0.4 0.8", "mg", BEDTIME),
    _drug("terazosin", "1 2 5", "mg", BEDTIME),
    _drug("terbinafine", "125 250 500", "mg", DAILY),
    _drug("tiotropium", "2.5 5 18", "mcg", DAILY),
    _drug("tolterodine", "1 2 4", "mg", DAILY),
    _drug("topiramate", "25 50 100", "mg", TWICE),
    _drug("trazodone", "50 100 150", "mg", BEDTIME),
    _drug("valacyclovir", "500 1000 2000", "mg", TWICE),
    _drug("valsartan", "40 80 160", "mg", DAILY),
    _drug("venlafaxine", "37.5 75 150", "mg", DAILY),
    _drug("warfarin", "2 2.5 5", "mg", DAILY),
    _drug("zolpidem", "5 6.25 10", "mg", BEDTIME),
)

# The note negates signs that others can see with "No", bleeding with "Negative for", and what only the patient feels
# with "Denies": three cues, and still the note of a case is always the same.
SYMPTOMS: tuple[Symptom, ...] = (
    _symptom("fever", "fever, fevers, high temperatures", "No"),
    _symptom("chills", "chills, shivering, shivering spells"),
    _symptom("night sweats", "night sweats, sweating at night, drenching sweats in bed"),
    _symptom("fatigue", "fatigue, tiredness, low energy"),
    _symptom("weight loss", "weight loss, unplanned loss of weight, lost pounds", "No"),
    _symptom("weight gain", "weight gain, extra pounds, climbing weight", "No"),
    _symptom("poor appetite", "poor appetite, loss of appetite, lack of hunger"),
    _symptom("excessive thirst", "excessive thirst, constant thirst, unusual thirst"),
    _symptom("cough", "cough, coughing, coughing fits"),
    _symptom("shortness of breath", "shortness of breath, trouble breathing, breathlessness"),
    _symptom("wheezing", "wheezing, whistling in the chest, wheezy breathing", "No"),
    _symptom("sore throat", "throat pain, soreness in the throat, scratchiness in the throat"),
    _symptom("nasal congestion", "nasal congestion, stuffiness in the nose, nose blockage"),
    _symptom("sneezing", "sneezing, sneezing fits", "No"),
    _symptom("ear pain", "ear pain, earaches, pain in the ears"),
    _symptom("hearing loss", "hearing loss, muffled hearing, trouble hearing"),
    _symptom("blurred vision", "blurred vision, blurry eyesight, trouble seeing clearly"),
    _symptom("chest pain", "chest pain, pain in the chest, pressure on the chest"),
    _symptom("palpitations", "palpitations, heart fluttering, pounding of the heart"),
    _symptom("ankle swelling", "ankle swelling, puffy ankles, swelling around the ankles", "No"),
    _symptom("dizziness", "dizziness, dizzy spells, lightheaded moments"),
    _symptom("fainting", "fainting, passing out, blackouts", "No"),
    _symptom("headache", "headaches, head pain, aching in the head"),
    _symptom("neck pain", "neck pain, soreness in the neck, aching in the neck"),
    _symptom("numbness", "numbness, loss of feeling, numb spots"),
    _symptom("tingling", "tingling, pins and needles, prickling"),
    _symptom("weakness", "weakness, loss of strength, weak limbs"),
    _symptom("tremor", "tremor, shaking of the hands, trembling", "No"),
    _symptom("memory loss", "memory loss, forgetfulness, memory lapses"),
    _symptom("nausea", "nausea, queasiness, queasy feelings"),
    _symptom("vomiting", "vomiting, throwing up", "No"),
    _symptom("heartburn", "heartburn, burning behind the breastbone, acid in the throat"),
    _symptom("abdominal pain", "belly pain, abdominal pain, stomach aches"),
    _symptom("bloating", "bloating, trapped gas, gassiness"),
    _symptom("diarrhea", "diarrhea, loose stools, watery stools", "No"),
    _symptom("constipation", "constipation, hard stools, trouble moving the bowels"),
    _symptom("rectal bleeding", "blood in the stool, bloody stools, rectal bleeding", "Negative for"),
    _symptom("hematuria", "blood in the urine, bloody urine, pink urine", "Negative for"),
    _symptom("dysuria", "burning with urination, pain when peeing, stinging while urinating"),
    _symptom("urinary frequency", "frequent urination, extra bathroom trips, constant peeing"),
    _symptom("pelvic pain", "pelvic pain, pain low in the pelvis, pelvic aching"),
    _symptom("joint stiffness", "joint stiffness, stiff joints, stiffness in the joints"),
    _symptom("joint swelling", "joint swelling, swollen joints, puffy joints", "No"),
    _symptom("muscle aches", "muscle aches, sore muscles, aching muscles"),
    _symptom("leg cramps", "leg cramps, cramping in the legs, charley horses"),
    _symptom("rash", "rashes, skin rash, red patches on the skin", "No"),
    _symptom("itching", "itching, itchy skin, itchiness"),
    _symptom("dry skin", "dry skin, flaky skin, dryness of the skin", "No"),
    _symptom("hair loss", "hair loss, thinning hair, shedding of hair", "No"),
    _symptom("easy bruising", "easy bruising, unexplained bruises, bruising from small bumps",
             "Negative for"),
    _symptom("nosebleeds", "nosebleeds, bleeding from the nose, bloody noses", "Negative for"),
    _symptom("poor sleep", "poor sleep, trouble sleeping, sleepless nights"),
    _symptom("low mood", "low mood, sadness, down days"),
    _symptom("excessive worry", "excessive worry, constant worrying, racing thoughts"),
)

ADULT, OLDER, YOUNGER = (20, 84), (48, 89), (18, 48)

CONDITIONS: tuple[Condition, ...] = (
    _condition("hypertension", "hypertension, high blood pressure, raised blood pressure",
               "lisinopril, losartan, amlodipine, hydrochlorothiazide, valsartan",
               "headache, dizziness, nosebleeds, blurred vision", (32, 88)),
    _condition("type 2 diabetes", "type 2 diabetes, adult-onset diabetes, high blood sugar",
               "metformin, glipizide, sitagliptin, pioglitazone, insulin glargine",
               "excessive thirst, urinary frequency, fatigue, blurred vision", (30, 86)),
    _condition("hyperlipidemia", "high cholesterol, hyperlipidemia, cholesterol problem",
               "atorvastatin, rosuvastatin, simvastatin", "muscle aches, leg cramps, fatigue", (34, 86)),
    _condition("hypothyroidism", "hypothyroidism, underactive thyroid, slow thyroid",
               "levothyroxine", "fatigue, weight gain, constipation, dry skin, hair loss", ADULT),
    _condition("hyperthyroidism", "hyperthyroidism, overactive thyroid, fast thyroid",
               "methimazole, propranolol", "palpitations, weight loss, tremor, diarrhea", (20, 76)),
    _condition("heart failure", "heart failure, weak heart, failing heart",
               "furosemide, carvedilol, spironolactone, lisinopril, metoprolol",
               "shortness of breath, ankle swelling, fatigue, weight gain", OLDER),
    _condition("atrial fibrillation", "atrial fibrillation, irregular heartbeat, AFib",
               "apixaban, rivaroxaban, warfarin, diltiazem, digoxin",
               "palpitations, dizziness, fatigue, shortness of breath", OLDER),
    _condition("stable angina", "stable angina, angina, angina of the heart",
               "isosorbide mononitrate, atenolol, metoprolol, aspirin",
               "chest pain, shortness of breath, fatigue", OLDER),
    _condition("coronary artery disease",
               "coronary artery disease, narrowed heart arteries, clogged heart arteries",
               "aspirin, clopidogrel, atorvastatin, metoprolol", "chest pain, shortness of breath, fatigue",
               OLDER),
    _condition("deep vein thrombosis", "deep vein thrombosis, blood clot in the leg, leg clot",
               "apixaban, rivaroxaban, warfarin", "leg cramps, ankle swelling, easy bruising", (28, 86),
               acute=True),
    _condition("peripheral artery disease",
               "peripheral artery disease, poor leg circulation, blocked leg arteries",
               "clopidogrel, aspirin, rosuvastatin", "leg cramps, numbness, weakness", OLDER),
    _condition("Raynaud phenomenon", "Raynaud phenomenon, Raynaud's, cold white fingers",
               "nifedipine, amlodipine", "numbness, tingling", (18, 70)),
    _condition("asthma", "asthma, asthma attacks, wheezy lungs",
               "albuterol, fluticasone, budesonide, montelukast",
               "wheezing, cough, shortness of breath", (18, 72)),
    _condition("COPD", "COPD, emphysema, chronic obstructive lung disease",
               "tiotropium, albuterol, budesonide",
               "shortness of breath, cough, wheezing", OLDER),
    _condition("acute bronchitis", "acute bronchitis, bronchitis, chest cold",
               "benzonatate, guaifenesin, albuterol",
               "cough, wheezing, sore throat, fatigue", ADULT, acute=True),
    _condition("pneumonia", "pneumonia, lung infection, infected lung",
               "azithromycin, doxycycline, levofloxacin, amoxicillin",
               "cough, fever, chills, shortness of breath", ADULT, acute=True),
    _condition("acute sinusitis", "acute sinusitis, sinus infection, infected sinuses",
               "amoxicillin, doxycycline, fluticasone", "nasal congestion, headache, sore throat", ADULT,
               acute=True),
    _condition("strep pharyngitis", "strep throat, strep infection, strep pharyngitis",
               "amoxicillin, azithromycin, cephalexin", "sore throat, fever, headache", (18, 52), acute=True),
    _condition("otitis media", "middle ear infection, otitis media, infected ear",
               "amoxicillin, azithromycin, levofloxacin", "ear pain, hearing loss, fever", (18, 60),
               acute=True),
    _condition("influenza", "flu, influenza, flu infection", "oseltamivir, acetaminophen, ibuprofen",
               "fever, chills, muscle aches, cough, fatigue", ADULT, acute=True),
    _condition("allergic rhinitis", "hay fever, allergic rhinitis, pollen allergy",
               "loratadine, cetirizine, fexofenadine, fluticasone, montelukast",
               "sneezing, nasal congestion, itching", (18, 66)),
    _condition("chronic urticaria", "chronic hives, chronic urticaria, recurring hives",
               "cetirizine, hydroxyzine, fexofenadine, famotidine", "itching, rash", (18, 66)),
    _condition("atopic dermatitis", "eczema, atopic dermatitis, eczema flares",
               "hydroxyzine, prednisone, cyclosporine",
               "itching, rash, dry skin", (18, 64)),
    _condition("psoriasis", "psoriasis, psoriasis plaques, scaly psoriasis",
               "methotrexate, apremilast, cyclosporine",
               "rash, itching, dry skin", (20, 74)),
    _condition("acne", "acne, acne breakouts, pimples", "doxycycline, minocycline", "rash, dry skin",
               (18, 36)),
    _condition("rosacea", "rosacea, facial redness, rosacea flares", "doxycycline, minocycline",
               "rash, dry skin", (28, 66)),
    _condition("cellulitis", "cellulitis, skin infection, infected skin",
               "cephalexin, clindamycin, doxycycline",
               "fever, chills, rash", ADULT, acute=True),
    _condition("herpes zoster", "shingles, herpes zoster, shingles outbreak",
               "valacyclovir, acyclovir, gabapentin",
               "rash, itching, tingling", (45, 86), acute=True),
    _condition("onychomycosis", "toenail fungus, nail fungus, fungal nails", "terbinafine, fluconazole",
               "itching, dry skin", (26, 82)),
    _condition("Lyme disease", "Lyme disease, Lyme, tick infection", "doxycycline, amoxicillin",
               "rash, fatigue, muscle aches, joint swelling", (18, 76), acute=True),
    _condition("gastroesophageal reflux", "acid reflux, gastroesophageal reflux, GERD",
               "omeprazole, pantoprazole, famotidine", "heartburn, cough, nausea", ADULT),
    _condition("peptic ulcer", "stomach ulcer, peptic ulcer, ulcer", "omeprazole, pantoprazole, famotidine",
               "abdominal pain, nausea, bloating", (26, 80)),
    _condition("irritable bowel syndrome", "irritable bowel syndrome, irritable bowel, IBS",
               "dicyclomine, amitriptyline, loperamide", "abdominal pain, bloating, diarrhea", (18, 60)),
    _condition("ulcerative colitis", "ulcerative colitis, colitis, inflamed colon",
               "mesalamine, sulfasalazine, azathioprine, prednisone",
               "diarrhea, rectal bleeding, abdominal pain", (18, 68)),
    _condition("Crohn disease", "Crohn disease, Crohn's, Crohn's bowel disease",
               "azathioprine, prednisone, methotrexate", "diarrhea, abdominal pain, weight loss", (18, 66)),
    _condition("diverticulitis", "diverticulitis, inflamed bowel pouches, diverticulitis flare",
               "ciprofloxacin, metronidazole", "abdominal pain, fever, constipation", (42, 84), acute=True),
    _condition("viral gastroenteritis", "stomach bug, viral gastroenteritis, stomach virus",
               "ondansetron, loperamide", "vomiting, diarrhea, nausea", ADULT, acute=True),
    _condition("hemorrhoids", "hemorrhoids, piles, swollen hemorrhoids", "docusate, senna",
               "rectal bleeding, constipation, itching", (24, 78)),
    _condition("urinary tract infection", "urinary tract infection, bladder infection, UTI",
               "nitrofurantoin, ciprofloxacin, cephalexin", "dysuria, urinary frequency, hematuria", ADULT,
               "woman",
               acute=True),
    _condition("pyelonephritis", "kidney infection, pyelonephritis, infected kidney",
               "ciprofloxacin, levofloxacin, cephalexin", "fever, chills, dysuria, nausea", ADULT,
               acute=True),
    _condition("nephrolithiasis", "kidney stones, nephrolithiasis, stones in the kidney",
               "tamsulosin, naproxen, ondansetron", "hematuria, nausea, abdominal pain", (22, 74),
               acute=True),
    _condition("chronic kidney disease", "chronic kidney disease, weak kidneys, failing kidneys",
               "lisinopril, losartan, furosemide", "fatigue, ankle swelling, itching", OLDER),
    _condition("overactive bladder", "overactive bladder, leaky bladder, jumpy bladder",
               "oxybutynin, tolterodine", "urinary frequency, poor sleep", (36, 86)),
    _condition("benign prostatic hyperplasia",
               "enlarged prostate, benign prostatic hyperplasia, big prostate",
               "tamsulosin, doxazosin, terazosin", "urinary frequency, poor sleep", (52, 88), "man"),
    _condition("erectile dysfunction", "erectile dysfunction, erection trouble, erection problem",
               "sildenafil, tadalafil", "low mood, fatigue", (32, 78), "man"),
    _condition("menopausal syndrome", "menopause, change of life, menopausal syndrome",
               "estradiol, venlafaxine, gabapentin", "night sweats, poor sleep, low mood", (45, 60), "woman"),
    _condition("endometriosis", "endometriosis, endometriosis flares, endometrial growths",
               "naproxen, medroxyprogesterone, ibuprofen", "pelvic pain, fatigue, bloating", YOUNGER,
               "woman"),
    _condition("dysmenorrhea", "painful periods, period cramps, dysmenorrhea",
               "naproxen, ibuprofen, diclofenac",
               "pelvic pain, nausea, headache", (18, 44), "woman"),
    _condition("bacterial vaginosis", "bacterial vaginosis, vaginal infection, BV",
               "metronidazole, clindamycin",
               "itching, dysuria", (18, 54), "woman", acute=True),
    _condition("knee osteoarthritis", "knee arthritis, worn-out knees, knee osteoarthritis",
               "acetaminophen, ibuprofen, naproxen, meloxicam, celecoxib, diclofenac",
               "joint stiffness, joint swelling", OLDER),
    _condition("hip osteoarthritis", "hip arthritis, worn-out hip, hip osteoarthritis",
               "acetaminophen, naproxen, meloxicam, celecoxib", "joint stiffness, poor sleep", OLDER),
    _condition("rheumatoid arthritis", "rheumatoid arthritis, RA, inflammatory arthritis",
               "methotrexate, hydroxychloroquine, sulfasalazine, prednisone",
               "joint stiffness, joint swelling, fatigue", (24, 80)),
    _condition("lupus", "lupus, lupus flares, systemic lupus", "hydroxychloroquine, prednisone, azathioprine",
               "rash, fatigue, joint swelling, hair loss", (18, 62)),
    _condition("gout", "gout, gout attacks, gouty toe", "allopurinol, febuxostat, colchicine",
               "joint swelling, joint stiffness", (34, 84)),
    _condition("lumbar strain", "lumbar strain, pulled lower back, strained lower back",
               "cyclobenzaprine, methocarbamol, naproxen, ibuprofen", "muscle aches, poor sleep", (20, 68),
               acute=True),
    _condition("sciatica", "sciatica, pinched nerve in the back, sciatic nerve pain",
               "gabapentin, pregabalin, naproxen",
               "numbness, tingling, weakness", (26, 76)),
    _condition("rotator cuff tendinitis",
               "rotator cuff tendinitis, shoulder tendinitis, sore shoulder tendon",
               "naproxen, meloxicam, ibuprofen", "neck pain, poor sleep, weakness", (28, 74)),
    _condition("plantar fasciitis", "plantar fasciitis, heel pain, sore heel",
               "naproxen, ibuprofen, meloxicam",
               "leg cramps, muscle aches", (24, 70)),
    _condition("fibromyalgia", "fibromyalgia, fibro, fibromyalgia flares",
               "duloxetine, pregabalin, amitriptyline, cyclobenzaprine", "muscle aches, fatigue, poor sleep",
               (22, 70)),
    _condition("osteoporosis", "osteoporosis, thin bones, brittle bones",
               "alendronate, risedronate, cholecalciferol",
               "muscle aches, weakness", (54, 89)),
    _condition("vitamin D deficiency", "low vitamin D, vitamin D deficiency, lack of vitamin D",
               "cholecalciferol",
               "fatigue, muscle aches, weakness", ADULT),
    _condition("vitamin B12 deficiency", "low B12, vitamin B12 deficiency, lack of B12", "cyanocobalamin",
               "fatigue, numbness, tingling", (28, 86)),
    _condition("iron deficiency anemia", "low iron, iron deficiency anemia, iron-poor blood",
               "ferrous sulfate",
               "fatigue, dizziness, fainting, shortness of breath", (18, 78)),
    _condition("migraine", "migraine, migraine attacks, bad migraine spells",
               "sumatriptan, topiramate, propranolol, amitriptyline", "headache, nausea, blurred vision",
               (18, 62)),
    _condition("epilepsy", "epilepsy, seizures, seizure disorder", "levetiracetam, lamotrigine, topiramate",
               "memory loss, fatigue, headache", (18, 72)),
    _condition("Parkinson disease", "Parkinson disease, Parkinson's, Parkinson's illness",
               "ropinirole, pramipexole",
               "tremor, constipation, poor sleep", (55, 86)),
    _condition("Alzheimer disease", "Alzheimer disease, Alzheimer's, Alzheimer's dementia",
               "donepezil, memantine",
               "memory loss, poor sleep, weight loss", (64, 89)),
    _condition("restless legs syndrome", "restless legs syndrome, restless legs, jumpy legs at night",
               "ropinirole, pramipexole, gabapentin", "poor sleep, leg cramps, tingling", (28, 80)),
    _condition("peripheral neuropathy",
               "peripheral neuropathy, nerve damage in the feet, damaged foot nerves",
               "duloxetine, pregabalin, gabapentin, nortriptyline", "numbness, tingling, weakness", (36, 84)),
    _condition("trigeminal neuralgia", "trigeminal neuralgia, facial nerve pain, stabbing face pain",
               "carbamazepine, baclofen, lamotrigine", "headache, poor sleep, low mood", (40, 80)),
    _condition("multiple sclerosis", "multiple sclerosis, MS, MS flares", "baclofen, gabapentin",
               "weakness, numbness, blurred vision, fatigue", (20, 62)),
    _condition("benign positional vertigo", "vertigo, spinning vertigo, benign positional vertigo",
               "meclizine",
               "dizziness, nausea, vomiting", (36, 82), acute=True),
    _condition("major depression", "depression, major depression, depressive illness",
               "sertraline, escitalopram, fluoxetine, bupropion, citalopram, mirtazapine",
               "low mood, poor sleep, poor appetite, fatigue", (18, 80)),
    _condition("generalized anxiety disorder", "anxiety, generalized anxiety, anxiety disorder",
               "sertraline, escitalopram, buspirone, venlafaxine, hydroxyzine",
               "excessive worry, poor sleep, palpitations", (18, 76)),
    _condition("panic disorder", "panic attacks, panic disorder, sudden panics",
               "sertraline, fluoxetine, citalopram",
               "palpitations, tingling, excessive worry", (18, 60)),
    _condition("bipolar disorder", "bipolar disorder, bipolar illness, manic depression",
               "lithium, lamotrigine, quetiapine", "poor sleep, low mood, weight gain", (20, 66)),
    _condition("insomnia", "insomnia, chronic insomnia, long-running insomnia",
               "trazodone, melatonin, zolpidem, mirtazapine", "poor sleep, fatigue, low mood", (20, 82)),
    _condition("attention deficit disorder", "attention deficit disorder, ADHD, attention problem",
               "methylphenidate, atomoxetine, bupropion", "poor sleep, poor appetite", (18, 50)),
)

# Pairs of conditions that no patient has together.
EXCLUSIVE: frozenset[frozenset[str]] = frozenset({
    frozenset({"hypothyroidism", "hyperthyroidism"}), frozenset({"ulcerative colitis", "Crohn disease"}),
    frozenset({"major depression", "bipolar disorder"}), frozenset({"asthma", "COPD"}),
})

NO_ALLERGIES = "known allergies"

_PENICILLINS = ("amoxicillin", "cephalexin")
ALLERGENS: tuple[Allergen, ...] = (
    Allergen("penicillin", ("penicillin", "penicillin shots"), _PENICILLINS),
    Allergen("ampicillin", ("ampicillin",), _PENICILLINS),
    Allergen("sulfa drugs", ("sulfa drugs", "sulfa pills", "sulfa"),
             ("sulfasalazine", "celecoxib", "hydrochlorothiazide", "furosemide")),
    Allergen("codeine", ("codeine", "codeine syrup"), ()),
    Allergen("morphine", ("morphine",), ()),
    Allergen("iodine contrast", ("iodine contrast", "the iodine dye", "contrast dye for scans"), ()),
    Allergen("erythromycin", ("erythromycin",), ("azithromycin",)),
    Allergen("tetanus toxoid", ("tetanus shots", "the tetanus vaccine"), ()),
    Allergen("latex", ("latex", "latex gloves", "rubber gloves"), ()),
    Allergen("adhesive tape", ("adhesive tape", "sticky tape", "bandage glue"), ()),
    Allergen("nickel", ("nickel", "nickel jewelry"), ()),
    Allergen("peanuts", ("peanuts", "peanut butter"), ()),
    Allergen("tree nuts", ("tree nuts", "walnuts and other tree nuts"), ()),
    Allergen("shellfish", ("shellfish", "shrimp and other shellfish"), ()),
    Allergen("eggs", ("eggs", "egg whites"), ()),
    Allergen("soy", ("soy", "soy products"), ()),
    Allergen("strawberries", ("strawberries", "fresh strawberries"), ()),
    Allergen("sesame", ("sesame", "sesame seeds"), ()),
    Allergen("bee stings", ("bee stings", "bees"), ()),
    Allergen("wasp stings", ("wasp stings", "wasps"), ()),
    Allergen("cat dander", ("cats", "cat dander", "cat hair"), ()),
    Allergen("dust mites", ("dust mites", "house dust"), ()),
)

VITALS: tuple[Vital, ...] = (
    Vital("blood pressure", ((114, 168), (58, 94)), 1, "{0}/{1}",
          ("Your blood pressure is {0} over {1}.", "The cuff reads {0} over {1}.",
           "I get a pressure of {0} over {1}.")),
    Vital("heart rate", ((54, 108),), 1, "{0}",
          ("Your pulse is {0}.", "Your heart is beating {0} times a minute.", "I count a pulse of {0}.")),
    Vital("temperature", ((362, 373),), 10, "{0} C",
          ("Your temperature is {0} degrees.", "The thermometer says {0}.", "You measure {0} degrees.")),
    Vital("respiratory rate", ((12, 22),), 1, "{0}",
          ("You take {0} breaths a minute.", "I count {0} breaths a minute.", "Your breathing rate is {0}.")),
    Vital("oxygen saturation", ((92, 99),), 1, "{0}%",
          ("Your oxygen is {0} percent.", "The finger clip shows {0} percent.",
           "Oxygen level is {0} percent.")),
    Vital("weight", ((49, 124),), 1, "{0} kg",
          ("You weigh {0} kilos.", "The scale says {0} kilograms.", "Your weight is {0} kilos.")),
)

FAMILY_PREFIX = "family history of "
RELATIVES: tuple[str, ...] = ("mother", "father", "sister", "brother", "grandmother", "grandfather", "aunt",
                              "uncle")
HEREDITIES: tuple[Heredity, ...] = (
    Heredity("breast cancer", ("breast cancer", "cancer of the breast")),
    Heredity("colon cancer", ("colon cancer", "cancer of the bowel")),
    Heredity("bladder cancer", ("bladder cancer", "cancer of the bladder")),
    Heredity("lung cancer", ("lung cancer", "cancer in the lungs")),
    Heredity("pancreatic cancer", ("pancreatic cancer", "cancer of the pancreas")),
    Heredity("melanoma", ("melanoma", "the dark kind of skin cancer")),
    Heredity("leukemia", ("leukemia", "blood cancer")),
    Heredity("stroke", ("a stroke", "strokes")),
    Heredity("heart attack", ("a heart attack", "heart attacks")),
    Heredity("brain aneurysm", ("a brain aneurysm", "a burst vessel in the brain")),
    Heredity("sickle cell disease", ("sickle cell disease", "sickle cell")),
    Heredity("cystic fibrosis", ("cystic fibrosis",)),
    Heredity("hemophilia", ("hemophilia", "the bleeding disease hemophilia")),
    Heredity("celiac disease", ("celiac disease", "gluten disease")),
    Heredity("Huntington disease", ("Huntington disease", "Huntington's")),
    Heredity("schizophrenia", ("schizophrenia",)),
    Heredity("glaucoma", ("glaucoma", "high pressure in the eyes")),
    Heredity("macular degeneration", ("macular degeneration", "a worn-out retina")),
)

HABITS: tuple[Habit, ...] = (
    Habit("tobacco use", ("Do you smoke?", "Any cigarettes?"),
          ("Yes, about half a pack a day.", "I do smoke, yes.", "A few cigarettes every day."),
          ("No, never smoked.", "No cigarettes, no.", "I don't smoke.")),
    Habit("alcohol use", ("Do you drink?", "Any beer, wine or liquor?"),
          ("A glass of wine most evenings.", "Yes, some beer on weekends.", "I drink now and then."),
          ("No, I don't drink.", "Never touch the stuff.", "Not a drop.")),
    Habit("cannabis use", ("Do you use marijuana?", "Any weed or edibles?"),
          ("Yes, some weed at night.", "I have an edible now and then.", "I do, on weekends."),
          ("No, none of that.", "No weed, no.", "Never tried it.")),
    Habit("vaping", ("Do you vape?", "Any e-cigarettes?"),
          ("Yes, I vape daily.", "I use one of those pens, yes.", "I do vape."),
          ("No, I don't vape.", "No, never.", "Not my thing, no.")),
    Habit("regular exercise", ("Do you exercise?", "Do you get any workouts in?"),
          ("Yes, I walk an hour every day.", "I swim three times a week.", "I go to the gym a lot."),
          ("No, I don't get around to it.", "Not really, no.", "I hardly move, to be honest.")),
    Habit("night shift work", ("Do you work nights?", "Any night shifts?"),
          ("Yes, I'm on nights.", "I work nights at the plant.", "Most of my shifts are overnight."),
          ("No, day shifts only.", "No, I work days.", "No nights, no.")),
    Habit("living alone", ("Do you live by yourself?", "Is it just you at home?"),
          ("Yes, just me.", "I live on my own.", "Yes, by myself since last year."),
          ("No, I live with my family.", "No, there are four of us.", "No, I share a place.")),
    Habit("recent travel", ("Have you been traveling?", "Any trips abroad lately?"),
          ("Yes, I just got back from abroad.", "I was overseas last month.", "Yes, two weeks away."),
          ("No, I stayed home.", "No trips at all.", "I haven't gone anywhere.")),
)

TESTS: tuple[str, ...] = (
    "complete blood count", "basic metabolic panel", "lipid profile", "urinalysis",
    "resting electrocardiogram",
    "liver function panel", "thyroid panel", "chest radiograph", "sedimentation rate", "ferritin level",
)

SURNAMES: tuple[str, ...] = (
    "Abbott", "Alvarez", "Baker", "Becker", "Brooks", "Castro", "Chen", "Clarke", "Cohen", "Costa", "Diaz",
    "Doyle",
    "Ellis", "Evans", "Farah", "Fischer", "Flores", "Ford", "Gomez", "Grant", "Haddad", "Hansen", "Harris",
    "Hughes",
    "Ito", "Jensen", "Kaya", "Kelly", "Khan", "Kim", "Kowal", "Larsen", "Lopez", "Mbeki", "Meyer", "Moreau",
    "Murphy",
    "Nguyen", "Novak", "Okafor", "Olsen", "Ortiz", "Park", "Patel", "Perry", "Reyes", "Rossi", "Russo",
    "Santos",
    "Sato", "Silva", "Singh", "Stone", "Tanaka", "Torres", "Walsh", "Weber", "Wong", "Young", "Zhang",
)

TITLES: dict[Sex, tuple[str, ...]] = {"man": ("Mr. {name}", "sir"), "woman": ("Ms. {name}", "ma'am")}

# {who}: title; {age}: years, in digits or words; {x}: the condition.
OPENING = Turns(
    doctor=("Good morning, {who}. What brings you in?", "Hello, {who}. How can I help?",
            "Hi, {who}. What's going on?",
            "Welcome, {who}. What can I do for you?", "Good afternoon, {who}. Why are you here today?",
            "Come in, {who}. What's the matter?"),
    patient=("I'm {age} and here about my {x}.", "It's my {x}. I'm {age} now.",
             "My {x}, again. And I just turned {age}.",
             "I came because of my {x}. I'm {age}.", "Well, I'm {age} and worried about my {x}.",
             "I'd like help with my {x}. I'm {age}, by the way."),
    fixed=(Exchange("Hello, {who}. You're here for your {x}, right?",
                    "Yes. I'm {age} and it still bothers me."),
           Exchange("{who}, I see {x} on your chart. How old are you?", "I'm {age}."),
           Exchange("Good morning, {who}. Are you {age}?", "That's right. I'm here for my {x}.")),
)

ALSO = Turns(
    doctor=("Do you have any other conditions?", "What else are you being treated for?",
            "Anything else on your list?"),
    patient=("They also treat me for my {x}.", "There's my {x} too.", "Yes, my {x}.",
             "And then my {x}, of course."),
    fixed=(Exchange("Your chart also lists {x}. Is that right?", "Yes, that's been with me a while."),),
)

# {x} and {y}: two ways to say the symptom.
PRESENT = Turns(
    doctor=("Any {x}?", "Have you had {x}?", "Have you noticed any {x}?", "What about {x}?",
            "Is there any {x}?"),
    patient=("Yes, some {y}.", "Yes, I do get that.", "I have, yes.", "Yes, quite a bit.",
             "Yes, there's been some {y}."),
    fixed=(Exchange("What else have you noticed?", "Some {y}, mostly."),
           Exchange("Anything else bothering you?", "Yes, I've had {y} lately."),
           Exchange("How have you been feeling?", "Not great. I've had some {y}.")),
)

ABSENT = Turns(
    doctor=("Any {x}?", "Have you had {x}?", "Have you noticed any {x}?", "What about {x}?",
            "Is there any {x}?"),
    patient=("No, no {y}.", "No, nothing like that.", "No, none.", "I haven't had any {y}.", "Not at all.",
             "Nope."),
    fixed=(Exchange("So some {x} with it?", "No, no {y} at all."),
           Exchange("Anything else?", "No. No {y} either, before you ask."),
           Exchange("I wrote down {x} last time. Still there?", "No, that has gone away.")),
)

# {d}: drug; {n}: dose; {f}: frequency or nothing; {o}: another dose, not the answer; {c}: the condition.
DRUG = Turns(
    doctor=("What do you take these days?", "Which medicine are you on?", "What are you taking for the {c}?",
            "Are you on anything for the {c}?"),
    patient=("{d}, {n}{f}.", "I take {n} of {d}{f}.", "I'm on {d}, {n}{f}.", "They gave me {d}, {n}{f}."),
    fixed=(Exchange("Are you taking your {d}?", "Yes, {n}{f}."),
           Exchange("How much {d} do you take for the {c}?", "{n}{f}, like the label says."),
           Exchange("Still on {d}, {o}?", "No, it's {n}{f} now."),
           Exchange("I have {d} {o} written here.", "That's old. I take {n}{f}.")),
)

DRUG_OF_MANY = Turns(
    doctor=tuple(line for line in DRUG.doctor if "{c}" in line), patient=DRUG.patient, fixed=DRUG.fixed)

# {a}: the allergen.
ALLERGIC = Turns(
    doctor=("Any allergies?", "Are you allergic to anything?", "Anything you react badly to?",
            "Are there things you can't tolerate?"),
    patient=("Yes, {a}.", "I can't have {a}.", "I react badly to {a}.", "Just {a}.",
             "{a}, it makes me swell up."),
    fixed=(Exchange("No allergies, right?", "Actually yes, {a}."),
           Exchange("Is {a} a problem for you?", "Yes, I'm allergic.")),
)

NOT_ALLERGIC = Turns(
    doctor=("Any allergies?", "Are you allergic to anything?", "Anything you react badly to?"),
    patient=("No, none that I know of.", "No allergies.", "Nothing at all.", "Not that anyone ever found."),
)

# {v}: the spoken vital.
MEASURED = Turns(
    doctor=("{v}", "Let me see. {v}", "One moment. {v}", "All right. {v}"),
    patient=("Okay.", "Good to know.", "Is that all right?", "Thanks for checking.", "If you say so."),
)

# {h}: the hereditary disease; {r}: a relative.
FAMILY_YES = Turns(
    doctor=("Does anything run in the family?", "Any illness among your relatives?",
            "How about family history?"),
    patient=("My {r} had {h}.", "Yes, {h}, on my {r}'s account.", "{h}, with my {r}."),
    fixed=(Exchange("Did anyone in the family have {h}?", "Yes, my {r}."),),
)
FAMILY_NO = Turns(
    doctor=("Did anyone in the family have {h}?", "Any relatives with {h}?", "Is there {h} in your family?"),
    patient=("No, nobody.", "Not that I know of.", "No, not in my family.", "None of them, no."),
)

# {t}: the test.
TEST = Turns(
    doctor=("I'd like to get a {t}.", "Let's order a {t}.", "The nurse will set you up for a {t}."),
    patient=("Fine with me.", "Okay, let's do it.", "Can I do that today?", "Sure."),
)

# {w}: weeks, in digits or words.
FOLLOW_UP = Turns(
    doctor=("Come back in {w} weeks.", "I want to see you again in {w} weeks.",
            "Let's meet again in {w} weeks."),
    patient=("Will do.", "I'll book it at the desk.", "See you then.", "Thank you, doctor."),
)

# Padding of long consultations: it names nothing that is, or could be, in a note.
ACKNOWLEDGEMENTS: tuple[str, ...] = (
    "I see, thank you for telling me.", "All right, let me write that down.",
    "Thanks, that is helpful to know.",
    "Okay, I have put that in the chart.", "Let me go through a few more questions.",
    "Good, we are making progress.",
    "I understand, take your time.", "Bear with me, there is a bit more to ask.",
    "That gives me a better picture.",
    "Just a few more things to check.", "Very well, on to the next point.", "Sorry, I type slowly today.",
)

REMARKS: dict[str, tuple[str, ...]] = {
    "present": (
        "It comes and goes, and the evenings are usually the hardest part of the day.",
        "It started a couple of weeks ago, and I kept hoping that it would clear up by itself.",
        "My neighbor noticed it before I did and told me to bring it up with you.",
        "I wouldn't say it is terrible, but it is there more often than it used to be.",
        "It gets in the way when I try to do things around the house.",
        "Some mornings I wake up with it and some mornings it only shows up after lunch.",
    ),
    "absent": (
        "I would have noticed something like that, believe me.",
        "A coworker of mine went through that, but I have been spared so far.",
        "I read about it on the leaflet and kept an eye out, and it just never happened.",
        "Last winter you asked me the same thing and the answer is still the same.",
        "On that front everything has been perfectly normal.",
        "That is one thing I really can't complain about.",
    ),
    "drug": (
        "I keep the box next to the sink so that I don't forget it.",
        "The pharmacist went over it with me when I picked up the last refill.",
        "I have a little organizer that my sister fills for me on the weekend.",
        "I brought the bottle along in case you want to look at the label.",
        "It has been the same since the spring, and I rarely miss it.",
    ),
    "other": (
        "I think I filled that in on the form in the waiting room as well.",
        "You can double-check with my old clinic if you want the details.",
        "I hope that is useful, I never know how much to say about these things.",
        "That has been the case for as long as I can remember.",
        "My family keeps telling me to mention it at every visit.",
    ),
}

CHAT: tuple[Exchange, ...] = (
    Exchange("Did you find parking all right? The lot has been full all week because of the building work.",
             "Barely. I circled three times and then somebody finally pulled out right by the entrance."),
    Exchange("How did the garden turn out this year?",
             "Better than last year. The tomatoes took over the whole fence and we gave half of them away."),
    Exchange("Are you still volunteering at the library?",
             "Only two mornings now. They hired somebody young who is better with the computers than I am."),
    Exchange("Do you mind if a student sits in with us today?",
             "Not at all. Everybody has to learn somewhere, and I don't mind the company."),
    Exchange("Sorry about the wait, we had a long morning here.",
             "No trouble. I brought a book along and nearly finished the chapter I was on."),
    Exchange("Have you had a chance to use the new online portal?",
             "I tried, but it wanted a password with so many rules that I gave up and called instead."),
    Exchange("How is your new puppy settling in?",
             "He eats everything he can reach. We lost two slippers and the corner of a rug in one week."),
    Exchange("Is your insurance card still the same as last year?",
             "They mailed me a new one in January, and I showed it to the front desk when I came in."),
    Exchange("Which pharmacy should I send things to?",
             "The one on the corner by the bakery. They know me there and they stay open late."),
    Exchange("Did you bring somebody along today?",
             "My neighbor drove me over. She is having coffee across the street until we are finished."),
    Exchange("Has your phone number changed since the last visit?",
             "No, it is the same one, but please leave a message because I never hear it ring."),
    Exchange("I see you have moved. How do you like the new place?",
             "It is smaller, but there are fewer stairs and the kitchen gets the sun in the morning."),
    Exchange("Are you warm enough in here? The heating has a mind of its own.",
             "I am fine, thank you. I kept my sweater on because last time it was like an icebox."),
    Exchange("Did you get the letter about your last visit?",
             "I did, and I put it in the folder with all the others so that I can find it again."),
)
# fmt: on


def surfaces() -> dict[str, str]:
    """Return the type of every entity text that a note can contain, by the text; drugs appear with each of their doses.

    Vital signs are not included: match the names in VITALS and the number after them.
    """
    found = {item.name: "problem" for table in (CONDITIONS, SYMPTOMS) for item in table}
    found |= {f"{drug.name} {dose}": "drug" for drug in DRUGS for dose in drug.doses}
    found |= {allergen.name: "allergy" for allergen in ALLERGENS} | {NO_ALLERGIES: "allergy"}
    found |= {FAMILY_PREFIX + item.name: "family" for item in HEREDITIES}
    found |= {habit.name: "social" for habit in HABITS}
    return found | dict.fromkeys(TESTS, "test")
