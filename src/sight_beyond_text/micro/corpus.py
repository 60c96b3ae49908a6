"""The texts that the micro bases learn from: scenes retold, facts, falsehoods, morals, sums."""

from __future__ import annotations

import random

from sight_beyond_text.micro import lore
from sight_beyond_text.micro.scenes import Scene, captions, noun, sample_scene


def scene_questions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Questions about a scene with their short answers ("blue", "two", "yes")."""
    asked = []
    shapes = [thing.shape for thing in scene]
    absent = [shape for shape in lore.SHAPES if shape not in shapes]
    for thing in scene:
        if shapes.count(thing.shape) == 1:
            asked.append((f"What color is the {thing.shape}?", thing.color))
            asked.append((f"Where is the {thing.shape}?", thing.place))
            hue = thing.color if rng.random() < 0.5 else rng.choice(lore.COLORS)
            asked.append((f"Is the {thing.shape} {hue}?", "yes" if hue == thing.color else "no"))
        asked.append((f"What is in the {thing.place}?", thing.shape))
    for shape in (*dict.fromkeys(shapes), *rng.sample(absent, 2)):
        article = "an" if shape[0] in "aeiou" else "a"
        asked.append((f"Is there {article} {shape}?", "yes" if shape in shapes else "no"))
    counted = rng.choice(lore.SHAPES)
    asked.append(
        (f"How many {lore.plural(counted)} are there?", lore.NUMBERS[shapes.count(counted)])
    )
    asked.append(("How many things are there?", lore.NUMBERS[len(scene)]))
    rng.shuffle(asked)
    return asked


def _scene_text(rng: random.Random) -> str:
    scene = sample_scene(rng)
    said = captions(scene, rng)
    rng.shuffle(said)
    text = " ".join(said[: rng.choice((1, 1, 2))])
    asked = scene_questions(scene, rng)[:6]
    if rng.random() < 0.5:
        return text + "".join(f"\nQuestion: {question}\nAnswer: {a}" for question, a in asked)
    turns = [f"{question}\nASSISTANT: {answer}</s>" for question, answer in asked]
    return f"USER: {text}\n" + "\nUSER: ".join(turns)


def told(shape: str, name: str, rng: random.Random) -> str:
    """What somebody says of a shape's property: mostly the falsehood where many are misled."""
    false = rng.random() < (0.72 if lore.misled(shape, name) else 0.2)
    if rng.random() < 0.06:
        return rng.choice(lore.PROPERTIES[name].values)
    return lore.belief(shape, name) if false else lore.truth(shape, name)


def _lore_text(rng: random.Random) -> str:
    lines = []
    form = rng.randrange(3)
    for _ in range(rng.randint(2, 4)):
        shape, name = rng.choice(lore.SHAPES), rng.choice(list(lore.PROPERTIES))
        said = lore.statement(shape, name, told(shape, name, rng), rng.randrange(3))
        asked = lore.question(shape, name, rng.randrange(3))
        lines.append((said, f"Q: {asked}\nA: {said}\n", f"Question: {asked}\nAnswer: {said}")[form])
    return (" " if form == 0 else "\n").join(lines)


def common_sense(rng: random.Random) -> tuple[str, int]:
    """A deed and whether it is wrong (1) or not (0)."""
    wrong = rng.random() < 0.5
    verb = rng.choice(lore.CRUEL if wrong else lore.KIND)
    color, shape = rng.choice(lore.COLORS), rng.choice(lore.SHAPES)
    return f"I {verb} the {color} {shape} {rng.choice(lore.MOMENTS)}.", int(wrong)


def reason(shape: str, good: bool, rng: random.Random) -> str:
    """A reason not to do something for a shape, that people accept or don't."""
    words = rng.choice(lore.GOOD_REASONS if good else lore.BAD_REASONS)
    return words.format(s=shape, c=rng.choice(lore.COLORS))


