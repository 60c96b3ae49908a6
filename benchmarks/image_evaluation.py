"""Compares this project's answers about images with generation one question at a time.

    python benchmarks/image_evaluation.py                               # 134 M parameters, on a CPU
    python benchmarks/image_evaluation.py --shape 7b --precision bf16 --images 64     # on a GPU

Both contenders get the same random weights, images and questions, one after the other in one
process, and generate greedily. `alone` is what evaluation scripts do that go through a benchmark
question by question: it reads and prepares the image, and has transformers generate from its
pixels, batch size 1. `sight` is `evaluation.image_answers`, as the image suite runs it, images read
and prepared from their files as well. Random weights never come to an end, so that every answer
has the same number of tokens; both are timed several times by turns, and the medians are told.

Questions come as the benchmarks have them: POPE's six an image, VQAv2's five (longer ones), and
one caption an image. Images are drawn, of COCO's size, and read from JPEG files; the tokenizer is
trained on the questions. `same` is the share of equal answers.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from sight_beyond_text.files import write_json, write_text

LLMS = {
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "layers": 2, "heads": 4},
    "134m": {"hidden_size": 768, "intermediate_size": 2048, "layers": 12, "heads": 12},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "heads": 32},
}
"""Llama's family; "7b" is Llama 2's."""

TOWERS = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 4, "patch": 32},
    "b32": {"hidden_size": 768, "intermediate_size": 3072, "layers": 12, "heads": 12, "patch": 32},
    "l14": {"hidden_size": 1024, "intermediate_size": 4096, "layers": 24, "heads": 16, "patch": 14},
}
"""CLIP's, for images of 224 pixels; "l14" is that of the published study."""

TOWER_OF = {"tiny": "tiny", "134m": "b32", "7b": "l14"}
QUESTIONS = {"pope": 6, "vqa": 5, "captions": 1}
"""Questions an image; captions get as many questions by having more images."""

TARGETS = {"pope": 5, "vqa": 5}
"""How many times more questions a second there should be, where images have several."""

THINGS = ("person", "dining table", "traffic light", "dog", "bottle", "backpack", "cell phone")
VOCABULARY = 32000
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures, prints a table, writes it and JSON."""
    args = _parsed()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    tower = args.tower or TOWER_OF[args.shape]
    with tempfile.TemporaryDirectory() as folder:
        asked = {name: questions(name, args.images, Path(folder)) for name in QUESTIONS}
        contenders, described = prepare(args, tower, Path(folder), asked)
        rows = [compared(name, asked[name], contenders, args.repeats) for name in args.benchmarks]
    report = {
        "command": shlex.join(["python", "benchmarks/image_evaluation.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        **described,
        "shape": args.shape,
        "tower": tower,
        "precision": args.precision,
        "batch_size": args.batch_size,
        "tokens_of_an_answer": args.answer,
        "repeats": args.repeats,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "benchmarks": rows,
    }
    usual = args.shape == "134m" and tower == TOWER_OF["134m"]
    name = "image_evaluation" if usual else f"image_evaluation-{args.shape}-{tower}"
    out = args.out or _RESULTS / f"{name}.json"
    write_json(out, report)
    write_text(out.with_suffix(".md"), told(report))
    print(told(report))
    print(f"written: {out}, {out.with_suffix('.md')}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=LLMS, default="134m")
    add("--tower", choices=TOWERS, help="the shape's by default")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--benchmarks", choices=QUESTIONS, nargs="+", default=list(QUESTIONS))
    add("--images", type=int, default=8, help="of each benchmark with several questions an image")
    add("--batch-size", type=int, default=32, help="of sight")
    add("--answer", type=int, default=10, help="tokens of an answer")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=os.cpu_count())
    add("--out", type=Path, help="JSON file; in benchmarks/results by default")
    return parser.parse_args()


def questions(name: str, images: int, folder: Path) -> list[dict]:
    """Questions `{image, prompt}` about images that are drawn into the folder.

    Args:
        name: one of `QUESTIONS`.
        images: how many, where an image has several questions.
        folder: gets the images.
    """
    import numpy as np
    from PIL import Image

    rng = random.Random(name)
    many = QUESTIONS[name]
    made = []
    for number in range(images if many > 1 else 4 * images):
        image = f"{number}.jpg"
        if not (folder / image).exists():
            coarse = np.random.default_rng(number).integers(0, 256, (15, 20, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(
                folder / image
            )
        for thing in rng.sample(THINGS, many):
            prompt = {
                "pope": f"Is there a {thing} in the image?",
                "vqa": f"What color is the {thing} that stands to the left of the other one?",
                "captions": "Please provide a description of the picture.",
            }[name]
            made.append({"image": image, "prompt": prompt})
    return made


def prepare(
    args: argparse.Namespace, tower: str, folder: Path, asked: dict[str, list[dict]]
) -> tuple[dict[str, Callable], dict]:
    """The contenders on one model of random weights; what it is, and on what it is computed.

    Returns:
        By name a function from questions to their answers; and facts for the report.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
    )

    from sight_beyond_text.data.samples import Pixels
    from sight_beyond_text.data.templates import segments
    from sight_beyond_text.evaluation.answers import cut, endings, prompt_ids
    from sight_beyond_text.evaluation.image_answers import ImageAnswers, Seen
    from sight_beyond_text.micro.tokenizer import train_tokenizer
    from sight_beyond_text.models.building import DTYPES, build, image_positions, load_processor

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[args.precision]
    # Words get tokens of their own, as they have in the vocabulary of a large model.
    prompts = {question["prompt"] for rows in asked.values() for question in rows}
    coarse = train_tokenizer(sorted(prompts), 400)
    laid = [s.text for text in sorted(prompts) for s in segments([(text, "")], "v1", coarse, True)]
    tokenizer = train_tokenizer(laid * 4, 4000)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(
            LlamaConfig(
                **_sizes(LLMS[args.shape]), vocab_size=VOCABULARY, max_position_embeddings=4096
            ),
            dtype=dtype,
        )
    vision = TOWERS[tower]
    CLIPVisionModel(
        CLIPVisionConfig(**_sizes(vision), image_size=224, patch_size=vision["patch"])
    ).save_pretrained(folder / "tower")
    CLIPImageProcessorPil().save_pretrained(folder / "tower")
    seeing = {"model": str(folder / "tower"), "revision": None, "layer": -2}
    seeing |= {"projector": "linear", "preparation": "crop"}
    model = build({"model": args.shape, "revision": None}, seeing, tokenizer, dtype, llm)
    model = model.to(device).eval()
    processor = load_processor(seeing)
    stops, _ = endings("v1", tokenizer)
    patches = image_positions(model.config.vision_config)

    @torch.inference_mode()
    def alone(questions: list[dict]) -> list[str]:
        answers = []
        for question in questions:
            turns = [(f"<image>\n{question['prompt']}", "")]
            ids = prompt_ids(turns, "v1", tokenizer, model.config.image_token_id, patches)
            given = torch.tensor([ids], device=device)
            pixels = Pixels(folder, processor)(question["image"])
            made = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                pixel_values=pixels[None].to(device, dtype),
                max_new_tokens=args.answer,
                min_new_tokens=args.answer,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            answers.append(cut(tokenizer.decode(made[0, len(ids) :]), stops))
        return answers

    def sight(questions: list[dict]) -> list[str]:
        answering = ImageAnswers(model, tokenizer, "v1", args.batch_size)
        answering.ends = []
        seen, pixels = Seen(model), Pixels(folder, processor, keep=0)
        found = dict(answering.answers(questions, lambda names: seen(pixels, names), args.answer))
        return [found[number] for number in range(len(questions))]

    described = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "positions_of_an_image": patches,
    }
    return {"alone": alone, "sight": sight}, described


