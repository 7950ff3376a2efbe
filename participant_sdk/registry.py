"""The operations of a participant: registered once, checked then, and called by name ever after."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any

from participant_sdk.border import Raised, called
from participant_sdk.codec import Coded
from participant_sdk.context import current_scope
from participant_sdk.core.work import Keys
from participant_sdk.lock_keys import UNDECLARED, LockKey, Locks, NoLocks, reads_only, sorted_keys, without_keys, wrong_keys
from participant_sdk.tracing import operation_around
from participant_sdk.typed import Check, Mistyped, UnsupportedAnnotation, compile_annotation
from troth import tracing
from troth.errors import ConfigError, Reason, RequestError
from troth.ids import check_name
from troth.log.sealing import MAGIC, key_of
from troth.logs import get_logger
from troth.v1 import common_pb2
from troth.values import decode_arguments, decode_value

BOUND_KEPT_MAX = 4096
"""Operations whose arguments are kept from the look at their lock keys to their run."""
BOUND_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of their arguments."""


_log = get_logger("participant_sdk.registry")


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """One registered operation."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    checks: Mapping[str, Check]
    """The check of each parameter."""
    defaults: Mapping[str, Any]
    """The defaults of the parameters that have one."""
    locks: Callable[[Mapping[str, Any]], Iterable[LockKey]]
    """The declared keys for checked arguments, as the author's function returned them."""
    whole_without_keys: bool = False
    """Whether no keys mean the whole resource; see `Registry.undecided_seen`."""

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments that the function is called with. Raises `RequestError` (BAD_ARGUMENTS)."""
        mistakes = [] if arguments.keys() == self.checks.keys() else self._misnamed(arguments)
        bound = dict(self.defaults)
        for name, value in arguments.items():
            check = self.checks.get(name)
            if check is not None:
                try:
                    bound[name] = check(value, name)
                except Mistyped as mistyped:
                    mistakes.append(str(mistyped))
        if mistakes:
            raise RequestError(Reason.BAD_ARGUMENTS, f"{self.name}: {'; '.join(mistakes)}")
        return bound

    def keys(self, bound: Mapping[str, Any]) -> Sequence[LockKey]:
        """The lock keys for bound arguments. Raises `RequestError` (OPERATION_FAILED)."""
        keys: Any = called(lambda: self.locks(bound))
        if isinstance(keys, Raised):
            _log.error("locks function failed", operation=self.name, exc_info=keys.error)
            raise self._bad_locks(f"raised {type(keys.error).__name__}")
        if wrong := wrong_keys(keys):
            raise self._bad_locks(f"returned {wrong}")
        named: Sequence[LockKey] = keys
        return named or without_keys(named, self.whole_without_keys)

    def _misnamed(self, arguments: Mapping[str, Any]) -> list[str]:
        missing = [name for name in self.checks if name not in arguments and name not in self.defaults]
        unexpected = [name[:80] for name in arguments if name not in self.checks]
        mistakes = []
        if missing:
            mistakes.append(f"missing {', '.join(missing)}")
        if unexpected:
            mistakes.append(f"unexpected {', '.join(unexpected)} (it takes {', '.join(self.checks) or 'none'})")
        return mistakes

    def _bad_locks(self, what: str) -> RequestError:
        return RequestError(Reason.OPERATION_FAILED, f"the locks function of {self.name} {what}")


@dataclass(slots=True)
class BoundOperation:
    """One operation with its checked arguments: ready to run."""

    spec: OperationSpec
    arguments: dict[str, Any]
    encoded: bytes
    """The arguments as they came."""
    declared: Sequence[LockKey]
    """Its lock keys."""
    caller: str = ""
    """Who began the transaction, as the coordinator says."""
    around: AbstractContextManager[Any] | None = None
    """Its span, where it is traced."""
    encode: Callable[[Any, str], Any] | None = None
    """Makes of what it returned what goes out, where payload is encoded."""

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.spec.name

    @property
    def reads_only(self) -> bool:
        """Whether its author said that it changes nothing, by keys that are all shared."""
        return reads_only(self.declared)

    def __call__(self, resource: Any) -> Any:
        """Run it; an `async def` returns its coroutine. Raises whatever the author's function raises, and what `encode` raises."""
        if not self.caller and self.around is None and self.encode is None:
            return self.spec.function(resource, **self.arguments)
        if self.spec.is_async:
            return self._within(self.spec.function(resource, **self.arguments))
        with self._surrounded():
            result = self.spec.function(resource, **self.arguments)
        return self._within(result) if inspect.isawaitable(result) else self._out(result)

    async def _within(self, result: Awaitable[Any]) -> Any:
        """The same, of a coroutine: it runs in a task, whose context is its own."""
        with self._surrounded():
            return self._out(await result)

    def _out(self, result: Any) -> Any:
        return result if self.encode is None else self.encode(result, self.spec.name)

    @contextmanager
    def _surrounded(self) -> Iterator[None]:
        before = _caller.set(self.caller)
        around, self.around = self.around, None
        try:
            with nullcontext() if around is None else around:
                yield
        finally:
            _caller.reset(before)


