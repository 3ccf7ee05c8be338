"""`smolora-client`: exit codes, what goes to which stream, JSON, and Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from smolora import _values as values
from smolora.cli import flags, output
from smolora.cli.main import VERBS, main, module_of
from smolora.cli.preview import rendered
from smolora.v1 import datasets_pb2, generation_pb2, jobs_pb2, models_pb2, system_pb2, training_pb2
from tests.unit.client.conftest import Command
from tests.unit.client.fake_daemon import FakeDaemon, adapter, event, fail, job, silence


def lines(text: str) -> list[Any]:
    """JSON, one object a line."""
    return [json.loads(line) for line in text.splitlines()]


async def train_two_steps(request: Any, context: Any) -> Any:
    """A short training."""
    yield training_pb2.TrainResponse(job_event=event(1, state=jobs_pb2.StateChange(state=2)))
    yield training_pb2.TrainResponse(job_event=event(2, evaluation=jobs_pb2.Evaluation(loss=3, perplexity=20, rows=9)))
    yield training_pb2.TrainResponse(job_event=event(3, train=jobs_pb2.TrainProgress(step=2, max_steps=2, loss=2.5)))
    yield training_pb2.TrainResponse(adapter=adapter())


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    for verb in ("", *VERBS):
        code = (
            "import sys\nfrom smolora.cli.main import main\n"
            f"try: main({[verb, '--help'] if verb else ['--help']!r})\nexcept SystemExit as end: assert end.code == 0\n"
            "heavy = ('grpc', 'google.protobuf', 'rich', 'torch', 'transformers', 'datasets', 'pandas')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert shown.splitlines()[-1] == "[]"
        if not verb:
            assert all(f"  {name}" in shown for name in VERBS)


def test_the_flags_of_train_are_the_contracts_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--learning-rate X Peak learning rate; above 0, at most 10. Default 2e-4." in shown
    assert "--per-device-train-batch-size N, --batch-size N" in shown
    assert "--packing, --no-packing" in shown


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["train", "--dataset", "d", "--adapter", "a", "--r", "x"]])
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: smolora-client" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["train", "--dataset", "d", "--adapter", "a", "--learning-rat", "1", "--maxx-steps", "2"],
            "did you mean --max-steps?",
        ),
        (["jobs", "watch", "id", "--aftr=3"], "smolora-client jobs watch: error: unrecognized arguments: --aftr=3; did you"),
        (["status", "now"], "smolora-client status: error: unrecognized arguments: now\n"),
    ],
)
def test_an_unknown_argument_is_told_in_two_lines_with_the_flag_that_was_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 2


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"smolora-client {version('smolora')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prepare", "--name", "d"], "give either PATH... or --hub REPO"),
        (["prepare", "a.txt", "--name", "d", "--hub", "x/y"], "give either PATH... or --hub REPO"),
        (["prepare", "a.txt", "--name", "d", "--split", "test"], "go with --hub"),
    ],
)
def test_arguments_that_do_not_go_together_exit_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert says in shown


def test_no_daemon_exits_69_with_the_line_that_starts_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 69
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("start one with:\n  smolorad serve\n")
    assert main(["generate", "hi"]) == 69
    assert capsys.readouterr().out == "", "not even an empty line"
    assert main(["jobs", "list", "--json"]) == 69
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "DAEMON_NOT_RUNNING"


@pytest.mark.parametrize(
    "arguments",
    [
        [b"generate", b"\xff"],
        [b"generate", b"-"],
        [b"generate", b"x", b"--adapter", b"\xff"],
        [b"generate", b"x", b"--stop", b"\xff"],
        [b"load", b"\xff"],
        [b"prepare", b"x", b"--name", b"d", b"--text-field", b"\xff"],
        [b"train", b"--dataset", b"d", b"--adapter", b"a", b"--sample-prompts", b"\xff"],
    ],
)
async def test_what_is_no_text_is_refused_in_one_line(command: Command, arguments: list[bytes]) -> None:
    code, out, err = await command.run(*arguments, stdin=b"\xff", PYTHONIOENCODING="utf-8:strict")
    assert (code, out) == (1, "")
    assert err == "error: This is not UTF-8 text, from character 1 on: '\\udcff'; save or type it as UTF-8.\n"


async def test_a_terminal_without_a_character_shows_another_in_its_place(daemon: FakeDaemon, command: Command) -> None:
    async def generate(request: Any, context: Any) -> Any:
        yield generation_pb2.GenerateResponse(text="a 🙂")
        yield generation_pb2.GenerateResponse(outcome=generation_pb2.GenerateOutcome(finish_reason=1))

    daemon.script["Generate"] = generate
    assert await command.run("generate", "x", PYTHONIOENCODING="ascii") == (0, "a ?\n", "")


@pytest.mark.parametrize("verb", ["chat", "compare"])
def test_what_comes_later_says_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "hello", "--adapters", "a,b"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert f"{verb} comes with a later version" in shown.err


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _parsers(below)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_says_what_each_argument_is(verb: str) -> None:
    parser = flags.Parser(prog=f"smolora-client {verb}")
    importlib.import_module(module_of(verb)).arguments(parser)
    silent = [f"{one.prog}: {action.dest}" for one in _parsers(parser) for action in one._actions if not action.help]
    assert silent == []


@pytest.mark.parametrize("verb", ["load", "generate"])
def test_the_help_says_how_a_model_stays_for_ever(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "-1: for ever" in " ".join(capsys.readouterr().out.split())


async def test_a_loaded_model_is_called_loaded(daemon: FakeDaemon, command: Command) -> None:
    model = models_pb2.Model(name="mine", resident=True)

    async def get(request: Any, context: Any) -> Any:
        return models_pb2.GetModelResponse(model=model)

    async def all_models(request: Any, context: Any) -> Any:
        return models_pb2.ListModelsResponse(models=[model])

    daemon.script |= {"GetModel": get, "ListModels": all_models}
    _, shown, _ = await command.run("models", "show", "mine")
    _, listed, _ = await command.run("models", "list")
    assert "loaded" in shown
    assert "LOADED" in listed
    assert "resident" not in (shown + listed).lower()


async def test_training_shows_its_course_on_stderr_and_its_result_on_stdout(daemon: FakeDaemon, command: Command) -> None:
    daemon.script["Train"] = train_two_steps
    code, out, err = await command.run("train", "--dataset", "verses", "--adapter", "poet", "--batch-size", "2", "--packing")
    assert code == 0
    assert "held-out loss  3.0000 before, 2.0000 after" in out
    assert err.splitlines() == [
        "running",
        "held-out loss 3.0000  perplexity 20.00  after step 0, on 9 rows",
        "step 2/2  loss 2.5000  learning rate 0.00e+00  gradient norm 0  0 tokens/s  0 s left",
    ]
    trainer = daemon.asked("Train")[0].trainer
    assert (trainer.per_device_train_batch_size, trainer.packing) == (2, True)
    assert not trainer.HasField("max_steps")


async def test_texts_are_given_one_by_one_and_keep_their_commas(daemon: FakeDaemon, command: Command) -> None:
    daemon.script["Train"] = train_two_steps
    prompts = ("Hello, who are you?", " And then")
    flags = [part for prompt in prompts for part in ("--sample-prompts", prompt)]
    named = ("--target-modules", "q_proj, v_proj", "--model", "./tiny")
    assert (await command.run("train", "--dataset", "verses", "--adapter", "poet", *flags, *named))[0] == 0
    asked = daemon.asked("Train")[0]
    assert tuple(asked.trainer.sample_prompts) == prompts
    assert list(asked.lora.target_modules) == ["q_proj", "v_proj"]
    assert asked.model == str(Path.cwd() / "tiny")


async def test_what_waits_says_for_what(daemon: FakeDaemon, command: Command) -> None:
    async def list_jobs(request: Any, context: Any) -> Any:
        waits = job(jobs_pb2.JOB_STATE_QUEUED, id="j2", waiting_for="job j1 runs")
        return jobs_pb2.ListJobsResponse(jobs=[waits])

    async def train(request: Any, context: Any) -> Any:
        queued = jobs_pb2.StateChange(state=jobs_pb2.JOB_STATE_QUEUED, why="job j1 runs")
        yield training_pb2.TrainResponse(job_event=event(1, state=queued))
        yield training_pb2.TrainResponse(adapter=adapter())

    daemon.script |= {"ListJobs": list_jobs, "Train": train}
    assert "job j1 runs" in (await command.run("jobs", "list"))[1]
    assert (await command.run("train", "--dataset", "verses", "--adapter", "poet"))[2] == "queued: job j1 runs\n"


async def test_training_as_json_is_one_object_a_line(daemon: FakeDaemon, command: Command) -> None:
    daemon.script["Train"] = train_two_steps
    code, out, err = await command.run("--json", "train", "--dataset", "verses", "--adapter", "poet")
    assert (code, err) == (0, "")
    events, result = lines(out)[:-1], lines(out)[-1]
    assert [one["job_event"]["sequence"] for one in events] == [1, 2, 3]
    assert events[0]["job_event"]["state"]["state"] == "running"
    assert result["adapter"]["eval_loss_after"] == 2.0


async def test_a_detached_training_prints_its_job(daemon: FakeDaemon, command: Command) -> None:
    async def get(request: Any, context: Any) -> Any:
        return jobs_pb2.GetJobResponse(job=job(jobs_pb2.JOB_STATE_RUNNING, id=request.id))

    daemon.script |= {"Train": train_two_steps, "GetJob": get}
    code, out, err = await command.run("train", "--dataset", "verses", "--adapter", "poet", "--detach")
    assert (code, out) == (0, "j1\n")
    assert "smolora-client jobs watch j1" in err
    code, out, _ = await command.run("train", "--dataset", "verses", "--adapter", "poet", "--detach", "--json")
    assert json.loads(out)["job"]["id"] == "j1"


async def test_errors_are_one_line_with_what_is_at_fault(daemon: FakeDaemon, command: Command) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        violations = [("verses.jsonl:3", "is no JSON"), ("verses.jsonl:9", "has no field text")]
        await fail(context, "BAD_DATA", "2 rows are malformed.", violations=violations)
        yield datasets_pb2.PrepareDatasetResponse()

    daemon.script["PrepareDataset"] = refuse
    code, out, err = await command.run("prepare", "--name", "d", "--hub", "owner/name")
    assert (code, out) == (1, "")
    expected = ["error: 2 rows are malformed.", "  verses.jsonl:3: is no JSON", "  verses.jsonl:9: has no field text"]
    assert err.splitlines() == expected
    code, out, err = await command.run("prepare", "--name", "d", "--hub", "owner/name", "--json")
    assert (code, err) == (1, "")
    error = json.loads(out)["error"]
    assert (error["reason"], error["violations"][1]["field"]) == ("BAD_DATA", "verses.jsonl:9")


async def test_prepare_uploads_and_reports(daemon: FakeDaemon, command: Command, tmp_path: Path) -> None:
    async def upload(requests: Any, context: Any) -> Any:
        async for _ in requests:
            pass
        return datasets_pb2.UploadFileResponse(upload_id="u1")

    async def prepare(request: Any, context: Any) -> Any:
        if not request.upload_id:
            await fail(context, "NOT_FOUND", "There is no dataset 'd', nor any other yet.")
        progress = jobs_pb2.PhaseProgress(phase="read", done=1000, total=31102, unit="rows")
        yield datasets_pb2.PrepareDatasetResponse(job_event=event(1, phase=progress))
        report = datasets_pb2.DatasetReport(files=1, rows_read=5, rows_kept=2, rows_empty=1, rows_duplicate=1, rows_malformed=1)
        report.tokens_read = 192
        report.problems.add(file="a.txt", line=4, why="is not UTF-8; save it as UTF-8")
        dataset = datasets_pb2.Dataset(name="d", revision=3, train_rows=1, validation_rows=1, report=report)
        dataset.create_time.GetCurrentTime()
        yield datasets_pb2.PrepareDatasetResponse(dataset=dataset)

    async def jobs(request: Any, context: Any) -> Any:
        return jobs_pb2.ListJobsResponse(jobs=[jobs_pb2.Job(id="t", progress=jobs_pb2.TrainProgress(tokens_per_second=48.0))])

    daemon.script |= {"UploadFile": upload, "PrepareDataset": prepare, "ListJobs": jobs}
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    code, out, err = await command.run(
        "prepare",
        str(tmp_path),
        "--name",
        "d",
        "--on-error",
        "drop",
        "--file-type",
        "txt",
        "--chunk-size",
        "64",
        "--seed",
        "0",
        "--delimiter",
        r"\t",
    )
    assert code == 0
    assert "rows dropped  1 empty, 1 duplicate, 1 malformed" in out
    assert "  a.txt:4: is not UTF-8; save it as UTF-8" in out
    assert "one pass      1 step of 8 rows, about 2 s at 48 tokens/s" in out
    assert err.splitlines()[-1] == "read  1,000 of 31,102 rows"
    first, request = daemon.asked("PrepareDataset")
    assert request.delimiter == "\t"
    assert first.source_fingerprint == request.source_fingerprint != ""
    assert (request.chunk_size, request.seed, request.HasField("seed")) == (64, 0, True)
    code, _, err = await command.run("prepare", "a.txt", "--name", "d", "--file-type", "pdf")
    assert code == 2
    assert "invalid choice: 'pdf'" in err
    assert "jsonl" in err


async def test_generate_writes_the_answer_and_nothing_else(daemon: FakeDaemon, command: Command) -> None:
    async def generate(request: Any, context: Any) -> Any:
        said = request.prompt or "|".join(f"{turn.role}:{turn.content}" for turn in request.messages)
        for piece in (said, " Grüße"):
            yield generation_pb2.GenerateResponse(text=piece)
        yield generation_pb2.GenerateResponse(outcome=generation_pb2.GenerateOutcome(finish_reason=2))

    daemon.script["Generate"] = generate
    assert await command.run("generate", "hi", "--max-new-tokens", "5", "--stop", "a,b") == (0, "hi Grüße\n", "")
    request = daemon.asked("Generate")[0]
    assert (request.sampling.max_tokens, list(request.sampling.stop)) == (5, ["a,b"])
    assert await command.run("generate", "-", "--system", "Be brief.", stdin="hi") == (
        0,
        "system:Be brief.|user:hi Grüße\n",
        "",
    )
    _, out, _ = await command.run("generate", "hi", "--json")
    assert [list(one) for one in lines(out)] == [["text"], ["text"], ["outcome"]]
    _, out, _ = await command.run("generate", "hi", "--json", "--no-stream")
    assert (json.loads(out)["text"], json.loads(out)["outcome"]["finish_reason"]) == ("hi Grüße", "length")


async def test_generate_sends_the_form_of_the_answer_and_shows_how_likely_each_token_was(
    daemon: FakeDaemon, command: Command, tmp_path: Path
) -> None:
    top = generation_pb2.TopLogprob(token_id=8, token="\n", token_bytes=b"\n", logprob=-2)

    async def generate(request: Any, context: Any) -> Any:
        for piece in ("Grü", "ße"):
            if request.logprobs:
                said = generation_pb2.TokenLogprob(token_id=7, token=piece, token_bytes=piece.encode(), logprob=-0.5)
                said.top_logprobs.extend([top] * request.top_logprobs)
                yield generation_pb2.GenerateResponse(token_logprob=said)
            yield generation_pb2.GenerateResponse(text=piece)
        yield generation_pb2.GenerateResponse(outcome=generation_pb2.GenerateOutcome(finish_reason=1))

    daemon.script["Generate"] = generate
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "string"}', encoding="utf-8")
    flags = ("--json-schema", str(schema), "--logit-bias", "42=-100,7=2.5", "--bad-words", "a, b", "--min-new-tokens", "3")
    assert await command.run("generate", "hi", *flags) == (0, "Grüße\n", "")
    request = daemon.asked("Generate")[0]
    assert request.response_format == generation_pb2.ResponseFormat(json_schema='{"type": "string"}')
    assert (dict(request.sampling.logit_bias), list(request.sampling.bad_words)) == ({42: -100.0, 7: 2.5}, ["a, b"])
    assert (request.sampling.min_tokens, request.logprobs) == (3, False)

    code, out, _ = await command.run("generate", "hi", "--regex", "a+", "--top-logprobs", "2")
    assert (code, daemon.asked("Generate")[1].response_format.regex) == (0, "a+")
    assert out.splitlines() == [
        "Grüße",
        "token\tlogprob\tlikeliest",
        '"Grü"\t-0.5000\t"\\n" -2.0000 "\\n" -2.0000',
        '"ße"\t-0.5000\t"\\n" -2.0000 "\\n" -2.0000',
    ]
    _, out, _ = await command.run("generate", "hi", "--json-object", "--logprobs", "--json")
    assert [list(one) for one in lines(out)] == [["token_logprob"], ["text"], ["token_logprob"], ["text"], ["outcome"]]
    assert lines(out)[0]["token_logprob"]["token_bytes"] == list("Grü".encode())
    assert daemon.asked("Generate")[2].response_format.json_object
    _, out, _ = await command.run("generate", "hi", "--logprobs", "--json", "--no-stream")
    assert [one["token"] for one in json.loads(out)["logprobs"]] == ["Grü", "ße"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--json-schema", "/nowhere/schema.json"], "/nowhere/schema.json cannot be read"),
        (["--json-object", "--regex", "a"], "not allowed with argument"),
        (["--logit-bias", "a=b"], "'a=b' is not a list like 42=-100,7=2.5"),
    ],
)
def test_a_form_that_cannot_be_meant_is_a_usage_error(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "hi", *flags])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


async def test_jobs(daemon: FakeDaemon, command: Command) -> None:
    failed = job(jobs_pb2.JOB_STATE_FAILED, error=jobs_pb2.JobError(reason="NOT_FINITE", message="Lower the learning rate."))

    async def watch(request: Any, context: Any) -> Any:
        yield jobs_pb2.WatchJobResponse(job_event=event(request.after_sequence + 1))
        yield jobs_pb2.WatchJobResponse(job=failed)

    async def listed(request: Any, context: Any) -> Any:
        return jobs_pb2.ListJobsResponse(jobs=[failed])

    async def cancel(request: Any, context: Any) -> Any:
        return jobs_pb2.CancelJobResponse(job=job(jobs_pb2.JOB_STATE_CANCELLED, id=request.id))

    daemon.script |= {"WatchJob": watch, "ListJobs": listed, "CancelJob": cancel}
    code, out, err = await command.run("jobs")
    assert out.splitlines()[1].split("\t")[:4] == ["j1", "train", "poet", "failed"]
    code, out, err = await command.run("jobs", "watch", "j1", "--after", "6")
    assert (code, err.splitlines()) == (1, ["note 7", "error: Lower the learning rate."])
    code, out, err = await command.run("jobs", "watch", "j1", "--json")
    assert (code, [next(iter(one)) for one in lines(out)]) == (1, ["job_event", "job", "error"])
    code, out, _ = await command.run("jobs", "cancel", "j7", "--json")
    assert (code, json.loads(out)["job"]["state"]) == (0, "cancelled")


async def test_load_status_and_lists(daemon: FakeDaemon, command: Command) -> None:
    resident = models_pb2.ResidentModel(
        name="starter", architecture="llama", parameters=134515008, device=1, dtype=2, weight_bytes=269_000_000, load_s=3
    )

    async def load(request: Any, context: Any) -> Any:
        yield models_pb2.LoadModelResponse(progress=models_pb2.LoadProgress(stage=2, done_bytes=10**6, total_bytes=10**8))
        yield models_pb2.LoadModelResponse(resident=resident)

    async def status(request: Any, context: Any) -> Any:
        return system_pb2.GetStatusResponse(version="0.1.0", pid=7, engine_state=3, engine_pid=8, resident=resident)

    async def adapters(request: Any, context: Any) -> Any:
        return models_pb2.ListAdaptersResponse(adapters=[adapter()])

    daemon.script |= {"LoadModel": load, "GetStatus": status, "ListAdapters": adapters}
    code, out, err = await command.run("load", "starter", "--keep-alive", "10m", "--device", "cpu")
    assert (code, err) == (0, "read  1 MB of 100 MB\n")
    assert out.startswith("starter, llama, 134,515,008 parameters, bfloat16 on cpu, 269 MB")
    assert daemon.asked("LoadModel")[0].keep_alive.seconds == 600
    code, out, err = await command.run("status", "--json")
    assert (json.loads(out)["engine_state"], json.loads(out)["resident"]["name"]) == ("ready", "starter")
    code, out, err = await command.run("status")
    assert "engine  ready, process 8" in out
    code, out, err = await command.run("adapters")
    assert out.splitlines()[1].startswith("poet@1\tstarter\t")


async def test_ctrl_c_in_a_training_detaches(daemon: FakeDaemon, command: Command) -> None:

    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        await silence()

    daemon.script["Train"] = train
    process = await command.start("train", "--dataset", "verses", "--adapter", "poet")
    assert process.stderr is not None
    assert await process.stderr.readline() == b"note 1\n"
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"the job continues. Watch it again: smolora-client jobs watch j1\n" in err
    assert b"Traceback" not in err
    await daemon.left.wait()
    assert daemon.asked("CancelJob") == []


@pytest.mark.parametrize(("verb", "method", "does"), [("pause", "PauseJob", "pauses"), ("cancel", "CancelJob", "ends")])
async def test_a_job_that_still_runs_is_said_to(
    daemon: FakeDaemon, command: Command, verb: str, method: str, does: str
) -> None:
    states = iter([jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_PAUSED])

    async def answer(request: Any, context: Any) -> Any:
        return getattr(jobs_pb2, f"{method}Response")(job=jobs_pb2.Job(id="j7", state=next(states)))

    daemon.script[method] = answer
    _, _, err = await command.run("jobs", verb, "j7")
    assert err == f"It still runs, and {does} as soon as it can. See its state: smolora-client jobs show j7\n"
    assert (await command.run("jobs", verb, "j7"))[2] == ""


async def test_ctrl_c_in_a_generation_cancels_it(daemon: FakeDaemon, command: Command) -> None:

    async def generate(request: Any, context: Any) -> Any:
        yield generation_pb2.GenerateResponse(text="Once")
        await silence()

    daemon.script["Generate"] = generate
    process = await command.start("generate", "hi")
    assert process.stdout is not None
    assert await process.stdout.readexactly(4) == b"Once"
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"\n", b"")
    await daemon.left.wait()


async def test_a_reader_that_goes_is_no_error_and_ends_the_generation(daemon: FakeDaemon, command: Command) -> None:
    closed = asyncio.Event()

    async def generate(request: Any, context: Any) -> Any:
        yield generation_pb2.GenerateResponse(text="Once")
        await closed.wait()
        while True:
            yield generation_pb2.GenerateResponse(text=" more")

    daemon.script["Generate"] = generate
    process = await command.start("generate", "hi")
    assert process.stdout is not None
    assert process.stderr is not None
    assert await process.stdout.readexactly(4) == b"Once"
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    closed.set()
    assert await process.stderr.read() == b""
    assert await process.wait() == 1
    await daemon.left.wait()


def test_amounts_are_written_for_people() -> None:
    assert [output.size(n) for n in (0, 999, 269_000_000, 12_300_000_000)] == ["0 bytes", "999 bytes", "269 MB", "12.3 GB"]
    assert [output.plural(n, "file") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]
    assert [output.span(n) for n in (0, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 5 min"]
    assert [flags.duration(text) for text in ("90", "90s", "10m", "2h", "-1")] == [90, 90, 600, 7200, -1]


def test_a_terminal_gets_tables_and_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from smolora import _values as values
    from smolora._convert import event_from
    from smolora.cli.progress import Progress

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    output.Output().table(("NAME", "SIZE"), [("starter", "269 MB")])
    with Progress(output.Output()) as progress:
        for message in (event(1), event(2, train=jobs_pb2.TrainProgress(step=1, max_steps=4, loss=2.5))):
            shown = event_from(message)
            assert isinstance(shown, values.JobEvent)
            progress.event(shown)
    captured = capsys.readouterr()
    assert "starter  269 MB" in captured.out
    assert "\t" not in captured.out
    assert "note 1" in captured.err
    assert "step 1/4  loss 2.5000" in captured.err


def report() -> datasets_pb2.DatasetReport:
    """A report with something of everything."""
    found = datasets_pb2.DatasetReport(
        files=1, rows_read=12, rows_kept=8, rows_duplicate=2, rows_filtered=1, words=80, tokens=100
    )
    found.MergeFrom(
        datasets_pb2.DatasetReport(
            tokenizer="starter",
            tokens_read=200,
            tokens_scored=50,
            longest=40,
            max_length=32,
            rows_truncated=1,
            tokens_truncated=8,
        )
    )
    found.lengths.add(least=8, most=15, rows=3)
    found.lengths.add(least=16, most=31, rows=5)
    finding = found.findings.add(kind=datasets_pb2.PROBLEM_KIND_TARGET_TRUNCATED, rows=4)
    for line in range(1, 5):
        finding.examples.add(
            file="<a>.jsonl", line=line, why="has its answer behind token 90", excerpt="<script>alert(1)</script>\x1b[2J"
        )
    return found


async def test_the_report_is_shown_and_written_as_one_page(daemon: FakeDaemon, command: Command, tmp_path: Path) -> None:
    async def get(request: Any, context: Any) -> Any:
        dataset = datasets_pb2.Dataset(name="d", revision=2, train_rows=8, report=report(), shape=datasets_pb2.SHAPE_CHAT)
        return datasets_pb2.GetDatasetResponse(dataset=dataset)

    async def jobs(request: Any, context: Any) -> Any:
        progress = jobs_pb2.TrainProgress(tokens_per_second=48.0)
        return jobs_pb2.ListJobsResponse(jobs=[jobs_pb2.Job(id="p"), jobs_pb2.Job(id="t", progress=progress)])

    daemon.script |= {"GetDataset": get, "ListJobs": jobs}
    code, out, _ = await command.run("datasets", "show", "d")
    assert code == 0
    for line in (
        "rows dropped  2 duplicate, 1 filtered",
        "scored        25.0% of 200 tokens read",
        "cut at 32     1 row, 8 tokens",
        "one pass      1 step of 8 rows, about 4 s at 48 tokens/s",
        "found  target truncated: 4 rows",
        "  <a>.jsonl:1: has its answer behind token 90",
        "    <script>alert(1)</script>\ufffd[2J",
    ):
        assert line in out.splitlines()
    assert "<a>.jsonl:4" not in out, "a few examples do"
    page = tmp_path / "page.html"
    assert await command.run("datasets", "report", "d", "--output", str(page)) == (0, f"{page}\n", "")
    content = page.read_text(encoding="utf-8")
    assert content.startswith("<!doctype html>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    assert "&lt;a&gt;.jsonl:4" in content
    assert content.count("<svg") == 2
    assert not [word for word in ("<script", "http", "src=", "@import", "url(") if word in content], "it needs nothing else"
    for place in (str(page), "-"):
        code, out, _ = await command.run("datasets", "report", "d", "--output", place, "--json")
        told = json.loads(out)
        assert (code, told.get("path")) == (0, None if place == "-" else place)
        assert told["dataset"]["report"]["findings"][0]["rows"] == 4
        assert told["dataset"]["report"]["tokens_read"] == 200
    code, _, err = await command.run("datasets", "report", "d", "--output", str(tmp_path / "no" / "page.html"))
    assert (code, "choose another place with --output" in err) == (1, True)


async def test_a_preview_tells_what_is_masked_and_obeys_nothing(daemon: FakeDaemon, command: Command) -> None:
    async def preview(request: Any, context: Any) -> Any:
        answer = datasets_pb2.PreviewDatasetResponse(rows=["Who? \x1b[2JHe."], total_rows=9)
        answer.shown.add(spans=[{"text": "Who? ", "scored": False}, {"text": "\x1b[2JHe.", "scored": True}])
        return answer

    daemon.script["PreviewDataset"] = preview
    for verb in (["preview", "d"], ["datasets", "preview", "d"]):
        code, out, err = await command.run(*verb, "--model", "starter")
        assert (code, out, err) == (0, "⟦Who? ⟧\ufffd[2JHe.\n", "1 of 9 rows\n")
    assert daemon.asked("PreviewDataset")[0].model == "starter"
    await command.run("preview", "d", "--model", "./tiny")
    assert daemon.asked("PreviewDataset")[-1].model == str(Path.cwd() / "tiny")
    code, out, _ = await command.run("preview", "d", "--json")
    assert json.loads(out)["shown"][0]["spans"][0] == {"text": "Who? ", "scored": False}


def test_what_is_masked_is_dim_on_a_terminal() -> None:
    row = values.PreviewRow((values.RowSpan("Who? ", False), values.RowSpan("He.", True)))
    assert rendered(row, colour=True) == "\x1b[2mWho? \x1b[0mHe."


async def test_a_diff_is_shown_as_lines(daemon: FakeDaemon, command: Command) -> None:
    async def diff(request: Any, context: Any) -> Any:
        return datasets_pb2.DiffDatasetsResponse(
            added_rows=3, removed_rows=1, same_rows=7, added=["new\nlines"], removed=["old"]
        )

    daemon.script["DiffDatasets"] = diff
    expected = "- old\n+ new\n+ lines\n+ ... and 2 rows more\n"
    assert await command.run("datasets", "diff", "d@1", "d") == (0, expected, "3 rows added, 1 removed, 7 the same\n")
    asked = daemon.asked("DiffDatasets")[0]
    assert (asked.before, asked.after) == ("d@1", "d")


@pytest.mark.parametrize(
    ("text", "name"), [('{"text": "a"}\n', "stdin.jsonl"), ("[1]", "stdin.json"), ("plain\n", "stdin.txt")]
)
async def test_standard_input_is_a_file_of_the_kind_that_it_looks_like(
    daemon: FakeDaemon, command: Command, text: str, name: str
) -> None:
    arrived: dict[str, bytes] = {}

    async def upload(requests: Any, context: Any) -> Any:
        path, data = "", b""
        async for request in requests:
            path, data = path or request.header.path, data + request.data
        arrived[path] = data
        return datasets_pb2.UploadFileResponse(upload_id="u1")

    async def prepare(request: Any, context: Any) -> Any:
        if not request.upload_id:
            await fail(context, "NOT_FOUND", "There is no dataset 'd', nor any other yet.")
        yield datasets_pb2.PrepareDatasetResponse(job_event=event(1))
        yield datasets_pb2.PrepareDatasetResponse(dataset=datasets_pb2.Dataset(name="d", revision=1))

    daemon.script |= {"UploadFile": upload, "PrepareDataset": prepare}
    code, _, _ = await command.run("prepare", "-", "--name", "d", stdin=text)
    assert (code, arrived) == (0, {name: text.encode()})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("-1", -1),
        pytest.param("90s", 90, marks=pytest.mark.long),
        pytest.param("10m", 600, marks=pytest.mark.long),
        pytest.param("2h", 7200, marks=pytest.mark.long),
        pytest.param("-1m", -60, marks=pytest.mark.long),
        pytest.param("1.5h", 5400, marks=pytest.mark.long),
    ],
)
async def test_durations_are_read_as_the_daemon_reads_them(
    daemon: FakeDaemon, command: Command, written: str, seconds: float
) -> None:
    async def load(request: Any, context: Any) -> Any:
        yield models_pb2.LoadModelResponse(resident=models_pb2.ResidentModel(name="starter"))

    daemon.script |= {"LoadModel": load}
    code, _, err = await command.run("load", "starter", "--keep-alive", written)
    assert (code, err) == (0, "")
    assert daemon.asked("LoadModel")[0].keep_alive.ToTimedelta().total_seconds() == seconds


@pytest.mark.parametrize("written", ["inf", "nan", "-inf", "1e400", "ten", "m", "", "9" * 30])
async def test_what_is_no_duration_is_refused_in_a_sentence(daemon: FakeDaemon, command: Command, written: str) -> None:
    code, out, err = await command.run("load", "starter", "--keep-alive", written)
    assert (code != 0, out) == (True, "")
    assert "is not a duration; " in err
    assert "Traceback" not in err
