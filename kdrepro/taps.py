"""Name and capture features of a network that nobody has to edit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdrepro.types import Outputs, as_outputs

# The packages whose wrappers are looked through, and what they call what they wrap: DataParallel and its kin,
# torch.compile, FSDP, and the wrapper for activation checkpoints.
_WRAP = frozenset({"torch", "kdrepro", "deepspeed", "fairscale", "apex"})
_WRAPPED = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


class Tap(NamedTuple):
    """One feature: its `name`, the `path` of a submodule, whether its `input` is meant, and what errors call it."""

    name: str
    path: str
    input: bool
    label: str


class Taps(nn.Module):
    """A network that also gives the features named in `taps`, although its code says nothing of them.

    `taps` maps a name to the path of a submodule, as `named_modules()` has it: `{"stage1": "layer1"}` is what
    `module.layer1` returns, `{"stage1": "layer1:input"}` its first argument. Names that DataParallel,
    torch.compile and their kin put in front (`module.`, `_orig_mod.`) may be left out. The forward takes what
    the network takes and returns `Outputs(logits, features)`; features that the network gives itself stay.

    A feature is the tensor as it was when the submodule returned it (got it, for an input): a copy, so that a
    later in-place operation such as `ReLU(inplace=True)` does not reach it. Of a tuple or list it is the first
    element, of an output with `last_hidden_state` that. Gradients flow through it; autocast shows in its dtype. In an
    activation checkpoint that is re-entrant, or in any part that runs under `no_grad`, there are none to flow: a
    feature from there is given with a warning.

    Hooks are on the network only while a forward runs, whatever becomes of it, and the features belong to the
    caller alone: nothing here keeps them or their graph. Threads do not see one another's.

    `torch.compile` may go around, `torch.compile(Taps(net, ...))`, or inside, `Taps(torch.compile(net),
    ...)`, which compiles the network anew together with its hooks; torch 2.5 and older follow neither
    everywhere. DataParallel goes inside, `Taps(DataParallel(net), ...)`: it cannot gather `Outputs`.
    DistributedDataParallel goes either way.

    The network is `.module`, and `state_dict()` has its names with `module.` in front: save `taps.module` for
    weights that load without `Taps`.

    Raises `TypeError` for arguments of the wrong kind and `ValueError` for a path that is not there; in the forward
    `ValueError` for a submodule that was not called, or more than once (which call would be meant?), or
    that lies in a part which torch.compile compiled by itself, and `TypeError` for one that gives no tensor.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    >>> out = Taps(net, {"before": "0", "after": "2:input"})(torch.randn(2, 4))
    >>> {name: tuple(feature.shape) for name, feature in out.features.items()}
    {'before': (2, 8), 'after': (2, 8)}
    >>> torch.equal(out.features["before"].relu(), out.features["after"])
    True
    """

    def __init__(self, module: nn.Module, taps: Mapping[str, str]) -> None:
        super().__init__()
        self.taps = checked(module, taps, argument="taps")
        self.module = module
        self.training = module.training

    def extra_repr(self) -> str:
        return ", ".join(f"{tap.name}={tap.path}{':input' if tap.input else ''}" for tap in self.taps)

    def forward(self, *args: Any, **kwargs: Any) -> Outputs:
        return run_tapped(self.module, self.taps, args, kwargs, side="module")


def checked(module: nn.Module, taps: Mapping[str, str], *, argument: str) -> tuple[Tap, ...]:
    """Return `taps` one by one, or raise if a path does not lead to a submodule of `module`."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected an nn.Module")
    if not isinstance(taps, Mapping):
        raise TypeError(
            f"{argument}: got {type(taps).__name__}, expected a mapping from names to paths of submodules"
        )
    if not taps:
        raise ValueError(f"{argument}: got an empty mapping, expected at least one name and path")
    return tuple(_checked(module, name, text, f"{argument}[{name!r}]") for name, text in taps.items())


