"""relu below max-pooling: max_pool2d(relu(x)) is relu(max_pool2d(x)), and then relu sees only the pooled elements.

relu is monotonic, so the greatest element of a window stays where it is. Only where it is not above zero may the two
pick another index, and there the gradient is zero either way: relu_grad moves to the pooled side too.
"""

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute


def relu_after_pooling(graph: Graph) -> Graph:
    """Exchange relu and the max_pool2d behind it, with their gradients, where nobody else reads what lies between."""
    users = graph.users()
    ends = set(graph.outputs)
    instead: dict[Value, Value] = {}
    placed: dict[Node, list[Node]] = {}  # a node -> what stands in its place
    masked: set[Node] = set()  # what goes on reading the result that was exchanged
    for pool in graph.nodes:
        relu = _relu_before(pool, users, ends)
        pairs = None if relu is None else _gradients(pool, relu, users, ends)
        if relu is None or pairs is None:
            continue
        low = pool.outputs[0]
        assert low is not None
        after = Node(relu.op, (low,), relu.attrs, [low.spec], relu.line)
        masked.add(after)
        instead[low] = _result(after)
        pool.inputs = relu.inputs
        placed |= {relu: [], pool: [pool, after]}
        for pool_grad, relu_grad in pairs:
            g, index = pool_grad.inputs
            mask = Node(relu_grad.op, (g, _result(after)), relu_grad.attrs, [low.spec], relu_grad.line)
            pool_grad.inputs = (_result(mask), index)
            instead[_result(relu_grad)] = _result(pool_grad)
            placed |= {relu_grad: [], pool_grad: [mask, pool_grad]}
    if not placed:
        return graph
    graph.nodes = [m for n in graph.nodes for m in placed.get(n, (n,))]
    kept = {n: n.inputs for n in masked}
    substitute(graph, instead)
    for n, inputs in kept.items():
        n.inputs = inputs
    return graph


def _relu_before(pool: Node, users: dict[Value, list[Node]], ends: set[Value]) -> Node | None:
    """The relu whose result a max_pool2d reads, if only the pooling and gradients of the relu read it."""
    if pool.op.name != "max_pool2d":
        return None
    (x,) = pool.inputs
    relu = x.node
    if relu is None or relu.op.name != "relu" or x in ends or pool.outputs[0] is None:
        return None
    others = [n for n in users[x] if n is not pool]
    return relu if all(n.op.name == "relu_grad" and n.inputs[0] is not x for n in others) else None


def _gradients(
    pool: Node, relu: Node, users: dict[Value, list[Node]], ends: set[Value]
) -> list[tuple[Node, Node]] | None:
    """(max_pool2d_grad, the relu_grad that reads it) of all gradients; None if one is used in another way."""
    index = pool.outputs[1] if len(pool.outputs) > 1 else None
    pairs = []
    for n in users.get(index, ()) if index is not None else ():
        readers = users.get(_result(n), []) if n.op.name == "max_pool2d_grad" else []
        exact = len(readers) == 1 and readers[0].op.name == "relu_grad" and _result(n) not in ends
        if not exact or readers[0].inputs != (_result(n), _result(relu)):
            return None
        pairs.append((n, readers[0]))
    unpaired = len(users[_result(relu)]) - 1 != len(pairs)
    return None if unpaired or index in ends else pairs


def _result(n: Node) -> Value:
    y = n.outputs[0]
    assert y is not None
    return y