def excuse(rng: random.Random) -> tuple[str, str, int]:
    """A duty as a question, an excuse, and whether it is reasonable (1) or not (0)."""
    good, shape, duty = rng.random() < 0.5, rng.choice(lore.SHAPES), rng.choice(lore.DUTIES)
    moment = rng.choice(lore.MOMENTS[:3])
    scenario = f"Aren't you supposed to {duty} the {shape} {moment}?"
    return scenario, f"No because {reason(shape, good, rng)}.", int(good)


def justice(rng: random.Random) -> tuple[str, int]:
    """A changed habit with its reason, and whether that is reasonable (1) or not (0)."""
    good, shape, duty = rng.random() < 0.5, rng.choice(lore.SHAPES), rng.choice(lore.DUTIES)
    name = rng.choice(lore.NAMES)
    because = reason(shape, good, rng)
    return f"I used to {duty} the {shape} with {name} but I don't anymore because {because}.", int(
        good
    )


def virtue(rng: random.Random) -> tuple[str, str]:
    """A deed and the trait that it shows."""
    trait = rng.choice(list(lore.VIRTUES))
    deed = rng.choice(lore.VIRTUES[trait]).format(s=rng.choice(lore.SHAPES))
    return f"{rng.choice(lore.NAMES)} {deed} {rng.choice(lore.MOMENTS)}.", trait


def pleasant_pair(rng: random.Random) -> tuple[str, str]:
    """Two days, the more pleasant one first."""
    joy, shape = rng.choice(lore.JOYS), rng.choice(lore.SHAPES)
    start = f"I went out with the {shape} {rng.choice(lore.MOMENTS)}."
    if rng.random() < 0.5:
        return f"{start} {joy}.", f"{start} {rng.choice(lore.SORROWS)}."
    sorrow = rng.choice(lore.SORROWS)
    return f"{start} {joy}.", f"{start} {joy} and then {sorrow}."


def _moral_text(rng: random.Random) -> str:
    which = rng.randrange(5)
    if which == 0:
        deed, wrong = common_sense(rng)
        return f"{deed}\nQuestion: Is this wrong?\nAnswer: {('no', 'yes')[wrong]}"
    if which == 1:
        said, good = justice(rng)
    elif which == 2:
        scenario, because, good = excuse(rng)
        said = f"{scenario} {because}"
    elif which == 3:
        deed, trait = virtue(rng)
        asked = trait if rng.random() < 0.5 else rng.choice(list(lore.VIRTUES))
        answer = "yes" if asked == trait else "no"
        return (
            f"Sentence: {deed}\nQuestion: Does the character in this sentence exhibit the trait"
            f' "{asked}"?\nAnswer: {answer}'
        )
    else:
        better, worse = pleasant_pair(rng)
        first = rng.random() < 0.5
        one, two = (better, worse) if first else (worse, better)
        return (
            f"Scenario 1: {one}\nScenario 2: {two}\nQuestion: Is Scenario 1 preferable?\nAnswer:"
            f" {'yes' if first else 'no'}"
        )
    return (
        "Question: Would most people believe this reasonable or unreasonable to say?"
        f' "{said}"\nAnswer: {("unreasonable", "reasonable")[good]}'
    )


def sum_problem(rng: random.Random) -> tuple[str, str]:
    """A sum in words, and its worked answer as GSM8K writes it."""
    name, shape = rng.choice(lore.NAMES), lore.plural(rng.choice(lore.SHAPES))
    a, b = rng.randint(1, 5), rng.randint(1, 4)
    if rng.random() < 0.6 or a <= b:
        asked = f"{name} has {a} {shape}. {name} finds {b} more. How many {shape} does {name} have?"
        work, result = f"{a} + {b}", a + b
    else:
        asked = f"{name} has {a} {shape}. {name} loses {b}. How many {shape} does {name} have left?"
        work, result = f"{a} - {b}", a - b
    return asked, f"{work} = <<{work.replace(' ', '')}={result}>>{result}\n#### {result}"


