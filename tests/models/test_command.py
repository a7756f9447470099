"""`rnnx train` and `python -m rnnx_models.train`, as a person types them."""

import json
import re
import signal
import subprocess
import sys

import pytest
import safetensors.torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from rnnx._cli import main
from rnnx_models import _command, _report
from rnnx_models._plot import check_plot, save_plot
from rnnx_models.checkpoint import load_checkpoint
from rnnx_models.train import Curve
from rnnx_runtime import load

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path, monkeypatch, prose):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose.txt").write_text(prose[:8000], encoding="utf-8")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("too short")
    return tmp_path


@pytest.fixture
def rnnx(folder):
    return lambda *arguments: CliRunner().invoke(main, ["train", *arguments])


@pytest.fixture
def module(folder, capsys):
    """`python -m rnnx_models.train`, in this process."""

    def module(*arguments):
        code = _command.main(list(arguments))
        return code, capsys.readouterr().err

    return module


CHAR = (
    "--model",
    "char_lstm",
    "--text",
    "prose.txt",
    "--hidden",
    "16",
    "--layers",
    "1",
    "--batch-size",
    "8",
    "--seq-len",
    "16",
)


def test_every_option_reaches_the_training(rnnx, folder):
    result = rnnx(
        *CHAR, "--epochs", "2", "--lr", "0.01", "--seed", "7", "--device", "cpu", "--plot", "p.png", "-o", "c.safetensors"
    )
    assert (result.exit_code, result.stdout) == (0, "")
    recipe, _ = load_checkpoint("c.safetensors", "char_lstm")
    assert (recipe.config.hidden, recipe.config.layers) == (16, 1)
    assert recipe.config.vocabulary == "".join(sorted(set((folder / "prose.txt").read_text())))
    *progress, done, missed, plot = result.stderr.splitlines()
    line = r"char_lstm: epoch \d/2, loss \d\.\d+ \(\d\.\d+ bits\), \d\.\d+ bits per character(, \d+ s left)?"
    between = r"char_lstm: epoch \d/2, step \d+/\d+, loss .+ left"  # only where an epoch takes long, on a busy machine
    ends = [said for said in progress if not re.fullmatch(between, said)]
    assert [bool(re.fullmatch(line, said)) for said in ends] == [True, True]
    assert re.fullmatch(r"c\.safetensors: char_lstm, \d\.\d+ bits per character, after 2 epochs", done)
    assert missed == (
        "char_lstm did not reach its target; train longer with --epochs, or with another --seed or --lr, to get to at most "
        "2.15 bits per character, as English text allows"
    )
    assert plot == "p.png: the loss curve"
    assert (folder / "p.png").read_bytes().startswith(PNG)
    assert len((folder / "p.png").read_bytes()) > 5000


