"""The eager function of an op, generated from its declaration: one look-up on the warm path, one frame, no checks in
front.

What a rule needs is read off its parameter names: `g` (or `g_<result>`), operands, results, aux values, attributes,
`shape_<operand>`, `dtype_<operand>`, `need`. Only what an active group of operands needs is saved.

    def mul(a, b):                                   def mul_grad(n, g):
        ... kernel, sig = a.sig.mul[b.sig]               a, va, b, vb, sa, sb = n[4:]
        out = kernel(a.storage, b.storage)               return rule_a(g, b, sa.shape), rule_b(g, a, sb.shape)
        n = [ID(), RULE, na, nb, a, a._version, ...]
"""

import inspect
import types
from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.eager import resolve as resolving
from treadle.op import INTERPRETER, REQUIRED, STATE, Op
from treadle.tape import EDGES, STALE, Rule, modified

NUMBER = "({0}.__class__ is float or {0}.__class__ is int)"


class Group:
    """One entry of `vjp`: operand indices, the rule, and the names of what it wants."""

    def __init__(self, op: Op, names: str, rule: Any) -> None:
        order = [i.name for i in op.inputs]
        self.indices = [order.index(n) for n in names.split()]
        self.rule = rule
        if isinstance(rule, Op):
            self.wants = [i.name for i in rule.inputs]
            self.by_keyword = [a for a in rule.attrs if a in op.attrs]
        else:
            self.wants = list(inspect.signature(rule).parameters)
            self.by_keyword = []


class Saved:
    """One saved item of a node: its name, how many slots it takes, and which groups need it."""

    def __init__(self, name: str, kind: str, groups: set[int]) -> None:
        self.name, self.kind, self.groups, self.slot = name, kind, groups, -1

    @property
    def width(self) -> int:
        return 2 if self.kind in ("operand", "result", "aux") else 1


