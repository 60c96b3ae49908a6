"""Times the preparation of data as large as the published: 80,000 conversations, 595,375 pairs.

    python benchmarks/preparation.py DATA

DATA holds `llama2_tokenizer/` (with Llama 2's `tokenizer.model`) and `llava/` (with
`coco2014_val_gpt4_qa_30x3.jsonl`, whose words the files are made of). Files of the published schema
and size are written first, which isn't timed: instructions, alignment pairs, COCO's captions and
instances. Then each source is prepared as a run prepares it, in a process of its own, one after the
other: read and check the instructions, choose kinds and subset, put in the image's place what the
source has there, lay the conversations out in a template, tokenize and mask them. Told are seconds
and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from preparation_files import SHARES, write_files

from sight_beyond_text.data.layouts import read_rows
from sight_beyond_text.files import write_json
from sight_beyond_text.session import prepare_torch, session
from sight_beyond_text.training.record import peak_resident

ALL = {"kinds": "all"}
CASES = {
    "alignment": {"stage": "align", "source": {"form": "visual", **ALL}},
    "visual": {"stage": "tune", "source": {"form": "visual", **ALL}},
    "caption": {"stage": "tune", "source": {"form": "caption", **ALL}},
    "text": {"stage": "tune", "source": {"form": "text", **ALL}},
    "caption, boxes, one kind": {
        "stage": "tune",
        "source": {"form": "caption", "boxes": True, "kinds": ["reasoning"]},
    },
}
"""What a run says of its data. The last is beside the bound: more files, and larger ones."""

BOUND = ("alignment", "visual", "caption", "text")
SECONDS, GIB = 180, 4
"""What the cases of `BOUND` may take: all together, and each."""


def main() -> None:
    """Measures, prints a table, writes JSON."""
    args = _parsed()
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    words = words_of(args.data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl")
    report = {
        "command": shlex.join(["python", "benchmarks/preparation.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "threads": args.threads,
        "share": args.share,
        "cases": {},
    }
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        files = write_files(Path(folder), words, args.share)
        report["bytes"] = {name: Path(path).stat().st_size for name, path in files.items()}
        if args.wait:
            input("files are written; Enter begins to measure ")
        for name in CASES:
            report["cases"][name] = measured(name, files, args.data / "llama2_tokenizer")
            print(_line(name, report["cases"][name]), file=sys.stderr)
    bound = [report["cases"][name] for name in BOUND]
    report["seconds"] = sum(row["seconds"] for row in bound)
    report["gib"] = max(row["gib"] for row in bound)
    write_json(args.out, report)
    print(
        "| | samples | rows, s | tokens, s | seconds | peak, GiB |\n|---|---:|---:|---:|---:|---:|"
    )
    print("\n".join(_line(name, row) for name, row in report["cases"].items()))
    print(
        f"\n{', '.join(BOUND)}: {report['seconds']:.0f} s of {SECONDS} allowed, at most"
        f" {report['gib']:.2f} GiB of {GIB}\nwritten: {args.out}"
    )
    if args.share == 1 and (report["seconds"] > SECONDS or report["gib"] > GIB):
        sys.exit("over the bound")


def words_of(path: Path) -> list[str]:
    """All words of some questions and answers, common ones many times."""
    return " ".join(row["output"] for row in read_rows(path)).split()


def measured(name: str, files: dict[str, str], tokenizer: Path) -> dict:
    """Prepares one of `CASES` in a process of its own.

    Returns:
        `samples`, `lost`, `learned_tokens_a_sample`; `rows` and `tokens` (seconds of the two parts)
        and `cpu` (of both, over all threads); `seconds` and `gib` of the whole process, its start
        and imports included.
    """
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        made = pool.submit(_prepare, CASES[name], files, str(tokenizer)).result()
    return {**made, "seconds": time.perf_counter() - start}


def _prepare(case: dict, files: dict[str, str], tokenizer: str) -> dict:
    prepare_torch(int(os.environ["RAYON_NUM_THREADS"]))
    from sight_beyond_text.data.prepare import load_rows
    from sight_beyond_text.data.samples import IGNORED, Conversations
    from sight_beyond_text.models.building import image_token, load_tokenizer

    loaded = load_tokenizer({"model": tokenizer, "revision": None})
    align = case["stage"] == "align"
    data = {
        "instructions": files["alignment" if align else "instructions"],
        "captions": files["captions"],
        "captions_in_place": 5,
    }
    if case["source"].get("boxes"):
        data["instances"] = files["instances"]
    if case["source"]["kinds"] != "all":
        data["kinds"] = {kind: files[kind] for kind in SHARES}
    spec = {"data": data, "source": case["source"], "training": {"max_samples": None}, "seed": 0}
    start, worked = time.perf_counter(), time.process_time()
    rows = load_rows(spec)
    between = time.perf_counter()
    template = "plain" if align else "llava_llama_2"
    made = Conversations(
        rows, loaded, template, image_token(loaded, len(loaded)), 256, 2048, pixels=None
    )
    end = time.perf_counter()
    learned = sum(label != IGNORED for sample in made.samples[:1000] for label in sample["labels"])
    return {
        "samples": len(made.samples),
        "lost": made.losses.lost,
        "learned_tokens_a_sample": learned / max(1, len(made.samples[:1000])),
        "rows": between - start,
        "tokens": end - between,
        "cpu": time.process_time() - worked,
        "gib": peak_resident() / 2**30,
    }


def _line(name: str, row: dict) -> str:
    cells = [
        name,
        f"{row['samples']:,}",
        *(f"{row[key]:.1f}" for key in ("rows", "tokens", "seconds")),
        f"{row['gib']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA")
    add("--share", type=float, default=1.0, help="of the published sizes")
    add("--threads", type=int, default=2)
    add("--wait", action="store_true", help="for Enter, between writing files and measuring")
    add("--work", type=Path, help="folder with room for 1.2 GB of files, for the time")
    out = Path(__file__).parent / "results" / "preparation.json"
    add("--out", type=Path, default=out, help="JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    with session():
        main()
