"""Buckets: parameters whose gradients travel together, as one flat tensor.

A bucket holds parameters that are stored in one dtype and whose gradients are summed over the same ranks. It is laid
out alike on all of those: member after member at multiples of ALIGNMENT elements, then zeros up to a multiple of the
number of ranks that share it out, each of which updates one share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

import paddle
from paddle import Tensor

from paddlenlp.nn.precision import DType, add_to, dtype_name, precision

from .gradients import Piece
from .group import Work, done
from .offload import to_device
from .topology import Axis, topology

Packed = TypeVar("Packed", bound="Packing")

ALIGNMENT = 64
"""Elements: no parameter starts in the midst of what a device reads at once (128 bytes of 16-bit numbers)."""


@dataclass(frozen=True)
class Kind:
    """What all parameters of a bucket have in common.

    Attributes:
        dtype: in which they are stored.
        expert: they belong to experts that are dealt out.
        over_tp: every tensor-parallel rank has only a part of their gradients.
        over_ends: both ends of the pipeline hold them and have a part of their gradients.
    """

    dtype: DType
    expert: bool
    over_tp: bool
    over_ends: bool

    @staticmethod
    def of(param: Any) -> Kind:
        """The kind of a parameter."""
        mesh = topology()
        partial = param.partial_grad == "always" or (param.partial_grad == "sequence" and mesh.sequence_parallel)
        return Kind(dtype_name(param), param.expert, partial and mesh.tp.size > 1, param.tied_ends)

    @property
    def shard(self) -> Axis:
        """The ranks that share the bucket out."""
        return topology().expert_sharding if self.expert else topology().sharding

    @property
    def replica(self) -> Axis:
        """The ranks that hold the same share."""
        return topology().expert_replica if self.expert else topology().replica

    def copies(self, param: Any) -> Any:
        """How many ranks update the same element of `param`."""
        return param.copies * (self.replica.size * (topology().ends.size if self.over_ends else 1))


@dataclass
class Member:
    """A parameter in a bucket.

    Attributes:
        offset: its first element in the bucket.
        fired: how many gradients it got in the present backward pass.
        usual: how many it gets in one; None before the first pass is over.
    """

    name: str
    param: Tensor
    offset: int
    fired: int = 0
    usual: Optional[int] = None

    @property
    def stop(self) -> int:
        """The element behind its last one."""
        return self.offset + self.param.size

    def view(self, flat: Tensor) -> Tensor:
        """Its elements in `flat`."""
        return flat._slice(self.offset, self.stop)

    def shaped(self, flat: Tensor) -> Tensor:
        """The same, of the parameter's shape."""
        view = self.view(flat)
        view.get_tensor()._set_dims(self.param.shape)
        return view

    def point_at(self, flat: Tensor) -> None:
        """Make the parameter a view of `flat`."""
        self.shaped(flat)._share_buffer_to(self.param)


class Packing:
    """How parameters that travel together are laid out, and which share of them is whose.

    Args:
        kind: what they have in common.
        stage: place of the stage they belong to in the model's order; of the first one if there are several.
        params: (name, parameter) in order.

    Attributes:
        members: the parameters.
        size: elements, with the gaps between them.
        shard, replica: see `Kind`.
        span: this rank's share.
    """

    def __init__(self, kind: Kind, stage: int, params: Sequence[Tuple[str, Tensor]]) -> None:
        self.kind, self.stage = kind, stage
        self.shard, self.replica = kind.shard, kind.replica
        self.members: List[Member] = []
        end = 0
        for name, param in params:
            self.members.append(Member(name, param, end))
            end = _multiple(end + param.size, ALIGNMENT)
        self.size = _multiple(end, ALIGNMENT * self.shard.size)
        share = self.size // self.shard.size
        self.span = (self.shard.rank * share, (self.shard.rank + 1) * share)

    def parts(self) -> Iterator[Tuple[Member, int, int]]:
        """The members, and their elements, that lie in this rank's share."""
        for member in self.members:
            start, stop = max(member.offset, self.span[0]), min(member.stop, self.span[1])
            if start < stop:
                yield member, start - member.offset, stop - member.offset