class Plan:
    """What the generated pair of functions of one op has to do."""

    def __init__(self, op: Op, numbers: frozenset[int] = frozenset()) -> None:
        self.op = op
        self.numbers = numbers  # operands that are Python numbers in this variant
        self.names = [i.name for i in op.inputs]
        self.groups = [Group(op, names, rule) for names, rule in (op.vjp or {}).items()]
        self.edges = [
            k
            for k, i in enumerate(op.inputs)
            if any(k in g.indices for g in self.groups) and k not in numbers and not i.number
        ]
        self.groups = [g for g in self.groups if any(k in self.edges for k in g.indices)]
        self.saved: dict[str, Saved] = {}
        for k, group in enumerate(self.groups):
            for name in [*group.wants, *group.by_keyword]:
                self._save(name, k)
        if any(item.kind == "aux" for item in self.saved.values()):
            users = set().union(*(item.groups for item in self.saved.values() if item.kind == "aux"))
            for name in [i.name for i in op.aux.inputs] + list(op.aux.attrs):
                for k in users:
                    self._save(name, k)
        slot = EDGES + len(self.edges)
        for item in self.saved.values():
            item.slot = slot
            slot += item.width

    def _save(self, name: str, group: int) -> None:
        op = self.op
        if (
            name == "need"
            or (name == "g" and "g" not in self.names)
            or (name.startswith("g_") and name[2:] in op.results)
        ):
            return
        prefix, _, rest = name.partition("_")
        if name in self.names:
            kind = "number" if self.names.index(name) in self.numbers else "operand"
        elif prefix in ("shape", "dtype") and rest in self.names:
            kind = "sig"
        elif name in op.results:
            kind = "result"
        elif name in op.aux_names:
            kind = "aux"
        elif name in op.attrs:
            kind = "attr"
        else:
            raise ValueError(
                f"op {op.name}: a gradient rule wants {name!r}, which is no operand, result, aux value or attribute"
            )
        key = f"sig_{rest}" if kind == "sig" else name
        self.saved.setdefault(key, Saved(rest if kind == "sig" else name, kind, set())).groups.add(group)

    # ---- text ------------------------------------------------------------------------------------------------------
    @property
    def incoming(self) -> str:
        """The variable of the gradient that arrives: in ops with an operand `g` (gradients themselves) it has another
        name."""
        return "g_" if "g" in self.names else "g"

    def condition(self, groups: set[int]) -> str:
        """When an item must be saved: '' for always (every recorded call has an active group of these)."""
        operands = sorted({k for g in groups for k in self.groups[g].indices if k in self.edges})
        return "" if operands == self.edges else " or ".join(f"n{k} is not None" for k in operands)

    def saving(self, item: Saved) -> str:
        """The slots of one item, as text inside the node's list display."""
        when = self.condition(item.groups)

        def guard(text: str) -> str:
            return f"{text} if {when} else None" if when else text

        if item.kind == "operand":
            k = self.names.index(item.name)
            operand = self.op.inputs[k]
            version = f"getattr({item.name}, '_version', None)" if self.maybe_number(k) else f"{item.name}._version"
            if operand.optional:
                return f"{guard(item.name)}, None if {item.name} is None else {version}"
            return f"{guard(item.name)}, {version}"
        if item.kind == "sig":
            k = self.names.index(item.name)
            optional = self.op.inputs[k].optional
            if self.maybe_number(k):
                return f"getattr({item.name}, 'sig', None)"
            return (
                "None"
                if k in self.numbers
                else f"None if {item.name} is None else {item.name}.sig"
                if optional
                else f"{item.name}.sig"
            )
        if item.kind == "result":
            k = self.op.results.index(item.name)
            return f"{guard(self.result(k))}, {self.result_sig(k)}"
        if item.kind == "aux":
            k = len(self.op.results) + self.op.aux_names.index(item.name)
            return f"out[{k}], sig[{k}]"
        return item.name

    def maybe_number(self, k: int) -> bool:
        """Whether operand k of this function may turn out to be a Python number."""
        return self.op.category == "elementwise" and k > 0

    @property
    def several(self) -> bool:
        return len(self.op.results) > 1

    def result(self, k: int) -> str:
        return f"out[{k}]" if self.several or self.op.aux else "out"

    def result_sig(self, k: int) -> str:
        return f"sig[{k}]" if self.several or self.op.aux else "sig"


def backward_source(plan: Plan) -> str:
    """Text of `def backward(n, g)`: version checks, then one rule call per active group."""
    op, lines = plan.op, [f"def backward(n, {plan.incoming}):"]
    for item in plan.saved.values():
        s = item.slot
        if item.kind == "operand":
            lines.append(f"    {item.name} = n[{s}]")
            known = f"n[{s + 1}]" if plan.maybe_number(plan.names.index(item.name)) else item.name
            lines.append(
                f"    if {item.name} is not None and {known} is not None and {item.name}._version != "
                f"n[{s + 1}]: raise modified({op.name!r}, 'operand {item.name}')"
            )
        elif item.kind == "result":
            k = op.results.index(item.name)
            lines.append(f"    if n[{s}] is STALE: raise modified({op.name!r}, 'result')")
            node = f"(n, {k})" if plan.several else "n"
            lines.append(
                f"    {item.name} = None if n[{s}] is None else Tensor(n[{s}], n[{s + 1}], {node} if GRAD() else None)"
            )
        elif item.kind in ("attr", "number"):
            lines.append(f"    {item.name} = n[{s}]")
    aux = [item for item in plan.saved.values() if item.kind == "aux"]
    if aux:
        known = " or ".join(f"n[{item.slot}] is None" for item in aux)
        inputs = ", ".join([i.name for i in op.aux.inputs] + [f"{a}={a}" for a in op.aux.attrs])
        target = ", ".join(op.aux_names)
        lines.append(f"    if GRAD() or {known}: {target} = AUX({inputs})")
        lines.append("    else:")
        lines += [f"        {item.name} = Tensor(n[{item.slot}], n[{item.slot + 1}], None)" for item in aux]
    lines += [f"    r{k} = None" for k in plan.edges]
    for number, group in enumerate(plan.groups):
        lines += _group_source(plan, number, group)
    lines.append(f"    return ({''.join(f'r{k}, ' for k in plan.edges)})")
    return "\n".join(lines)


