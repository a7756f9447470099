"""Reinforcement-learning agents."""
# ruff: noqa: A001, B905, C408, N803, N812

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tests.export.corpus._style import Style, flags, randn
from torch import nn


def normalized_columns_initializer(weights, std=1.0):
    out = torch.randn(weights.size())
    out *= std / torch.sqrt(out.pow(2).sum(1, keepdim=True))
    return out


class ActorCritic(nn.Module):
    """One step; everything comes in one tuple."""

    def __init__(self, num_inputs=4, num_actions=3):
        super().__init__()
        self.fc = nn.Linear(num_inputs, 8)
        self.lstm = nn.LSTMCell(8, 16)
        self.critic_linear = nn.Linear(16, 1)
        self.actor_linear = nn.Linear(16, num_actions)
        self.actor_linear.weight.data = normalized_columns_initializer(self.actor_linear.weight.data, 0.01)
        self.lstm.bias_ih.data.fill_(0)

    def forward(self, inputs):
        inputs, (hx, cx) = inputs
        x = F.elu(self.fc(inputs))
        hx, cx = self.lstm(x, (hx, cx))
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)


class Policy(nn.Module):
    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.affine = nn.Linear(s_dim, 10)
        self.cell = nn.LSTMCell(10, 10)
        self.pi = nn.Linear(10, a_dim)

    def forward(self, x, hx, cx):
        hx, cx = self.cell(torch.relu(self.affine(x)), (hx, cx))
        return F.softmax(self.pi(hx), dim=-1), hx, cx


class RecurrentPPO(nn.Module):
    """One step: `masks` is 0 where an episode has just begun."""

    def __init__(self, obs=5, hidden=8, actions=2):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(obs, hidden), nn.Tanh())
        self.gru = nn.GRUCell(hidden, hidden)
        nn.init.orthogonal_(self.gru.weight_ih)
        nn.init.orthogonal_(self.gru.weight_hh)
        self.dist = nn.Linear(hidden, actions)
        self.value = nn.Linear(hidden, 1)

    def forward(self, inputs, rnn_hxs, masks):
        x = self.base(inputs)
        rnn_hxs = self.gru(x, rnn_hxs * masks)
        return self.value(rnn_hxs), self.dist(rnn_hxs), rnn_hxs


class ImpalaNet(nn.Module):
    """(T, B, ...), with notdone (T, B, 1) resetting the LSTM between steps."""

    def __init__(self):
        super().__init__()
        self.core = nn.LSTM(4, 6, 2)
        self.policy = nn.Linear(6, 3)
        self.baseline = nn.Linear(6, 1)

    def forward(self, frames, notdone, core_state):
        core_output_list = []
        for input, nd in zip(frames.unbind(), notdone.unbind()):
            core_state = tuple(nd * s for s in core_state)
            output, core_state = self.core(input.unsqueeze(0), core_state)
            core_output_list.append(output)
        core_output = torch.cat(core_output_list)
        return dict(policy_logits=self.policy(core_output), baseline=self.baseline(core_output).squeeze(-1)), core_state


class MaskedGRULoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRUCell(3, 7)
        self.q = nn.Linear(7, 4)

    def forward(self, obs, masks):
        h = obs.new_zeros(obs.size(1), 7)
        qs = []
        for t in range(obs.size(0)):
            h = self.gru(obs[t], h * masks[t])
            qs.append(self.q(h))
        return torch.stack(qs)


class DRQN(nn.Module):
    def __init__(self, obs_dim=4, n_actions=2):
        super().__init__()
        self.fc1 = nn.Linear(obs_dim, 12)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.fc2 = nn.Linear(12, n_actions)

    def forward(self, obs, h, c):
        x = F.relu(self.fc1(obs))
        x, (h, c) = self.lstm(x, (h, c))
        return {"q": self.fc2(x), "h": h, "c": c}


@dataclass
class AgentOutput:
    logits: torch.Tensor
    value: torch.Tensor
    state: torch.Tensor


class BatchFirstState(nn.Module):
    """RLlib's habit: the batch comes first in the state, too."""

    def __init__(self, L=2, H=6):
        super().__init__()
        self.rnn = nn.GRU(3, H, L, batch_first=True)
        self.logits = nn.Linear(H, 5)
        self.value = nn.Linear(H, 1)

    def forward(self, obs, state):
        feats, new_state = self.rnn(obs, state.transpose(0, 1).contiguous())
        return AgentOutput(self.logits(feats), self.value(feats)[..., 0], new_state.transpose(0, 1))