class Bucket(Packing):
    """Parameters that travel together, their storage, and their gradients on the way.

    Args:
        kind, stage, params: as for `Packing`.

    Attributes:
        flat: the parameters, one after the other; None while only `own` exists.
        own: this rank's share of them.
        sum: this rank's share of the gradients of the step, None if there are none.
        work: the exchange of gradients under way.
    """

    def __init__(self, kind: Kind, stage: int, params: Sequence[Tuple[str, Tensor]]) -> None:
        super().__init__(kind, stage, params)
        self.flat: Optional[Tensor] = self._adopt()
        self.own: Tensor = self.share_of(self.flat)
        self.gathered: Optional[Work[Tensor]] = None
        self._users = 0
        self.sum: Optional[Tensor] = None
        self.work: Optional[Work[Tensor]] = None
        self._gradients: Optional[Tensor] = None

    def share_of(self, flat: Tensor) -> Tensor:
        """This rank's share of the bucket, as a view."""
        return flat._slice(*self.span)

    def _adopt(self) -> Tensor:
        """Storage of which the parameters become views, with their values."""
        flat = paddle.zeros([self.size], self.kind.dtype)
        for member in self.members:
            paddle.assign(member.param.detach().reshape([-1]), output=member.view(flat))
            member.point_at(flat)
        return flat

    # ---- pieces ----------------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[Piece]:
        """What this rank updates: the parts of parameters that lie in its share."""
        master = self.kind.dtype != "float32"
        weights = self.own.astype("float32") if master else self.own
        for member, start, stop in self.parts():
            copies = self.kind.copies(member.param)
            if isinstance(copies, Tensor):
                copies = copies.reshape([-1])[start:stop].clone()
            at = member.offset - self.span[0]
            weight = weights._slice(at + start, at + stop)
            yield Piece(member.name, member.param, start, stop, weight, master, copies)

    def within(self, piece: Piece, share: Tensor) -> Tensor:
        """The elements of a piece in this rank's share of something."""
        start = next(member.offset for member in self.members if member.name == piece.name) - self.span[0]
        return share._slice(start + piece.start, start + piece.stop)

    def round(self, piece: Piece) -> None:
        """Bring the master of a piece into the storage of the parameters."""
        weight = to_device(piece.weight).astype(self.kind.dtype)
        paddle.assign(weight, output=self.within(piece, self.own))

    # ---- the parameters of all ranks -------------------------------------------------------------------------

    def start_gather(self) -> None:
        """Start to collect all ranks' shares, unless that is under way or the bucket is in use."""
        if self.gathered is None and not self._users:
            self.gathered = self.shard.group.all_gather(self.own)

    def finish_gather(self) -> None:
        """Bring the shares that `start_gather` collects into the parameters."""
        if self.gathered is not None:
            paddle.assign(self.gathered.wait(), output=self.flat)
            self.gathered = None

    def keep_share(self) -> None:
        """Free the parameters and keep this rank's share of them."""
        self.own = self.own.clone()
        self._free()

    def arrive(self) -> None:
        """Give the parameters what `start_gather` collects, for as long as there are users."""
        if self.gathered is not None:
            self.flat, self.gathered = self.gathered.wait(), None
            for member in self.members:
                member.point_at(self.flat)
        self._users += 1

    def leave(self) -> None:
        """A user is done."""
        self._users -= 1
        if not self._users:
            self._free()

    def _free(self) -> None:
        self.flat = None
        for member in self.members:
            member.param._clear_data()

    def take_over(self) -> None:
        """Keep this rank's share of what the parameters hold now."""
        assert self.flat is not None, "a bucket of which only a share is kept is in use by nobody"
        paddle.assign(self.share_of(self.flat), output=self.own)

    def forget_gathered(self) -> None:
        """Drop what `start_gather` collects."""
        if self.gathered is not None:
            self.gathered.wait()
            self.gathered = None

    # ---- gradients -------------------------------------------------------------------------------------------

    def collect(self, member: Member) -> None:
        """Take the gradient that a backward pass left in a member's parameter, in the policy's gradient dtype; there is
        none if it has been added to `gradient_sum` of the member."""
        gradient: Any = member.param.grad
        assert self.work is None, f"{member.name} got a gradient after its bucket had left"
        if gradient is not None:
            add_to(member.view(self._collected()), gradient.reshape([-1]))
            member.param.grad = None  # frees it
        member.fired += 1

    def gradient_sum(self, member: Member) -> Optional[Tensor]:
        """What sums the gradients of a member, of its parameter's shape; None if that is not float32."""
        flat = self._collected()
        return member.shaped(flat) if dtype_name(flat) == "float32" else None

    def _collected(self) -> Tensor:
        """The sum of the gradients since the last exchange."""
        if self._gradients is None:
            wanted = "float32" if self.kind.dtype == "float32" else precision().grad
            self._gradients = paddle.zeros([self.size], wanted)
        return self._gradients

    @property
    def is_full(self) -> bool:
        """Whether all gradients of this backward pass are here, as far as the passes before tell."""
        return all(member.usual is not None and member.fired >= member.usual for member in self.members)

    def end_pass(self) -> None:
        """A backward pass is over: learn how many gradients come in one."""
        for member in self.members:
            member.usual, member.fired = max(member.usual or 1, member.fired), 0

    def send(self) -> None:
        """Start to sum the collected gradients over the ranks that share the bucket out, or else over the replicas."""
        if self.shard.size > 1:
            self.work = self.shard.group.reduce_scatter(self._collected())
        else:
            self.work = self.replica.group.all_reduce(self._collected())

    def settle(self) -> None:
        """Wait for that and add the result to the sum of the step."""
        if self.work is None:
            return
        found, self.work, self._gradients = self.work.wait(), None, None
        if self.sum is None:
            self.sum = found
        else:
            add_to(self.sum, found)

    def sum_over(self, name: str) -> Work:
        """Start one of the sums that are left when the backward passes of a step are over, over "replica", "tp" or
        "ends"; nothing is sent where it is not needed."""
        needed = {"replica": self.shard.size > 1, "tp": self.kind.over_tp, "ends": self.kind.over_ends}
        axis = self.replica if name == "replica" else getattr(topology(), name)
        assert self.sum is not None, "a bucket did not leave in the last backward pass of its stages"
        return axis.group.all_reduce(self.sum) if needed[name] else done(self.sum)

    def clear(self) -> None:
        """Free the gradients."""
        self.sum = self.work = self._gradients = None


