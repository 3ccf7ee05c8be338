"""The main job on the starter model, through the daemon: what a newcomer does first."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import jsonschema
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import smolora
from tests.e2e.conftest import LIGHTHOUSE, Job

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

NEW_TOKENS = 64
PROMPTS = [
    "Log, 1st of May. Wind",
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "To bake bread, you need",
    "Dear Sir or Madam,",
    "1, 2, 3, 5, 8,",
    "The sea was",
    "Explain how tides work in simple terms.",
    "Q: What is the largest planet?\nA:",
    "In the year 1815,",
    "<html><body>",
    "Roses are red,",
    "The three laws of motion are",
    "My grandmother always said that",
    "Ein kleines Haus",
    "She opened the door and",
    "import numpy as np\n",
    "The recipe calls for two eggs,",
    "It is a truth universally acknowledged",
]


def reference(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], new_tokens: int = NEW_TOKENS
) -> list[list[int]]:
    """What plain `transformers.generate` answers, greedily: ids up to and with the end of text."""
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, pad_token_id=tokenizer.pad_token_id)
    rows = out[:, batch["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def answered(client: smolora.Client, prompts: list[str], adapter: str = "", new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    """What the daemon answers, greedily."""
    answers = []
    for prompt in prompts:
        generation = client.generate(prompt, adapter=adapter, max_tokens=new_tokens, temperature=0)
        generation.text()
        assert generation.outcome is not None
        answers.append(list(generation.outcome.token_ids))
    return answers


def test_the_events_tell_the_whole_run(job: Job) -> None:
    assert [event.sequence for event in job.events] == list(range(1, len(job.events) + 1))
    steps = [event.body.step for event in job.events if isinstance(event.body, smolora.TrainProgress)]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(e.body.tokens_per_second > 0 for e in job.events if isinstance(e.body, smolora.TrainProgress))
    states = [event.body.state for event in job.events if isinstance(event.body, smolora.StateChange)]
    assert states[-1] == "succeeded"


def test_the_held_out_loss_falls(job: Job) -> None:
    before, after = job.adapter.eval_loss_before, job.adapter.eval_loss_after
    assert before is not None
    assert after is not None
    assert after < 0.97 * before  # six steps alone
    assert job.dataset.validation_rows == round(312 * 0.04)


def test_held_out_rows_are_not_trained_on(job: Job) -> None:
    saved = datasets.load_from_disk(job.dataset.path)
    train, validation = set(saved["train"]["text"]), set(saved["validation"]["text"])
    assert not train & validation
    lines = {line for file in LIGHTHOUSE.glob("*.txt") for line in file.read_text().splitlines()}
    assert train | validation == lines


def test_the_model_answers_while_it_trains_as_it_does_at_rest(job: Job) -> None:
    resting = job.client.generate("The lamp", max_tokens=8, temperature=0).text()
    assert job.while_training == [resting]


@pytest.mark.parametrize(
    ("prompts", "new_tokens"),
    [(PROMPTS[::10], 12), pytest.param(PROMPTS, NEW_TOKENS, marks=pytest.mark.long)],
    ids=["2", "20"],
)
def test_greedy_answers_equal_transformers(job: Job, starter_model: Path, prompts: list[str], new_tokens: int) -> None:
    """Prompts x tokens, for the base, the adapter and the merged model, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    base = AutoModelForCausalLM.from_pretrained(starter_model, dtype=torch.float32)
    expected = reference(base, tokenizer, prompts, new_tokens)
    tuned = reference(PeftModel.from_pretrained(base, job.adapter.path), tokenizer, prompts, new_tokens)
    assert tuned != expected, "the adapter changes nothing, so this would prove nothing"
    merged = reference(
        AutoModelForCausalLM.from_pretrained(job.merged.path, dtype=torch.float32), tokenizer, prompts, new_tokens
    )

    assert answered(job.client, prompts, new_tokens=new_tokens) == expected
    assert answered(job.client, prompts, "keeper@1", new_tokens) == tuned
    job.client.load("keeper-merged", dtype="float32").result()
    try:
        assert answered(job.client, prompts, new_tokens=new_tokens) == merged
    finally:
        job.client.load("starter", dtype="float32").result()
    assert merged == tuned, "in float32 the merged model answers as the adapter does"


def test_the_merge_proves_itself(job: Job) -> None:
    proof = job.merged.merge_proof
    assert proof is not None
    assert proof.prompts > 0
    assert proof.max_logit_difference <= proof.bound
    assert proof.greedy_agreement > 0.99  # saved in float32, as the base was when the adapter was trained


def test_the_adapter_is_a_plain_peft_folder(job: Job) -> None:
    config = json.loads((Path(job.adapter.path) / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.1)
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.long  # test_adapter_import.py has it on tiny models
def test_an_adapter_does_not_fit_another_base(job: Job) -> None:
    job.client.load("keeper-merged", dtype="float32").result()
    try:
        with pytest.raises(smolora.WrongBase) as error:
            job.client.generate("x", adapter="keeper").text()
        assert "starter" in str(error.value)
        assert "keeper-merged" in str(error.value)
    finally:
        job.client.load("starter", dtype="float32").result()


@pytest.mark.parametrize("adapter", ["", "keeper"])
def test_an_answer_has_the_form_that_was_asked_for(job: Job, adapter: str) -> None:
    schema = json.loads((LIGHTHOUSE.parent / "person.schema.json").read_text())
    question = [{"role": "user", "content": "Ann is 33 and lives in Oslo. Describe her as JSON."}]
    answer = job.client.generate(messages=question, adapter=adapter, temperature=0, json_schema=schema, logprobs=True)
    jsonschema.validate(json.loads(answer.text()), schema)
    assert answer.outcome is not None
    assert answer.outcome.finish_reason is smolora.FinishReason.STOP
    assert tuple(one.token_id for one in answer.logprobs) == answer.outcome.token_ids
    assert b"".join(one.token_bytes for one in answer.logprobs).decode() == answer.text()


def test_a_form_that_cannot_be_held_is_refused_before_the_first_token(job: Job) -> None:
    with pytest.raises(smolora.InvalidRequest, match="cannot be guaranteed") as refused:
        job.client.generate("x", json_schema={"not": {}}).text()
    assert [one.field for one in refused.value.violations] == ["response_format.json_schema"]
