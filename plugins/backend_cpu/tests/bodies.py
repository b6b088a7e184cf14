"""Random bodies of fused regions, for the kernel's test and for the fuzzer."""

from treadle.ops.fused import fused
from treadle.spec import Spec

UNARY = (
    "neg abs sign floor round sqrt rsqrt square exp log expm1 log1p sin cos tanh erf relu sigmoid silu gelu gelu_tanh "
    "softplus reciprocal"
).split()
BINARY = "add sub mul true_div maximum minimum".split()
RARE = "div rem pow atan2 relu_grad tanh_grad sigmoid_grad silu_grad gelu_grad gelu_tanh_grad".split()
COMPARISONS = "eq ne lt le gt ge".split()
LOGIC = "bit_and bit_or bit_xor mul add eq ne maximum minimum".split()
NUMBERS = (0.0, -0.0, 1.0, 0.3, -2.0, 1e-3, 3.0, float("inf"), float("nan"))


class Body:
    """Instructions over inputs of some dtypes, drawn one by one. floats: the names of dtypes that may appear."""

    def __init__(self, rnd, kinds, floats, length):
        self.rnd, self.kinds, self.floats, self.steps = rnd, list(kinds), floats, []
        n_in = len(kinds)
        while len(self.steps) < length:
            self._draw()
        last = n_in + length - 1
        self.results = tuple(
            rnd.randrange(n_in if rnd.random() < 0.9 else 0, last + 1) for _ in range(rnd.choice((1, 1, 2, 3)))
        )
        if rnd.random() < 0.7:
            self.results = (last, *self.results[1:])

    @property
    def attrs(self):
        """The attributes of the op."""
        return {"body": tuple(self.steps), "results": self.results}

    def _put(self, kind, name, *operands):
        self.steps.append((name, *operands))
        self.kinds.append(kind)

    def _draw(self):
        rnd, kinds = self.rnd, self.kinds
        numbers = [k for k, kind in enumerate(kinds) if kind != "bool"]
        truths = [k for k, kind in enumerate(kinds) if kind == "bool"]
        x = rnd.choice(numbers[-4:] if rnd.random() < 0.7 else numbers)
        like = [k for k in numbers if kinds[k] == kinds[x]]

        def other(share):
            return rnd.choice(like) if rnd.random() < share else rnd.choice(NUMBERS)

        def pair(share):
            return rnd.sample((x, other(share)), 2)

        kind = rnd.random()
        if kind < 0.3:
            self._put(kinds[x], rnd.choice(UNARY), x)
        elif kind < 0.65:
            self._put(kinds[x], rnd.choice(BINARY * 3 + RARE), *pair(0.75))
        elif kind < 0.75:
            self._put("bool", rnd.choice(COMPARISONS), *pair(0.6))
        elif kind < 0.82 and truths:
            self._put(kinds[x], "where", rnd.choice(truths), *pair(0.6))
        elif kind < 0.87 and truths:
            self._put("bool", rnd.choice(LOGIC), rnd.choice(truths), rnd.choice(truths))
        elif kind < 0.89 and truths:
            self._put("bool", "bit_not", rnd.choice(truths))
        elif kind < 0.94:
            to = rnd.choice([*self.floats, "bool"])
            self._put(to, "cast", rnd.randrange(len(kinds)), to)
        else:
            self._put(kinds[x], "clamp", x, other(0.4), other(0.4))


def inputs(rnd, floats, most=5):
    """Return the dtypes of a region's inputs; the first is a float."""
    return [rnd.choice(floats), *(rnd.choice([*floats, "bool"]) for _ in range(rnd.randrange(most)))]


def results(kinds, shape, attrs, find):
    """Return the specs of a region's results; find makes a dtype of a name."""
    return fused.spec(*[Spec(shape, find(k)) for k in kinds], **attrs)