def _group_source(plan: Plan, number: int, group: Group) -> list[str]:
    op = plan.op

    def value(name: str) -> str:
        if name == "g" and "g" not in plan.names:
            return "g"
        if name == "need":
            return f"({''.join(f'{active(k)}, ' for k in group.indices)})"
        if name.startswith("g_") and name[2:] in op.results:
            return f"{plan.incoming}[{op.results.index(name[2:])}]" if plan.several else plan.incoming
        prefix, _, rest = name.partition("_")
        if prefix in ("shape", "dtype") and rest in plan.names:
            return f"n[{plan.saved[f'sig_{rest}'].slot}].{prefix}"
        return name

    def active(k: int) -> str:
        return f"n[{EDGES + plan.edges.index(k)}] is not None" if k in plan.edges else "False"

    values = ", ".join([value(n) for n in group.wants] + [f"{a}={a}" for a in group.by_keyword])
    if isinstance(group.rule, Op) and group.rule.partial:
        values += f", want={value('need')}"
    present = [k for k in group.indices if k in plan.edges]
    targets = ", ".join(f"r{k}" if k in plan.edges else "_" for k in group.indices)
    test = " or ".join(active(k) for k in present)
    return [f"    if {test}: {targets} = RULE{number}({values})"]


def forward_source(plan: Plan, name: str, row: str) -> str:
    """Text of the eager function for operands that are tensors (or None, or Python numbers where the op takes them)."""
    op = plan.op
    parameters = [f"{i.name}=None" if i.optional and _tail_optional(op, k) else i.name for k, i in enumerate(op.inputs)]
    parameters += [a if d is REQUIRED else f"{a}=ATTR_{a}" for a, d in op.attrs.items()]
    head = f"def {name}({', '.join(_ordered(parameters))}{', want=None' if op.partial else ''}):"
    operands, attrs = _tuple(plan.names), _tuple([*op.attrs] + (["want"] if op.partial else []))
    lines = [
        head,
        "    if STATE.special:",
        "        _i = INTERPRETER.get()",
        f"        if _i is not None: return _i(OP, {operands}, {attrs})",
    ]
    if op.category == "binary":
        lines += _binary_source(op, row, operands)
        return "\n".join(lines)
    lines += _general_source(plan, row, operands, attrs)
    return "\n".join(lines)


def _guarded(attempt: str, failures: str, fallback: str, body: list[str]) -> list[str]:
    """try the row.

    The body runs when it was there, the fallback (outside of the handler: no chained traceback) when not.
    """
    inner = ["    " + line for line in body]
    return [f"    try: {attempt}", f"    except ({failures}): pass", "    else:", *inner, f"    return {fallback}"]


MISS = "KeyError, AttributeError"
MISS_OR_UNHASHABLE = "KeyError, AttributeError, TypeError"


def _tail_optional(op: Op, k: int) -> bool:
    return all(i.optional for i in op.inputs[k:])


def _ordered(parameters: list[str]) -> list[str]:
    """Defaults after a parameter without one would be a syntax error: such attributes become keyword-only."""
    seen_default, out = False, []
    for p in parameters:
        if "=" in p:
            seen_default = True
        elif seen_default and "*" not in out:
            out.append("*")
        out.append(p)
    return out


def _tuple(names: list[str]) -> str:
    return f"({''.join(f'{n}, ' for n in names)})"