def test_both_commands_make_the_same_bytes(rnnx, module, folder):
    assert rnnx(*CHAR, "--epochs", "1", "-o", "a.safetensors").exit_code == 0
    assert module(*CHAR, "--epochs", "1", "-o", "b.safetensors")[0] == 0
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["emb_rnn", "sin_lstm"])
def test_other_losses_are_plotted_on_an_axis_of_their_own(name, rnnx, folder):
    assert rnnx("--model", name, "--epochs", "3", "--plot", "p.png").exit_code == 0
    assert (folder / "p.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["char_rnn", "seq_rnn"])
def test_a_plot_of_one_epoch_shows_every_line(name, make, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: seen.append(figure))
    recipe = make(name, vocabulary="ab") if name == "char_rnn" else make(name)
    save_plot(tmp_path / "p.PNG", recipe, Curve([0.5, 0.25], [0.75]), "bits per character")
    (figure,) = seen
    lines = [line for axes in figure.axes for line in axes.lines]
    assert [line.get_marker() for line in lines] == ["None", ".", "."]
    (legend,) = figure.legends  # of the figure: above and beside all lines
    assert [text.get_text() for text in legend.get_texts()] == [line.get_label() for line in lines]
    assert lines[0].get_label() == "trained on, every step"
    check_plot(tmp_path / "p.PNG")


BAD = [
    (["--model", "emb_rn"], "no model is called 'emb_rn'; did you mean 'emb_rnn'?"),
    (["--model", "emb_rnn", "--text", "prose.txt"], "emb_rnn has no --text, its data are its own; leave it out"),
    (["--model", "rnn_cell", "--hidden", "8"], "rnn_cell has no --hidden; leave it out"),
    (
        ["--model", "sin_lstm", "--layers", "2"],
        "sin_lstm has no --layers; leave it out",
    ),
    (
        ["--model", "caption_rnn", "--seq-len", "2"],
        "caption_rnn has no seq_len, its data fix it; it has batch_size, epochs, lr",
    ),
    (["--model", "char_gru", "--text", "none.txt"], "none.txt: No such file or directory"),
    (["--model", "char_gru", "--text", "."], ".: Is a directory"),
    (["--model", "char_gru", "--text", "empty.txt"], "empty.txt is empty; give a text to learn from"),
    (
        ["--model", "char_gru", "--text", "latin.txt"],
        "latin.txt is not UTF-8: byte 3 is 0xe9, in line 1; save the text as UTF-8",
    ),
    (
        ["--model", "char_gru", "--text", "short.txt", "--batch-size", "2", "--seq-len", "8"],
        "it has 9 characters, and 19 are needed for one window",
    ),
    (["--model", "char_gru", "--layers", "0"], "layers must be from 1 to 32, got 0"),
    (["--model", "char_gru", "--hidden", "1" + "0" * 22], "hidden must be from 1 to 8192, got 10000"),
    (["--model", "emb_rnn", "--epochs", "0"], "epochs must be from 1 to 1000000, got 0"),
    (["--model", "emb_rnn", "--lr", "nan"], "lr must be above 0 and at most 1e+06, got nan"),
    (["--model", "emb_rnn", "--seed", "-1"], "the seed must be from 0 to 2**32 - 1, got -1"),
    (["--model", "emb_rnn", "--device", "quux"], "torch cannot compute on the device 'quux' here"),
    (["--model", "emb_rnn", "--resume"], "no interrupted training at artifacts/emb_rnn.safetensors.resume"),
    (["--model", "emb_rnn", "--plot", "p.jpg"], "a plot is a PNG: its name must end in .png, got 'p.jpg'"),
    (["--model", "emb_rnn", "--plot", "empty.txt/p.png"], "is a file, not a folder; write somewhere else"),
    (["--model", "emb_rnn", "-o", "empty.txt/c.safetensors"], "is a file, not a folder; write somewhere else"),
    (["--model", "char_gru", "--text", "prose.txt", "-o", "prose.txt"], "--text and --output are the same file, "),
    (["--model", "emb_rnn", "--plot", "c.png", "-o", "none/../c.png"], "--plot and --output are the same file, "),
    (["--model", "char_gru", "--text", "c.resume", "-o", "c"], "--text and the interrupted training are the same file, "),
]


@pytest.mark.parametrize(("arguments", "error"), BAD, ids=[" ".join(arguments[1:]) for arguments, _ in BAD])
def test_bad_input_is_one_line(arguments, error, rnnx, module, folder):
    before = sorted(folder.iterdir())
    result = rnnx(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert module(*arguments) == (1, result.stderr)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert error in line
    assert sorted(folder.iterdir()) == before


def test_without_a_model_the_command_asks_for_one(rnnx):
    result = rnnx("--epochs", "1")
    assert result.exit_code == 2
    assert "Error: Missing option '--model'." in result.stderr


def test_without_matplotlib_the_command_says_what_to_install_before_it_trains(rnnx, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = rnnx("--model", "emb_rnn", "--plot", "p.png")
    expected = "Error: a plot needs matplotlib, which is not installed: pip install 'rnnx[plot]'\n"
    assert (result.exit_code, result.stderr) == (1, expected)
    assert not (folder / "artifacts").exists()


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Makes a training press Ctrl-C at the 20th step of its second epoch, once."""
    pressed = []

    def call(self, here):
        if (here.epoch, here.step) == (2, 20) and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(_report.PlainProgress, "__call__", call)


def test_ctrl_c_says_how_to_go_on_and_that_works(rnnx, folder, press_ctrl_c):
    whole = ("-o", "whole.safetensors")
    arguments = (*CHAR, "--epochs", "3", "--plot", "it's.png")
    stopped = rnnx(*arguments)
    assert stopped.exit_code == 130
    command = r"""rnnx train --model char_lstm --text prose.txt --plot 'it'"'"'s.png' --resume"""
    assert stopped.stderr == (
        "stopped in epoch 2 of 3, after step 20 of 56; saved as artifacts/char_lstm.safetensors.resume, to be resumed; "
        f"go on with: {command}\n"
    )
    assert sorted(path.name for path in (folder / "artifacts").iterdir()) == [
        "char_lstm.safetensors",
        "char_lstm.safetensors.resume",
    ]
    assert rnnx("--model", "char_lstm", "--text", "prose.txt", "--plot", "it's.png", "--resume").exit_code == 0
    assert rnnx(*arguments, *whole).exit_code == 0
    assert (folder / "artifacts/char_lstm.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert (folder / "it's.png").exists()


def test_the_module_says_how_it_is_called_itself(module, press_ctrl_c):
    code, said = module(*CHAR, "-o", "c.safetensors")
    assert code == 130
    assert "go on with: python -m rnnx_models.train --model char_lstm --text prose.txt --output c.safetensors --resume" in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--model", "char_gru", "-o", "artifacts/char_lstm.safetensors"],
            "is an interrupted training of 'char_lstm', not of 'char_gru'",
        ),
        (["--model", "char_lstm"], "give the text that it began with: --text FILE"),
        (["--model", "char_lstm", "--text", "prose.txt", "--lr", "0.5"], "with lr 0."),
        (["--model", "char_lstm", "--text", "prose.txt", "--hidden", "8"], "with hidden 16, not 8"),
    ],
)
def test_only_the_same_training_is_resumed(arguments, error, rnnx, press_ctrl_c):
    assert rnnx(*CHAR).exit_code == 130
    result = rnnx(*arguments, "--resume")
    assert result.exit_code == 1
    assert error in result.stderr


def test_ctrl_c_says_at_once_that_it_was_heard(rnnx, monkeypatch, capfd):
    monkeypatch.setattr(_report.PlainProgress, "__call__", lambda self, here: signal.raise_signal(signal.SIGINT))
    assert rnnx(*CHAR).exit_code == 130
    assert capfd.readouterr().err == "\nstopping after this step, to save the training\n"


def test_the_module_ends_without_a_traceback_before_it_trains(module, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "read_text", interrupted)
    assert module(*CHAR) == (130, "stopped before the training began; nothing was saved\n")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"hiden": 3}, "the config does not fit char_lstm: "),
        ({"hidden": "3"}, "the config does not fit char_lstm: Expected `int`, got `str`"),
        ({"hidden": 17}, "the training does not fit char_lstm: "),
        ({"hidden": -1}, "the training does not fit char_lstm: "),
        ({"hidden": 10**12}, "the training does not fit char_lstm: "),
        (
            {"vocabulary": "ab"},
            "the training does not fit char_lstm: of another shape: module.emb.weight (64, 64), not (2, 64)",
        ),
    ],
    ids=str,
)
def test_a_damaged_config_is_one_line_that_names_the_file(config, error, rnnx, folder, press_ctrl_c):
    assert rnnx(*CHAR).exit_code == 130
    path = folder / "artifacts/char_lstm.safetensors.resume"
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rnnx.training"])
    header["config"] |= config
    path.write_bytes(safetensors.torch.save(safetensors.torch.load_file(path), {"rnnx.training": json.dumps(header)}))
    result = rnnx("--model", "char_lstm", "--text", "prose.txt", "--resume")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: artifacts/char_lstm.safetensors.resume: {error}")


def test_a_share_is_said_in_percent_and_one_epoch_is_one(rnnx):
    result = rnnx("--model", "emb_rnn", "--epochs", "1")
    assert re.search(r"emb_rnn, \d+ % of the answer right, after 1 epoch\n", result.stderr)


def test_the_module_runs_by_its_name(folder):
    command = [sys.executable, "-m", "rnnx_models.train", "--model", "seq_rnn", "--epochs", "20"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.splitlines()[-1].startswith("artifacts/seq_rnn.safetensors: seq_rnn, ")


def test_the_trained_checkpoint_is_what_export_takes(rnnx, folder):
    assert rnnx("--model", "rnn").exit_code == 0
    assert CliRunner().invoke(main, ["export", "--model", "rnn"]).exit_code == 0
    assert load("artifacts/model.onnx").infer("hello") == "ohlol"


def test_the_command_imports_no_torch_before_it_trains():
    code = "import sys; import rnnx._cli.train, rnnx_models._options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