def _checked(module: nn.Module, name: object, text: object, label: str) -> Tap:
    if not isinstance(name, str) or not isinstance(text, str):
        wrong = name if not isinstance(name, str) else text
        raise TypeError(
            f"{label}: got {wrong!r} ({type(wrong).__name__}), expected a name and a path as text"
        )
    path, colon, side = text.rpartition(":")
    if not colon or side not in ("input", "output") or chain(module, text) is not None:
        path, side = text, "output"
    if chain(module, path) is None:
        paths = [found for found, _ in parts(module) if found]
        near = get_close_matches(path.partition(":")[0], paths, n=3, cutoff=0.5) or [
            found for found in paths if "." not in found
        ]
        listed = ", ".join(map(repr, near[:10]))
        raise ValueError(
            f"{label}: got {text!r}, expected the path of a submodule (with ':input' after it for what goes in), "
            f"such as {listed or 'none: it has no submodules'}"
        )
    return Tap(name, path, side == "input", label)


def chain(module: nn.Module, path: str) -> list[nn.Module] | None:
    """The modules from `module` to the one at `path`, wrappers in between included; `None` if it is not there."""
    found = [module]
    for part in path.split("."):
        below = _children(found[-1]).get(part)
        while below is None and (inner := wrapped_in(found[-1])) is not None:
            found.append(inner)
            below = _children(inner).get(part)
        if below is not None:
            found.append(below)
        # A path that names a wrapper leads into what it wraps too.
        elif part not in _WRAPPED or len(found) > 1:
            return None
    return found if len(found) > 1 else None


def _children(module: nn.Module) -> dict[str, nn.Module | None]:
    # Those of a scripted module are in no dict.
    return dict(module._modules.items())


def parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules with their paths, as `named_modules()` has them but without those of wrappers."""
    inner = wrapped_in(module)
    if inner is not None:
        yield from parts(inner, prefix)
        return
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from parts(child, f"{prefix}.{name}" if prefix else name)


def wrapped_in(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps, `None` if the module is none."""
    if len(module._modules) != 1 or module._parameters:
        return None
    # A network of one's own may call a part `module`, and do more than pass it on.
    kinds = (kind for kind in type(module).__mro__ if kind is not nn.Module)
    if not any(kind.__module__.partition(".")[0] in _WRAP for kind in kinds):
        return None
    ((name, inner),) = module._modules.items()
    return inner if name in _WRAPPED else None


def run_tapped(
    module: nn.Module, taps: Sequence[Tap], args: Sequence[Any], kwargs: Mapping[str, Any], *, side: str
) -> Outputs:
    """Call a network and return its logits, and its features together with those that were tapped."""
    returned, features = _capture(module, taps, args, kwargs)
    outputs = as_outputs(returned, side=side)
    for tap in taps:
        if tap.name in outputs.features:
            raise ValueError(
                f"{tap.label}: the {side} itself gives a feature {tap.name!r}, expected another name"
            )
    return replace(outputs, features={**outputs.features, **features})


class _Capturing(nn.Module):
    """Gives features beside what the network returns, in a form that DataParallel can gather."""

    def __init__(self, module: nn.Module, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.module, self.taps = module, taps

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        return _capture(self.module, self.taps, args, kwargs)


def _capture(
    module: nn.Module, taps: Sequence[Tap], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor]]:
    if torch.compiler.is_compiling():
        return _capture_traced(module, taps, args, kwargs)
    if isinstance(module, nn.DataParallel):
        # Its replicas run in threads of their own, so each captures by itself, and the wrapper gathers the features as
        # it gathers the outputs.
        twin = copy.copy(module)
        twin._modules = {**module._modules, "module": _Capturing(module.module, taps)}
        return twin(*args, **kwargs)  # type: ignore[no-any-return]
    compiled, within = getattr(module, "dynamo_ctx", None), _children(module).get("_orig_mod")
    if compiled is not None and within is not None:
        # Code that was compiled without hooks ignores them. The same compiler takes the network with its hooks.
        return compiled(_capture_traced)(within, taps, args, kwargs)  # type: ignore[no-any-return]
    return _capture_eager(module, taps, args, kwargs)


def _capture_eager(
    module: nn.Module, taps: Sequence[Tap], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor]]:
    features: dict[str, Tensor] = {}
    handles = []
    try:
        for tap in taps:
            modules = _tapped(module, tap)
            _check_not_compiled(modules, tap)
            hook = _Hook(tap, features, get_ident())
            add = modules[-1].register_forward_pre_hook if tap.input else modules[-1].register_forward_hook
            handles.append(add(hook, with_kwargs=True))
        returned = module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return returned, _all_of(taps, features)


