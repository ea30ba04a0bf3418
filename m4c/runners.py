"""Run an artifact on numpy arrays: ONNX Runtime and LiteRT behind one small interface. Imports no torch."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from m4c.errors import BundleError, UnsupportedError, UsageError
from m4c.slots import is_factor, with_factors

Array = np.ndarray


class Runner(Protocol):
    """Something that computes named outputs from named inputs."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; integer artifacts take and give float32 where the source model does."""
        ...


def open_runner(
    path: Path, threads: int = 0, *, mapped: bool = False, signature: str | None = None
) -> Runner:
    """Open an artifact by its suffix; ``threads`` 0 means the runtime's own choice.

    ``signature`` is which of a TFLite file is meant; it may be left out where there is one.

    ``mapped`` leaves weights in their file, for a check of a model of any size; without it a runtime may copy them into the
    layout that it computes fastest with.
    """
    if path.suffix == ".onnx":
        return OnnxRunner(path, threads, mapped=mapped)
    if path.suffix == ".tflite":
        return TfliteRunner(path, threads, signature=signature)
    raise UsageError(f"{path} is neither .onnx nor .tflite", fix="give an artifact of a bundle")


def host_file(path: Path) -> Path:
    """Return where the host's part of the artifact at ``path`` is, if it has one: what the CPU does before it."""
    return path.with_suffix(f".host{path.suffix}")


def open_runners(path: Path, signatures: Sequence[str], adapter: Path | None = None) -> list[Runner]:
    """Open an artifact by each of ``signatures``, of which an ONNX file has one without a name; it is loaded once.

    ``adapter`` is the file of the adapter that it runs with.
    """
    if path.suffix != ".tflite":
        runner = OnnxRunner(path)
        runner.use(adapter)
        return [runner]
    first = TfliteRunner(path, signature=signatures[0] or None)
    first.use(adapter)
    return [first, *(first.also(signature) for signature in signatures[1:])]