def plan(model: Any, limit: int, by_stage: bool) -> List[Bucket]:
    """The trained parameters of `model` in buckets; see `pack`."""
    return pack(model, limit, by_stage, Bucket)


def pack(model: Any, limit: int, by_stage: bool, make: Callable[..., Packed]) -> List[Packed]:
    """The trained parameters of `model` in buckets, in the order in which backward passes fill them.

    Args:
        model: a `StagedModel`.
        limit: bytes of a bucket's parameters, unless a single one has more.
        by_stage: no bucket holds parameters of two stages.
        make: a Packing of (kind, stage, params).
    """
    names = {id(param): name for name, param in model.named_parameters()}
    open_buckets: Dict[Kind, List[Tuple[str, Tensor]]] = {}
    closed: List[Packed] = []

    def close(kind: Kind, stage: int) -> None:
        closed.append(make(kind, stage, open_buckets.pop(kind)))

    for stage, params in reversed(list(enumerate(_trained_by_stage(model)))):
        for param in reversed(params):
            kind = Kind.of(param)
            held = open_buckets.get(kind, [])
            if held and (sum(p.size for _, p in held) + param.size) * param.element_size() > limit:
                close(kind, stage)
            open_buckets.setdefault(kind, []).append((names[id(param)], param))
        for kind in list(open_buckets) if by_stage or stage == 0 else ():
            close(kind, stage)
    return closed


def _trained_by_stage(model: Any) -> List[List[Tensor]]:
    """The trained parameters of each stage; one that several stages use belongs to the first."""
    seen: Set[int] = set()
    found = []
    for layer in model.order:
        used = model.parameters_of(layer)
        found.append([param for param in used if id(param) not in seen and not param.stop_gradient])
        seen.update(id(param) for param in used)
    return found


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of
