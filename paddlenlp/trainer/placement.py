"""From the arguments of the parallel layouts to this process's place in the job."""

from __future__ import annotations

from paddlenlp.parallel.mesh import Degrees, Mesh, derive_mesh

from .options import OFFLOAD, SHARDING_STAGES, split_words
from .parallel_args import ExpertArguments, ParallelArguments
from .ranks import ProcessRanks

BUCKET_MEGABYTES = 32


class Placement(ExpertArguments, ParallelArguments, ProcessRanks):
    """The parallel arguments, and what follows from them and the number of processes."""

    @property
    def degrees(self) -> Degrees:
        """What the user asks for."""
        return Degrees(
            tensor_parallel_degree=self.tensor_parallel_degree,
            pipeline_parallel_degree=self.pipeline_parallel_degree,
            sep_parallel_degree=self.sep_parallel_degree,
            context_parallel_degree=self.context_parallel_degree,
            sharding_parallel_degree=self.sharding_parallel_degree,
            sharding_degree=self.sharding_degree,
            expert_parallel_degree=self.expert_parallel_degree,
            expert_tensor_parallel_degree=self.expert_tensor_parallel_degree,
            use_expert_parallel=bool(self.use_expert_parallel),
            sharded=bool(self.sharding),
            order=self.hybrid_parallel_topo_order or "pp_first",
        )

    @property
    def mesh(self) -> Mesh:
        """The ranks of the job along their axes.

        Raises:
            UsageError: the degrees do not fit the number of processes.
        """
        return derive_mesh(self.degrees, self.world_size)

    @property
    def dataset_world_size(self) -> int:
        """Processes that read different samples."""
        return self.mesh.data

    @property
    def dataset_rank(self) -> int:
        """Which of the `dataset_world_size` shares of every batch this process reads."""
        return self.mesh.data_rank(self.process_index)

    @property
    def pipeline_chunks(self) -> int:
        """Chunks of layers on each pipeline rank; above 1 the schedule is interleaved."""
        return max(1, self.virtual_pp_degree)

    @property
    def sharding_stage(self) -> int:
        """1 to 3: optimizer state, also gradients, also parameters are cut over the sharding ranks; 0: nothing is."""
        words = split_words(self.sharding) if self.mesh.sharding > 1 else []
        return next((SHARDING_STAGES[word] for word in words if word in SHARDING_STAGES), 0)

    @property
    def sharding_offload(self) -> bool:
        """Whether the shares of sharding lie in host memory."""
        return self.sharding_stage > 0 and OFFLOAD in split_words(self.sharding)

    @property
    def bucket_bytes(self) -> int:
        """Size of the buckets in which gradients and parameters travel."""
        megabytes = self.sharding_comm_buffer_size_MB
        return (megabytes if megabytes > 0 else BUCKET_MEGABYTES) << 20

    @property
    def partial_send_recv(self) -> bool:
        """Whether each tensor-parallel rank sends its share of the rows to the next stage, which gathers them there."""
        return "disable_partial_send_recv" not in split_words(self.pipeline_parallel_config)