_caller: ContextVar[str] = ContextVar("troth_caller", default="")


def current_caller() -> str:
    """The identity that began the transaction, such as `spiffe://example.org/web`, as the coordinator knows it and no client can
    say otherwise. One-shot work brings it along. In a call of interactive work the handler, and the operations that it runs, know
    it once it was asked for with `participant.branch().caller()`. Empty before that, outside of transactions, and where the
    coordinator has no policy.
    """
    scope = current_scope()
    return _caller.get() or (scope.caller if scope is not None else "")


@dataclass(slots=True)
class Registry:
    """The operations of one participant, by name.

    `async_reason` refuses `async def`: it says why the resource cannot run them; empty when it can. `plain_reason` refuses `def`.
    `coded` is where arguments come encoded, and results go so; `participant` is what they are of then.
    """

    async_reason: str = ""
    plain_reason: str = ""
    undecided_seen: bool = False
    """Whether the resource shows undecided rows to whoever has no lock against it; then no keys are the whole resource."""
    isolated: bool = False
    """Whether the resource keeps branches apart by itself; then an operation that declares nothing takes no keys."""
    coded: Coded | None = None
    participant: str = ""
    _specs: dict[str, OperationSpec] = field(default_factory=dict)
    _names: dict[Callable[..., Any], str] = field(default_factory=dict)
    _hidden: set[str] = field(default_factory=set)
    _closed: bool = False
    _bound: dict[tuple[str, bytes], BoundOperation] = field(default_factory=dict)
    """What `keys` has decoded and `bind` has not asked for yet. Each is given out once: functions may change their arguments."""
    _bound_bytes: int = 0
    """Bytes of their arguments, as they came."""

    def add(
        self, function: Callable[..., Any], *, name: str = "", locks: Locks | None = None, hidden: bool = False
    ) -> OperationSpec:
        """Register a function; one that is `hidden` is offered to nobody.

        Raises `ConfigError` when it cannot be an operation; nothing has changed then.
        """
        if not inspect.isfunction(function):
            raise ConfigError(f"{function!r} is no function", hint="Register a def or an async def.")
        name = _operation_name(name or function.__name__)
        if self._closed:
            raise ConfigError(f"operation {name}: the participant has started", hint="Register operations before.")
        if name in self._specs:
            raise ConfigError(f"operation {name} is registered twice", hint="Give one of them another name.")
        is_async = inspect.iscoroutinefunction(function)
        if is_async and self.async_reason:
            raise ConfigError(f"operation {name} is async def: {self.async_reason}", hint="Write it as a plain def.")
        if not is_async and self.plain_reason:
            raise ConfigError(f"operation {name} is a plain def: {self.plain_reason}", hint="Write it as an async def.")
        checks, defaults = _parameters(name, function)
        lock_function = _lock_function(name, [] if locks is None and self.isolated else locks, checks)
        spec = OperationSpec(name, function, is_async, checks, defaults, lock_function, self.undecided_seen)
        self._specs[name] = spec
        self._names[function] = name
        if hidden:
            self._hidden.add(name)
        return spec

    def close(self) -> None:
        """Take no more operations: their names are about to be told to the coordinator."""
        self._closed = True

    def names(self) -> list[str]:
        """All names that are offered, sorted."""
        return sorted(self._specs.keys() - self._hidden)

    def name_of(self, operation: str | Callable[..., Any]) -> str:
        """The name of an operation given by name or as its function. Raises `RequestError` (UNKNOWN_OPERATION)."""
        if not isinstance(operation, str):
            if operation not in self._names:
                raise _unknown(getattr(operation, "__name__", str(operation)), self.names())
            return self._names[operation]
        if operation not in self._specs:
            raise _unknown(operation, self.names())
        return operation

    def bind(self, operation: common_pb2.Operation) -> BoundOperation:
        """Look up and check one operation as it came over the wire.

        Raises `RequestError` (UNKNOWN_OPERATION, BAD_ARGUMENTS, OPERATION_FAILED).
        """
        name, arguments = operation.name, operation.arguments
        bound = self._bound.pop((name, arguments), None)
        if bound is None:
            bound = self._decode(name, arguments)
        else:
            self._bound_bytes -= len(arguments)
        bound.caller = operation.caller
        if tracing.spans is not None:
            bound.around = operation_around(name)
        return bound

    def _decode(self, name: str, arguments: bytes) -> BoundOperation:
        spec = self._specs.get(name)
        if spec is None:
            raise _unknown(name, self.names())
        bound = spec.bind(self.arguments(name, arguments))
        return BoundOperation(spec, bound, arguments, spec.keys(bound), encode=None if self.coded is None else self._encoded)

    # ---- what is on the way

    def arguments(self, operation: str, data: bytes) -> dict[str, Any]:
        """The arguments of an operation, as they came or stand in the log. Raises `RequestError` (BAD_ARGUMENTS,
        PAYLOAD_UNREADABLE; PAYLOAD_KEY_MISSING where the log has them sealed)."""
        if data.startswith(MAGIC) and (key := key_of(data)):
            text = f"the arguments of {operation} are sealed with the payload key {key}, which is not there"
            raise RequestError(Reason.PAYLOAD_KEY_MISSING, text)
        if self.coded is None:
            return decode_arguments(data)
        return self.coded.decoded_arguments(self.participant, operation, data)

    def on_the_way(self, operation: str, data: bytes) -> bytes:
        """Arguments of this service's own calls, as those of a client would come."""
        return data if self.coded is None else self.coded.encoded_arguments(self.participant, operation, data)

    def result(self, value: common_pb2.Value | None) -> tuple[Any, RequestError | None]:
        """What an operation returned, for this service's own calls; or why nobody can say."""
        assert value is not None, "what has not failed has returned something"
        try:
            return decode_value(value) if self.coded is None else self.coded.decoded_result(self.participant, value), None
        except RequestError as error:
            return None, error

    def _encoded(self, value: Any, operation: str) -> Any:
        assert self.coded is not None
        return self.coded.encoded_result(self.participant, value, operation)

    def keys(self, operations: Iterable[common_pb2.Operation]) -> Keys:
        """The lock keys of operations. Raises `RequestError` (UNKNOWN_OPERATION, BAD_ARGUMENTS, OPERATION_FAILED)."""
        keys: list[LockKey] = []
        if len(self._bound) >= BOUND_KEPT_MAX or self._bound_bytes >= BOUND_BYTES_MAX:
            self._bound.clear()  # of operations that never ran: refused ones, and those that died waiting for locks
            self._bound_bytes = 0
        for operation in operations:
            name, arguments = operation.name, operation.arguments
            bound = self._decode(name, arguments)
            if (name, arguments) not in self._bound:
                self._bound_bytes += len(arguments)
            self._bound[name, arguments] = bound
            keys.extend(bound.declared)
        return sorted_keys(keys)

    def undeclared(self, operations: Iterable[common_pb2.Operation]) -> tuple[str, ...]:
        """Those operations, just after `keys` of them, that have the whole resource because they declare no keys."""
        found = (self._bound.get((one.name, one.arguments)) for one in operations)
        return tuple(one.name for one in found if one is not None and one.declared is UNDECLARED)


