"""Tensors that stay where they are from one call to the next: in this process's memory, or on a device."""

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
from numpy.typing import NDArray


class Buffer(ABC):
    """One tensor at a fixed place, C-ordered."""

    @abstractmethod
    def write(self, array: NDArray[Any]) -> None:
        """Put these values there: of the same shape and type."""

    @abstractmethod
    def read(self) -> NDArray[Any]:
        """The values, as the caller's own array."""

    @abstractmethod
    def peek(self) -> NDArray[Any]:
        """The values, to be read at once: it may be the memory itself."""

    @abstractmethod
    def bind_input(self, binding: Any, name: str) -> None:
        """Let ONNX Runtime read it."""

    @abstractmethod
    def bind_output(self, binding: Any, name: str) -> None:
        """Let ONNX Runtime write it."""


@final
class HostBuffer(Buffer):
    """In this process's memory, where `array` is the same memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def write(self, array: NDArray[Any]) -> None:
        np.copyto(self.array, array)

    def read(self) -> NDArray[Any]:
        return self.array.copy()

    def peek(self) -> NDArray[Any]:
        return self.array

    def bind_input(self, binding: Any, name: str) -> None:
        binding.bind_input(name, "cpu", 0, self.array.dtype, self.array.shape, self.array.ctypes.data)

    def bind_output(self, binding: Any, name: str) -> None:
        binding.bind_output(name, "cpu", 0, self.array.dtype, self.array.shape, self.array.ctypes.data)


@final
class DeviceBuffer(Buffer):
    """In the memory of a device, as ONNX Runtime names it; reading and writing copies."""

    def __init__(self, array: NDArray[Any], device: str, device_id: int) -> None:
        import onnxruntime

        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, device_id)

    def write(self, array: NDArray[Any]) -> None:
        self._value.update_inplace(np.ascontiguousarray(array))

    def read(self) -> NDArray[Any]:
        return np.array(self._value.numpy())

    def peek(self) -> NDArray[Any]:
        found: NDArray[Any] = self._value.numpy()
        return found

    def bind_input(self, binding: Any, name: str) -> None:
        binding.bind_ortvalue_input(name, self._value)

    def bind_output(self, binding: Any, name: str) -> None:
        binding.bind_ortvalue_output(name, self._value)
