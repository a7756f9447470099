"""Keyword spotters, speech enhancers, denoisers."""
# ruff: noqa: B905

from typing import Optional

import torch
from tests.export.corpus._style import Style, randn
from torch import Tensor, nn


class CausalConvGRU(nn.Module):
    """Streams: what the convolution still needs of the past is handed from chunk to chunk, as is the GRU's state."""

    def __init__(self, bins: int = 4, channels: int = 6, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv1d(bins, channels, kernel)
        self.gru = nn.GRU(channels, 8, batch_first=True)
        self.mask = nn.Linear(8, bins)

    def forward(self, x: Tensor, cache: Tensor, h: Tensor):
        padded = torch.cat([cache, x.transpose(1, 2)], dim=2)
        new_cache = padded[:, :, -cache.size(2) :]
        z = torch.relu(self.conv(padded)).transpose(1, 2)
        z, h = self.gru(z, h)
        return torch.sigmoid(self.mask(z)) * x, new_cache, h


class ConvLSTMCell(nn.Module):
    def __init__(self, in_channels, hidden_channels, kernel_size):
        super().__init__()
        self.hidden_channels = hidden_channels
        self.gates = nn.Conv2d(in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, input_tensor, cur_state):
        h_cur, c_cur = cur_state
        combined = torch.cat([input_tensor, h_cur], dim=1)
        cc_i, cc_f, cc_o, cc_g = torch.split(self.gates(combined), self.hidden_channels, dim=1)
        c_next = torch.sigmoid(cc_f) * c_cur + torch.sigmoid(cc_i) * torch.tanh(cc_g)
        h_next = torch.sigmoid(cc_o) * torch.tanh(c_next)
        return h_next, c_next

    def init_hidden(self, batch_size, image_size):
        height, width = image_size
        return (
            torch.zeros(batch_size, self.hidden_channels, height, width, device=self.gates.weight.device),
            torch.zeros(batch_size, self.hidden_channels, height, width, device=self.gates.weight.device),
        )


class ConvLSTM(nn.Module):
    """(B, T, C, H, W)"""

    def __init__(self):
        super().__init__()
        self.cell = ConvLSTMCell(2, 3, 3)
        self.to_frame = nn.Conv2d(3, 2, 1)

    def forward(self, input_tensor):
        b, seq_len, _, h, w = input_tensor.size()
        state = self.cell.init_hidden(b, (h, w))
        output_inner = []
        for t in range(seq_len):
            state = self.cell(input_tensor[:, t, :, :, :], state)
            output_inner.append(self.to_frame(state[0]))
        return torch.stack(output_inner, dim=1)


class Denoiser(nn.Module):
    """Three GRUs that see each other's answers, gains and voice activity out."""

    def __init__(self):
        super().__init__()
        self.input_dense = nn.Linear(5, 6)
        self.vad_gru = nn.GRU(6, 4, batch_first=True)
        self.noise_gru = nn.GRU(4 + 6 + 5, 7, batch_first=True)
        self.denoise_gru = nn.GRU(4 + 7 + 5, 9, batch_first=True)
        self.denoise_output = nn.Linear(9, 3)
        self.vad_output = nn.Linear(4, 1)

    def forward(self, features, vad_state=None, noise_state=None, denoise_state=None):
        tmp = torch.tanh(self.input_dense(features))
        vad, vad_state = self.vad_gru(tmp, vad_state)
        noise, noise_state = self.noise_gru(torch.cat((vad, tmp, features), -1), noise_state)
        denoise, denoise_state = self.denoise_gru(torch.cat((vad, noise, features), -1), denoise_state)
        gains = torch.sigmoid(self.denoise_output(denoise))
        return gains, torch.sigmoid(self.vad_output(vad)), [vad_state, noise_state, denoise_state]


class KeywordSpotter(nn.Module):
    def __init__(self, n_mfcc: int = 6, n_words: int = 4):
        super().__init__()
        self.norm = nn.LayerNorm(n_mfcc)
        self.lstm = nn.LSTM(n_mfcc, 16, proj_size=5, batch_first=True)
        self.classifier = nn.Linear(5, n_words)

    def forward(self, mfcc: Tensor) -> Tensor:
        y, _ = self.lstm(self.norm(mfcc))
        return self.classifier(y[:, -1]).softmax(-1)


class ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x, h):
        y, h = self.rnn(self.norm(x), h)
        return x + y, h