def _binary_source(op: Op, row: str, operands: str) -> list[str]:
    a, b = (i.name for i in op.inputs)
    both, number = Plan(op), Plan(op, frozenset({1}))
    resolve = f"resolve(OP, {operands}, ())"
    with_number = _guarded(
        f"kernel, sig = {a}.sig.{row}[{b}.__class__]",
        MISS,
        resolve,
        [f"    out = kernel({a}.storage, {b})", *_record_source(number, "RULE_NUMBER")],
    )
    with_tensor = _guarded(
        f"kernel, sig = {a}.sig.{row}[{b}.sig]",
        MISS,
        resolve,
        [f"    out = kernel({a}.storage, {b}.storage)", *_record_source(both, "RULE")],
    )
    return [f"    if {NUMBER.format(b)}:", *("    " + line for line in with_number), *with_tensor]


def _record_source(plan: Plan, rule: str) -> list[str]:
    """The end of a function with one result: return it, recorded if a gradient may be wanted."""
    op = plan.op
    if not plan.edges and op.vjp is not None:
        return ["    return Tensor(out, sig, None)"]
    nodes = (
        plan.edges
        if op.vjp is not None
        else [k for k, i in enumerate(op.inputs) if k not in plan.numbers and not i.number]
    )
    lines = [
        f"    n{k} = {plan.names[k]}.node"
        if not op.inputs[k].optional
        else f"    n{k} = None if {plan.names[k]} is None else {plan.names[k]}.node"
        for k in nodes
    ]
    nothing = " and ".join(f"n{k} is None" for k in nodes)
    integer = " or sig.dtype.kind != 'f'" if op.category == "cast" else ""
    lines.append(f"    if ({nothing}) or not GRAD(){integer}: return Tensor(out, sig, None)")
    if op.vjp is None:
        return [*lines, f"    return inline(OP, {_tuple(plan.names)}, {_tuple(list(op.attrs))})"]
    return [*lines, f"    return Tensor(out, sig, {_node(plan, rule)})"]


def _node(plan: Plan, rule: str) -> str:
    parts = ["ID()", rule, *(f"n{k}" for k in plan.edges), *(plan.saving(item) for item in plan.saved.values())]
    return f"[{', '.join(parts)}]"


def _general_source(plan: Plan, row: str, operands: str, attrs: str) -> list[str]:
    op = plan.op
    lines, keys, storages = [], [], []
    numberable = op.category in ("elementwise", "binary")
    first = next(k for k, i in enumerate(op.inputs) if not i.number)
    for k, i in enumerate(op.inputs):
        n = i.name
        if i.number:
            storages.append(n)
        elif k == first:
            storages.append(f"{n}.storage")
        elif numberable:
            lines.append(f"    if {NUMBER.format(n)}: k{k} = {n}.__class__; s{k} = {n}")
            lines.append(f"    else:\n        k{k} = getattr({n}, 'sig', None); s{k} = getattr({n}, 'storage', None)")
            keys.append(f"k{k}")
            storages.append(f"s{k}")
        elif i.optional:
            keys.append(f"None if {n} is None else {n}.sig")
            storages.append(f"None if {n} is None else {n}.storage")
        else:
            keys.append(f"{n}.sig")
            storages.append(f"{n}.storage")
    keys += list(op.attrs) + (["want"] if op.partial else [])
    x = op.inputs[first].name
    key = "" if not keys else f"[{keys[0]}]" if len(keys) == 1 else f"[{', '.join(keys)}]"
    resolve = f"resolve(OP, {operands}, {attrs}"
    if op.aux:
        return lines + _aux_source(plan, row, x, key, resolve, storages)
    end = (
        _several_source(plan)
        if plan.several
        else _record_elementwise(plan)
        if numberable
        else _record_source(plan, "RULE")
    )
    body = [f"    out = kernel({', '.join(storages)})", *end]
    return lines + _guarded(f"kernel, sig = {x}.sig.{row}{key}", MISS_OR_UNHASHABLE, f"{resolve})", body)


