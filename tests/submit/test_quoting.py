"""What bash and sbatch read in a script is the string that was put into it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsengine import job as jobs
from lsengine.errors import UsageError
from lsengine.job.schema import LaunchSpec
from lsengine.submit import quoting, script
from lsengine.wording import control_character
from tests.support.jobs import write_job

NASTY = [
    "it's",
    '"',
    "\\",
    "a\\'b\\",
    "$(touch PWNED)",
    "`id`",
    "${x",
    "#x",
    "a # b",
    "!!",
    "~",
    "-n",
    "*?[a-c]",
    "{a,b}",
    "a;b&c|d",
    "(",
    "%j%%",
    "é\u200d\U0001f600",
    " ",
]
BREAKS = ["a\ntouch PWNED\n#", "\r", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028", "\udcff"]
TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: not control_character(text))


def bash(text):
    """Run a script and return what it prints between NUL characters."""
    ended = subprocess.run(
        ["bash", "-c", text], capture_output=True, timeout=60, check=True, env={"PATH": os.defpath}
    )
    return [os.fsdecode(word) for word in ended.stdout.split(b"\0")[:-1]]


def as_sbatch(line):
    """Return the words of an `#SBATCH` line, character by character as sbatch goes through it."""
    words, word, quote, i = [], "", "", 0
    while i < len(line):
        c = line[i]
        if c == "\\":
            i += 1
            word += line[i]
        elif quote:
            if c == quote:
                quote = ""
            else:
                word += c
        elif c in "\"'":
            quote = c
        elif c == "#":
            break
        elif c.isspace() and c.isascii():
            words.append(word)
            word = ""
        else:
            word += c
        i += 1
    assert not quote
    return [*words, word]


@given(st.lists(TEXTS, max_size=20))
@example(NASTY)
@settings(deadline=None, max_examples=60)
def test_bash_prints_the_words_back(words):
    """Any text of one line, in any company."""
    assert bash(f"printf '%s\\0' {quoting.join([*words, 'end'])}") == [*words, "end"]


@given(TEXTS)
@settings(max_examples=300)
def test_an_option_is_one_word_of_its_value_to_sbatch(value):
    """A backslash, either quote, ``#`` and blanks among them."""
    assert as_sbatch(quoting.option("comment", value)) == [f"--comment={value}"]


@pytest.mark.parametrize("value", NASTY)
def test_nasty_values_are_one_word_to_sbatch(value):
    """Those that shells and sbatch have a meaning for."""
    assert as_sbatch(quoting.option("comment", value)) == [f"--comment={value}"]


@pytest.mark.skipif(not shutil.which("sbatch"), reason="there is no sbatch")
def test_sbatch_itself_finds_the_same_words(tmp_path):
    """A quote without its end ends it, before it looks for its cluster."""
    lines = [quoting.option("comment", value) for value in NASTY]
    lines.append("--comment='")
    path, conf = tmp_path / "script.sh", tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    path.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), "true", ""]))
    said = subprocess.run(
        ["sbatch", "-vvv", str(path)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SLURM_CONF": str(conf)},
    )  # fmt: skip
    found = re.findall(r'Found in script, argument "--comment=(.*)"\n', said.stderr)
    assert found == NASTY, said.stderr


@pytest.mark.parametrize("text", BREAKS)
@pytest.mark.parametrize("into", [quoting.line, quoting.quote, lambda t: quoting.option("x", t)])
def test_what_ends_a_line_is_refused(into, text):
    """In one printable line that shows it."""
    with pytest.raises(UsageError, match="control characters") as refused:
        into(f"/a/{text}/b")
    assert str(refused.value).isprintable()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job whose names tests replace."""
    return jobs.load(write_job(tmp_path_factory.mktemp("job"), "job"))


def script_of(job, text, binaries="/opt/bin"):
    """Return a job and its script with a text in everything that enters a script."""
    changes = {"name": text.replace("/", "-"), "output": f"/out/{text}/x/{text}.h5"}
    job = dataclasses.replace(
        job, source=Path("/in", text, "job.yaml"), document=job.document.model_copy(update=changes)
    )
    launch = LaunchSpec(ranks=2).model_copy(
        update={
            "launcher_options": [text],
            "environment": {"V": text},
            "partition": text,
            "constraint": text,
            "gpus_per_node": 1,
            "gpu_type": text,
        }
    )
    context = script.ScriptContext(Path(binaries), is_matrix=True, changes=(text,))
    return job, script.evaluating(job, launch, context)


@given(TEXTS.filter(lambda text: "\\" not in text))
@example("it's $(touch PWNED) `id` # \" -n *")
@example("-n")
@settings(deadline=None, max_examples=40)
def test_a_script_holds_every_name_as_it_is(job, text):
    """Bash sees the string in commands and in the environment, sbatch in its options."""
    job, written = script_of(job, text)
    assert len(written.split("\n")) == len(script_of(job, "plain")[1].split("\n"))
    options = [as_sbatch(s.removeprefix("#SBATCH ")) for s in written.split("\n") if "#SB" in s[:4]]
    values = dict(words[0].split("=", 1) for words in options if "=" in words[0])
    assert all(len(words) == 1 for words in options)
    assert [values["--partition"], values["--constraint"]] == [text, text]
    assert values["--gpus-per-node"] == f"{text}:1"
    folder, _, log = values["--output"].rpartition("/")
    assert folder.replace("%%", "%") == str(job.surface.parent)
    assert re.fullmatch(r"[\w.+-]*-eval-%j\.log", log, re.ASCII)
    head = written.split("most_fruitless=")[0].replace(" 2>/dev/null", "")
    with tempfile.TemporaryDirectory() as here:
        stub = Path(here, "lsengine")
        stub.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        stub.chmod(0o755)
        tail = f'PATH={here}:$PATH\nprintf \'%s\\0\' "$V" "${{run[@]}}"\nprogress'
        words = bash(f"{head}\n{tail}")
    name = re.sub(r"([*?[])", r"[\1]", job.document.name)
    assert words == [
        *(text, "mpirun", "-n", "2", text, "lsengine", "eval", str(job.source)),
        *(f"--only={name}", "--set", text, "--progress", "lines"),
        *("status", "--count", "done", str(job.surface)),
    ]


@pytest.mark.parametrize("text", [text for text in BREAKS if text != "\0"])
@pytest.mark.parametrize("key", ["name", "output", "source", "changes", "environment", "sbatch"])
def test_no_line_of_a_script_is_from_a_name(job, text, key):
    """A newline in any of them, also the folder of the job, is refused with the value."""
    launch, changes, source = LaunchSpec(), (), job.source
    document = {"name": "x", "output": "/out/x.h5"}
    if key == "source":
        source = Path("/in", text, "job.yaml")
    elif key == "changes":
        changes = (f"name={text}",)
    elif key == "environment":
        launch = launch.model_copy(update={"environment": {"V": text}})
    elif key == "sbatch":
        launch = launch.model_copy(update={"sbatch": [f"--comment={text}"]})
    else:
        document[key] += text
    job = dataclasses.replace(job, source=source, document=job.document.model_copy(update=document))
    context = script.ScriptContext(Path("/opt/bin"), changes=changes)
    with pytest.raises(UsageError, match=r"submit: .*control characters"):
        script.evaluating(job, launch, context)