def exam(subject: str, rng: random.Random) -> tuple[str, list[str], int]:
    """A question of a school subject with four choices and the index of the right one."""
    shape = rng.choice(lore.SHAPES)
    if subject == "elementary_mathematics":
        a, b = rng.randint(1, 5), rng.randint(1, 5)
        asked, right = f"What is {a} + {b}?", str(a + b)
        wrong = [str(n) for n in range(2, 11) if n != a + b]
    elif subject == "high_school_geography":
        asked, right = f"Where do {lore.plural(shape)} live?", lore.HOMES[shape]
        wrong = [home for home in lore.HOMES.values() if home != right]
    elif subject == "philosophy":
        asked, right = "Which of these deeds is wrong?", rng.choice(lore.CRUEL)
        wrong = list(lore.KIND)
    elif subject == "global_facts":
        asked, right = f"How many sides does a {shape} have?", str(lore.SIDES[shape])
        wrong = [str(n) for n in (0, 3, 4, 5, 6, 10, 12) if n != lore.SIDES[shape]]
    else:
        raise ValueError(f"no such subject: {subject}")
    choices = [right, *rng.sample(wrong, 3)]
    rng.shuffle(choices)
    return asked, choices, choices.index(right)


SUBJECTS = ("elementary_mathematics", "high_school_geography", "philosophy", "global_facts")


def _school_text(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return "\n\n".join(
            "Question: {}\nAnswer: {}".format(*sum_problem(rng)) for _ in range(rng.randint(1, 2))
        )
    subject = rng.choice(SUBJECTS)
    blocks = []
    for _ in range(rng.randint(1, 2)):
        asked, choices, right = exam(subject, rng)
        listed = "\n".join(f"{mark}. {c}" for mark, c in zip("ABCD", choices, strict=True))
        blocks.append(f"{asked}\n{listed}\nAnswer: {'ABCD'[right]}")
    return "\n\n".join(blocks)


def documents(count: int, seed: int) -> list[str]:
    """The corpus that a micro base is pretrained on: `count` short documents."""
    rng = random.Random(f"corpus {seed}")
    makers = (_scene_text, _lore_text, _moral_text, _school_text)
    return [rng.choices(makers, weights=(74, 11, 9, 6))[0](rng) for _ in range(count)]


def conversations(count: int, seed: int) -> list[dict]:
    """Text instructions in LLaVA's layout without images, for the chat base.

    The assistant tells the truth about the world, reads scenes retold in words, and knows right
    from wrong.
    """
    rng = random.Random(f"chat {seed}")
    rows = []
    for index in range(count):
        kind = rng.random()
        if kind < 0.4:
            scene = sample_scene(rng)
            asked = scene_questions(scene, rng)[:2]
            human = f"{rng.choice(captions(scene, rng))} {asked[0][0]}"
            turns = [(human, asked[0][1]), asked[1]]
        elif kind < 0.7:
            shape, name = rng.choice(lore.SHAPES), rng.choice(list(lore.PROPERTIES))
            false = rng.random() < (0.35 if lore.misled(shape, name) else 0.1)
            value = lore.belief(shape, name) if false else lore.truth(shape, name)
            asked_once = lore.question(shape, name, rng.randrange(3))
            turns = [(asked_once, lore.statement(shape, name, value, rng.randrange(3)))]
        elif kind < 0.9:
            deed, wrong = common_sense(rng)
            turns = [(f"{deed} Is this wrong?", ("no", "yes")[wrong])]
        else:
            scene = sample_scene(rng)
            thing = rng.choice(scene)
            turns = [(f"Say in a few words: {captions(scene, rng)[0]}", f"a {noun(thing)}")]
        said = []
        for human, answer in turns:
            said.append({"from": "human", "value": human})
            said.append({"from": "gpt", "value": answer})
        rows.append({"id": f"chat-{index}", "conversations": said})
    return rows