class OnnxRunner:
    """A model in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int = 0, *, mapped: bool = False) -> None:
        """Load ``path``; ``mapped`` keeps ONNX Runtime from packing its weights anew in memory."""
        import onnxruntime  # here, so that TFLite bundles need not load it

        self._path = path
        options = onnxruntime.SessionOptions()
        if mapped:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no narrower base of its errors
            raise BundleError(
                f"ONNX Runtime does not load it: {error}", where=str(path), fix="export it again"
            ) from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._adapter: tuple[Any, Any] | None = None

    def use(self, adapter: Path | None) -> None:
        """Take the factors in the file ``adapter`` from the next run on, or none; the model is not loaded again.

        Raises:
            BundleError: if the file is no adapter.
        """
        import onnxruntime

        self._adapter = None
        if adapter is None:
            return
        loaded, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
        try:
            loaded.Load(str(adapter))
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime does not load it: {error}", where=str(adapter), fix="export it again"
            ) from error
        options.add_active_adapter(loaded)
        self._adapter = options, loaded  # the options do not keep the adapter alive

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        try:
            options = self._adapter[0] if self._adapter else None
            made: Sequence[Array] = self._session.run(self._outputs, dict(inputs), options)
        except Exception as error:
            raise UsageError(
                f"ONNX Runtime does not run it: {error}",
                where=str(self._path),
                fix="give the inputs that it names, in their dtypes and shapes",
            ) from error
        return dict(zip(self._outputs, made, strict=True))


class TfliteRunner:
    """A model in LiteRT on the CPU, by its signature; int8 inputs and outputs are converted from and to float32."""

    def __init__(
        self, path: Path, threads: int = 0, *, keep_all: bool = False, signature: str | None = None
    ) -> None:
        """Load ``path``; ``keep_all`` keeps intermediate tensors readable, without XNNPACK.

        Raises:
            BundleError: if it does not load, or lacks the ``signature``.
            UnsupportedError: if no signature was asked for, and it has several.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._path = path
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if keep_all else OpResolverType.AUTO
        try:
            self.interpreter: Any = Interpreter(
                model_path=str(path),
                num_threads=threads or None,
                experimental_preserve_all_tensors=keep_all,
                experimental_op_resolver_type=resolver,
            )
            self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"LiteRT does not load it: {error}", where=str(path), fix="export it again"
            ) from error
        names = list(self.interpreter.get_signature_list())
        if signature is None and len(names) != 1:
            raise UnsupportedError(f"{path} has {len(names)} signatures, one is needed", where=str(path))
        self._signature = self._find(names[0] if signature is None else signature)
        before = host_file(path)
        self._before = TfliteRunner(before, threads, keep_all=keep_all) if before.is_file() else None
        self._adapter: dict[str, Array] = {}

    def use(self, adapter: Path | None) -> None:
        """Take the factors in the file ``adapter`` from the next run on, or none; the model is not loaded again.

        All signatures of the file that :meth:`also` opened run with it.

        Raises:
            BundleError: if the file is no adapter, or has what the signature does not take.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self._adapter.clear()
        if adapter is None:
            return
        try:
            found = load_file(adapter)
        except (OSError, SafetensorError) as error:
            raise BundleError(
                f"not a readable adapter: {error}", where=str(adapter), fix="export it again"
            ) from error
        shapes = self._shapes()
        for name, factor in with_factors(found, {n: shapes[n] for n in found if n in shapes}).items():
            if not is_factor(name) or factor.shape != shapes.get(name):
                raise BundleError(
                    f"{name} {list(found[name].shape)} fits no slot of {self._path.name}",
                    where=str(adapter),
                    fix="export the base with this adapter, so that it gets the slots",
                )
            self._adapter[name] = factor

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs of the file's own."""
        return {n: tuple(map(int, d["shape"])) for n, d in self._signature.get_input_details().items()}

    def _find(self, signature: str) -> Any:
        names = sorted(self.interpreter.get_signature_list())
        if signature not in names:
            raise BundleError(
                f"the file has no signature {signature}",
                where=str(self._path),
                fix=f"it has {', '.join(names) or 'none'}",
            )
        return self.interpreter.get_signature_runner(signature)

    def also(self, signature: str) -> "TfliteRunner":
        """Return a runner of another signature of the same file, which is not loaded again."""
        other = copy.copy(self)
        other._signature = self._find(signature)
        return other

    def tensors(self) -> Iterator[tuple[Mapping[str, Any], Array]]:
        """Yield the details and the values of every tensor of the signature that has values, as the last run left them."""
        graph = self._signature._subgraph_index  # LiteRT has no public name for it
        for detail in self.interpreter.get_tensor_details(graph):
            try:
                value = self.interpreter.get_tensor(detail["index"], graph)
            except ValueError:  # a tensor without data: a temporary of a kernel
                continue
            yield detail, value
        if self._before is not None:
            yield from self._before.tensors()

    @property
    def inputs(self) -> set[str]:
        """The names of what :meth:`run` takes: the host's part has inputs of its own, and factors may be left out."""
        own = {name for name in self._signature.get_input_details() if not is_factor(name)}
        if self._before is None:
            return own
        return (own - set(self._before._signature.get_output_details())) | self._before.inputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; factors of an adapter may be among ``inputs``, instead of those in use."""
        details, factors = (
            self._signature.get_input_details(),
            {n: v for n, v in inputs.items() if is_factor(n)},
        )
        inputs = {name: value for name, value in inputs.items() if name not in factors}
        if set(inputs) != self.inputs or not factors.keys() <= details.keys():
            raise UsageError(
                f"the inputs are {', '.join(sorted(self.inputs))}, given were {', '.join(sorted(inputs))}",
                where=str(self._path),
                fix="give each by its name",
            )
        given = with_factors({**inputs, **(factors or self._adapter)}, self._shapes())
        if self._before is not None:
            given |= self._before.run({name: given[name] for name in self._before.inputs})
        stored = {name: to_stored(given[name], detail) for name, detail in details.items()}
        try:
            made = self._signature(**stored)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"LiteRT does not run it: {error}",
                where=str(self._path),
                fix="give each input in its dtype and shape",
            ) from error
        wanted = self._signature.get_output_details()
        return {name: from_stored(value, wanted[name]) for name, value in made.items()}


def to_stored(value: Array, detail: Mapping[str, Any]) -> Array:
    """Convert an input to the dtype of its tensor: round to its scale, or narrow int64 to int32."""
    scale, zero_point = detail["quantization"]
    kind = np.dtype(detail["dtype"])
    if scale and value.dtype.kind == "f" and kind.kind in "iu":
        limits = np.iinfo(kind)
        rounded = np.clip(np.rint(value / scale) + zero_point, limits.min, limits.max)
        return np.asarray(rounded, kind)
    return value.astype(kind)


def from_stored(value: Array, detail: Mapping[str, Any]) -> Array:
    """Convert an output to float32 where its tensor has a scale, and int32 to int64."""
    scale, zero_point = detail["quantization"]
    if scale and value.dtype.kind in "iu":
        return np.asarray((value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale))
    return value.astype(np.int64) if value.dtype == np.int32 else value