class ResidualEnhancer(nn.Module):
    """A spectrogram with real and imaginary parts: (B, T, F, 2)."""

    def __init__(self, freqs=4, width=10, depth=3):
        super().__init__()
        self.embed = nn.Linear(freqs * 2, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.decode = nn.Linear(width, freqs * 2)

    def forward(self, spec: Tensor, states: list[Tensor]):
        x = self.embed(spec.flatten(2))
        next_states = []
        for block, state in zip(self.blocks, states):
            x, s = block(x, state)
            next_states.append(s)
        return self.decode(x).unflatten(-1, (-1, 2)) * spec, next_states


class WakeWord(nn.Module):
    """Frames are normalised by running statistics before and after the recurrent layer."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
        self.rnn = nn.RNN(8, 8, 2, nonlinearity="relu", batch_first=True)
        self.bn = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 2)
        for bn in (self.front[1], self.bn):
            nn.init.normal_(bn.running_mean, std=0.3)
            nn.init.uniform_(bn.weight, 0.5, 1.5)

    def forward(self, x):
        x = self.front(x.transpose(1, 2)).transpose(1, 2)
        x, _ = self.rnn(x)
        n, t, c = x.shape
        x = self.bn(x.reshape(n * t, c)).reshape(n, t, c)
        return torch.log_softmax(self.fc(x), dim=2)


class Pcen(nn.Module):
    """Per-channel energy normalisation: an average that forgets at a learned rate."""

    def __init__(self, n_mels=4):
        super().__init__()
        self.log_s = nn.Parameter(torch.empty(n_mels).uniform_(-2.0, -0.5))
        self.alpha = nn.Parameter(torch.full([n_mels], 0.8))
        self.eps = 1e-4

    def forward(self, mel: Tensor, last: Optional[Tensor] = None):  # noqa: UP045
        energy = mel.abs()
        s = self.log_s.exp()
        m = energy[:, 0] if last is None else last
        frames = []
        for frame in energy.unbind(1):
            m = (1 - s) * m + s * frame
            frames.append(frame / (self.eps + m) ** self.alpha)
        return torch.stack(frames, 1), m


class VoiceActivity(nn.Module):
    """One frame a call; the state comes back in the same list that it went in."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(4, 6), nn.LSTMCell(6, 6)])
        self.out = nn.Linear(6, 1)

    def forward(self, frame, state):
        new = []
        for cell, (h, c) in zip(self.cells, state):
            h, c = cell(frame, (h, c))  # noqa: PLW2901
            new.append((h, c))
            frame = h
        return torch.sigmoid(self.out(frame)).squeeze(1), new


STYLES = (
    Style(
        "conv_cache_gru",
        "a causal convolution's cache (B, C, K-1) and a GRU state, both explicit",
        CausalConvGRU,
        lambda: (randn(2, 6, 4), torch.zeros(2, 4, 2), torch.zeros(1, 2, 8)),
        "state",
    ),
    Style(
        "conv_lstm",
        "ConvLSTM cell, state (B, C, H, W), frames (B, T, C, H, W)",
        ConvLSTM,
        lambda: randn(2, 4, 2, 3, 5),
        "state",
    ),
    Style(
        "denoiser_three_grus",
        "three GRUs into each other, three states with default None, example without them, returned as a list",
        Denoiser,
        lambda: randn(2, 6, 5),
        "state",
    ),
    Style(
        "keyword_proj",
        "LSTM with proj_size, LayerNorm in front, y[:, -1], softmax",
        KeywordSpotter,
        lambda: randn(3, 7, 6),
        "structure",
    ),
    Style(
        "residual_enhancer",
        "residual GRU blocks in a ModuleList, explicit list of states, (B, T, F, 2) flattened",
        ResidualEnhancer,
        lambda: (randn(2, 5, 4, 2), [torch.zeros(1, 2, 10) for _ in range(3)]),
        "structure",
    ),
    Style(
        "wake_word_batch_norm",
        "BatchNorm1d before and after the layer, log_softmax",
        WakeWord,
        lambda: randn(3, 6, 3),
        "structure",
    ),
    Style(
        "pcen_learned_rate",
        "exponential moving average with a learned rate, explicit state (B, F)",
        Pcen,
        lambda: (randn(2, 6, 4), randn(2, 4, seed=1).abs()),
        "cells",
    ),
    Style(
        "voice_activity_step",
        "step only, list of (h, c) for a stack of LSTMCells",
        VoiceActivity,
        lambda: (randn(3, 4), [(torch.zeros(3, 6), torch.zeros(3, 6)), (torch.zeros(3, 6), torch.zeros(3, 6))]),
        "state",
    ),
)