def _record_elementwise(plan: Plan) -> list[str]:
    """Elementwise ops of three operands or more: a Python number has no node and no version."""
    op = plan.op
    if not plan.edges and op.vjp is not None:
        return ["    return Tensor(out, sig, None)"]
    nodes = plan.edges if op.vjp is not None else range(len(op.inputs))
    lines = [f"    n{k} = getattr({plan.names[k]}, 'node', None)" for k in nodes]
    nothing = " and ".join(f"n{k} is None" for k in nodes)
    lines.append(f"    if ({nothing}) or not GRAD(): return Tensor(out, sig, None)")
    if op.vjp is None:
        return [*lines, f"    return inline(OP, {_tuple(plan.names)}, {_tuple(list(op.attrs))})"]
    return [*lines, f"    return Tensor(out, sig, {_node(plan, 'RULE')})"]


def _aux_source(plan: Plan, row: str, x: str, key: str, resolve: str, storages: list[str]) -> list[str]:
    """An op whose forward may hand out aux values: the recorded call is a kernel of its own."""
    op, call = plan.op, f"kernel({', '.join(storages)})"
    lines = [
        f"    n{k} = {plan.names[k]}.node"
        if not op.inputs[k].optional
        else f"    n{k} = None if {plan.names[k]} is None else {plan.names[k]}.node"
        for k in plan.edges
    ]
    nothing = " and ".join(f"n{k} is None" for k in plan.edges)
    plain = (
        f"({''.join(f'Tensor(out[{k}], sig[{k}], None), ' for k in range(len(op.results)))})"
        if plan.several
        else "Tensor(out, sig, None)"
    )
    unrecorded = _guarded(
        f"kernel, sig = {x}.sig.{row}{key}",
        MISS_OR_UNHASHABLE,
        f"{resolve})",
        [f"    out = {call}", f"    return {plain}"],
    )
    recorded = (
        f"({''.join(f'Tensor(out[{k}], sig[{k}], (node, {k})), ' for k in range(len(op.results)))})"
        if plan.several
        else "Tensor(out[0], sig[0], node)"
    )
    body = [f"    out = {call}", f"    node = {_node(plan, 'RULE')}", f"    return {recorded}"]
    lines += [f"    if ({nothing}) or not GRAD():", *("    " + line for line in unrecorded)]
    return lines + _guarded(f"kernel, sig = {x}.sig.{row}_aux{key}", MISS_OR_UNHASHABLE, f"{resolve}, True)", body)


def _several_source(plan: Plan) -> list[str]:
    op = plan.op
    count = range(len(op.results))
    unwanted = "None if out[{0}] is None else " if op.partial else ""
    plain = "".join(unwanted.format(k) + f"Tensor(out[{k}], sig[{k}], None), " for k in count)
    if op.vjp is not None and not plan.edges:
        return [f"    return ({plain})"]
    nodes = plan.edges if op.vjp is not None else [k for k, i in enumerate(op.inputs) if not i.number]
    lines = [
        f"    n{k} = {plan.names[k]}.node"
        if not op.inputs[k].optional
        else f"    n{k} = None if {plan.names[k]} is None else {plan.names[k]}.node"
        for k in nodes
    ]
    nothing = " and ".join(f"n{k} is None" for k in nodes)
    lines.append(f"    if ({nothing}) or not GRAD(): return ({plain})")
    if op.vjp is None:
        return [*lines, f"    return inline(OP, {_tuple(plan.names)}, {_tuple(list(op.attrs))})"]
    lines.append(f"    node = {_node(plan, 'RULE')}")
    recorded = "".join(
        f"Tensor(out[{k}], sig[{k}], (node, {k}) if sig[{k}].dtype.kind == 'f' else None), " for k in count
    )
    return [*lines, f"    return ({recorded})"]


def make_rule(plan: Plan) -> Rule:
    """Compile the backward function of a plan into a Rule."""
    op = plan.op
    scope: dict[str, Any] = {
        "Tensor": Tensor,
        "GRAD": is_grad_enabled,
        "STALE": STALE,
        "modified": modified,
        "AUX": op.aux,
    }
    scope |= {f"RULE{k}": g.rule for k, g in enumerate(plan.groups)}
    _compile(backward_source(plan), f"<gradient of {op.name}>", scope)
    saves = any(item.kind in ("operand", "result", "aux") for item in plan.saved.values())
    results = {op.results.index(item.name): item.slot for item in plan.saved.values() if item.kind == "result"}
    return Rule(op.name, len(plan.edges), scope["backward"], saves, len(op.results) if plan.several else 0, results)


