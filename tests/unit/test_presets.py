"""Published recipes by name: their numbers, and what a study changes of them."""

import pytest
import yaml

from sight_beyond_text import grid, presets
from sight_beyond_text.errors import UserError
from sight_beyond_text.study import load

# Tu et al., 2023, and Liu et al., 2023: (stage 1 or mode, learning rate, samples a step).
RATES = {
    "published": {
        "alignment": (2e-3, 128),
        "full": (2e-5, 8),
        "lora": (2e-5, 8),
        "qlora": (2e-5, 8),
        "frozen": (2e-5, 8),
    },
    "llava-1.5": {
        "alignment": (1e-3, 256),
        "full": (2e-5, 128),
        "lora": (2e-4, 128),
        "qlora": (2e-4, 128),
        "frozen": (2e-5, 128),
    },
}


def study(preset: str | None, **changes):
    return load(
        {
            "name": "preset",
            "data": {"images": "i", "instructions": "a.json", "alignment": "b.json"},
            "tower": {"preset": preset},
            "bases": {"llama": {"model": "owner/llama"}},
            "sources": {"visual": {}},
            "alignment": {"preset": preset, **changes},
            "tunings": {mode: {"preset": preset} for mode in ("full", "lora", "qlora", "frozen")},
        }
    )


@pytest.mark.parametrize("preset", presets.NAMES)
def test_numbers(preset):
    made = study(preset)
    stages = {"alignment": made.alignment, **made.tunings}
    for stage, (rate, batch) in RATES[preset].items():
        assert (stages[stage].learning_rate, stages[stage].batch_size) == (rate, batch), stage
        assert (stages[stage].warmup, stages[stage].weight_decay) == (0.03, 0)
        assert (stages[stage].max_length, stages[stage].precision) == (2048, "bf16")
    lora = made.tunings["lora"].lora
    if preset == "published":
        assert (lora.rank, lora.alpha, lora.dropout) == (64, 16, 0.05)
        assert made.tunings["lora"].projector_learning_rate is None
        assert (made.tower.model, made.tower.projector) == (
            "openai/clip-vit-large-patch14",
            "linear",
        )
    else:
        assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)
        assert made.tunings["lora"].projector_learning_rate == 2e-5
        assert (made.tower.model, made.tower.projector) == (
            "openai/clip-vit-large-patch14-336",
            "mlp2x_gelu",
        )
    assert made.tunings["full"].lora is None


def test_what_the_study_gives_comes_before_the_preset():
    made = study("published", learning_rate=1e-4)
    assert (made.alignment.learning_rate, made.alignment.batch_size) == (1e-4, 128)


def test_a_preset_spelled_out_is_the_same_run():
    whole = study("published")
    values = {
        key: value.model_dump()
        for key, value in {"tower": whole.tower, "alignment": whole.alignment}.items()
    }
    tunings = {mode: tuning.model_dump() for mode, tuning in whole.tunings.items()}
    spelled = load(
        {
            "name": "spelled",
            "data": {"images": "i", "instructions": "a.json", "alignment": "b.json"},
            "bases": {"llama": {"model": "owner/llama"}},
            "sources": {"visual": {}},
            "tunings": tunings,
            **values,
        }
    )
    assert [s["id"] for s in grid.run_specs(whole)] == [s["id"] for s in grid.run_specs(spelled)]


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="alignment.preset: found 'llava', allowed: 'published'"):
        study("llava")


def test_the_schema_asks_for_a_preset_or_numbers(repository):
    import json

    import jsonschema

    schema = json.loads((repository / "workflow/schemas/config.schema.json").read_text())
    values = yaml.safe_load((repository / "config.yaml").read_text())
    jsonschema.validate(values, schema)
    values["alignment"] = {"preset": "published"}
    jsonschema.validate(values, schema)
    values["alignment"] = {"learning_rate": 1e-3}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)