class KeywordState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(4, 8, num_layers=2, batch_first=True)
        self.mean = nn.Linear(8, 2)
        self.log_std = nn.Parameter(torch.full((2,), -0.5))

    def forward(self, obs, *, state):
        y, state = self.rnn(obs, state)
        mean = torch.tanh(self.mean(y))
        return mean, self.log_std.exp().expand_as(mean), state


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.act = nn.Linear(6, 2)
        self.hidden = None

    def reset(self):
        self.hidden = None

    def forward(self, obs):
        if self.hidden is None:
            zeros = torch.zeros(1, obs.size(0), 6)
            self.hidden = (zeros, zeros.clone())
        y, self.hidden = self.lstm(obs, self.hidden)
        return self.act(y)


class BufferedAgent(nn.Module):
    """The state is a buffer that is replaced."""

    def __init__(self, size=5):
        super().__init__()
        self.size = size
        self.cell = nn.GRUCell(3, size)
        self.action = nn.Linear(size, 2)
        self.register_buffer("memory", torch.zeros(1, size), persistent=False)

    def forward(self, obs):
        if self.memory.shape[0] != obs.shape[0]:
            self.memory = torch.zeros(obs.shape[0], self.size)
        self.memory = self.cell(obs, self.memory)
        return self.action(self.memory)


class InPlaceAgent(nn.Module):
    def __init__(self, envs=3):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.out = nn.Linear(6, 2)
        self.register_buffer("state", torch.zeros(1, envs, 6))

    def forward(self, obs):
        y, h = self.gru(obs, self.state)
        self.state.copy_(h.detach())
        return self.out(y)


class LearnedStartAgent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(6) * 0.3)
        self.cell = nn.RNNCell(3, 6)
        self.v = nn.Linear(6, 1)

    def forward(self, obs):
        h = self.first.expand(obs.shape[0], -1)
        values = []
        for o in torch.unbind(obs, dim=1):
            h = self.cell(o, h)
            values.append(self.v(h))
        return torch.cat(values, dim=1)


STYLES = (
    Style(
        "a3c_one_tuple",
        "step only, forward((x, (hx, cx))) with nn.LSTMCell",
        ActorCritic,
        lambda: ((randn(3, 4), (torch.zeros(3, 16), torch.zeros(3, 16))),),
        "structure",
    ),
    Style(
        "policy_hx_cx",
        "step only, forward(x, hx, cx) returns three things, softmax",
        lambda: Policy(4, 3),
        lambda: (randn(2, 4), randn(2, 10, seed=1), randn(2, 10, seed=2)),
        "structure",
    ),
    Style(
        "ppo_masked_step",
        "step only, state * mask with the mask (B, 1) an input",
        RecurrentPPO,
        lambda: (randn(4, 5), randn(4, 8, seed=1), flags(4, 1)),
        "state",
    ),
    Style(
        "impala_masked_loop",
        "nn.LSTM one step at a time, its state times notdone (T, B, 1), explicit (h, c), dict of outputs",
        ImpalaNet,
        lambda: (randn(5, 3, 4), flags(5, 3, 1), (torch.zeros(2, 3, 6), torch.zeros(2, 3, 6))),
        "state",
    ),
    Style(
        "gru_cell_masked_loop",
        "h * masks[t] in a loop over a GRUCell, time-major",
        MaskedGRULoop,
        lambda: (randn(6, 2, 3), flags(6, 2, 1)),
        "state",
    ),
    Style(
        "drqn_dict",
        "explicit h and c as two arguments, returned inside a dict",
        DRQN,
        lambda: (randn(2, 5, 4), torch.zeros(1, 2, 12), torch.zeros(1, 2, 12)),
        "state",
    ),
    Style(
        "state_batch_first",
        "explicit state (B, L, H) transposed inside, a dataclass comes out",
        BatchFirstState,
        lambda: (randn(4, 5, 3), randn(4, 2, 6, seed=1)),
        "state",
    ),
    Style(
        "state_keyword_only",
        "forward(obs, *, state), called by keyword",
        KeywordState,
        lambda: {"obs": randn(3, 6, 4), "state": torch.zeros(2, 3, 8)},
        "state",
    ),
    Style("kept_hidden_none", "self.hidden, None at first, zeros when None, kept", Stateful, lambda: randn(2, 5, 3), "state"),
    Style(
        "buffer_assigned", "step only, a registered buffer assigned in forward", BufferedAgent, lambda: randn(4, 3), "state"
    ),
    Style(
        "buffer_copied",
        "a registered buffer with a fixed batch, copy_ in forward",
        InPlaceAgent,
        lambda: randn(3, 5, 4),
        "state",
    ),
    Style(
        "learned_start_cell",
        "nn.Parameter (H,) expanded to the batch, RNNCell loop",
        LearnedStartAgent,
        lambda: randn(2, 6, 3),
        "state",
    ),
)
