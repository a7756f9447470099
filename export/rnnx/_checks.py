"""What a module must be to be exported at all."""

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnnx._eager import EagerModule, Example, first_line
from rnnx._errors import LiftError

_TORCHS_OWN = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


def refuse_unsupported(eager: EagerModule) -> None:
    """Refuse weights that no artifact can hold, and layers that are not what they seem."""
    for path, layer in eager.layers().items():
        if type(layer).forward not in _TORCHS_OWN:
            raise LiftError(
                f"{path or 'the module'}: {type(layer).__name__} has a forward of its own; wrap the layer in a module instead"
            )
    for path, part in eager.module.named_modules():
        if type(part).__module__.startswith("torch.ao.nn.quantized"):
            raise LiftError(f"{path or eager.name} is quantised; export the module that it was made from")
    dtypes = set()
    for name, weight in (*eager.module.named_parameters(), *eager.module.named_buffers()):
        if not weight.is_floating_point():
            continue
        dtypes.add(weight.dtype)
        if weight.dtype not in (torch.float32, torch.float64):
            raise LiftError(f"{name} is {weight.dtype}; an artifact computes in float32 or float64: export module.float()")
        if not weight.isfinite().all():
            raise LiftError(f"{name} holds NaN or infinity; train the module again")
    if len(dtypes) > 1:
        raise LiftError(f"{eager.name} has weights in float32 and in float64; export module.float()")


def changed_arguments(eager: EagerModule, example: Example) -> dict[str, Tensor | None]:
    """Arguments that `forward` changes in place, by name, and what they become; in lists and dicts they may be replaced."""
    given = example.own_arguments()
    eager.run(given)
    after = pytree.tree_leaves(given)
    if len(after) != len(example.leaves):
        return dict.fromkeys(example.tensors)
    return {
        name: after[place] if isinstance(after[place], Tensor) else None
        for name, place in example.places.items()
        if not _is_unchanged(after[place], example.tensors[name])
    }


def _is_unchanged(after: object, before: Tensor) -> bool:
    return isinstance(after, Tensor) and after.shape == before.shape and torch.equal(after.nan_to_num(), before.nan_to_num())


def check_function(eager: EagerModule, example: Example) -> None:
    """Refuse a module that is not a function of its inputs, and of what it keeps."""
    try:
        first, second = (
            eager.run(example.own_arguments()),
            eager.run(example.own_arguments()),
        )
    except LiftError:
        raise
    except Exception as error:
        raise LiftError(
            f"{eager.name} does not run on the example: {type(error).__name__}: {first_line(error)}; "
            "give what you call it with"
        ) from error
    if not first.outputs:
        raise LiftError(f"{eager.name} returns no tensor, nor a tuple, list or dict of them")
    for name, tensor in first.outputs.items():
        if name not in second.outputs or not torch.equal(tensor.nan_to_num(), second.outputs[name].nan_to_num()):
            raise LiftError(
                f"{eager.name} is not a function of its inputs: two runs on the same example differ in {name}; it "
                "draws random numbers, or remembers in something that is no attribute of it; take either as an argument"
            )