def make_function(op: Op) -> Any:
    """The eager function of an op with a fixed number of operands; compiled at its first call."""

    def build(scope: dict[str, Any]) -> str:
        plan = Plan(op)
        scope |= {f"ATTR_{a}": d for a, d in op.attrs.items() if d is not REQUIRED}
        if plan.edges:
            scope["RULE"] = make_rule(plan)
            if op.category == "binary":
                scope["RULE_NUMBER"] = make_rule(Plan(op, frozenset({1})))
        return forward_source(plan, op.name, op.name)

    function = _lazily(op, op.name, build)
    function.__doc__ = op.doc or None
    return function


def make_reversed(op: Op) -> Any:
    """`number op tensor` of a binary op: `r_sub(b, a)` is a - b for a Python number a; compiled at its first call."""

    def build(scope: dict[str, Any]) -> str:
        plan = Plan(op, frozenset({0}))
        if plan.edges:
            scope["RULE"] = make_rule(plan)
        return reversed_source(plan)

    return _lazily(op, f"r_{op.name}", build)


def reversed_source(plan: Plan) -> str:
    """Text of the function for a Python number on the left."""
    op = plan.op
    a, b = plan.names
    body = [f"    out = kernel({a}, {b}.storage)", *_record_source(plan, "RULE")]
    lines = [f"def r_{op.name}({b}, {a}):", "    if STATE.special:", "        _i = INTERPRETER.get()",
        f"        if _i is not None: return _i(OP, ({a}, {b}), ())",
             *_guarded(f"kernel, sig = {b}.sig.r_{op.name}[{a}.__class__]", MISS, f"resolve(OP, ({a}, {b}), ())",
             body)]  # fmt: skip
    return "\n".join(lines)


def _first_call(*args: Any, **kwargs: Any) -> Any:
    return COMPILE(*args, **kwargs)  # type: ignore[name-defined]  # noqa: F821 - in the scope that _lazily makes


PUBLIC = {("x",): ("input",), ("a", "b"): ("input", "other")}  # what users call the operands of elementwise ops


def _public(op: Op, code: types.CodeType) -> types.CodeType:
    """The code with PyTorch's names for its parameters, for calls by keyword."""
    names = PUBLIC.get(tuple(i.name for i in op.inputs))
    return code if names is None else code.replace(co_varnames=(*names, *code.co_varnames[len(names) :]))


def _lazily(op: Op, name: str, build: Any) -> Any:
    """A function that writes and compiles its own text when it is first called, so that importing stays cheap.

    It is one function object all along (methods and operators hold it): its code is replaced.
    """
    scope: dict[str, Any] = {
        "OP": op, "STATE": STATE, "INTERPRETER": INTERPRETER, "Tensor": Tensor, "GRAD": tape.GRAD_MODE.get,
        "ID": tape.next_id,
        "resolve": resolving.resolve, "inline": resolving.inline, "__name__": "treadle.ops",
    }  # fmt: skip
    function = types.FunctionType(_first_call.__code__, scope, name)

    def compile_and_call(*args: Any, **kwargs: Any) -> Any:
        made: dict[str, Any] = {}
        exec(compile(build(scope), f"<op {name}>", "exec"), scope, made)
        real = made[name]
        function.__defaults__, function.__kwdefaults__ = real.__defaults__, real.__kwdefaults__
        function.__code__ = _public(op, real.__code__)
        return function(*args, **kwargs)

    scope["COMPILE"] = compile_and_call
    return function


def _compile(source: str, filename: str, scope: dict[str, Any]) -> None:
    exec(compile(source, filename, "exec"), scope)
