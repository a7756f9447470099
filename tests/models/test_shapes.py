"""The lecture notes' demonstrations, and the layouts that each model takes and gives. `B`, `T` and layers are all different."""

import pytest
import torch

from rnnx_models.seq_rnn import SeqRnn, SeqRnnConfig


def test_note_002_every_step_and_the_last_hidden_state():
    output, hidden = SeqRnn(SeqRnnConfig(inputs=4, hidden=2, layers=2, classes=1))(torch.ones(3, 5, 4))
    assert (output.shape, hidden.shape) == ((1, 15, 1), (2, 5, 2))


def test_note_002_initial_weights_are_drawn_from_a_very_narrow_normal_distribution():
    torch.manual_seed(0)
    drawn = torch.cat([parameter.flatten() for parameter in SeqRnn(SeqRnnConfig(hidden=64)).rnn.parameters()])
    assert 0.00095 < drawn.std() < 0.00105
    assert abs(drawn.mean()) < 0.0001


def test_notes_000_and_001_a_cell_steps_and_a_layer_does_it_all():
    torch.manual_seed(0)
    cell, layer = torch.nn.RNNCell(4, 2), torch.nn.RNN(4, 2)
    layer.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})
    dataset = torch.randn(3, 1, 4)  # (T, B, F)
    hidden, steps = torch.zeros(1, 2), []  # (B, H)
    for x in dataset:
        hidden = cell(x, hidden)
        steps.append(hidden)
    out, last = layer(dataset, torch.zeros(1, 1, 2))
    assert (out.shape, last.shape) == ((3, 1, 2), (1, 1, 2))  # (T, B, H), (L, B, H)
    assert torch.allclose(torch.stack(steps), out)
    assert torch.allclose(hidden, last[0])


@pytest.mark.parametrize(("cell", "layer"), [("rnn_cell", "rnn"), ("gru_cell", "gru")])
def test_a_cell_in_a_loop_is_a_layer(cell, layer, make):
    looped, whole = make(cell).build(), make(layer).build()
    name = "rnn" if layer == "rnn" else "gru"
    weights = looped.state_dict().items()
    whole.load_state_dict({key.replace("cell.", f"{name}.") + "_l0": tensor for key, tensor in weights})
    x = torch.randn(2, 5, 4)  # (B, T, V)
    found = whole(x.transpose(0, 1)).view(5, 2, 4).transpose(0, 1)
    assert torch.allclose(looped(x), found, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("rnn_cell", (3, 7, 4), (3, 7, 4)),
        ("lstm_cell", (3, 7, 4), (3, 7, 4)),
        ("gru_cell", (3, 7, 4), (3, 7, 4)),
        ("rnn", (7, 3, 4), (21, 4)),
        ("gru", (7, 3, 4), (21, 4)),
    ],
)
def test_one_hot_models_take_any_batch_and_length(name, given, expected, make):
    assert make(name).build()(torch.rand(given)).shape == expected


def test_emb_rnn_takes_any_batch_and_length(make):
    assert make("emb_rnn").build()(torch.zeros(3, 7, dtype=torch.int64)).shape == (21, 4)


def test_sin_lstm_takes_and_gives_its_state(make):
    y, h, c = make("sin_lstm").build()(torch.rand(3, 7, 1), torch.zeros(1, 3, 20), torch.zeros(1, 3, 20))
    assert (y.shape, h.shape, c.shape) == ((3, 7, 1), (1, 3, 20), (1, 3, 20))


def test_caption_rnn_answers_every_character_of_a_caption(make):
    assert make("caption_rnn").build()(torch.rand(3, 1, 16, 16), torch.zeros(3, 5, dtype=torch.int64)).shape == (3, 5, 17)


@pytest.mark.parametrize("name", ["char_rnn", "char_lstm", "char_gru"])
def test_a_text_in_pieces_is_the_text_as_a_whole(name, make):
    module = make(name, vocabulary="abcdef", hidden=5).build().eval()
    tokens = torch.randint(6, (3, 7))  # (B, T)
    whole, _ = module(tokens)
    first, hidden = module(tokens[:, :4])
    second, hidden = module(tokens[:, 4:], hidden)
    assert whole.shape == (3, 7, 6)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-6)
    for state in hidden if name == "char_lstm" else [hidden]:
        assert state.shape == (2, 3, 5)  # (L, B, H)
