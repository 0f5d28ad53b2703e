"""Sites: the places of a network where a number format sits.

A site is the weights, the bias or the output of a layer. `sites` lists those of a network under a policy, in source
order, and it alone decides

    which blob or tensor a site is          Site.blob, Site.tensor
    after which layer its LPAct comes       Site.after: the end of a chain of BatchNorm, Scale and Bias; with the
                                            placement after-relu the ReLU that alone reads the output
    what that LPAct is called               Site.act: LAYER_lpact, of an input BLOB_lpact; with `_` behind where a layer
                                            has that name
    the name of its random numbers          Site.stream: LAYER/0 (weights), LAYER/2 (bias), ACT/top

Every site of the network is listed, whatever the coverage; `Site.covered` is whether the policy gives it a format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lpcaffe.net import LOW_PRECISION, Layer, Net, blob_of, chain_after, quantizable_layers
from lpcaffe.quant.coverage import Effect, effect, is_input, parameter_roles, value_bottoms
from lpcaffe.quant.policy import Policy

ROLES = ("weights", "bias", "output")
_RELUS = ("ReLU", "PReLU")
_AFFINE = ("BatchNorm", "Scale", "Bias")


@dataclass(frozen=True, slots=True)
class Site:
    """A place for a number format: a role of a layer.

    layer    the layer's name; the blob's name for an input that an old `input:` field declares
    role     "weights", "bias" or "output"
    type     the layer's type
    covered  whether the policy gives the site a format
    blob     of weights and biases: the index of the blob; None where a field of the message holds the values
    tensor   of an output: the value that is rounded
    after    of an output: the layer that its LPAct follows
    act      of an output: the name of that LPAct
    """

    layer: str
    role: str
    type: str
    covered: bool = True
    blob: int | None = None
    tensor: str = ""
    after: str = ""
    act: str = ""

    def __str__(self) -> str:
        return f"{self.layer} {self.role}"

    @property
    def key(self) -> tuple[str, str]:
        """Layer and role: what identifies the site in its network."""
        return self.layer, self.role

    @property
    def path(self) -> str:
        """LAYER/ROLE, as in reports."""
        return f"{self.layer}/{self.role}"

    @property
    def stream(self) -> str:
        """The name of its stream of random numbers. Those of parameters count the blobs of the LP layer."""
        return f"{self.act}/top" if self.role == "output" else f"{self.layer}/{2 * (self.role == 'bias')}"


# In place of a site: of values that lie on no grid.
OFF_GRID = Site("", "output", "", covered=False)


def sites(net: Net, policy: Policy) -> tuple[Site, ...]:
    """The sites of a network in source order: of each layer weights, bias, output.

    `net` is the network that the formats apply to: folded, where the policy folds. Raises NetError for a convolution
    or inner product with several bottoms.
    """
    learned = {layer.name for layer in quantizable_layers(net)}
    everything = policy.coverage == "all"
    spans = _spans(net, learned, policy)
    covered = _covered_tensors(net, learned, policy)
    taken = {layer.name for layer in net.message.layer}
    found: list[Site] = []
    for layer in net.layers:
        for role, blob in parameter_roles(layer).items():
            wanted = everything or (layer.name in learned and role == "weights")
            found.append(Site(layer.name, role, layer.type, wanted, blob))
        for name, tensor, last in _outputs(net, layer, spans):
            act = f"{blob_of(tensor, last.name) if is_input(layer) else name}_lpact"
            while act in taken:
                act += "_"
            taken.add(act)
            found.append(Site(name, "output", layer.type, tensor in covered, None, tensor, last.name, act))
    return tuple(found)


def site_table(net: Net, policy: Policy) -> dict[tuple[str, str], Site]:
    """The sites by layer and role."""
    return {site.key: site for site in sites(net, policy)}


def relu_after(net: Net, tensor: str) -> Layer | None:
    """The ReLU or PReLU that alone reads a tensor, if one does."""
    readers = net.readers[tensor]
    return readers[0] if len(readers) == 1 and readers[0].type in _RELUS else None


def grids(net: Net, found: Sequence[Site], formatted: Mapping[str, object]) -> dict[str, frozenset[Site]]:
    """For each tensor the output sites whose grids its values lie on.

    `formatted` are the tensors whose site has a format: there a new grid begins. A tensor that comes out of arithmetic
    without a format is on the grid of its own site, which has none; one without a site is OFF_GRID.
    """
    at = {site.tensor: site for site in found if site.role == "output"}
    result: dict[str, frozenset[Site]] = {}
    for layer in net.layers:
        before = frozenset().union(*(result[bottom] for bottom in value_bottoms(layer)))
        follows = effect(layer) in (Effect.KEEPS, Effect.JOINS) and not is_input(layer)
        for top in layer.tops:
            own = frozenset([at.get(top, OFF_GRID)])
            result[top] = before if follows and top not in formatted else own
    return result


def _spans(net: Net, learned: set[str], policy: Policy) -> dict[str, Layer]:
    """The layer that writes the value to be rounded for each layer with an output of its own, by that layer's name.

    The output of a convolution or inner product is the end of the BatchNorm, Scale and Bias layers that follow it;
    those layers have no output of their own then. So it is with the ReLU after which outputs are rounded, but that of a
    PReLU or leaky ReLU, which computes, is named after it, where the policy covers it.
    """
    spans: dict[str, Layer] = {}
    part_of_another: set[str] = set()
    for layer in net.layers:
        if layer.name in part_of_another or not layer.tops or effect(layer) in (Effect.KEEPS, Effect.OTHER):
            continue
        name, last = layer.name, layer
        if layer.name in learned or layer.type in _AFFINE:
            chain = chain_after(net, layer)
            part_of_another.update(one.name for one in chain.affine)
            last = chain.last
        after = policy.act_placement == "after-relu" and effect(layer) is Effect.COMPUTES
        relu = relu_after(net, last.tops[0]) if after else None
        if relu is not None:
            last = relu
            part_of_another.add(last.name)
            if policy.coverage == "all" and effect(last) is Effect.COMPUTES:
                name = last.name
        spans[name] = last
    return spans


def _outputs(net: Net, layer: Layer, spans: Mapping[str, Layer]) -> list[tuple[str, str, Layer]]:
    """The output sites of a layer: the site's name, the tensor, and the layer that writes it.

    An input layer has one, its first top: labels come after it. Those that `input:` fields declare have one a blob.
    """
    if is_input(layer):
        tops = list(zip(layer.raw_tops, layer.tops, strict=True))
        if net.input_fields and layer.type == "Input" and set(net.input_fields) == set(layer.raw_tops):
            return [(blob, tensor, layer) for blob, tensor in tops]
        return [(layer.name, tensor, layer) for _, tensor in tops[:1]]
    return [(layer.name, spans[layer.name].tops[0], spans[layer.name])] if layer.name in spans else []


def _covered_tensors(net: Net, learned: set[str], policy: Policy) -> frozenset[str]:
    """The tensors whose output sites the policy gives a format."""
    everything = policy.coverage == "all"
    exact = frozenset() if policy.round_output else _answers(net, policy)
    read = _read_by_arithmetic(net) if everything else {}
    if everything:
        wanted = {
            top
            for layer in net.layers
            for top in layer.tops
            if (read[top] if is_input(layer) or effect(layer) is Effect.FLOAT else True)
        }
    else:
        wanted = {last.tops[0] for name, last in _spans(net, learned, policy).items() if name in learned}
    return frozenset(wanted - exact)


def _answers(net: Net, policy: Policy) -> frozenset[str]:
    """The tensors from which no further arithmetic can be reached: they lead to the network's answers alone.

    With coverage `learned`, arithmetic is convolutions and inner products.
    """
    reaches: dict[str, bool] = {}
    for layer in reversed(net.layers):
        for top in layer.tops:
            reaches[top] = any(_is_arithmetic(r, policy) or any(reaches[t] for t in r.tops) for r in net.readers[top])
    return frozenset(tensor for tensor, reached in reaches.items() if not reached)


def _is_arithmetic(layer: Layer, policy: Policy) -> bool:
    return layer.type in LOW_PRECISION if policy.coverage == "learned" else effect(layer) is Effect.COMPUTES


def _read_by_arithmetic(net: Net) -> dict[str, bool]:
    """For each tensor, whether a layer that computes reads it, or reads it moved or joined with others."""
    read: dict[str, bool] = {}
    for layer in reversed(net.layers):
        for top in layer.tops:
            read[top] = any(
                effect(reader) is Effect.COMPUTES
                or (effect(reader) in (Effect.KEEPS, Effect.JOINS) and any(read[t] for t in reader.tops))
                for reader in net.readers[top]
                if top in value_bottoms(reader)
            )
    return read