def _sizes(shape: dict) -> dict:
    return {
        "hidden_size": shape["hidden_size"],
        "intermediate_size": shape["intermediate_size"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def compared(name: str, asked: list[dict], contenders: dict[str, Callable], repeats: int) -> dict:
    """Both contenders on a benchmark's questions, by turns; medians of seconds."""
    answers: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for answer in contenders.values():
        answer(asked[: QUESTIONS[name]])  # what is set up in the first passes isn't timed
    for _ in range(repeats):
        for contender, answer in contenders.items():
            begun = time.perf_counter()
            answers[contender] = answer(asked)
            seconds[contender].append(time.perf_counter() - begun)
    medians = {contender: statistics.median(times) for contender, times in seconds.items()}
    same = [one == other for one, other in zip(*answers.values(), strict=True)]
    row = {
        "benchmark": name,
        "questions": len(asked),
        "questions_an_image": QUESTIONS[name],
        "seconds": {
            contender: [round(t, 3) for t in times] for contender, times in seconds.items()
        },
        "questions_a_second": {
            contender: round(len(asked) / median, 3) for contender, median in medians.items()
        },
        "times_faster": round(medians["alone"] / medians["sight"], 2),
        "target": TARGETS.get(name),
        "same": sum(same) / len(same),
    }
    print(_line(row), file=sys.stderr)
    return row


def told(report: dict) -> str:
    """The report in Markdown."""
    million = report["parameters"] / 1e6
    about = (
        f"{report['date']}, {report['device']} ({report['cpu']}, {report['cores']} cores,"
        f" {report['threads']} threads), {million:,.0f} M parameters in {report['precision']},"
        f" tower {report['tower']} ({report['positions_of_an_image']} positions an image), answers"
        f" of {report['tokens_of_an_answer']} tokens, batch size {report['batch_size']}, torch"
        f" {report['versions']['torch']}, transformers {report['versions']['transformers']}."
    )
    head = (
        "| benchmark | questions | an image | alone, questions/s | sight, questions/s |"
        " times faster | target | same |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|", *map(_line, report["benchmarks"])]
    return "\n".join([f"`{report['command']}`", "", about, "", *lines, ""])


def _line(row: dict) -> str:
    cells = [
        row["benchmark"],
        str(row["questions"]),
        str(row["questions_an_image"]),
        f"{row['questions_a_second']['alone']:.2f}",
        f"{row['questions_a_second']['sight']:.2f}",
        f"{row['times_faster']:.1f}",
        "" if row["target"] is None else str(row["target"]),
        f"{row['same']:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
