"""What trainings will cost: tokens, steps, work, disk, hours, money."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_llava import BATCH, LEARNED, LENGTH, SIZES, batch_of, job, model_of
from tiny_models import make_tower
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from sight_beyond_text import grid, study
from sight_beyond_text.costs import Foreteller, learning_flops
from sight_beyond_text.data.samples import Conversations
from sight_beyond_text.data.sources import apply_form
from sight_beyond_text.lengths import Sample, Sizes, measure, read_samples
from sight_beyond_text.models.building import load_tokenizer
from sight_beyond_text.shapes import KNOWN, model_shape, tower_shape
from sight_beyond_text.training.loss import TokenLoss


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    deep = LlamaConfig(**{**SIZES, "num_hidden_layers": 8})
    AutoModelForCausalLM.from_config(deep).save_pretrained(made / "llama")
    make_tower(made / "tower")
    return made


@pytest.mark.parametrize("mode", ["full", "lora", "frozen"])
def test_work_is_what_torch_counts(folder, mode):
    wanted = job(mode)
    model, shape, tower = model_of(folder, "llama", wanted)
    with FlopCounterMode(display=False) as counter:
        TokenLoss(model).train()(**batch_of(model)).backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(count for operation, count in counts.items() if "attention" not in str(operation))
    tokens = BATCH * LENGTH
    sizes = Sizes(BATCH, BATCH, tokens, BATCH * LEARNED, 0, LENGTH)
    foretold = learning_flops(shape, tower, wanted, sizes)
    assert foretold == pytest.approx(counted, rel=0.05)
    # The causal half of two products of T x T scores with each unit of width, thrice.
    whole = learning_flops(shape, tower, wanted, Sizes(**{**vars(sizes), "squares": LENGTH**2}))
    assert whole - foretold == 3 * 2 * LENGTH**2 * shape.queries * shape.layers


def llava(shared_data: Path) -> list[dict]:
    """The published sample of questions on COCO's images, as conversations."""
    path = shared_data / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "id": str(number),
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['instruction']}"},
                {"from": "gpt", "value": row["output"]},
            ],
        }
        for number, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def llama(shared_data: Path, tmp_path_factory):
    """Llama 2's tokenizer."""
    given = shared_data / "llama2_tokenizer" / "tokenizer.model"
    if not given.is_file():
        pytest.skip("no llama2_tokenizer/tokenizer.model in ../shared/data")
    folder = tmp_path_factory.mktemp("llama")
    shutil.copyfile(given, folder / "tokenizer.model")
    return load_tokenizer({"model": str(folder), "revision": None})


class NoPixels:
    """Images that nobody looks at."""

    key = "pixel_values"


@pytest.mark.parametrize("template", ["v0", "v1", "llava_llama_2", "plain"])
@pytest.mark.parametrize("form", ["visual", "text"])
def test_lengths_are_foretold_of_real_conversations(shared_data, llama, tmp_path, template, form):
    rows = llava(shared_data)
    laid = [apply_form(row, form) for row in rows]
    real = Conversations(laid, llama, template, 0, 256, 2048, NoPixels()).samples
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    samples = read_samples(str(tmp_path / "rows.json"))
    found = measure(samples, form, template, 256, 0, 2048)
    lengths = [len(sample["input_ids"]) for sample in real]
    learned = sum(label != -100 for sample in real for label in sample["labels"])
    assert found.samples == len(rows) and found.images == (len(rows) if form == "visual" else 0)
    assert found.tokens == pytest.approx(sum(lengths), rel=0.1)
    assert found.learned == pytest.approx(learned, rel=0.1)
    assert found.squares == pytest.approx(sum(length**2 for length in lengths), rel=0.2)
    assert found.longest == pytest.approx(max(lengths), rel=0.15)


def test_captions_in_the_images_place_make_samples_longer():
    samples = [Sample(None, True, 40, 100, 1), Sample(None, False, 40, 100, 1)]
    text = measure(samples, "text", "v1", 256, 0, 2048)
    captions = measure(samples, "caption", "v1", 256, 5, 2048)
    assert captions.tokens - text.tokens == pytest.approx(5 * 53 / 4.2)
    visual = measure(samples, "visual", "v1", 256, 5, 2048)
    assert visual.tokens - text.tokens == 256 and visual.images == 1
    assert measure(samples, "visual", "v1", 256, 0, 100).longest == 100


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"id": 1}]', '{"a": 1}'])
def test_a_file_that_holds_no_samples_tells_nothing(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert read_samples(str(path)) is None
    assert read_samples(str(tmp_path / "nowhere.json")) is None


def tiny_study(folder: Path, hardware: dict | None = None, **training) -> study.Study:
    """A study of one Llama-2-7B on ten conversations that are at hand."""
    rows = [
        {
            "id": str(number),
            "image": "1.png",
            "kind": "detail" if number < 4 else "conversation",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "word " * 84},
            ],
        }
        for number in range(10)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    path = str(folder / "rows.json")
    recipe = {"learning_rate": 1e-3, "batch_size": 4, **training}
    values = {
        "name": "tiny",
        "data": {"images": str(folder), "instructions": path, "alignment": path},
        "tower": {"preset": "published"},
        "bases": {"seven": {"model": "meta-llama/Llama-2-7b-hf"}},
        "sources": {"visual": {}, "detail": {"form": "text", "kinds": ["detail"]}},
        "alignment": recipe,
        "tunings": {"full": recipe, "lora": recipe},
        "hardware": hardware,
    }
    return study.load(values)