def _capture_traced(
    module: nn.Module, taps: Sequence[Tap], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor]]:
    """The same in words that torch.compile can follow, which takes no calls of register_forward_hook."""
    features: dict[str, Tensor] = {}
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for tap in taps:
            target, hook = _tapped(module, tap)[-1], _Hook(tap, features, None)
            kind = "_forward_pre_hooks" if tap.input else "_forward_hooks"
            for name, value in ((kind, hook), (f"{kind}_with_kwargs", True)):
                there = getattr(target, name)
                before.append((target, name, there))
                setattr(target, name, {**there, tap.label: value})
        returned = module(*args, **kwargs)
    finally:
        for target, name, there in reversed(before):
            setattr(target, name, there)
    return returned, _all_of(taps, features)


class _Hook:
    """Notes one feature of one forward, in the thread of that forward."""

    def __init__(self, tap: Tap, features: dict[str, Tensor], thread: int | None) -> None:
        self.tap, self.features, self.thread = tap, features, thread
        # Code that is being compiled is not asked: a warning would break it in two.
        self.gradient = thread is not None and torch.is_grad_enabled()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        # Replicas of a module share its hooks, so those of another thread fire here too.
        if self.thread is not None and self.thread != get_ident():
            return
        tap = self.tap
        if tap.name in self.features:
            raise ValueError(
                f"{tap.label}: {tap.path!r} was called twice in one forward, expected once; tap the module around it, "
                "or one that is called once"
            )
        value = _first(args, *rest) if tap.input else rest[-1]
        if self.gradient and not torch.is_grad_enabled():
            warnings.warn(
                f"{tap.label}: {tap.path!r} ran without gradient although the network ran with it, so nothing learns "
                "from this feature; if it is in an activation checkpoint, give that use_reentrant=False",
                stacklevel=2,
            )
        # A copy: what comes next may change it in place.
        self.features[tap.name] = _tensor(value, tap).clone()


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def tensor_in(value: Any) -> Tensor | None:
    """The tensor that a module's output stands for: itself, its `last_hidden_state`, or the first of several."""
    hidden = getattr(value, "last_hidden_state", None)
    if isinstance(hidden, Tensor):
        return hidden
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def _tensor(value: Any, tap: Tap) -> Tensor:
    found = tensor_in(value)
    if found is None:
        raise TypeError(
            f"{tap.label}: {tap.path!r} {'got' if tap.input else 'gave'} {type(value).__name__}, expected a tensor, "
            "a tuple that starts with one, or an output with a tensor `.last_hidden_state`"
        )
    if found.is_nested:
        raise ValueError(
            f"{tap.label}: {tap.path!r} gave a nested tensor, which torch's encoder makes of padding in eval mode, "
            "expected a plain one; build nn.TransformerEncoder with enable_nested_tensor=False"
        )
    return found


def _tapped(module: nn.Module, tap: Tap) -> list[nn.Module]:
    found = chain(module, tap.path)
    if found is None:
        raise ValueError(f"{tap.label}: {tap.path!r} was there when it was tapped and is no longer")
    return found


def _check_not_compiled(modules: Sequence[nn.Module], tap: Tap) -> None:
    inside = any("_orig_mod" in module._modules for module in modules[:-1])
    if inside or any(getattr(module, "_compiled_call_impl", None) is not None for module in modules):
        raise ValueError(
            f"{tap.label}: {tap.path!r} lies in a part that is compiled by itself and would pass its hook by; "
            "compile the whole: torch.compile(Taps(net, ...))"
        )


def _all_of(taps: Sequence[Tap], features: dict[str, Tensor]) -> dict[str, Tensor]:
    for tap in taps:
        if tap.name not in features:
            raise ValueError(
                f"{tap.label}: {tap.path!r} was not called in this forward, expected once, as a module; its hook is "
                "passed by where only its weights are used, in TorchScript, in another thread, and in code that "
                "torch.compile made before (torch.compiler.reset() forgets it)"
            )
    return {tap.name: features[tap.name] for tap in taps}