# ---- what is checked at registration


def _operation_name(name: str) -> str:
    try:
        return check_name("operation", name)
    except RequestError as error:
        raise ConfigError(error.message, hint="Pass name= to operation().") from None


def _parameters(name: str, function: Callable[..., Any]) -> tuple[dict[str, Check], dict[str, Any]]:
    """The checks and the defaults of an operation's keyword parameters."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        raise _bad_signature(name, "has no positional parameter for the resource")
    hints = _hints(name, function)
    checks: dict[str, Check] = {}
    defaults: dict[str, Any] = {}
    for parameter in parameters[1:]:
        checks[parameter.name] = _check_of(name, parameter, hints)
        if parameter.default is not Parameter.empty:
            defaults[parameter.name] = parameter.default
    return checks, defaults


def _check_of(name: str, parameter: Parameter, hints: Mapping[str, Any]) -> Check:
    if parameter.kind is not Parameter.KEYWORD_ONLY:
        raise _bad_signature(name, f"has the parameter {parameter}, which is not keyword-only")
    if parameter.name not in hints:
        raise _bad_signature(name, f"has the parameter {parameter.name} without a type")
    try:
        return compile_annotation(hints[parameter.name])
    except UnsupportedAnnotation as error:
        raise ConfigError(
            f"operation {name}: parameter {parameter.name} has the type {error}, which cannot travel",
            hint="Use int, float, str, bool, bytes, Decimal, list[...], dict[str, ...], unions of these, or Any.",
        ) from None


def _hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    # Only the keyword-only parameters matter; the type of the resource parameter may be there for type checkers alone.
    own = {
        parameter.name: parameter.annotation
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY and parameter.annotation is not Parameter.empty
    }
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=own), globalns=function.__globals__)
    except NameError as error:
        raise _bad_signature(name, f"has a type that is not known in its module: {error}") from None


def _bad_signature(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"operation {name} {what}", hint="Write it as: def debit(db, *, account: str, amount: int) -> int."
    )


def _lock_function(
    name: str, locks: Locks | None, checks: Mapping[str, Check]
) -> Callable[[Mapping[str, Any]], Iterable[LockKey]]:
    """The author's lock declaration as a function of all bound arguments."""
    if locks is None:
        return lambda bound: UNDECLARED
    if not callable(locks):
        fixed = _fixed_locks(name, locks)
        return lambda bound: fixed
    function = locks
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return lambda bound: function(**bound)
    wanted = [parameter.name for parameter in parameters]
    strangers = [one for one in wanted if one not in checks]
    if strangers:
        raise ConfigError(
            f"operation {name}: its locks function takes {', '.join(strangers)}, which the operation does not",
            hint="Name its parameters after the operation's.",
        )
    return lambda bound: function(**{one: bound[one] for one in wanted})


def _fixed_locks(name: str, locks: Sequence[LockKey]) -> Sequence[LockKey]:
    if wrong := wrong_keys(locks):
        raise ConfigError(
            f"operation {name}: locks must be a list of keys or a function: it is {wrong}",
            hint='For example ["stock"], or ["stock", Read("prices")].',
        )
    return locks if isinstance(locks, NoLocks) else tuple(locks)


def _unknown(name: str, known: list[str]) -> RequestError:
    return RequestError(
        Reason.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r} here; there are: {', '.join(known) or 'none'}"
    )