def costs(of: study.Study) -> dict[str, dict]:
    foreteller = Foreteller(of)
    return {
        f"{cell.source} {cell.tuning}": foreteller.costs(grid.run_spec(of, cell))
        for cell in of.cells()[0]
    }


def test_steps_tokens_disk_and_money_follow_from_the_recipe(tmp_path):
    hardware = {"gpu": "h100", "utilization": 0.5, "price_per_hour": 3.0}
    found = costs(tiny_study(tmp_path, hardware, epochs=2.5, save_steps=7))
    lora, full = found["visual lora"], found["visual full"]
    assert lora["steps"] == 8  # three an epoch, the last one smaller
    assert found["detail lora"]["steps"] == 3  # four samples of that kind
    assert 2.5 * 10 * (256 + 100) < lora["tokens"] < 2.5 * 10 * (256 + 170)
    linear, adapters = 1024 * 4096 + 4096, 159_907_840
    assert lora["learned_parameters"] == linear + adapters
    assert lora["disk"] == 4 * lora["learned_parameters"]
    # Weights and two states, of the last point and the one before.
    assert lora["disk_while_training"] == 2 * 12 * lora["learned_parameters"]
    assert found["detail lora"]["disk_while_training"] == 12 * adapters
    assert full["flops"] > 1.4 * lora["flops"] > 0
    assert full["hours"] == pytest.approx(full["flops"] / (989e12 * 0.5) / 3600)
    assert full["price"] == pytest.approx(3 * full["gpu_hours"])


def test_passes_are_no_larger_than_a_step_and_no_smaller_than_a_sample(tmp_path):
    whole = costs(tiny_study(tmp_path))["visual lora"]["memory"]
    longest = whole["positions"] / 4
    assert 256 + 100 < longest < 256 + 170
    assert "fits" not in whole
    cut = costs(tiny_study(tmp_path, token_budget=1000))["visual lora"]["memory"]
    assert cut["positions"] == 1000
    assert cut["with_checkpointing"] < cut["without_checkpointing"]
    alone = costs(tiny_study(tmp_path, token_budget=10))["visual lora"]["memory"]
    assert alone["positions"] == longest
    halves = costs(tiny_study(tmp_path, processes=2))["visual lora"]["memory"]
    assert halves["positions"] == whole["positions"] / 2


def test_what_fits_on_the_studys_gpu_is_told(tmp_path):
    on = {
        gib: costs(tiny_study(tmp_path, {"gpu": "own", "memory_gib": gib, "tflops": 100}))
        for gib in (12, 24, 80)
    }
    assert not on[24]["visual full"]["memory"]["fits"]
    assert not on[12]["visual lora"]["memory"]["fits"]
    fits = on[80]["visual lora"]["memory"]
    assert fits["fits"] and fits["checkpointing"] is False
    assert fits["positions_that_fit"] > fits["positions"]
    # 7B's weights in bfloat16 leave room for a few positions without checkpointing.
    wanted = costs(
        tiny_study(
            tmp_path,
            {"gpu": "own", "memory_gib": 24, "tflops": 100},
            gradient_checkpointing=False,
        )
    )["visual lora"]["memory"]
    assert wanted["checkpointing"] is False
    assert wanted["fits"] == (wanted["without_checkpointing"] <= 23 * 2**30)
    assert wanted["positions_that_fit"] < on[24]["visual lora"]["memory"]["positions_that_fit"]


def test_what_is_not_at_hand_is_not_known(tmp_path):
    of = tiny_study(tmp_path, {"gpu": "h100"})
    (tmp_path / "rows.json").unlink()
    found = costs(of)["visual lora"]
    assert found["steps"] is found["tokens"] is found["flops"] is found["hours"] is None
    assert found["parameters"] > 7e9 and found["memory"]["positions"] == 4 * 2048
    values = of.model_dump(exclude_unset=True)
    values["bases"]["seven"]["model"] = "nobody/nothing"
    unknown = costs(study.load(values))["visual lora"]
    assert unknown["parameters"] is unknown["memory"] is unknown["disk"] is None
    fp32 = tiny_study(tmp_path, {"gpu": "h100"}, precision="fp32")
    assert costs(fp32)["visual lora"]["hours"] is None


def test_the_subset_of_a_run_is_what_it_learns_from(tmp_path):
    whole = costs(tiny_study(tmp_path))["visual lora"]
    half = costs(tiny_study(tmp_path, max_samples=5))["visual lora"]
    assert half["tokens"] == pytest.approx(whole["tokens"] / 2, abs=1)
    assert half["steps"] == 2 and half["flops"] == pytest.approx(whole["flops"] / 2)


def test_adapters_add_their_own_work():
    shape, tower = (
        model_shape(KNOWN["huggyllama/llama-7b"]),
        tower_shape(KNOWN["openai/clip-vit-large-patch14"]),
    )
    sizes = Sizes(1, 0, 1000, 500, 0, 1000)
    frozen = learning_flops(shape, tower, job("frozen"), sizes)
    lora = learning_flops(shape, tower, job("lora"), sizes)
    assert lora - frozen == 6 * 1000 * 159_907_840 / 64 * 8
