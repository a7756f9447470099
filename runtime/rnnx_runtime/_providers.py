"""Execution providers: what there is, under which names, and where a session of theirs put each node.

A provider is either built into the installed ONNX Runtime package, or a plugin: a package `onnxruntime_ep_*` beside it.
ONNX Runtime falls back to the CPU in silence; here what was asked for and what was granted stand side by side.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rnnx_runtime._errors import InputError, ProviderError, printable

Requested = dict[str, dict[str, Any]]  # options by short name, in the order of preference


class Provider(msgspec.Struct, frozen=True):
    """One execution provider as this package knows it.

    Attributes:
        name: short, as callers write it.
        ort: ONNX Runtime's own name of it.
        install: the package that brings it.
        plugin: the module of that package, where it is a plugin for plain onnxruntime.
        options: what callers may set, and the values allowed; None for any whole number from 0.
        defaults: what this package sets where callers don't.
        memory: where ONNX Runtime can keep tensors between calls for it: "cpu", "cuda", or None where only plain calls are
            known to be right.
        needs: what else the machine must have.
    """

    name: str
    ort: str
    install: str
    plugin: str | None = None
    options: Mapping[str, tuple[str, ...] | None] = {}
    defaults: Mapping[str, str] = {}
    memory: str | None = None
    needs: str = ""


_SWITCH: Final = ("0", "1")
_NVIDIA: Final = "an NVIDIA GPU, its driver, CUDA and cuDNN"

# TF32 and bf16 shorten what is multiplied: one step is off by 1e-3, and a recurrence feeds that back.
PROVIDERS: Final = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "onnxruntime", memory="cpu"),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "onnxruntime-gpu",
            options={"device_id": None, "gpu_mem_limit": None, "use_tf32": _SWITCH},
            defaults={"use_tf32": "0"},
            memory="cuda",
            needs=_NVIDIA,
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "onnxruntime-gpu",
            options={"device_id": None, "trt_max_workspace_size": None, "trt_fp16_enable": _SWITCH},
            memory="cuda",
            needs=f"{_NVIDIA} and TensorRT",
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            "onnxruntime-ep-openvino",
            plugin="onnxruntime_ep_openvino",
            options={"device": ("cpu", "gpu", "npu"), "precision": ("f32", "f16", "bf16")},
            defaults={"device": "cpu", "precision": "f32"},
            needs="an Intel processor, GPU or NPU",
        ),
        Provider(
            "webgpu",
            "WebGpuExecutionProvider",
            "onnxruntime-ep-webgpu",
            plugin="onnxruntime_ep_webgpu",
            needs="a GPU that Vulkan, Metal or Direct3D 12 can use",
        ),
        Provider(
            "migraphx",
            "MIGraphXExecutionProvider",
            "onnxruntime-migraphx",
            options={"device_id": None},
            needs="an AMD GPU and ROCm",
        ),
        Provider(
            "qnn", "QNNExecutionProvider", "onnxruntime-qnn", plugin="onnxruntime_qnn", needs="a Qualcomm NPU and its SDK"
        ),
        Provider(
            "coreml",
            "CoreMLExecutionProvider",
            "onnxruntime",
            options={"MLComputeUnits": ("ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine")},
            needs="macOS",
        ),
        Provider("directml", "DmlExecutionProvider", "onnxruntime-directml", options={"device_id": None}, needs="Windows"),
        Provider("xnnpack", "XnnpackExecutionProvider", "an onnxruntime built with XNNPACK"),
    )
}
AUTO: Final = "auto"
_OF_FEW_BITS: Final = frozenset(["MatMulNBits", "GatherBlockQuantized"])  # operators that few providers have

_SHORT: Final = {provider.ort: provider.name for provider in PROVIDERS.values()}
_registered: dict[str, str] = {}  # plugins by short name, and why one could not be registered: "" where it was
_registering = threading.Lock()


class Availability(msgspec.Struct, frozen=True):
    """What this machine has of one provider: `because` says why not where `here` is false."""

    provider: Provider
    here: bool
    because: str
    devices: tuple[Any, ...] = ()  # ONNX Runtime's, of a plugin


class Node(msgspec.Struct, frozen=True):
    """One node of the graph, and the provider that runs it."""

    name: str
    operator: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """Which providers were asked for, which run something, and which node runs where.

    Attributes:
        requested: short names, as given.
        granted: the short names of those that run at least one node, as ONNX Runtime reports it.
        nodes: of the graph as given to the providers; those that ONNX Runtime folds into constants are left out.
        because: in words: why these, where it was not simply asked for.
    """

    requested: tuple[str, ...]
    granted: tuple[str, ...]
    nodes: tuple[Node, ...]
    because: str = ""

    @property
    def fell_back(self) -> tuple[Node, ...]:
        """The nodes that run on a provider that was not asked for."""
        return () if AUTO in self.requested else tuple(node for node in self.nodes if node.provider not in self.requested)

    def __str__(self) -> str:
        counts = ", ".join(f"{sum(node.provider == name for node in self.nodes)} on {name}" for name in self.granted)
        said = f"requested {', '.join(self.requested)}; nodes: {counts or 'none'}"
        return f"{said}; {self.because}" if self.because else said


def parse_providers(providers: Any) -> Requested:
    """What the caller asks for, by short name: a name, several in order of preference, or a mapping of names to options.

    Raises:
        InputError: it is none of these.
        ProviderError: a name or an option is unknown, or an option's value is not allowed.
    """
    if isinstance(providers, str):
        providers = [providers]
    try:
        given = list(providers)
        asked = dict(providers) if isinstance(providers, Mapping) else {name: {} for name in given}
    except TypeError:
        given, asked = [], {}
    if not asked or not all(isinstance(name, str) for name in asked):
        raise InputError(
            f"providers must be a name, several, or a mapping of names to options, got {providers!r}; "
            'for example "cpu", ["cuda", "cpu"] or {"cuda": {"device_id": 1}}'
        )
    if len(asked) < len(given):
        raise ProviderError(f"a provider stands twice in {given}; name each once, in the order of preference")
    if AUTO in asked and len(asked) > 1:
        raise ProviderError(f'"{AUTO}" chooses among all providers of this machine; give it alone')
    checked = {name: _options(name, options) for name, options in asked.items()}
    if "cpu" in list(checked)[:-1]:
        raise ProviderError(f"cpu takes every node, so nothing is left for those after it; put it last, got {list(checked)}")
    return checked


def _options(name: str, options: Any) -> dict[str, Any]:
    if name not in PROVIDERS and name != AUTO:
        hint = f'; "{_SHORT[name]}" is meant' if name in _SHORT else ""
        raise ProviderError(f"unknown provider {name!r}{hint}; known are {', '.join([*PROVIDERS, AUTO])}")
    allowed = PROVIDERS[name].options if name in PROVIDERS else {}
    if not isinstance(options, Mapping):
        raise InputError(f"the options of provider {name} must be a mapping, got {options!r}")
    checked = {}
    for key, value in options.items():
        if key not in allowed:
            raise ProviderError(f"provider {name} has no option {key!r}; it has {', '.join(allowed) or 'none'}")
        values, text = allowed[key], str(int(value)) if isinstance(value, bool) else str(value)
        if text not in values if values is not None else not text.isascii() or not text.isdigit():
            wanted = f"one of {', '.join(values)}" if values is not None else "a whole number from 0"
            raise ProviderError(f"provider {name}: {key} must be {wanted}, got {value!r}")
        checked[key] = text
    return checked


def find_provider(name: str) -> Availability:
    """What this machine has of the provider with this short name. Registers its plugin where it has one."""
    import onnxruntime

    provider = PROVIDERS[name]
    # A plugin that is registered is listed there too.
    if provider.name not in _registered and provider.ort in onnxruntime.get_available_providers():
        return Availability(provider, True, "")
    from importlib.util import find_spec

    if provider.plugin is None or find_spec(provider.plugin) is None:
        needs = f"; it needs {provider.needs}" if provider.needs else ""
        return Availability(provider, False, f"not in this ONNX Runtime; install {provider.install}{needs}")
    failure = _register(provider)
    if failure:
        return Availability(provider, False, f"the plugin {provider.plugin} cannot be loaded: {failure}")
    try:
        devices = tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.ort)
    except Exception as error:  # of its plugin, or of another's
        said = printable(str(error).split("\n", 1)[0])
        return Availability(provider, False, f"its plugin cannot list its devices: {said}")
    if not devices:
        return Availability(provider, False, f"its plugin finds no device on this machine; it needs {provider.needs}")
    return Availability(provider, True, "", devices)


def _register(provider: Provider) -> str:
    """Make a plugin known to ONNX Runtime, once per process; why that failed, or nothing."""
    from importlib import import_module

    import onnxruntime

    with _registering:
        if provider.name not in _registered:
            try:
                module = import_module(str(provider.plugin))
                onnxruntime.register_execution_provider_library(provider.ort, module.get_library_path())
                _registered[provider.name] = ""
            except Exception as error:  # whatever a package of somebody else raises
                _registered[provider.name] = printable(str(error).split("\n", 1)[0])
        return _registered[provider.name]


def forget_registering() -> None:
    """In a process forked off, where a thread that was registering a plugin is no more."""
    global _registering  # noqa: PLW0603
    _registering = threading.Lock()


def add_to(options: Any, found: Availability, given: Mapping[str, str], threads: int) -> None:
    """Give a provider to ONNX Runtime's session options.

    Raises:
        ProviderError: the plugin has no such device.
    """
    provider = found.provider
    chosen = {**provider.defaults, **given}
    if not found.devices:
        if provider.name != "cpu":  # which is always there, and last
            options.add_provider(provider.ort, chosen)
        return
    devices = found.devices
    if provider.name == "openvino":
        device = chosen["device"].upper()
        devices = tuple(d for d in devices if d.ep_metadata.get("ov_device") == device)
        if not devices:
            has = ", ".join(sorted({str(d.ep_metadata.get("ov_device")).lower() for d in found.devices}))
            raise ProviderError(f"provider openvino: no device {chosen['device']!r} on this machine; it has {has}")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": chosen["precision"]}
        if device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        chosen = {"load_config": msgspec.json.encode({device: settings}).decode()}
    options.add_provider_for_devices(list(devices[:1]), chosen)


def placed(session: Any) -> tuple[Node, ...]:
    """Where ONNX Runtime says that each node runs."""
    return tuple(
        Node(printable(node.name), node.op_type, _SHORT.get(part.ep_name, part.ep_name))
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def check_placement(placement: Placement) -> None:
    """Raises ProviderError where a node fell back to a provider that was not asked for."""
    fallen = placement.fell_back
    if not fallen:
        return
    names = {node.operator for node in fallen}
    operators, quantised = ", ".join(sorted(names)), " and ".join(sorted(names & _OF_FEW_BITS))
    float_instead = f", or give it the float artifact, or one of rnnx quantize --fp16: {quantised} are of few bits"
    asked, others = ", ".join(placement.requested), ", ".join(sorted({node.provider for node in fallen}))
    wanted = [*placement.requested, *sorted({node.provider for node in fallen})]
    raise ProviderError(
        f"{asked} did not take {len(fallen)} of {len(placement.nodes)} nodes ({operators}), they would run on {others}; "
        f"allow that with providers={wanted} or strict=False{float_instead if quantised else ''}"
    )


def select(requested: Requested, strict: bool, find: Callable[[str], Availability] = find_provider) -> Sequence[Availability]:
    """Those asked for that this machine has, in order.

    Raises:
        ProviderError: `strict`, and one of them is not here.
    """
    found = [find(name) for name in requested]
    for one in found:
        if strict and not one.here:
            raise ProviderError(f"provider {one.provider.name} is not available: {one.because}")
    return [one for one in found if one.here]
